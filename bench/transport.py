"""What does a frame from the engine process to the HTTP front cost? `python bench/transport.py`.

One frame per step carries B events as flat integers: `[time, (number, index, token) * B]`. A Unix
stream socket with length-prefixed frames is compared with ZeroMQ over ipc://. The engine's side
blocks; the front's side runs in an asyncio loop. Every round starts each pair of processes anew, in
turn, A B C A B C; the table gives medians. Linux only: the CPU clock of another process is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

KINDS = ("unix", "zmq-asyncio", "zmq-fd")
BATCHES = (1, 32, 256, 2048)
STEP_S = 0.005
NOT_TOLD_S = 2.0
Cell = tuple[int, bool, int]  # events in a frame, paced, frames
Lost = Callable[[], None]
OnFrame = Callable[[list[int]], None]
Row = dict[str, Any]


def cells(paced: int, flat: int) -> list[Cell]:
    """What is measured, in order; the first cell warms up and is dropped."""
    rest = [(batch, pace, paced if pace else flat) for batch in BATCHES for pace in (True, False)]
    return [(32, False, 200), *rest]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


class UnixEngine:
    """The engine's end of a Unix stream socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        while self.socket.connect_ex(path):
            time.sleep(0.01)
        self.encoder = msgspec.msgpack.Encoder()
        self.buffer = bytearray()

    def send(self, values: list[int]) -> None:
        self.encoder.encode_into(values, self.buffer, 4)
        self.buffer[:4] = (len(self.buffer) - 4).to_bytes(4, "little")
        self.socket.sendall(self.buffer)

    def receive(self) -> bool:
        """Wait for a go; false when the peer is gone."""
        return bool(self.socket.recv(1))


class ZmqEngine:
    """The engine's end of ZeroMQ."""

    def __init__(self, path: str, monitor: bool) -> None:
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.poller = zmq.Poller()
        self.poller.register(self.socket, zmq.POLLIN)
        self.monitor = None
        if monitor:
            self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self.poller.register(self.monitor, zmq.POLLIN)
        self.socket.connect(f"ipc://{path}")
        self.socket.send(msgspec.msgpack.encode([]))  # a ROUTER knows a peer by its first message
        self.encoder = msgspec.msgpack.Encoder()

    def send(self, values: list[int]) -> None:
        self.socket.send(self.encoder.encode(values), copy=True)

    def receive(self) -> bool:
        ready = dict(self.poller.poll())
        if self.monitor in ready:
            return False
        self.socket.recv()
        return True


def engine(kind: str, path: str, work: list[Cell], monitor: bool) -> None:
    """The engine process: one frame per step, a cell at each go."""
    link = UnixEngine(path) if kind == "unix" else ZmqEngine(path, monitor)
    for batch, paced, frames in work:
        if not link.receive():
            break
        events = [value for i in range(batch) for value in (i + 1000, 0, 50_000 + i)]
        due = time.monotonic()
        for _ in range(frames):
            if paced:
                due += STEP_S
                time.sleep(max(0.0, due - time.monotonic()))
            link.send([time.monotonic_ns(), *events])
    while link.receive():
        pass
    print(time.monotonic(), flush=True)


class UnixFront(asyncio.Protocol):
    """The front's end of a Unix stream socket."""

    def __init__(self, frame: OnFrame, lost: Lost) -> None:
        self.frame, self.lost = frame, lost
        self.decoder = msgspec.msgpack.Decoder(list[int])
        self.buffer = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.frame([])

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        start, end = 0, len(self.buffer)
        with memoryview(self.buffer) as view:
            while end - start >= 4:
                stop = start + 4 + int.from_bytes(view[start : start + 4], "little")
                if stop > end:
                    break
                self.frame(self.decoder.decode(view[start + 4 : stop]))
                start = stop
        del self.buffer[:start]

    def go(self) -> None:
        self.transport.write(b"g")


class ZmqFront:
    """The front's end of ZeroMQ, by zmq.asyncio or by a reader on its file descriptor."""

    def __init__(self, frame: OnFrame, lost: Lost, own: bool, path: str) -> None:
        self.frame, self.lost = frame, lost
        self.decoder = msgspec.msgpack.Decoder(list[int])
        self.peer = b""
        context = zmq.Context() if own else zmq.asyncio.Context()
        self.socket: Any = context.socket(zmq.ROUTER)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.bind(f"ipc://{path}")
        loop = asyncio.get_running_loop()
        if own:
            loop.add_reader(self.socket.getsockopt(zmq.FD), self.drain)
            loop.add_reader(self.monitor.getsockopt(zmq.FD), self.watch)
            loop.call_soon(self.drain)
            loop.call_soon(self.watch)
            self.tasks = []
        else:
            self.tasks = [loop.create_task(self.read()), loop.create_task(self.read_monitor())]

    def take(self, parts: list[bytes]) -> None:
        self.peer = parts[0]
        self.frame(self.decoder.decode(parts[1]))

    def drain(self) -> None:
        """Read until empty: the descriptor signals changes only."""
        while self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self.take(self.socket.recv_multipart(zmq.NOBLOCK))

    def watch(self) -> None:
        while self.monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
            self.lost()

    async def read(self) -> None:
        while True:
            self.take(await self.socket.recv_multipart())

    async def read_monitor(self) -> None:
        await self.monitor.recv_multipart()
        self.lost()

    def go(self) -> None:
        self.socket.send_multipart([self.peer, b"g"])
        if not self.tasks:  # a send can swallow the signal of an arrival
            asyncio.get_running_loop().call_soon(self.drain)


async def front(kind: str, path: str, work: list[Cell], pid: int) -> None:
    """The front process: receives every cell and prints its figures as a line."""
    loop = asyncio.get_running_loop()
    lost = loop.create_future()
    connected, done = asyncio.Event(), asyncio.Event()
    delays: list[int] = []
    expected = 0

    def on_frame(values: list[int]) -> None:
        if not values:
            connected.set()
            return
        delays.append(time.monotonic_ns() - values[0])
        if len(delays) == expected:
            done.set()

    def on_lost() -> None:
        if not lost.done():
            lost.set_result(time.monotonic())

    link: Any
    if kind == "unix":
        link = UnixFront(on_frame, on_lost)
        await loop.create_unix_server(lambda: link, path)
    else:
        link = ZmqFront(on_frame, on_lost, kind == "zmq-fd", path)
    await connected.wait()
    for batch, paced, frames in work:
        delays.clear()
        done.clear()
        expected = frames
        began, mine, theirs = time.monotonic(), time.process_time(), cpu_s(pid)
        link.go()
        await done.wait()
        figures = {
            "kind": kind,
            "batch": batch,
            "paced": paced,
            "front_us": (time.process_time() - mine) / frames * 1e6,
            "engine_us": (cpu_s(pid) - theirs) / frames * 1e6,
            "p50_us": statistics.median(delays) / 1e3,
            "p99_us": sorted(delays)[math.ceil(frames * 0.99) - 1] / 1e3,
            "per_s": frames / (time.monotonic() - began),
        }
        print(json.dumps(figures), flush=True)
    print("idle", flush=True)
    print(await lost, flush=True)


def spawn(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def pair(kind: str, work: list[Cell], kill: str, monitor: bool) -> tuple[list[Row], float]:
    """Run a front and an engine; kill -9 one; the figures, and when the other learned of it."""
    with tempfile.TemporaryDirectory() as folder:
        given = [kind, str(Path(folder) / "socket"), json.dumps(work)]
        parts = {"engine": spawn("--engine", *given, "--monitor" if monitor else "--no-monitor")}
        parts["front"] = spawn("--front", *given, "--pid", str(parts["engine"].pid))
        rows = []
        output = parts["front"].stdout
        assert output is not None
        for line in iter(output.readline, "idle\n"):
            if not line:
                raise SystemExit(f"{kind}: the front died")
            rows.append(json.loads(line))
        time.sleep(0.2)
        killed = parts.pop(kill)
        at = time.monotonic()
        killed.kill()
        killed.wait()
        (other,) = parts.values()
        try:
            learned = float(other.communicate(timeout=NOT_TOLD_S)[0].split()[-1]) - at
        except subprocess.TimeoutExpired:
            learned = math.inf
            other.kill()
            other.wait()
        return rows, learned


def table(rows: list[Row], losses: dict[tuple[str, str], list[float]]) -> str:
    """Medians over rounds."""

    def median(kind: str, batch: int, paced: bool, figure: str) -> float:
        mine = [
            row for row in rows if (row["kind"], row["batch"], row["paced"]) == (kind, batch, paced)
        ]
        return statistics.median(row[figure] for row in mine)

    lines = [
        "| B | transport | CPU us/frame at 5 ms (front + engine) | latency us p50, p99 "
        "| CPU us/frame flat out (front + engine) | frames/s flat out |",
        "|---|---|---|---|---|---|",
    ]
    for batch in BATCHES:
        for kind in KINDS:
            cost = []
            for paced in (True, False):
                front_us = median(kind, batch, paced, "front_us")
                engine_us = median(kind, batch, paced, "engine_us")
                both = front_us + engine_us
                cost.append(f"{both:.0f} ({front_us:.0f} + {engine_us:.0f})")
            p50, p99 = (median(kind, batch, True, name) for name in ("p50_us", "p99_us"))
            rate = median(kind, batch, False, "per_s")
            lines.append(
                f"| {batch} | {kind} | {cost[0]} | {p50:.0f}, {p99:.0f} | {cost[1]} | {rate:.0f} |"
            )
    lines += [
        "",
        "| after kill -9 of | transport | ms until the other knows |",
        "|---|---|---|",
    ]
    for (kind, killed), seconds in losses.items():
        value = statistics.median(seconds)
        shown = f"{value * 1e3:.1f}" if value < math.inf else f"never (waited {NOT_TOLD_S:.0f} s)"
        lines.append(f"| {killed} | {kind} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run a role; without one, all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="process pairs of each kind")
    parser.add_argument("--paced", type=int, default=200, help="frames of a cell at 5 ms")
    parser.add_argument("--flat", type=int, default=2000, help="frames of a cell flat out")
    parser.add_argument("--engine", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--front", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--monitor", action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        kind, path, work = args.engine
        engine(kind, path, json.loads(work), bool(args.monitor))
        return
    if args.front:
        kind, path, work = args.front
        uvloop.run(front(kind, path, json.loads(work), args.pid))
        os._exit(0)  # no lingering sockets
    rows: list[Row] = []
    losses: dict[tuple[str, str], list[float]] = {}
    work = cells(args.paced, args.flat)
    for _ in range(args.rounds):
        for kind in KINDS:
            measured, learned = pair(kind, work, "engine", monitor=False)
            rows += measured[1:]
            losses.setdefault((kind, "the engine"), []).append(learned)
    for _ in range(args.rounds):
        for kind in ("unix", "zmq-fd"):
            _, learned = pair(kind, work[:1], "front", monitor=kind != "unix")
            losses.setdefault((kind, "the front"), []).append(learned)
    _, learned = pair("zmq-fd", work[:1], "front", monitor=False)
    losses["zmq-fd, no monitor socket", "the front"] = [learned]
    print(table(rows, losses))


if __name__ == "__main__":
    main()
