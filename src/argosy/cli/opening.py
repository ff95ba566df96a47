"""Opening a model for the verbs that run it."""

from __future__ import annotations

from argosy.cli.environment import read_environment
from argosy.cli.terminal import ProgressLine
from argosy.client.local import LocalClient
from argosy.client.open import open_client
from argosy.config import EngineConfig


def open_model(config: EngineConfig) -> LocalClient:
    """A client for the model of `config`, built into the cache first if need be.

    Raises ConfigError, ModelError or OutOfMemory.
    """
    return open_client(
        config, cache_dir=read_environment().cache, progress=ProgressLine("building")
    )
