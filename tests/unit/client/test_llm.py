"""class LLM: vLLM's shapes, over an engine that is played."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.client import llm as llm_module
from argosy.client import progress
from argosy.client.llm import LLM
from argosy.client.open import sampling_defaults, settled
from argosy.client.options import LLMOptions, engine_config, parse_bytes
from argosy.config import NO_EFFECT_ON_CPU, EngineConfig
from argosy.errors import (
    CheckpointError,
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
    (np.array(IDS), ["by ids"]),
    (np.array([IDS, IDS]), ["by ids", "by ids"]),
    ([np.int32(id_) for id_ in IDS], ["by ids"]),
    ((text for text in ("one", "two")), ["one", "two"]),
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
    llm.generate(["a", "b"], GREEDY, priority=np.array([1, 0]))  # type: ignore[arg-type]
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
    assert texts(llm.chat(hi, GREEDY, chat_template="{{ 'own' }}")) == ["own"]
    said = [*hi, {"role": "assistant", "content": "Well"}]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    assert texts(llm.chat(said, GREEDY, **options)) == ["[user]hi[assistant]Well"]


def test_chat_templates_are_text_or_files(llm: LLM, tmp_path: Path) -> None:
    file, hi = tmp_path / "chat.jinja", [{"role": "user", "content": "hi"}]
    file.write_text("from a file")
    for template in (file, str(file)):
        assert texts(llm.chat(hi, GREEDY, chat_template=template)) == ["from a file"]
        ids = llm.get_tokenizer().apply_chat_template(hi, chat_template=template)
        assert ids == byte_level().encode("from a file")


def test_a_template_that_is_none_is_refused_at_once(llm: LLM) -> None:
    with pytest.raises(TemplateError, match="not valid Jinja"):
        LLM("anything", chat_template="{% if %}")


CALLS: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("generate", (None,), InvalidPrompt, "not NoneType"),
    ("generate", (5,), InvalidPrompt, "not int"),
    ("generate", ({"a", "b"},), InvalidPrompt, "not set"),
    ("generate", (b"text",), InvalidPrompt, "not bytes"),
    ("generate", ("a", {"temperature": 0}), InvalidSampling, "one entry each, not dict"),
    ("generate", ("a", 5), InvalidSampling, "one entry each, not int"),
    ("generate", ("a", "greedy"), InvalidSampling, "one entry each, not str"),
    ("generate", (["a", 5],), InvalidPrompt, r"prompts\[1\]: a prompt is text, ids or a map"),
    ("generate", (["a", "b", ""],), InvalidPrompt, r"prompts\[2\]: the prompt is empty"),
    ("chat", (None,), InvalidPrompt, "not NoneType"),
    ("chat", ({"role": "user"},), InvalidPrompt, "not dict"),
    ("chat", ("hi",), InvalidPrompt, "not str"),
    ("chat", ([[{"role": "user", "content": "a"}], [{}]],), InvalidPrompt, "conversation 1: mess"),
]


@pytest.mark.parametrize(("name", "args", "error", "message"), CALLS)
def test_calls_refused(llm: LLM, name: str, args: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(llm, name)(*args)


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


HONOURED: list[tuple[str, Any]] = [
    ("device", "cpu"),
    ("enable_lora", False),
    ("max_logprobs", 20),
    ("download_dir", None),
    ("cpu_offload_gb", 0),
    ("swap_space", 4),
    ("served_model_name", "name"),
]
NOT_HONOURED: list[tuple[str, Any]] = [
    ("enable_chunked_prefill", False),
    ("load_format", "gguf"),
    ("tokenizer_mode", "mistral"),
    ("device", "cuda"),
    ("enable_lora", True),
    ("max_logprobs", 21),
    ("download_dir", "/models"),
    ("cpu_offload_gb", 8),
    ("task", "embed"),
    ("skip_tokenizer_init", True),
    ("hf_token", "secret"),
]


@pytest.mark.parametrize(("name", "value"), HONOURED)
def test_vllms_arguments_with_a_value_that_is_true_here(name: str, value: Any) -> None:
    assert engine_config(None, {name: value}) == EngineConfig()


@pytest.mark.parametrize(("name", "value"), NOT_HONOURED)
def test_vllms_arguments_that_cannot_be_honoured(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=.* cannot be honoured .*; leave it out") as got:
        engine_config(None, {name: value})
    assert "secret" not in str(got.value)


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


def test_what_was_given_stays_also_where_it_is_the_default() -> None:
    default = EngineConfig.max_num_seqs
    config = settled(EngineConfig(), {"max_num_seqs": 3, "max_model_len": 9}, ["max_num_seqs"])
    assert config == EngineConfig(max_num_seqs=default, max_model_len=9)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> dict[str, Any]:
    """What LLM tells open_client."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        llm_module, "open_client", lambda *_, **options: told.update(options) or opened(engine)
    )
    return told


def test_llm_says_what_was_given(heard: dict[str, Any]) -> None:
    unset: Any = None
    LLM("anything", max_num_seqs=EngineConfig.max_num_seqs, max_num_batched_tokens=unset)
    assert heard["given"] == ["max_num_seqs"]


def test_where_bundles_are_built(heard: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, option, expected in [
        ("", None, None),
        ("/cache", None, "/cache"),
        ("/cache", "/own", "/own"),
    ]:
        monkeypatch.setenv("ARGOSY_CACHE", variable)
        LLM("anything", cache_dir=option)
        assert heard["cache_dir"] == expected


DEFAULTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9}),
    ({"max_new_tokens": 9, "top_k": None, "eos_token_id": 2}, {"max_tokens": 9}),
    ({"min_p": 0.1, "top_k": 2}, {"min_p": 0.1, "top_k": 2}),
    ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ({"do_sample": False, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
    ({"do_sample": False, "temperature": 0.5}, {"temperature": 0.5}),
    ({"do_sample": None}, {}),
]


def test_what_no_request_could_have_names_its_file() -> None:
    with pytest.raises(CheckpointError, match=r"generation_config.json: temperature=5.* correct"):
        sampling_defaults({"temperature": 5})


@pytest.mark.parametrize(("generation_config", "expected"), DEFAULTS)
def test_sampling_a_model_asks_for(generation_config: Any, expected: Any) -> None:
    assert sampling_defaults(generation_config) == expected
