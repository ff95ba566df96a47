"""What every server of a comparison is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The same for all servers of one run.

    model: "embedded" or "0.5b".  work: where models and logs are.  threads: of each engine.
    slots: sequences at once.  max_model_len: tokens of prompt and answer.
    argosy_args: more arguments of `argosy serve`.
    llamacpp_args: more arguments of llama-server, such as --kv-unified.
    """

    model: str
    work: Path
    threads: int
    slots: int = 256
    max_model_len: int = 2048
    argosy_args: tuple[str, ...] = ()
    llamacpp_args: tuple[str, ...] = ()
