"""llama.cpp's own llama-server under the harness: continuous batching."""

from __future__ import annotations

from pathlib import Path

from gguf_model import NAMES, gguf_file
from processes import Command
from settings import Settings

KINDS = {"embedded": "q8_0", "0.5b": "q4_0"}
SLOTS_MAX = 256
"""LLAMA_MAX_SEQ: what llama.cpp is compiled for; more requests wait."""


def command(settings: Settings, program: Path, checkpoint: Path, python: Path) -> Command:
    """llama-server on the converted checkpoint; it is converted first if absent."""
    kind = KINDS[settings.model]
    gguf = gguf_file(checkpoint, kind, python, settings.work)
    slots = min(settings.slots, SLOTS_MAX)
    argv = (
        str(program), "-m", str(gguf), "--host", "127.0.0.1", "--port", "{port}",
        "-t", str(settings.threads), "-tb", str(settings.threads), "-np", str(slots),
        "-c", str(slots * settings.max_model_len), "--cache-ram", "0", "--threads-http", "1100",
        "--no-ui", "--log-disable", "--no-slots", *settings.llamacpp_args,
    )  # fmt: skip
    return Command("llama.cpp", NAMES[kind], argv)
