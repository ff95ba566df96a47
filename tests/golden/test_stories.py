"""A trained model gives exactly the text it gave its author, in both runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy import LLM, SamplingParams
from argosy.bundle.build import build_bundle
from argosy.bundle.open import Bundle, open_bundle
from argosy.runtime.native import NativeRuntime
from argosy.runtime.reference import ReferenceRuntime
from argosy.types import PAGE_TOKENS
from kernels.programs import batch, logits


@pytest.fixture(scope="module")
def golden(stories: Path) -> dict[str, Any]:
    return json.loads((stories / "golden_stories260K.json").read_text())


@pytest.fixture(scope="module")
def bundle(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("stories") / "bundle"
    return open_bundle(build_bundle(stories, out, dtype="float32"))


@pytest.mark.parametrize("runtime", ["native", "reference"])
@pytest.mark.parametrize("chunk", [512, 3])
def test_greedy_ids(bundle: Bundle, golden: dict[str, Any], runtime: str, chunk: int) -> None:
    case = golden["greedy_from_bos"]
    with LLM(str(bundle.path), runtime=runtime, max_num_batched_tokens=chunk) as llm:
        params = SamplingParams(temperature=0, max_tokens=len(case["ids"]), ignore_eos=True)
        prompt = {"prompt_token_ids": case["prompt_ids"]}
        (answer,) = llm.generate(prompt, params)
    assert list(answer.outputs[0].token_ids) == case["ids"]
    assert len(case["ids"]) == 200
    assert answer.outputs[0].text.startswith(
        "Once upon a time, there was a little girl named Lily."
    )


@pytest.mark.parametrize("runtime", ["native", "reference"])
def test_text_prompt(bundle: Bundle, golden: dict[str, Any], runtime: str) -> None:
    case = golden["greedy_prompt"]
    with LLM(str(bundle.path), runtime=runtime) as llm:
        params = SamplingParams(temperature=0, max_tokens=len(case["ids"]), ignore_eos=True)
        (answer,) = llm.generate(case["text"], params)
    assert answer.prompt_token_ids == case["prompt_ids"]
    assert list(answer.outputs[0].token_ids) == case["ids"]
    assert answer.outputs[0].text == case["out"]


@pytest.mark.parametrize("runtime", ["native", "reference"])
def test_logits(stories: Path, bundle: Bundle, golden: dict[str, Any], runtime: str) -> None:
    """Teacher-forced over a longer text, to 1e-4 of logits computed in float64."""
    want = np.load(stories / "golden_stories260K_logits.npy")
    tokens = golden["nll"]["ids"][: len(want)]
    pages = list(range(1, len(tokens) // PAGE_TOKENS + 2))
    options = {"num_pages": (len(pages) + 1,), "cache_dtype": "fp32", "keep_logits": True}
    if runtime == "native":
        got = logits(NativeRuntime(bundle, num_threads=2, **options), batch([(tokens, 0, pages)]))
    else:
        got = logits(ReferenceRuntime(bundle, **options), batch([(tokens, 0, pages)]))
    assert want.shape == got.shape
    assert np.abs(got - want).max() <= 1e-4
    assert want.std() > 1
