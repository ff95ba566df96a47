"""From a configuration to a client that answers, with an engine in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from argosy.bundle.open import Progress
from argosy.client.local import LocalClient
from argosy.client.prepare import prepare
from argosy.client.prepare import sampling_defaults as sampling_defaults
from argosy.client.prepare import settled as settled
from argosy.client.reading import open_intake
from argosy.client.reading import open_tokenizer as open_tokenizer
from argosy.config import EngineConfig
from argosy.engine.engine import open_engine

LOG = logging.getLogger("argosy")


def open_client(
    config: EngineConfig,
    *,
    cache_dir: Path | str | None = None,
    chat_template: str | None = None,
    progress: Progress | None = None,
    given: Iterable[str] | None = None,
) -> LocalClient:
    """Open the model of `config` with an engine of its own; the arguments are those of `prepare`.

    Raises ConfigError, ModelError and OutOfMemory.
    """
    prepared = prepare(
        config,
        cache_dir=cache_dir,
        chat_template=chat_template,
        progress=progress,
        given=given,
    )
    intake = open_intake(prepared)
    engine = open_engine(prepared.bundle, prepared.config)
    memory_line = str(engine.memory or "")
    LOG.info("%s", memory_line)
    return LocalClient(
        engine, intake, sampling_defaults=prepared.sampling_defaults, memory_line=memory_line
    )
