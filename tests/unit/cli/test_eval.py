"""eval: perplexity and distance of models, against the same figures found another way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import argosy
from argosy import LLM, SamplingParams
from argosy.bundle.build import build_bundle
from argosy.bundle.open import open_bundle
from argosy.cli.main import app
from argosy.client.reading import open_tokenizer
from argosy.config import EngineConfig
from argosy.engine.engine import open_engine
from argosy.engine.score import ROWS, prompt_logits
from argosy.types import PAGE_TOKENS

EMBEDDED = Path(argosy.__file__).parent / "embedded"
TEXT = "The sky is blue, and the grass is green. Paris is the capital of France. " * 30


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments])


def figures(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_perplexity_is_that_of_prompt_logprobs(text: Path) -> None:
    window = ROWS + PAGE_TOKENS + 5  # more than one step, and a page half full
    with LLM(str(EMBEDDED)) as llm:
        tokenizer = llm.get_tokenizer()
        ids = tokenizer.encode(TEXT)[: 2 * window]
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        surprise = []
        for start in (0, window):
            prompt = {"prompt_token_ids": ids[start : start + window]}
            (answer,) = llm.generate(prompt, params)
            scored = answer.prompt_logprobs[1:]
            surprise += [-next(iter(one.values())).logprob for one in scored]
    short = tokenizer.decode(ids)
    assert tokenizer.encode(short) == ids
    text.write_text(short, encoding="utf-8")
    found = figures(str(EMBEDDED), "--text", str(text), "--window", str(window))
    assert found["tokens"] == 2 * (window - 1) == len(surprise)
    assert math.isclose(found["perplexity"], math.exp(np.mean(surprise)), rel_tol=1e-5)


def test_a_model_is_no_distance_from_itself(text: Path) -> None:
    found = figures(str(EMBEDDED), "--text", str(text), "--kl", str(EMBEDDED), "--window", "300")
    assert found["mean_kl"] == found["max_kl"] == 0.0
    assert found["same_top_1"] == 1.0


def test_divergence_as_by_hand(model: Path, text: Path, tmp_path: Path) -> None:
    build_bundle(model, tmp_path / "w4", quantization="w4")
    text.write_text(TEXT[:100], encoding="utf-8")
    arguments = ("--text", str(text), "--window", "36", "--kv-cache-dtype", "fp32")
    found = figures(str(tmp_path / "w4"), *arguments, "--kl", str(model))
    build_bundle(model, tmp_path / "fp32", quantization="fp32")
    bos, *ids = open_tokenizer(open_bundle(tmp_path / "w4")).encode(TEXT[:100])
    assert len(ids) == 70
    apart, agreed = [], []
    for one in ([bos, *ids[:35]], [bos, *ids[35:]]):
        p, q = (probabilities(tmp_path / name, one) for name in ("fp32", "w4"))
        for x, y in zip(p, q, strict=True):
            apart.append(sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)))
            agreed.append(np.argmax(x) == np.argmax(y))
    assert found["tokens"] == len(apart) == 70
    assert min(apart) > 1e-6  # w4 differs from fp32 everywhere
    assert math.isclose(found["mean_kl"], sum(apart) / 70, rel_tol=1e-3)
    assert math.isclose(found["max_kl"], max(apart), rel_tol=1e-3)
    assert found["same_top_1"] == sum(agreed) / 70


def probabilities(bundle: Path, token_ids: list[int]) -> list[list[float]]:
    """Of every token after each position but the last, from the runtime that is easy to check."""
    config = EngineConfig(runtime="reference", kv_cache_dtype="fp32", keep_logits=True)
    engine = open_engine(open_bundle(bundle), config)
    rows = np.concatenate(list(prompt_logits(engine, token_ids))).astype(np.float64)
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    return list((shares / shares.sum(axis=1, keepdims=True)).tolist())


def test_a_text_or_window_of_the_wrong_size_is_refused(text: Path) -> None:
    short = text.with_name("short.txt")
    short.write_text("Too short.", encoding="utf-8")
    cases = {
        ("--text", str(short)): "windows are 1024; give a longer text",
        ("--text", str(text), "--window", "4k"): "exceeds the model's context of 2048",
        ("--text", str(text), "--window", "1"): "at least 2 tokens",
        ("--text", str(text.with_name("absent"))): "No such file",
    }
    for arguments, words in cases.items():
        done = run(str(EMBEDDED), *arguments)
        assert done.exit_code == 1 and words in done.stderr, done.output
        assert done.stderr.count("\n") == 1


def test_a_file_that_is_no_text_is_refused(text: Path) -> None:
    text.write_bytes(b"abc\xff\x00")
    done = run(str(EMBEDDED), "--text", str(text))
    assert done.exit_code == 1 and "not UTF-8 at byte 3" in done.stderr


def test_models_of_different_tokens_are_not_compared(model: Path, text: Path) -> None:
    done = run(str(EMBEDDED), "--text", str(text), "--kl", str(model))
    assert done.exit_code == 1 and "same tokenizer" in done.stderr
