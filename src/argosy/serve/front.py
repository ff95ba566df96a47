"""One front: HTTP, text, and the client of the engine, in one asyncio loop.

A first SIGINT or SIGTERM drains it: new requests are refused, those under way go on for
ServerConfig.shutdown_timeout and then end with an error. A second one ends them at once.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
import uvloop

from argosy.client.attachment import Attachment, Status
from argosy.client.models import one_model
from argosy.client.prepare import Prepared
from argosy.client.reading import open_intake
from argosy.client.remote import AsyncClient
from argosy.client.supervise import Supervisor
from argosy.config import ServerConfig
from argosy.errors import EngineDead
from argosy.serve import debug, probes
from argosy.serve.app import App
from argosy.serve.connection import Connection
from argosy.serve.dialects import openai
from argosy.serve.gate import Gate, Limits
from argosy.serve.listen import BACKLOG
from argosy.serve.log import Log
from argosy.serve.metrics import Metrics
from argosy.serve.names import ready_line, served_names
from argosy.serve.service import Service
from argosy.serve.tally import Tallies, Tally

KEEP_ALIVE_S = 75
_FLUSH_S = 2
"""What streams are given to tell their clients that they end early, and to send what they wrote."""

_STOPPED = "the server was stopped before the answer was complete"


class HttpServer(uvicorn.Server):
    """uvicorn, which leaves signals to us and tells of each tick."""

    def __init__(self, config: uvicorn.Config, tick: Callable[[int], None]) -> None:
        super().__init__(config)
        self._tick = tick

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the front's own handlers stay the only ones."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._tick(len(self.server_state.connections))
        return await super().on_tick(counter)


class Front:
    """Everything one front is made of.

    status: how the engine is.  process: whose memory and time the metrics tell.
    """

    def __init__(
        self,
        prepared: Prepared,
        attachment: Attachment,
        config: ServerConfig,
        log: Log,
        *,
        status: Callable[[], Status] | None = None,
        process: int | None = None,
    ) -> None:
        names = served_names(prepared, config)
        tallies = Tallies(attachment.board, attachment.front)
        seats = prepared.config.max_num_seqs
        self.config = config
        self.log = log
        self.metrics = Metrics(
            tallies,
            attachment,
            model_name=names[0],
            max_num_seqs=seats,
            memory_share=prepared.config.gpu_memory_utilization,
            process=process,
        )
        self.client = AsyncClient(
            attachment,
            open_intake(prepared, attachment.front),
            meter=self.metrics,
            sampling_defaults=prepared.sampling_defaults,
        )
        root = prepared.config.model or names[0]
        limits = Limits(
            requests=seats + config.max_num_queued_reqs, tokens=config.max_num_queued_tokens
        )
        self.service = Service(
            models=one_model(names, self.client, root),
            config=config,
            gate=Gate(tallies, limits),
            metrics=self.metrics,
            log=log,
            status=status or attachment.status,
        )
        by_priority = prepared.config.scheduling_policy == "priority"
        routes = (
            *openai.routes(self.service, by_priority=by_priority),
            *probes.routes(self.service),
        )
        self.app = App(self.service, (*routes, *debug.routes(self.service)))
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    def run(
        self, sock: socket.socket, ready: Callable[[], None], lifeline: int | None = None
    ) -> int:
        """Serve `sock` until signals end it: 0 after a drain, 130 after a second signal.

        ready: called once, when the engine serves.  lifeline: a descriptor; what can be read from
        it, its end too, says that the parent is gone, and all ends at once.
        Raises EngineDead where no engine ever serves.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(sock, ready, lifeline))

    async def _run(
        self, sock: socket.socket, ready: Callable[[], None], lifeline: int | None
    ) -> int:
        loop = asyncio.get_running_loop()
        if lifeline is not None:
            loop.add_reader(lifeline, self._orphaned, lifeline)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        server = HttpServer(self._uvicorn(), self._tick)
        await self.client.start()
        serving = loop.create_task(server.serve(sockets=[sock]))
        waiting = loop.create_task(self._wait_ready(ready))
        asked = loop.create_task(self._first.wait())
        try:
            await asyncio.wait((serving, waiting, asked), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done() and not asked.done():
                await waiting  # raises what kept the engine from starting
                await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            waiting.cancel()
            asked.cancel()
            self.client.shut(_STOPPED)  # streams still open end with an error
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
        return 130 if self._second.is_set() else 0

    async def _wait_ready(self, ready: Callable[[], None]) -> None:
        await self.client.ready()
        self.metrics.tallies.mine[Tally.SERVING] = 1
        ready()

    def _signalled(self) -> None:
        if self._first.is_set():
            self._second.set()
        self._first.set()

    def _orphaned(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self._first.set()
        self._second.set()

    async def _drain(self) -> None:
        """Refuse what is new, and let what runs end, or end it."""
        self.service.draining = True
        if self.app.num_open:
            self.log.say(
                f"shutting down: {self.app.num_open} requests under way have "
                f"{self.config.shutdown_timeout:g} s; a second signal ends them at once"
            )
        done = asyncio.create_task(self.app.idle.wait())
        again = asyncio.create_task(self._second.wait())
        timeout = self.config.shutdown_timeout
        await asyncio.wait((done, again), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not done.done():
            self.log.say(f"ending {self.app.num_open} requests that are still under way")
            done.cancel()

    def _tick(self, connections: int) -> None:
        self.metrics.tick(time.monotonic_ns(), connections)

    def _uvicorn(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=_FLUSH_S,
            ssl_certfile=self.config.ssl_certfile,
            ssl_keyfile=self.config.ssl_keyfile,
        )


def run(
    prepared: Prepared,
    supervisor: Supervisor,
    config: ServerConfig,
    sockets: Sequence[socket.socket],
    began: float,
) -> int:
    """Be the only front of a server, beside its supervisor; the exit status.

    began: when the server started, by time.monotonic. Raises what kept the engine from starting.
    """
    log = Log(requests=config.log_requests)
    try:
        front = Front(prepared, supervisor.attachment(), config, log, status=supervisor.status)
        (sock,) = sockets
        return front.run(sock, lambda: log.say(ready_line(prepared, config, sock, began)))
    except EngineDead as exc:
        raise supervisor.failure or exc from None
    finally:
        log.close()
