"""How many clients does one small box hold? Thousands stream at once from the embedded model.

    crowd   N clients stream at once: had all their first token before any ended? how long did
            tokens take, and how much memory did the server?
    vanish  N clients stream, V of them leave in mid-stream: are their pages free, how soon?
    slow    users in a closed loop, with and without S clients beside them that read a byte a
            second: how does the others' p95 move? A B A B

Linux only. The clients are this process, on the same cores as the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from argosy.load.connection import Target
from argosy.load.measure import percentile

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from processes import Command, Server, resident_mib, words  # noqa: E402
from records import append  # noqa: E402

TICK_S = 0.1


def main() -> None:
    args = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Server(command(args), args.log) as server:
        row = uvloop.run(PARTS[args.part](args, server))
    if args.results:
        append(args.results, [row], {"part": args.part})
    print(json.dumps(row, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--vanish", type=int, default=500, help="vanish: how many of them leave")
    parser.add_argument("--slow", type=int, default=100, help="slow: how many read slowly")
    parser.add_argument("--users", type=int, default=16, help="slow: how many read well")
    parser.add_argument("--rounds", type=int, default=3, help="slow: of A and B")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
    parser.add_argument("--fronts", type=int, default=1)
    parser.add_argument("--log", type=Path, default=Path("clients.log"), help="the server's")
    parser.add_argument("--results", type=Path, help="a row is appended to this file")
    return parser.parse_args()


def command(args: argparse.Namespace) -> Command:
    seats = max(args.clients, 256)
    argv = [
        *(sys.executable, "-m", "argosy", "serve", "--port", "{port}"),
        *("--max-num-seqs", str(seats)),
        *("--max-model-len", "2048", "--disable-log-requests"),
        *("--api-server-count", str(args.fronts)),
    ]
    if seats > 2048:  # more room for prompts beside so many that decode
        argv += ["--max-num-batched-tokens", str(seats + 4096)]
    return Command("argosy", "w8", tuple(argv), ready="/ready", engine="argosy.engine.process")


def ask(target: Target, args: argparse.Namespace, seed: int, tokens: int | None = None) -> bytes:
    """A streamed request whose prompt nobody else has."""
    prompt = [300 + (seed * 7919 + place * 104729) % 3500 for place in range(args.prompt)]
    body = {
        "prompt": prompt,
        "max_tokens": tokens or args.tokens,
        "ignore_eos": True,
        "temperature": 1.0,
        "seed": seed,
        "stream": True,
    }
    return target.message("/v1/completions", json.dumps(body).encode())


@dataclass
class Watch:
    """A client's answer: when its pieces came, and how it ended."""

    status: int = 0
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    ended: float = 0.0
    tail: bytes = b""

    def begin(self, status: int) -> None:
        self.status = status

    def feed(self, data: bytes) -> None:
        self.times.append(time.perf_counter())
        self.tail = data[-20:]

    @property
    def whole(self) -> bool:
        return self.status == 200 and b"[DONE]" in self.tail


class Memory:
    """The most memory each kind of process had."""

    def __init__(self, server: Server) -> None:
        self.most = {"engine": 0.0, "front": 0.0}
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            now = {"engine": 0.0, "front": 0.0}
            for pid in self._server.processes():
                kind = "engine" if self._server.command.engine in words(pid) else "front"
                now[kind] += resident_mib(pid)
            self.most = {kind: max(now[kind], most) for kind, most in self.most.items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._over.set()
        self._thread.join()


async def stream(target: Target, message: bytes, watch: Watch) -> None:
    watch.sent = time.perf_counter()
    await target.ask(message, watch)
    watch.ended = time.perf_counter()


def figures(values: Sequence[float]) -> dict[str, float]:
    """Percentiles, in milliseconds."""
    ordered = sorted(values)
    return {f"p{p}": round(1e3 * percentile(ordered, p), 1) for p in (50, 95, 99)}


def told(watches: Sequence[Watch]) -> dict[str, Any]:
    gaps = [b - a for w in watches for a, b in zip(w.times, w.times[1:], strict=False)]
    return {
        "whole": sum(w.whole for w in watches),
        "ttft_ms": figures([w.times[0] - w.sent for w in watches if w.times]),
        "between_ms": figures(gaps),
        "e2e_ms": figures([w.ended - w.sent for w in watches if w.ended]),
    }


async def crowd(args: argparse.Namespace, server: Server) -> dict[str, Any]:
    watches = [Watch() for _ in range(args.clients)]
    memory = Memory(server)
    before, start = server.cpu(), time.perf_counter()
    with memory.watched():
        async with Target(server.url) as target:
            await asyncio.gather(
                *(stream(target, ask(target, args, i), w) for i, w in enumerate(watches))
            )
    seconds, cpu = time.perf_counter() - start, server.cpu() - before
    last_first = max(w.times[0] for w in watches if w.times)
    return {
        "clients": args.clients,
        "fronts": args.fronts,
        "tokens": args.tokens,
        **told(watches),
        "all_began_before_any_ended": last_first < min(w.ended for w in watches),
        "seconds": round(seconds, 1),
        "tokens_per_s": round(args.clients * args.tokens / seconds),
        "engine_cpu_us_per_token": round(1e6 * cpu.engine / args.clients / args.tokens, 1),
        "front_cpu_us_per_token": round(1e6 * cpu.rest / args.clients / args.tokens, 1),
        "peak_mib": {kind: round(most) for kind, most in memory.most.items()},
    }


def metric(server: Server, *names: str) -> float:
    """The sum of these metrics' first series."""
    with urllib.request.urlopen(server.url + "/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    found = [next(line for line in lines if line.startswith(f"{name}{{")) for name in names]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def held(server: Server) -> float:
    """Pages in use."""
    return metric(server, "argosy_pages_held")


def alive(server: Server) -> float:
    """Sequences that run or wait."""
    return metric(server, "vllm:num_requests_running", "vllm:num_requests_waiting")


async def vanish(args: argparse.Namespace, server: Server) -> dict[str, Any]:
    stay = [Watch() for _ in range(args.clients - args.vanish)]
    leave = [Watch() for _ in range(args.vanish)]
    async with Target(server.url) as target, Target(server.url) as leaving:
        staying = asyncio.gather(
            *(stream(target, ask(target, args, i), w) for i, w in enumerate(stay))
        )
        going = [
            asyncio.ensure_future(leaving.ask(ask(leaving, args, 10**6 + i), w))
            for i, w in enumerate(leave)
        ]
        while not all(w.times for w in leave):
            await asyncio.sleep(TICK_S)
        while await asyncio.to_thread(alive, server) < args.clients:
            await asyncio.sleep(TICK_S)
        before = await asyncio.to_thread(held, server)
        for one in going:
            one.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        gone = time.perf_counter()
        while await asyncio.to_thread(alive, server) > args.clients - args.vanish:
            await asyncio.sleep(TICK_S / 10)
        freed, after = time.perf_counter() - gone, await asyncio.to_thread(held, server)
        await staying
    await asyncio.sleep(0.5)
    return {
        "clients": args.clients,
        "vanished": args.vanish,
        "pages_held": {"before": before, "after": after, "at_the_end": held(server)},
        "seconds_until_free": round(freed, 2),
        "the_others": told(stay),
    }


async def closed_loop(args: argparse.Namespace, server: Server, seconds: float) -> list[Watch]:
    watches: list[Watch] = []
    end = time.perf_counter() + seconds

    async def user(target: Target, number: int) -> None:
        while time.perf_counter() < end:
            watch = Watch()
            await stream(target, ask(target, args, len(watches) * 64 + number, 64), watch)
            watches.append(watch)

    async with Target(server.url) as target:
        await asyncio.gather(*(user(target, n) for n in range(args.users)))
    return watches


async def drip(args: argparse.Namespace, server: Server, number: int) -> None:
    """Ask for a long answer and read a byte of it a second."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        message = ask(Target(server.url), args, 10**7 + number, 800)
        await loop.sock_sendall(client, message)
        while True:
            await loop.sock_recv(client, 1)
            await asyncio.sleep(1.0)


async def slow(args: argparse.Namespace, server: Server) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    memory = Memory(server)
    await closed_loop(args, server, 3)
    with memory.watched():
        for number in range(args.rounds):
            print(f"round {number + 1}", file=sys.stderr)
            rounds["without"].append(told(await closed_loop(args, server, 8)))
            readers = [asyncio.ensure_future(drip(args, server, n)) for n in range(args.slow)]
            # Their answers are computed like any others; it is what comes after that counts.
            while await asyncio.to_thread(held, server) == 0:
                await asyncio.sleep(TICK_S)
            while await asyncio.to_thread(held, server) > 0:
                await asyncio.sleep(TICK_S)
            rounds["with"].append(told(await closed_loop(args, server, 8)))
            for one in readers:
                one.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            await asyncio.sleep(1.0)
    p95 = {
        kind: {
            what: statistics.median(one[what]["p95"] for one in of)
            for what in ("ttft_ms", "between_ms", "e2e_ms")
        }
        for kind, of in rounds.items()
    }
    return {
        "users": args.users,
        "slow": args.slow,
        "p95": p95,
        "ratio": {w: round(p95["with"][w] / p95["without"][w], 2) for w in p95["with"]},
        "peak_mib": {kind: round(most) for kind, most in memory.most.items()},
    }


PARTS = {"crowd": crowd, "vanish": vanish, "slow": slow}

if __name__ == "__main__":
    main()
