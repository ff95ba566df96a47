"""What a server calls its model and itself."""

from __future__ import annotations

import socket
import time

from argosy.client.prepare import Prepared
from argosy.config import ServerConfig
from argosy.serve.listen import address


def served_names(prepared: Prepared, config: ServerConfig) -> tuple[str, ...]:
    """The names clients may use: those asked for, or the model as it was named."""
    return config.served_model_name or (prepared.config.model or "argosy",)


def ready_line(prepared: Prepared, config: ServerConfig, sock: socket.socket, began: float) -> str:
    """What is said when the server is ready. began: when it started, by time.monotonic."""
    names = ", ".join(served_names(prepared, config))
    seconds = time.monotonic() - began
    return f"serving {names} on {address(config, sock)} (ready in {seconds:.1f} s)"
