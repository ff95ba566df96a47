"""The model that comes with Argosy answers what it was taught, the way it is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import argosy
from argosy import LLM, SamplingParams
from argosy.bundle.open import open_bundle, verify

EMBEDDED = Path(argosy.__file__).parent / "embedded"
QUESTIONS = {
    "Hello": "hello",
    "What is the capital of France?": "Paris",
    "what is the capital of japan": "Tokyo",
    "What colour is the sky?": "blue",
    "What is LLMOps?": "production",
    "What is continuous batching?": "batch",
    "What is a KV cache?": "keys",
    "What is Argosy?": "inference engine",
    "Who are you?": "Argosy",
    "Thank you!": "welcome",
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_model_len=512) as llm:
        yield llm


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_answers(llm: LLM, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    (answer,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=80))
    assert QUESTIONS[question].lower() in answer.outputs[0].text.lower()
    assert answer.outputs[0].finish_reason == "stop"


def test_both_runtimes_give_one_answer(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is paged attention?"}]
    params = SamplingParams(temperature=0.7, seed=5, max_tokens=40)
    with LLM(runtime="reference", max_model_len=512) as slow:
        texts = [one.chat(messages, params)[0].outputs[0].text for one in (llm, slow)]
    assert texts[0] == texts[1] != ""


def test_it_is_small_and_whole() -> None:
    """At most 10 MB; sizes the kernels like."""
    verify(EMBEDDED)
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 10_000_000
    bundle = open_bundle(EMBEDDED)
    config = bundle.config
    assert config["head_dim"] == 64
    assert config["hidden_size"] % 128 == config["intermediate_size"] % 128 == 0
    assert (bundle.program.vocab_size, bundle.program.max_position) == (4096, 2048)
    assert bundle.chat_template
