"""The models that servers are compared on, in the form each server reads."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TITLES = {"0.5b": "Qwen2.5-0.5B", "1b": "Llama-3.2-1B", "0.6b": "Qwen3-0.6B", "4b": "Qwen3-4B"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "arch": "qwen2", "hidden": 896, "heads": 14, "kv_heads": 2, "head_dim": 64, "layers": 24,
        "vocab": 151936, "inter": 4864, "rope_theta": 1e6,
    },
    "1b": {
        "arch": "llama", "hidden": 2048, "heads": 32, "kv_heads": 8, "head_dim": 64, "layers": 16,
        "vocab": 128256, "inter": 8192, "rope_theta": 5e5,
    },
    "0.6b": {
        "arch": "qwen3", "hidden": 1024, "heads": 16, "kv_heads": 8, "head_dim": 128, "layers": 28,
        "vocab": 151936, "inter": 3072, "rope_theta": 1e6,
    },
    "4b": {
        "arch": "qwen3", "hidden": 2560, "heads": 32, "kv_heads": 8, "head_dim": 128, "layers": 36,
        "vocab": 151936, "inter": 9728, "rope_theta": 1e6,
    },
}  # fmt: skip
"""What is taken of each model is its sizes; weights are random, in bf16, and the head is tied."""


def checkpoint(model: str, work: Path) -> Path:
    """The Hugging Face folder of a model: the embedded one's, or random weights of a shape."""
    if model == "embedded":
        return ROOT / "training" / "checkpoint"
    folder = work / model
    if not (folder / "tokenizer_config.json").exists():
        sys.path.insert(0, str(ROOT / "tests"))
        from random_models import write_model

        write_model(folder, tied=True, dtype="bfloat16", max_position=32768, **SHAPES[model])
        fill_vocabulary(folder / "tokenizer.json", SHAPES[model]["vocab"])
    return folder


def fill_vocabulary(path: Path, size: int) -> None:
    """Add merges until every id of the model is a piece of text: longer and longer words."""
    spec = json.loads(path.read_text())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    level = [*LETTERS, "Ġ"]
    while len(vocab) < size:
        pairs = [(left, letter) for left in level for letter in LETTERS]
        level = [left + letter for left, letter in pairs]
        fresh = (pair for pair in pairs if "".join(pair) not in vocab)
        for left, letter in list(islice(fresh, size - len(vocab))):
            vocab[left + letter] = len(vocab)
            merges.append(f"{left} {letter}")
    path.write_text(json.dumps(spec, ensure_ascii=False))


def bundle(model: str, work: Path, quantization: str | None = "w4") -> Path:
    """The bundle Argosy serves: the embedded one, or 4-bit weights with an 8-bit head."""
    if model == "embedded":
        return ROOT / "src" / "argosy" / "embedded"
    path = work / f"{model}-{quantization or 'bf16'}"
    if not path.exists():
        from argosy.bundle.build import build_bundle

        build_bundle(checkpoint(model, work), path, quantization=quantization)
    return path
