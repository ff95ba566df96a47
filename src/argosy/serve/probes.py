"""What orchestrators and operators ask: /health, /ready, /version, /load, /metrics.

/health says whether restarting the server could help: it is 503 only when the engine has failed for
good. /ready says whether to send requests here now.
"""

from __future__ import annotations

import msgspec
from starlette.routing import Route

from argosy import __version__
from argosy.client.attachment import State
from argosy.serve.exchange import Exchange
from argosy.serve.service import Service

STALLED_S = 2.0
"""A heartbeat older than this is a stall, to whoever asks; the supervisor waits longer."""

_WORDS = {
    State.STARTING: "starting",
    State.READY: "ok",
    State.RESTARTING: "restarting",
    State.FAILED: "failed",
    State.STOPPED: "failed",
}


def routes(service: Service) -> list[Route]:
    """The routes of the probes."""
    return [
        service.route("/health", _health, methods=("GET",), while_draining=True, logged=False),
        service.route("/ready", _ready, methods=("GET",), while_draining=True, logged=False),
        service.route("/ping", _health, methods=("GET", "POST"), while_draining=True, logged=False),
        service.route("/version", _version, methods=("GET",), while_draining=True, logged=False),
        service.route("/load", _load, methods=("GET",), while_draining=True, logged=False),
        service.route("/metrics", _metrics, methods=("GET",), while_draining=True, logged=False),
    ]


class Engine(msgspec.Struct):
    """The engine process. heartbeat_age_s: since it was last seen to move."""

    pid: int
    epoch: int
    restarts: int
    heartbeat_age_s: float
    last_exit: str | None


class Health(msgspec.Struct):
    """The body of /health and /ready."""

    status: str
    engine: Engine


def health(service: Service) -> Health:
    """How the server is now. status: ok, starting, stalled, restarting, draining or failed."""
    found = service.status()
    word = _WORDS[found.state]
    if word == "ok" and found.heartbeat_age_s > STALLED_S:
        word = "stalled"
    if service.draining and word != "failed":
        word = "draining"
    engine = Engine(
        pid=found.pid,
        epoch=found.epoch,
        restarts=found.restarts,
        heartbeat_age_s=round(found.heartbeat_age_s, 3),
        last_exit=found.last_exit,
    )
    return Health(word, engine)


async def _health(exchange: Exchange) -> None:
    found = health(exchange.service)
    status = 503 if found.status == "failed" else 200
    await exchange.reply(msgspec.json.encode(found), status=status)


async def _ready(exchange: Exchange) -> None:
    service = exchange.service
    found = health(service)
    if found.status == "ok" and not service.models.first.client.is_connected:
        found.status = "starting"
    body = msgspec.json.encode(found)
    if found.status == "ok":
        await exchange.reply(body)
    else:
        await exchange.reply(body, status=503, headers=((b"retry-after", b"1"),))


async def _version(exchange: Exchange) -> None:
    await exchange.reply(msgspec.json.encode({"version": __version__}))


async def _load(exchange: Exchange) -> None:
    await exchange.reply(msgspec.json.encode({"server_load": exchange.service.gate.held}))


async def _metrics(exchange: Exchange) -> None:
    service = exchange.service
    facts = service.models.first.client.facts
    body, media = service.metrics.expose(exchange.header("accept"), facts)
    await exchange.reply(body, media=media.encode())
