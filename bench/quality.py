"""How much do formats lose? KL divergence to fp32 of the same weights, beside llama.cpp's.

    python bench/quality.py --llamacpp .peers/llamacpp/bin/python

Every recipe reads the same tokens, in windows of 1,000. What it holds likely at each position is
compared with what this engine holds likely in fp32 (argosy/engine/score.py); llama.cpp in fp32
tells how far two engines are apart that lose nothing. One line per recipe is appended to
results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from argosy_engine import bits  # noqa: E402
from checkpoints import ROOT, checkpoint  # noqa: E402
from gguf_model import NAMES  # noqa: E402
from records import append, publish  # noqa: E402

from argosy.bundle.build import build_bundle  # noqa: E402
from argosy.bundle.open import open_bundle  # noqa: E402
from argosy.client.reading import open_tokenizer  # noqa: E402
from argosy.config import EngineConfig  # noqa: E402
from argosy.engine.engine import choose_cache_dtype, open_engine  # noqa: E402
from argosy.engine.score import Score, compare, prompt_logits, windows  # noqa: E402

if TYPE_CHECKING:
    from argosy.types import F32

WINDOW = 1000
RECIPES = (("w4", "int8"), ("w8", "int8"), ("w8", "bf16"), ("fp32", "int8"), ("fp32", "bf16"))
"""Weights and cache of Argosy's rows."""
KINDS = ("q4_0", "q8_0", "bf16", "f32")
"""llama.cpp's rows; its cache is fp16."""

Row = dict[str, Any]
Logits = Callable[[tuple[int, ...]], "F32"]


@dataclass(frozen=True)
class Recipe:
    """One row: a name, and what it holds likely."""

    name: str
    logits: Logits


def argosy(folder: Path, work: Path, weights: str, cache: str) -> Recipe:
    """Argosy with these weights and this cache."""
    path = work / f"{folder.name}-{weights}"
    if not path.exists():
        build_bundle(folder, path, quantization=weights)
    found = open_bundle(path)
    config = EngineConfig(
        max_model_len=WINDOW,
        max_num_seqs=1,
        max_num_batched_tokens=128,
        kv_cache_dtype=cache,
        keep_logits=True,
    )
    engine = open_engine(found, config)
    name = f"Argosy, {bits(found.program)}, cache {choose_cache_dtype(found, config)}"
    return Recipe(name, lambda ids: np.concatenate(list(prompt_logits(engine, ids))))


def llamacpp(folder: Path, work: Path, python: str, kind: str) -> Recipe:
    """llama.cpp, in its own environment."""
    command = [python, "llamacpp_logits.py", str(folder), kind, str(work), "1"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE / "peers"
    )
    place = work / "logits.npy"

    def logits(ids: tuple[int, ...]) -> F32:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"ids": ids, "out": str(place)}) + "\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise SystemExit(f"llama.cpp ended: {command}")
        return np.load(place)

    return Recipe(f"llama.cpp, {NAMES[kind]}, cache fp16", logits)


def measure(recipe: Recipe, truth: Recipe, texts: list[tuple[int, ...]]) -> Row:
    """How far a recipe is from fp32 over all texts."""
    total = Score()
    for ids in texts:
        total += compare(recipe.logits(ids), truth.logits(ids), np.array(ids[1:]))
    return {
        "name": recipe.name,
        "tokens": total.positions,
        "mean_kl": total.divergence / total.positions,
        "max_kl": total.worst,
        "same_top_1": total.agreed / total.positions,
        "perplexity": total.perplexity,
    }


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    titles = ("", "mean KL, nats", "max KL", "same best token", "perplexity")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines += [
        f"| {r['name']} | {r['mean_kl']:.6f} | {r['max_kl']:.3f} | {r['same_top_1']:.2%} | "
        f"{r['perplexity']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=checkpoint("embedded", HERE))
    parser.add_argument("--text", type=Path, default=ROOT / "training" / "README.md")
    parser.add_argument("--texts", type=int, default=20, help="windows of the text at most")
    parser.add_argument("--llamacpp", help="python of its environment")
    parser.add_argument("--work", type=lambda p: Path(p).resolve(), default=HERE / "work")
    parser.add_argument("--publish", action="store_true", help="renew the tables in the READMEs")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    truth = argosy(args.checkpoint, args.work, "fp32", "fp32")
    tokenizer = open_tokenizer(open_bundle(args.work / f"{args.checkpoint.name}-fp32"))
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"))
    texts = windows(ids, WINDOW)[: args.texts]
    rows = []
    for weights, cache in RECIPES:
        rows.append(measure(argosy(args.checkpoint, args.work, weights, cache), truth, texts))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    for kind in KINDS if args.llamacpp else ():
        peer = llamacpp(args.checkpoint, args.work, args.llamacpp, kind)
        rows.append(measure(peer, truth, texts))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    about = {"checkpoint": args.checkpoint.name, "text": args.text.name}
    append(HERE / "results" / "quality.jsonl", rows, about)
    if args.publish:
        publish("quality", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
