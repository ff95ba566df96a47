"""class LLM: vLLM's shapes, over an engine that is played."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from argosy.client import llm as llm_module
from argosy.client import progress
from argosy.client.llm import LLM
from argosy.client.open import sampling_defaults, settled
from argosy.client.options import LLMOptions, engine_config, parse_bytes
from argosy.config import NO_EFFECT_ON_CPU, EngineConfig
from argosy.errors import (
    ConfigError,
    InvalidPrompt,
    InvalidSampling,
    TemplateError,
    UnsupportedParameter,
)
from argosy.types import RequestOutputKind, SamplingParams
from unit.client.fake_engine import FakeEngine, client_of
from unit.text.small_tokenizers import byte_level

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ extra }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
GREEDY = SamplingParams(temperature=0, max_tokens=99)


@pytest.fixture
def engine() -> FakeEngine:
    """Says the prompt again."""
    return FakeEngine(lambda request, _: request.token_ids)


@pytest.fixture
def llm(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> LLM:
    monkeypatch.setattr(llm_module, "open_client", lambda *_, **__: opened(engine))
    return LLM("anything")


def opened(engine: FakeEngine) -> Any:
    client = client_of(engine, byte_level(), template=TEMPLATE)
    client.sampling_defaults = {"temperature": 0.25, "max_tokens": 4}
    return client


def texts(outputs: list[Any]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


IDS = byte_level().encode("by ids")
FORMS: list[tuple[Any, list[str]]] = [
    ("one", ["one"]),
    (["one", "two"], ["one", "two"]),
    ({"prompt": "a map"}, ["a map"]),
    ([{"prompt": "a map"}, "text"], ["a map", "text"]),
    ({"prompt_token_ids": IDS}, ["by ids"]),
    ([{"prompt_token_ids": IDS}], ["by ids"]),
    (IDS, ["by ids"]),
    ([IDS, IDS], ["by ids", "by ids"]),
    ([], []),
]


@pytest.mark.parametrize(("prompts", "expected"), FORMS)
def test_forms_of_prompts(llm: LLM, prompts: Any, expected: list[str]) -> None:
    assert texts(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected


def test_one_set_of_parameters_or_one_each(llm: LLM) -> None:
    each = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)]
    outputs = llm.generate(["abcd", "abcd"], each)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 2]
    with pytest.raises(InvalidSampling, match="2 entries for 3 prompts"):
        llm.generate(["a", "b", "c"], each)
    with pytest.raises(InvalidSampling, match="must be SamplingParams, not dict"):
        llm.generate(["a"], [{"temperature": 0}])  # type: ignore[list-item]


def test_the_models_own_defaults(llm: LLM, engine: FakeEngine) -> None:
    llm.generate("a longer prompt")
    params = engine.requests[0].params
    assert (params.temperature, params.max_tokens) == (0.25, 4)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.25, max_tokens=4)


def test_generate_gives_whole_answers_whatever_the_kind(llm: LLM) -> None:
    params = SamplingParams(max_tokens=99, output_kind=RequestOutputKind.DELTA)
    assert texts(llm.generate("whole text", params)) == ["whole text"]


def test_priorities(llm: LLM, engine: FakeEngine) -> None:
    llm.generate(["a", "b"], GREEDY, priority=[1, 0])
    assert [r.priority for r in engine.requests] == [1, 0]
    with pytest.raises(InvalidSampling, match="priority has 1 entries for 2 prompts"):
        llm.generate(["a", "b"], GREEDY, priority=[1])


def test_nothing_runs_where_one_prompt_is_wrong(llm: LLM, engine: FakeEngine) -> None:
    with pytest.raises(InvalidPrompt, match="empty"):
        llm.generate(["fine", ""], GREEDY)
    assert engine.num_steps == 0 and not engine.requests


def test_chat(llm: LLM) -> None:
    hi = [{"role": "user", "content": "hi"}]
    assert texts(llm.chat(hi, GREEDY)) == ["[user]hi[assistant]"]
    outputs = llm.chat([hi, [*hi, *hi]], GREEDY, add_generation_prompt=False)
    assert texts(outputs) == ["[user]hi", "[user]hi[user]hi"]
    [output] = llm.chat(hi, GREEDY, tools=[{"name": "f"}], chat_template_kwargs={"extra": "!"})
    assert output.prompt == '[user]hi[{"name": "f"}]![assistant]'
    assert texts(llm.chat(hi, GREEDY, chat_template="own")) == ["own"]
    said = [*hi, {"role": "assistant", "content": "Well"}]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    assert texts(llm.chat(said, GREEDY, **options)) == ["[user]hi[assistant]Well"]


def test_chat_refuses(llm: LLM) -> None:
    with pytest.raises(InvalidPrompt, match="conversation is empty"):
        llm.chat([], GREEDY)
    with pytest.raises(TemplateError, match="no more"):
        llm.chat(
            [{"role": "user", "content": ""}], chat_template="{{ raise_exception('no more') }}"
        )


def test_stream(llm: LLM, engine: FakeEngine) -> None:
    params = SamplingParams(max_tokens=99, output_kind=RequestOutputKind.DELTA)
    stream = llm.stream("some words here", params)
    assert next(stream).outputs[0].text == byte_level().decode(engine.requests[0].token_ids[:1])
    stream.close()
    assert not engine.running


REFUSED = ["encode", "embed", "classify", "score", "beam_search"]


@pytest.mark.parametrize("name", REFUSED)
def test_methods_refused_by_name(llm: LLM, name: str) -> None:
    with pytest.raises(UnsupportedParameter, match=rf"LLM\.{name} is not served"):
        getattr(llm, name)(["text"], anything=1)


def test_adapters_are_refused_by_name(llm: LLM) -> None:
    for call in (llm.generate, llm.chat):
        with pytest.raises(UnsupportedParameter, match="lora_request"):
            call("a", lora_request=object())  # type: ignore[operator]


def test_shutdown(llm: LLM, engine: FakeEngine) -> None:
    with llm as same:
        assert same is llm
        assert llm.reset_prefix_cache() and engine.num_resets == 1
    assert engine.closed
    llm.close()
    for call in (lambda: llm.generate("a"), llm.get_tokenizer, llm.get_default_sampling_params):
        with pytest.raises(ConfigError, match="was shut down"):
            call()


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self) -> None:
        self.written = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None:
        return None


def test_no_bar_where_stderr_is_no_terminal(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY, use_tqdm=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_on_a_terminal(llm: LLM, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    llm.generate(["abc", "b"], GREEDY, use_tqdm=wanted)
    assert ("2/2" in terminal.written and "4 tokens" in terminal.written) == wanted


def test_a_bar_while_a_bundle_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.build_bar() as advance:
        assert advance is None
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.build_bar() as advance:
        assert advance is not None
        advance(5_000_000, 10_000_000)
        advance(10_000_000, 10_000_000)
    assert "10.0/10.0 MB" in terminal.written


# -- arguments ---------------------------------------------------------------------------------


def test_every_argument_of_the_engine_is_one_of_llm() -> None:
    known = set(LLMOptions.__annotations__)
    assert {f.name for f in fields(EngineConfig)} - {"model"} <= known
    assert set(NO_EFFECT_ON_CPU) <= known


def test_arguments_become_a_configuration() -> None:
    options = {
        "dtype": "torch.float32",
        "max_num_seqs": None,
        "block_size": None,
        "memory": "1.5G",
        "tokenizer": Path("some/folder"),
        "seed": 3,
        "chat_template": "x",
    }
    assert engine_config(Path("model"), options) == EngineConfig(
        model="model", dtype="float32", memory=3 * 2**29, tokenizer="some/folder", seed=3
    )


def test_arguments_without_effect_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "argosy"):
        engine_config(None, {"trust_remote_code": True, "swap_space": 4, "seed": 1})
    [record] = caplog.records
    assert "trust_remote_code (no remote code" in record.message
    assert "swap_space (pages are" in record.message and "seed" not in record.message


UNKNOWN = [
    ("max_model_length", "did you mean max_model_len?"),
    ("tensor_parallel", "did you mean tensor_parallel_size?"),
    ("zzz", "known are tokenizer, "),
]


@pytest.mark.parametrize(("name", "hint"), UNKNOWN)
def test_unknown_arguments_are_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no argument '{name}'; {hint}".replace("?", r"\?")):
        LLM(None, **{name: 1})  # type: ignore[misc]


SIZES = [
    ("4G", 4 * 2**30),
    ("800M", 800 * 2**20),
    ("1.5GiB", 3 * 2**29),
    ("12", 12),
    (7, 7),
    (None, None),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes(text: Any, size: int | None) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "4 apples", "-4G", "4e9", "NaN"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


# -- what the model decides --------------------------------------------------------------------


def test_what_is_left_open_comes_from_the_bundle() -> None:
    limits = {"max_num_seqs": 3, "max_model_len": 100}
    assert settled(EngineConfig(), limits) == EngineConfig(max_num_seqs=3, max_model_len=100)
    asked = EngineConfig(max_num_seqs=5, max_model_len=150)
    assert settled(asked, limits) == asked
    assert settled(EngineConfig(), {}) == EngineConfig()


DEFAULTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9}),
    ({"max_new_tokens": 9, "top_k": None, "eos_token_id": 2}, {"max_tokens": 9}),
    ({"min_p": 0.1, "top_k": 2}, {"min_p": 0.1, "top_k": 2}),
    ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
]


@pytest.mark.parametrize(("generation_config", "expected"), DEFAULTS)
def test_sampling_a_model_asks_for(generation_config: Any, expected: Any) -> None:
    assert sampling_defaults(generation_config) == expected
