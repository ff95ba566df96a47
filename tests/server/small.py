"""A front without an engine: a test's own handlers behind the real connection and application."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from argosy.client.attachment import Attachment
from argosy.config import ServerConfig
from argosy.engine.board import Board
from argosy.serve import probes
from argosy.serve.app import App
from argosy.serve.connection import Connection
from argosy.serve.front import HttpServer
from argosy.serve.gate import Gate, Limits
from argosy.serve.listen import listening
from argosy.serve.log import Log
from argosy.serve.metrics import Metrics
from argosy.serve.service import Handle, Service
from argosy.serve.tally import Tallies


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still within the block, and goes on after it if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class HastyConnection(Connection):
    """It does not wait long."""

    head_s = 0.1


@dataclass
class Small:
    """A front that serves in the running loop."""

    port: int
    service: Service
    app: App


def service(config: ServerConfig | None = None, board: Board | None = None) -> Service:
    """What handlers get, without models."""
    board = board or Board.create()
    tallies, attachment = Tallies(board, 0), Attachment("nowhere", board)
    return Service(
        models=cast(Any, None),
        config=config or ServerConfig(),
        gate=Gate(tallies, Limits(requests=4)),
        metrics=Metrics(tallies, attachment, model_name="m", max_num_seqs=1),
        log=Log(fd=os.open(os.devnull, os.O_WRONLY)),
        status=attachment.status,
    )


@asynccontextmanager
async def serving(
    handlers: dict[str, Handle], *, hasty: bool = False, **config: Any
) -> AsyncIterator[Small]:
    """`handlers` by their paths, for POST, beside the probes."""
    settings = ServerConfig(**{"port": 0, **config})
    here = service(settings)
    routes: Sequence[Any] = [here.route(path, handle) for path, handle in handlers.items()]
    app = App(here, [*routes, *probes.routes(here)])
    with listening(settings) as (sock,):
        port = 0 if settings.uds else sock.getsockname()[1]
        server = HttpServer(
            uvicorn.Config(
                app,
                http=HastyConnection if hasty else Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                proxy_headers=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
            ),
            lambda connections: None,
        )
        task = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield Small(port, here, app)
        finally:
            server.should_exit = True
            await task
            here.log.close()
