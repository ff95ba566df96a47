"""LLM over the real engine: random models and stories260K, on the reference runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from argosy import LLM, RequestOutputKind, SamplingParams
from argosy.engine.engine import Engine
from argosy.errors import ConfigError, InvalidPrompt, ModelNotFound, TokenizerError
from argosy.types import Event
from random_models import write_model

SCRIPT = """
from argosy import LLM, SamplingParams
llm = LLM(model={model!r}, tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_len=4096,
          dtype="auto", trust_remote_code=True, enforce_eager=True, runtime="reference",
          max_num_seqs=2, cache_dir={cache!r})
params = SamplingParams(temperature=0.7, top_p=0.9, top_k=50, max_tokens=8, presence_penalty=0.1,
                        frequency_penalty=0.1, stop=["</s>", "Human:"])
outputs = llm.generate(["What is LLMOps?"], params)
print(ascii(outputs[0].outputs[0].text))
print(len(outputs[0].outputs[0].token_ids), outputs[0].outputs[0].finish_reason)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), layers=1, max_position=4096)


@pytest.fixture(scope="module")
def llm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    cache = tmp_path_factory.mktemp("cache")
    with LLM(
        folder, runtime="reference", max_num_seqs=4, max_model_len=128, cache_dir=cache
    ) as llm:
        yield llm


def engine_of(llm: LLM) -> Engine:
    engine = llm.client._engine
    assert isinstance(engine, Engine)
    return engine


def assert_all_pages_free(llm: LLM) -> None:
    engine = engine_of(llm)
    assert not engine.has_work
    for pool in engine.scheduler.tables.pools:
        pool.check()
        assert pool.num_available == pool.num_usable


def test_the_script_of_the_readme_runs_without_a_guard(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(folder), cache=str(tmp_path / "cache")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ignored, memory = done.stderr.splitlines()
    assert ignored.startswith("argosy: accepted without effect on a CPU: trust_remote_code (")
    assert memory.startswith("argosy: memory: weights ")
    text, end = done.stdout.splitlines()
    assert text.startswith("'") and end in {"8 length", *(f"{n} stop" for n in range(1, 9))}


def test_a_script_with_a_log_of_its_own_keeps_it(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    made = SCRIPT.format(model=str(folder), cache=str(tmp_path / "cache"))
    script.write_text("import logging\nlogging.basicConfig(format='own %(message)s')\n" + made)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    late = "logging.basicConfig(format='own %(message)s')\nlogging.getLogger('argosy').info('late')"
    script.write_text(f"import logging\n{made}\n{late}")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and lines[2] == "own late", "each line once"


WORDS = [("Hello", "embedded"), ("What is the capital of France?", "capital of")]


@pytest.mark.parametrize(("question", "word"), WORDS)
def test_bad_words_are_not_said(question: str, word: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=40)
    messages = [{"role": "user", "content": question}]
    with LLM(max_model_len=256, max_num_seqs=2, runtime="reference") as llm:
        [said] = llm.chat(messages, params)
        [other] = llm.chat(messages, params.clone(bad_words=[word]))
    assert word in said.outputs[0].text and word not in other.outputs[0].text


def test_golden_text_of_stories(stories: Path, tmp_path: Path) -> None:
    golden = json.loads((stories / "golden_stories260K.json").read_text())
    prompts = [{"prompt_token_ids": [1]}, golden["greedy_prompt"]["text"]]
    params = SamplingParams(temperature=0, max_tokens=40)
    with LLM(stories, runtime="reference", dtype="float32", cache_dir=tmp_path) as llm:
        first, second = (output.outputs[0] for output in llm.generate(prompts, params))
    assert first.token_ids == golden["greedy_from_bos"]["ids"][:40]
    assert second.token_ids == golden["greedy_prompt"]["ids"][:40]
    assert golden["greedy_from_bos"]["text"].startswith(first.text) and first.text
    assert golden["greedy_prompt"]["out"].startswith(second.text) and second.text


def test_chat_and_text_are_one(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    [chat] = llm.chat([{"role": "user", "content": "hi"}], params)
    assert chat.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = llm.get_tokenizer()
    assert chat.prompt_token_ids == tokenizer.encode(chat.prompt, add_special_tokens=False)
    assert tokenizer.encode("hi")[0] == tokenizer.bos_token_id, "plain prompts begin with it"
    [ids] = llm.generate({"prompt_token_ids": chat.prompt_token_ids}, params)
    assert chat.outputs[0].token_ids == ids.outputs[0].token_ids
    assert chat.outputs[0].text == ids.outputs[0].text


def test_the_tokenizer_speaks_as_scripts_expect(llm: LLM) -> None:
    tokenizer, messages = llm.get_tokenizer(), [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == ""
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") == ids[0]
    assert tokenizer.decode(tokenizer.eos_token_id) == tokenizer.eos_token == "</s>"
    assert tokenizer(text) == {"input_ids": tokenizer.encode(text)}
    assert tokenizer(["a", "b"]) == {"input_ids": [tokenizer.encode("a"), tokenizer.encode("b")]}
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode([np.int64(i) for i in ids]) == text  # type: ignore[arg-type]
    assert tokenizer.decode(np.int32(ids[0])) == "<|im_start|>"  # type: ignore[arg-type]
    assert tokenizer.batch_decode([ids, ids[:1]]) == [text, "<|im_start|>"]
    for bad in (-1, [3, -1], 1.5, [2**32]):
        with pytest.raises(InvalidPrompt, match="must be a whole number from 0 to"):
            tokenizer.decode(bad)  # type: ignore[arg-type]


def test_a_prompt_found_in_the_cache_shows_in_usage(llm: LLM) -> None:
    ids = list(range(10, 60))
    params = SamplingParams(max_tokens=2, temperature=0)
    [first] = llm.generate({"prompt_token_ids": ids, "cache_salt": "usage"}, params)
    [again] = llm.generate({"prompt_token_ids": ids, "cache_salt": "usage"}, params)
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 48)
    assert llm.reset_prefix_cache()
    [after] = llm.generate({"prompt_token_ids": ids, "cache_salt": "usage"}, params)
    assert after.num_cached_tokens == 0
    assert first.outputs == again.outputs == after.outputs


def test_logprobs_of_prompt_and_answer_add_up(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=0, ignore_eos=True)
    [output] = llm.generate("the cat", params)
    [answer] = output.outputs
    assert answer.logprobs is not None and answer.cumulative_logprob is not None
    scored = output.prompt_token_ids + answer.token_ids
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    [whole] = llm.generate({"prompt_token_ids": scored}, params)
    assert whole.prompt_logprobs is not None and whole.prompt_logprobs[0] is None
    tail = whole.prompt_logprobs[len(output.prompt_token_ids) :]
    for own, replayed in zip(answer.logprobs, tail, strict=True):
        assert replayed is not None and list(own) == list(replayed)
        assert own[next(iter(own))].rank == replayed[next(iter(own))].rank == 1
        expected = own[next(iter(own))].logprob
        assert replayed[next(iter(own))].logprob == pytest.approx(expected, abs=1e-5)


def test_streams_say_what_generate_says(llm: LLM) -> None:
    params = SamplingParams(seed=5, n=3, max_tokens=12, stop=["e"], ignore_eos=True)
    [whole] = llm.generate("once upon", params)
    texts = ["", "", ""]
    delta = SamplingParams(
        seed=5, n=3, max_tokens=12, stop=["e"], ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    for output in llm.stream("once upon", delta):
        for answer in output.outputs:
            texts[answer.index] += answer.text
    assert texts == [answer.text for answer in whole.outputs]
    assert len(set(texts)) > 1, "children draw each for themselves"
    assert_all_pages_free(llm)


def test_a_stream_left_early_frees_its_pages(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    stream = llm.stream(["one", "two", "three"], params)
    next(stream)
    assert engine_of(llm).has_work
    stream.close()
    assert_all_pages_free(llm)


def test_ctrl_c_frees_the_pages(llm: LLM, ctrl_c: None, monkeypatch: pytest.MonkeyPatch) -> None:
    step, pressed = Engine.step, []

    def pressing(engine: Engine, now: float) -> list[Event]:
        if not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return step(engine, now)

    monkeypatch.setattr(Engine, "step", pressing)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["one", "two"], SamplingParams(max_tokens=60, ignore_eos=True))
    assert_all_pages_free(llm)
    [output] = llm.generate("three", SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 3


def test_a_tokenizer_of_ones_own(folder: Path, stories: Path, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", layers=1, vocab=600, tokenizer=False)
    options = {"runtime": "reference", "max_num_seqs": 2, "cache_dir": tmp_path / "cache"}
    with pytest.raises(TokenizerError, match="no tokenizer"):
        LLM(bare, **options)  # type: ignore[arg-type]
    for source in (stories, stories / "tokenizer.json"):
        with LLM(bare, tokenizer=source, **options) as llm:  # type: ignore[arg-type]
            assert len(llm.get_tokenizer()) == 512
            assert llm.get_tokenizer().eos_token == "</s>"
    with pytest.raises(TokenizerError, match="ids up to 511, the model's embedding 320 rows"):
        LLM(folder, tokenizer=stories, **options)  # type: ignore[arg-type]


def test_a_context_longer_than_the_models(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_model_len=4097 exceeds the 4096 positions"):
        LLM(folder, max_model_len=4097, runtime="reference", cache_dir=tmp_path)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        LLM(tmp_path / "nothing", cache_dir=tmp_path)
