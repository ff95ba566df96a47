"""The models that servers are compared on, in the form each server reads."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = 151936


def checkpoint(model: str, work: Path) -> Path:
    """The Hugging Face folder of a model: the embedded one's, or random weights of 0.5 B."""
    if model == "embedded":
        return ROOT / "training" / "checkpoint"
    folder = work / "qwen2-0.5b-text"
    if not (folder / "tokenizer_config.json").exists():
        sys.path.insert(0, str(ROOT / "tests"))
        from random_models import write_model

        write_model(
            folder, arch="qwen2", hidden=896, heads=14, kv_heads=2, head_dim=64, layers=24,
            vocab=VOCAB, inter=4864, tied=True, dtype="bfloat16", max_position=32768,
        )  # fmt: skip
        fill_vocabulary(folder / "tokenizer.json", VOCAB)
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


def bundle(model: str, work: Path) -> Path:
    """The bundle Argosy serves: the embedded one, or 4-bit weights with an 8-bit head."""
    if model == "embedded":
        return ROOT / "src" / "argosy" / "embedded"
    path = work / "qwen2-0.5b-text-w4"
    if not path.exists():
        from argosy.bundle.build import build_bundle

        build_bundle(checkpoint(model, work), path, quantization="w4")
    return path
