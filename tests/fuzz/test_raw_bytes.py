"""Malformed requests over raw sockets: an answer or a closed connection, no 5xx, no hang."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz.full_server import full_server
from fuzz.requests import request

pytestmark = pytest.mark.fuzz
REQUESTS = int(os.environ.get("ARGOSY_FUZZ_REQUESTS", "20000"))
AT_ONCE = 16
ANSWER_S = 60.0


async def answer(port: int, data: bytes) -> bytes:
    """What came back: the first line, or nothing where the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        return await reader.read(-1)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def volley(port: int, seeds: range) -> Counter[str]:
    """Send a request for each seed; how often each status came."""
    found: Counter[str] = Counter()
    left = iter(seeds)

    async def worker() -> None:
        for seed in left:
            data = request(random.Random(seed))
            async with asyncio.timeout(ANSWER_S):
                reply = await answer(port, data)
            status = reply[9:12].decode("latin-1") if reply.startswith(b"HTTP/1.") else "closed"
            found[status] += 1
            assert not status.startswith("5"), f"seed {seed}: {data[:300]!r} gave {reply[:500]!r}"
            assert status != "closed" or not reply, f"seed {seed}: {reply[:200]!r} is no HTTP"

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return found


def test_raw_bytes(tmp_path: Path) -> None:
    """Both halves are answered; resident memory after the second is that after the first."""
    with full_server(tmp_path) as server:
        half = REQUESTS // 2
        first = asyncio.run(volley(server.port, range(half)))
        before = server.resident_bytes()
        second = asyncio.run(volley(server.port, range(half, REQUESTS)))
        after = server.resident_bytes()
        print(f"\nanswers: {dict(first + second)}; resident {before >> 20} -> {after >> 20} MiB")
        assert after <= 1.05 * before
        assert server.check() == "ok"
