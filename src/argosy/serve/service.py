"""What a dialect gets: the models, the configuration, the gate, the metrics, the log.

A dialect is one file: `routes(service) -> list[Route]` made with `service.route`, its own error
shape, and code that parses and formats. Its handlers take an `Exchange`:

    async def complete(exchange: Exchange) -> None:
        fields = parse(await exchange.body())                 # raises Refusal(400, ..., param=...)
        served = exchange.service.models.get(fields.model)    # raises ModelNotFound: 404
        with exchange.service.gate.slot() as slot:            # raises Full: 429, before any text
            accepted = served.intake.accept(...)              # raises RequestError: 400
            slot.charge(tokens=accepted.request.num_prompt_tokens)
            async with served.client.submit(accepted) as stream:
                with exchange.until_gone(stream.close):       # a client that leaves aborts
                    async for output in stream: ...
                    await exchange.reply(...)
                exchange.line.take(stream.story)

Whatever a handler raises before its answer has begun is answered in the dialect's shape by the
table of serve/errors.py; while the server drains, handlers are not called at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from starlette.routing import Route

from argosy.serve.errors import ClientGone, Refusal, Shape, openai_shape
from argosy.serve.exchange import CLOSE, Exchange, Message, Receive, Send

if TYPE_CHECKING:
    from argosy.client.attachment import Status
    from argosy.client.models import Models
    from argosy.config import ServerConfig
    from argosy.serve.gate import Gate
    from argosy.serve.log import Log
    from argosy.serve.metrics import Metrics

Handle = Callable[[Exchange], Awaitable[None]]
RETRY_WHILE_DRAINING_S = 5


class Service:
    """One front's view of the server.

    models: by their served names.  config: how it is served.  gate: slots.  metrics: what is
    counted.  log: lines for operators; `say_once` for what need not be repeated.
    status: how the engine is.
    draining: the server is going down; new requests are refused, those under way go on.
    """

    def __init__(
        self,
        *,
        models: Models,
        config: ServerConfig,
        gate: Gate,
        metrics: Metrics,
        log: Log,
        status: Callable[[], Status],
    ) -> None:
        self.models = models
        self.config = config
        self.gate = gate
        self.metrics = metrics
        self.log = log
        self.status = status
        self.draining = False

    def route(
        self,
        path: str,
        handle: Handle,
        *,
        methods: Sequence[str] = ("POST",),
        shape: Shape = openai_shape,
        while_draining: bool = False,
        logged: bool = True,
    ) -> Route:
        """A route to `handle`; its errors in `shape`.

        path: as starlette's, "/v1/models/{id:path}".  while_draining: also when the server drains.
        logged: whether its requests have a line in the log.
        """
        endpoint = Endpoint(self, handle, shape, while_draining=while_draining, logged=logged)
        return Route(path, endpoint, methods=list(methods))


class Endpoint:
    """The ASGI application of one route. handler: its number among the routes, for the metrics."""

    def __init__(
        self,
        service: Service,
        handle: Handle,
        shape: Shape,
        *,
        while_draining: bool,
        logged: bool,
    ) -> None:
        self.handler = -1
        self._service = service
        self._handle = handle
        self._shape = shape
        self._while_draining = while_draining
        self._logged = logged

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        exchange: Exchange = scope["argosy.exchange"]
        exchange.handler, exchange.logged = self.handler, self._logged
        try:
            if self._service.draining and not self._while_draining:
                raise draining()
            await self._handle(exchange)
        except ClientGone:
            exchange.gone = True
        except Exception as exc:
            if exchange.started:
                raise
            await exchange.fail(exc, self._shape)


def draining() -> Refusal:
    """The answer to new requests while the server goes down."""
    retry = (b"retry-after", b"%d" % RETRY_WHILE_DRAINING_S)
    message = f"the server is shutting down; try again in {RETRY_WHILE_DRAINING_S} s"
    return Refusal(503, message, headers=(retry, CLOSE))
