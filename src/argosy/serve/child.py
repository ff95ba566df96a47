"""What a front process runs: `fronts` starts it."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import fields

import msgspec

from argosy.client.attachment import Attachment
from argosy.client.prepare import Prepared, prepare_bundle
from argosy.config import EngineConfig, ServerConfig
from argosy.engine.board import Board
from argosy.errors import EngineDead
from argosy.serve.front import Front
from argosy.serve.fronts import FrontSpec
from argosy.serve.listen import raise_file_limit
from argosy.serve.log import Log


def main() -> None:
    """Read a FrontSpec from stdin and serve until signals come, or stdin ends."""
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=FrontSpec)
    raise_file_limit()
    config = ServerConfig(**spec.server)
    log = Log(requests=config.log_requests)
    attachment = Attachment(spec.socket_path, Board(spec.board), spec.front)
    code = 1
    try:
        front = Front(prepared(spec), attachment, config, log, process=os.getppid())
        with socket.socket(fileno=spec.listener) as sock:
            code = front.run(sock, lambda: None, lifeline=sys.stdin.fileno())
    except EngineDead:
        pass  # the main process tells why
    finally:
        log.close()
    sys.exit(code)


def prepared(spec: FrontSpec) -> Prepared:
    """The model as the main process prepared it."""
    return prepare_bundle(
        spec.bundle,
        EngineConfig(**spec.engine),
        chat_template=spec.chat_template,
        given=[field.name for field in fields(EngineConfig)],
    )
