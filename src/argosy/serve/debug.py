"""What a developer asks of a running server: its last steps, and whether its pages are in order."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.routing import Route

from argosy.engine.trace import chrome_trace
from argosy.serve.errors import Refusal
from argosy.serve.exchange import JSON, Exchange
from argosy.serve.service import Service

_ASK_S = 30.0


def routes(service: Service) -> list[Route]:
    """The routes under /debug; they need the key where there is one."""
    return [
        service.route("/debug/trace", _trace, methods=("GET",), while_draining=True),
        service.route("/debug/check", _check, methods=("GET",), while_draining=True),
    ]


async def _trace(exchange: Exchange) -> None:
    """The last steps as a Chrome trace: open it in chrome://tracing or Perfetto."""
    await exchange.begin(((b"content-type", JSON),))
    for piece in chrome_trace(exchange.service.metrics.attachment.board):
        await exchange.send(piece)
        await asyncio.sleep(0)  # streams go on meanwhile
    await exchange.end()


async def _check(exchange: Exchange) -> None:
    """{"pages": "ok"}, or a 500 with what is wrong."""
    client = exchange.service.models.first.client
    try:
        async with asyncio.timeout(_ASK_S):
            wrong = await client.ask("check")
    except TimeoutError:
        raise Refusal(503, f"the engine did not answer within {_ASK_S:.0f} s") from None
    body = msgspec.json.encode({"pages": wrong or "ok"})
    await exchange.reply(body, status=500 if wrong else 200)
