"""`serve`: everything from a configuration to a server that answers, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from argosy.bundle.open import Progress
from argosy.client.prepare import prepare
from argosy.client.supervise import Supervisor
from argosy.config import EngineConfig, ServerConfig
from argosy.engine.board import Board
from argosy.serve.listen import listening, raise_file_limit


def serve(
    engine_config: EngineConfig,
    server_config: ServerConfig,
    *,
    cache_dir: Path | str | None = None,
    chat_template: str | None = None,
    given: Iterable[str] | None = None,
    progress: Progress | None = None,
    opener: str | None = None,
    python_path: Sequence[str] = (),
) -> int:
    """Serve a model over HTTP until a signal ends it; the exit status.

    0 after a drain, 130 after a second signal. It answers from the moment the tokenizer is read;
    /ready is 200 once the engine serves, and a line on stderr says so.
    cache_dir, chat_template, given, progress: as `prepare` takes them.  opener, python_path: as in
    EngineSpec.
    Raises ConfigError, ModelError and OutOfMemory; EngineDead where no engine would start.
    """
    began = time.monotonic()
    raise_file_limit()
    with listening(server_config) as sockets:
        prepared = prepare(
            engine_config,
            cache_dir=cache_dir,
            chat_template=chat_template,
            progress=progress,
            given=given,
        )
        board = Board.create(server_config.api_server_count)
        spec = prepared.spec(opener=opener, python_path=python_path)
        with Supervisor(spec, board) as supervisor:
            supervisor.start()
            # By name and only now: the engine loads while this process imports the rest.
            alone = server_config.api_server_count == 1
            module = import_module("argosy.serve.front" if alone else "argosy.serve.fronts")
            code: int = module.run(prepared, supervisor, server_config, sockets, began)
            return code
