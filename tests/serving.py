"""A real server process for tests, and streams that read from it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_S = 60.0
ADDRESS = re.compile(rb"http://[\w.\[\]:]*?:(\d+)")


@dataclass
class Server:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body, decoded where it is JSON."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as reply:
                status, body = reply.status, reply.read()
        except urllib.error.HTTPError as exc:
            with exc:
                status, body = exc.code, exc.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and decoded body of a POST."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.loads(exc.read())

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's series, of those whose labels hold `labels`."""
        lines = self.get("/metrics")[1].splitlines()
        series = re.compile(rf"{re.escape(name)}(\{{.*{re.escape(labels)}.*\}})? ")
        found = [line for line in lines if series.match(line)]
        assert found, f"no series {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def health(self) -> dict[str, Any]:
        body = self.get("/health")[1]
        assert isinstance(body, dict)
        return body

    def check(self) -> str:
        """What the engine says of its pages: "ok", or what is wrong."""
        return str(self.get("/debug/check")[1]["pages"])

    def engine_pid(self) -> int:
        return int(self.health()["engine"]["pid"])

    def resident_bytes(self) -> int:
        """Memory of the server's processes together."""
        return sum(resident(pid) for pid in tree(self.process.pid))

    def wait_idle(self, seconds: float = 30.0) -> None:
        """Until nothing runs and no page is held."""
        end = time.monotonic() + seconds
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "argosy_pages_held")
        while any(left := [self.metric(name) for name in names]):
            assert time.monotonic() < end, f"still running, waiting, held: {left}"
            time.sleep(0.05)


def tree(pid: int) -> list[int]:
    """A process and its children, whichever of its threads made them."""
    found, parents = [pid], [pid]
    while parents:
        for children in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has ended
                new = [int(child) for child in children.read_text().split()]
                found += new
                parents += new
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@contextmanager
def start_server(
    folder: Path, *args: str, script: Sequence[str] = ("-m", "argosy", "serve")
) -> Iterator[Server]:
    """`argosy serve ARGS` on a free port, ready; stopped at the end, and its children are gone.

    script: another program that serves in the same way.
    """
    log = folder / f"server-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *script, "--port", "0", *args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        yield Server(process, wait_port(process, log), log)
        children = tree(process.pid)[1:]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, f"the server's end: {log.read_text()[-3000:]}"
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()], "orphans"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port of a server when it is ready."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        for line in log.read_bytes().splitlines():
            if b"ready in" in line and (match := ADDRESS.search(line)):
                return int(match[1])
        assert process.poll() is None, f"the server did not start: {log.read_text()}"
        time.sleep(0.02)
    raise AssertionError(f"not ready after {READY_S} s: {log.read_text()}")


# -- streams --------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What one stream gave so far."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    done: bool = False


async def events(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[str]:
    """The data of each server-sent event until the answer's end, or a refusal's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps({**body, "stream": True}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            _, _, text = (await reader.read(-1)).partition(b"\r\n\r\n")
            yield text.decode()
            return
        async for line in reader:
            if line.startswith(b"data: "):
                yield line[6:].decode().strip()
    finally:
        writer.close()


async def complete(port: int, body: dict[str, Any], answer: Answer) -> Answer:
    """Stream one completion with token ids into `answer`."""
    body = {"return_token_ids": True, **body}
    async for data in events(port, "/v1/completions", body):
        if data == "[DONE]":
            answer.done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            answer.error = chunk["error"]["message"]
            continue
        for choice in chunk["choices"]:
            answer.token_ids += choice.get("token_ids") or []
            answer.text += choice["text"]
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    return answer
