"""`argosy eval`: how well a model predicts a text, and how far it is from another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from argosy.bundle.cache import resolve_model
from argosy.bundle.manifest import is_bundle
from argosy.bundle.open import Bundle, open_bundle
from argosy.cli.environment import ended_by_sigterm, read_environment
from argosy.cli.options import Model, Quantize, Revision, parse_count
from argosy.cli.terminal import ProgressLine
from argosy.client.reading import open_tokenizer
from argosy.config import EngineConfig
from argosy.engine.engine import Engine, open_engine
from argosy.engine.plan import max_model_len
from argosy.engine.score import ROWS, Score, score, windows
from argosy.errors import ConfigError
from argosy.types import PAGE_TOKENS

HELP = """Reads the text token by token and compares what the model held likely with what came. With
--kl, also with what REFERENCE held likely: the mean and the largest KL divergence (nats a token,
0 is the same), and how often both hold the same token for the best. A checkpoint as REFERENCE is
computed in float32, a bundle as it was built."""

EXAMPLES = """\b
Examples:
  argosy eval ~/models/my-llama -q w4 --kl ~/models/my-llama --text held-out.txt
  argosy eval ~/models/my-llama -q w8 --kv-cache-dtype fp32 --text held-out.txt --window 512
  argosy eval my-llama-w4 --kl my-llama-bf16 --text held-out.txt --json"""

WINDOW = 1024


def run(
    model: Model = None,
    *,
    text: Annotated[Path, typer.Option(metavar="FILE", help="What is read: UTF-8.")],
    kl: Annotated[
        str | None,
        typer.Option("--kl", metavar="REFERENCE", help="Compare with this model, as MODEL."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="Tokens read together; contexts are up to so long.",
            show_default=f"{WINDOW}, or the model's context",
        ),
    ] = None,
    quantize: Quantize = None,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="auto, float32, float16, bfloat16.")
    ] = "auto",
    kv_cache_dtype: Annotated[
        str,
        typer.Option(metavar="NAME", help="MODEL's cache: auto, fp32, bf16, int8."),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Default: what affinity and cgroup allow.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="native (C++), or reference (NumPy: slow).")
    ] = EngineConfig.runtime,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Score the text and print the figures."""
    content = read_text(text)
    shared: dict[str, Any] = {"runtime": runtime, "num_threads": threads, "revision": revision}
    config = EngineConfig(
        model=model,
        dtype=dtype,
        quantization=quantize,
        kv_cache_dtype=kv_cache_dtype,
        **shared,
    )
    bundle = find(config)
    other = None if kl is None else find(EngineConfig(model=kl, dtype=reference_dtype(kl)))
    longest = min(max_model_len(b.program, config) for b in (bundle, other or bundle))
    length = window or min(WINDOW, longest)
    if length > longest:
        raise ConfigError(f"--window {length} exceeds the model's context of {longest} tokens")
    tokens, prefix = read_tokens(bundle, other, content)
    texts = [(*prefix, *w) for w in windows(tokens, length - len(prefix))]
    mine = open_scorer(bundle, config, length)
    theirs = None if other is None else open_scorer(other, EngineConfig(**shared), length)
    total, progress = Score(), ProgressLine("read", amount=lambda n: f"{n} tokens")
    for number, one in enumerate(texts, 1):
        total += score(mine, theirs, one)
        progress(number * length, len(texts) * length)
    found = figures(total, kl is not None)
    print(json.dumps(found) if as_json else as_text(found))


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 at byte {exc.start}; convert it first") from exc


def reference_dtype(name: str) -> str:
    """float32 for a checkpoint; "auto", what it holds, for a bundle."""
    return "auto" if is_bundle(Path(name)) else "float32"


def find(config: EngineConfig) -> Bundle:
    """The model's bundle, built on first use."""
    with ended_by_sigterm():
        path = resolve_model(
            config.model,
            cache_dir=Path(read_environment().cache or "~/.cache/argosy").expanduser(),
            dtype=config.dtype,
            quantization=config.quantization,
            revision=config.revision,
            progress=ProgressLine("building"),
        )
    return open_bundle(path)


def read_tokens(
    bundle: Bundle, other: Bundle | None, content: str
) -> tuple[list[int], tuple[int, ...]]:
    """The text's ids, and those the tokenizer puts before any text.

    Raises ConfigError where the two models read it differently.
    """
    tokenizer = open_tokenizer(bundle)
    ids, whole = tokenizer.encode(content, add_special_tokens=False), tokenizer.encode(content)
    if other is not None and open_tokenizer(other).encode(content) != whole:
        raise ConfigError(
            "the two models read this text as different tokens, so nothing can be compared; give "
            "a REFERENCE with the same tokenizer"
        )
    return ids, () if whole[:1] == ids[:1] else (whole[0],)


def open_scorer(bundle: Bundle, config: EngineConfig, length: int) -> Engine:
    """An engine for one text of `length` tokens at a time, that keeps logits."""
    one = replace(
        config,
        max_num_seqs=1,
        max_num_batched_tokens=ROWS,
        kv_pages=-(-length // PAGE_TOKENS) + 1,
        keep_logits=True,
    )
    return open_engine(bundle, one)


def figures(total: Score, compared: bool) -> dict[str, Any]:
    """What is told, by name; nats."""
    found: dict[str, Any] = {"tokens": total.positions, "perplexity": total.perplexity}
    if compared:
        found |= {
            "mean_kl": total.divergence / total.positions,
            "max_kl": total.worst,
            "same_top_1": total.agreed / total.positions,
        }
    return found


def as_text(found: dict[str, Any]) -> str:
    """A line for each figure."""
    lines = [
        f"tokens        {found['tokens']}",
        f"perplexity    {found['perplexity']:.4f}",
    ]
    if "mean_kl" in found:
        lines += [
            f"mean KL       {found['mean_kl']:.6f} nats",
            f"max KL        {found['max_kl']:.4f} nats",
            f"same top-1    {found['same_top_1']:.2%}",
        ]
    return "\n".join(lines)
