"""The listening socket: bound before anything slow, so that a port in use is told at once."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from argosy.config import ServerConfig
from argosy.errors import ConfigError

BACKLOG = 4096
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A client that is silent and gone is noticed after two minutes."""


@contextmanager
def listening(config: ServerConfig) -> Iterator[list[socket.socket]]:
    """A socket for each front, listening already; closed at the end, a Unix socket's file gone.

    Fronts that share one socket take all they can get, mostly one of them; the kernel shares
    connections out evenly among several sockets of one port. A Unix socket is shared nevertheless.
    Raises ConfigError for a place where nobody can listen, or a certificate that is none.
    """
    _check_certificate(config)
    with contextlib.ExitStack() as stack:
        sockets = _bind_all(config, stack)
        for sock in sockets:
            sock.setblocking(False)
        yield sockets


def _bind_all(config: ServerConfig, stack: contextlib.ExitStack) -> list[socket.socket]:
    if config.uds is not None:
        sock = stack.enter_context(_bind_unix(config.uds))
        stack.callback(_unlink, config.uds)
        return [sock] * config.api_server_count
    if config.api_server_count == 1:
        return [stack.enter_context(_bind(config.host, config.port))]
    with _bind(config.host, config.port) as alone:  # nobody else has the port
        port = alone.getsockname()[1]
    return [
        stack.enter_context(_bind(config.host, port, shared=True))
        for _ in range(config.api_server_count)
    ]


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def address(config: ServerConfig, sock: socket.socket) -> str:
    """Where clients find the server, as a URL; "unix:PATH" for a Unix socket."""
    if config.uds is not None:
        return f"unix:{config.uds}"
    host = f"[{config.host}]" if ":" in config.host else config.host
    scheme = "http" if config.ssl_certfile is None else "https"
    return f"{scheme}://{host}:{sock.getsockname()[1]}"


def raise_file_limit() -> int:
    """Allow this process as many open files as it may allow itself; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """shared: among several sockets of this user."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"host={host!r} is no address of this machine: {exc}") from exc
    family, _, _, _, place = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _keep_alive(sock)
        sock.bind(place)
        sock.listen(BACKLOG)  # two servers may bind a port; only one listens
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {exc.strerror}; choose another --port, or 0 for "
            "a free one"
        ) from exc
    return sock


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # connections inherit it
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_over(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"cannot listen on uds={path!r}: {exc.strerror}; choose another path"
        ) from exc
    return sock


def _is_left_over(path: str) -> bool:
    """Whether `path` is a socket nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) != 0


def _check_certificate(config: ServerConfig) -> None:
    if config.ssl_certfile is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"ssl_certfile={config.ssl_certfile!r} with ssl_keyfile={config.ssl_keyfile!r} cannot "
            f"be used: {exc}"
        ) from exc
