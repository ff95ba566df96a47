"""From an exception to an HTTP status: one table for every protocol.

A dialect gives a `Failure` its own shape; `openai_shape` is the one of everything else. What a
client caused is below 500; 503 says come back later, 500 is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from argosy.errors import (
    ArgosyError,
    ContextLengthExceeded,
    EngineDead,
    ModelNotFound,
    Overloaded,
    RequestError,
    StepFailed,
    TemplateError,
)

Headers = tuple[tuple[bytes, bytes], ...]

TYPES: dict[int, str] = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    499: "ClientClosedRequest",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
"""`type` of an error by its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What goes wrong for a client, before it has a protocol's shape.

    param: the field at fault, None where there is no single one.  code: what programs look at; the
    status where there is no word for it.
    """

    status: int
    message: str
    type: str
    code: int | str
    param: str | None = None
    headers: Headers = ()


Shape = Callable[[Failure], bytes]
"""A protocol's error body, JSON."""


class Refusal(ArgosyError):
    """An HTTP request that is refused with this status; for what no error of the engine says.

    status: 400 to 599.  param, code: see Failure.  headers: to be sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: int | str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers


class ClientGone(Exception):
    """The client closed its connection; nobody is left to be answered."""


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    code: str | None = None
    param: str | None = None


TABLE: dict[type[Exception], _Row] = {
    ContextLengthExceeded: _Row(400, "context_length_exceeded"),
    RequestError: _Row(400),
    TemplateError: _Row(400),
    ModelNotFound: _Row(404, param="model"),
    Overloaded: _Row(429),
    EngineDead: _Row(503),
    StepFailed: _Row(500),
}
"""The errors a request may end in; the first ancestor that stands here counts."""


def failure(exc: Exception) -> Failure:
    """What `exc` is to a client. Anything unexpected is a 500 that does not tell its text."""
    headers: Headers = getattr(exc, "headers", ())
    if isinstance(exc, Refusal):
        return make(exc.status, str(exc), param=exc.param, code=exc.code, headers=headers)
    for kind in type(exc).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            param = getattr(exc, "param", row.param)
            return make(row.status, str(exc), param=param, code=row.code, headers=headers)
    return make(500, "internal error; the server's log says more")


def make(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: int | str | None = None,
    headers: Headers = (),
) -> Failure:
    """A failure whose type, and code if there is none, follow from its status."""
    return Failure(
        status=status,
        message=message,
        type=TYPES.get(status, "BadRequestError" if status < 500 else "InternalServerError"),
        code=status if code is None else code,
        param=param,
        headers=headers,
    )


def openai_shape(failure: Failure) -> bytes:
    """{"error": {message, type, param, code}}."""
    return msgspec.json.encode(
        {
            "error": {
                "message": failure.message,
                "type": failure.type,
                "param": failure.param,
                "code": failure.code,
            }
        }
    )
