"""The ASGI application: what every request goes through before and after its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from argosy.serve.auth import Keys
from argosy.serve.errors import ClientGone, Refusal, openai_shape
from argosy.serve.exchange import Exchange, Message, Receive, Send
from argosy.serve.metrics import OTHER
from argosy.serve.service import Endpoint, Service

_PREFLIGHT_S = 600


class App:
    """Finds the handler of a request; gives it an id, asks for the key, counts it and logs it.

    num_open: requests under way.  idle: set while there is none.
    """

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        config = service.config
        self.service = service
        self.num_open = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._keys = Keys(config.api_keys, protect_probes=config.protect_probes)
        self._origins = frozenset(config.allowed_origins)
        self._router = Router(routes, redirect_slashes=False)
        handlers = []
        for index, route in enumerate(routes):
            assert isinstance(route.app, Endpoint)
            route.app.handler = index
            handlers.append((route.path_format, min(route.methods or ("GET",))))
        service.metrics.name_handlers([*handlers, OTHER])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        exchange = Exchange(self.service, scope, receive, send)
        scope["argosy.exchange"] = exchange
        scope["app"] = self  # makes the Router raise
        self.num_open += 1
        self.idle.clear()
        try:
            await self._answer(exchange)
        except ClientGone:
            exchange.gone = True
        except Exception as exc:
            if exchange.started:
                exchange.line.finish_reason = "error"
                raise  # the connection is cut: what was begun cannot be ended well
            await exchange.fail(_as_refusal(exc, exchange), openai_shape)
        finally:
            self._close(exchange)

    def _close(self, exchange: Exchange) -> None:
        self.num_open -= 1
        if not self.num_open:
            self.idle.set()
        exchange.finish()

    async def _answer(self, exchange: Exchange) -> None:
        if self._origins and self._cors(exchange):
            await exchange.reply(b"", status=204)
            return
        self._keys.check(exchange.scope["path"], exchange.header("authorization"))
        await self._router(exchange.scope, exchange.receive, exchange.send_message)

    def _cors(self, exchange: Exchange) -> bool:
        """Add what a browser of an allowed origin must hear; whether that is the whole answer."""
        origin = exchange.header("origin")
        if origin is None or not ({origin, "*"} & self._origins):
            return False
        exchange.more_headers += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"x-request-id, x-argosy-ignored, retry-after"),
            (b"vary", b"origin"),
        ]
        if exchange.scope["method"] != "OPTIONS":
            return False
        if exchange.header("access-control-request-method") is None:
            return False
        wanted = exchange.header("access-control-request-headers") or "authorization, content-type"
        exchange.more_headers += [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", wanted.encode("latin-1")),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_S),
        ]
        return True


def _as_refusal(exc: Exception, exchange: Exchange) -> Exception:
    """The Router's own errors in our words."""
    if not isinstance(exc, HTTPException):
        return exc
    method, path = exchange.scope["method"], exchange.scope["path"]
    headers = tuple((k.lower().encode(), v.encode()) for k, v in (exc.headers or {}).items())
    if exc.status_code == 405:
        return Refusal(405, f"{method} is not served on {path!r}", headers=headers)
    return Refusal(exc.status_code, f"there is nothing at {path!r}", headers=headers)
