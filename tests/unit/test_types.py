"""SamplingParams: the whole table of what is accepted, normalised and refused."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest

from argosy.errors import InvalidSampling, RequestError, UnsupportedParameter
from argosy.types import MAX_LOGPROBS, RequestOutputKind, SamplingParams

INF, NAN = math.inf, math.nan

VLLM_FIELDS = """
n presence_penalty frequency_penalty repetition_penalty temperature watermarking top_p
top_k min_p seed stop stop_token_ids ignore_eos max_tokens min_tokens logprobs prompt_logprobs
prompt_logprob_token_ids prompt_logprob_start logprob_token_ids flat_logprobs detokenize
skip_special_tokens spaces_between_special_tokens include_stop_str_in_output output_kind
stream_interval structured_outputs logit_bias allowed_token_ids extra_args bad_words
skip_reading_prefix_cache thinking_token_budget repetition_detection"""

BAD: list[tuple[str, Any, str]] = [
    *[("n", v, r"\[1, 16384\]") for v in (0, -1, 16385)],
    *[("n", v, "whole number") for v in (1.0, "1", None, True, [1])],
    *[("presence_penalty", v, "finite and lie in") for v in (-2.01, 2.01, INF, NAN, 10**400)],
    *[("presence_penalty", v, "must be a number") for v in ("1", None, True, [1.0], 1j)],
    *[("frequency_penalty", v, "finite and lie in") for v in (-2.01, 2.01, -INF, NAN)],
    *[("frequency_penalty", v, "must be a number") for v in ("1", None, False)],
    *[("repetition_penalty", v, "finite and lie in") for v in (-0.1, INF, -INF, NAN, -(10**400))],
    *[("repetition_penalty", v, "finite and lie in") for v in (0, 0.0, -0.0, 1e-5, 10001)],
    *[("repetition_penalty", v, "must be a number") for v in ("1", None)],
    *[("temperature", v, r"lie in \[0.0, 2.0\]") for v in (-0.1, -1, 2.01, 10**400, INF, NAN)],
    *[("temperature", v, "must be a number") for v in ("hot", None, True, [])],
    *[("top_p", v, "finite and lie in") for v in (-0.1, 1.01, INF, NAN)],
    *[("top_p", v, "must be above 0") for v in (0, 0.0)],
    *[("top_p", v, "must be a number") for v in ("1", None, True)],
    *[("min_p", v, "finite and lie in") for v in (-0.1, 1.01, INF, NAN)],
    *[("min_p", v, "must be a number") for v in ("0", None)],
    *[("top_k", v, "must lie in") for v in (-2, 2**31)],
    *[("top_k", v, "whole number") for v in (1.0, "1", None, False)],
    *[("seed", v, "must lie in") for v in (-(2**63) - 1, 2**64)],
    *[("seed", v, "whole number") for v in (1.0, "1", True)],
    *[("max_tokens", v, "must lie in") for v in (0, -1, 2**31)],
    *[("max_tokens", v, "whole number") for v in (1.0, "16", True)],
    *[("min_tokens", v, "must lie in") for v in (-1, 2**31)],
    *[("min_tokens", v, "whole number") for v in (0.0, "0", None)],
    ("min_tokens", 17, "exceeds max_tokens=16"),
    *[("logprobs", v, "must lie in") for v in (-2, MAX_LOGPROBS + 1)],
    *[("logprobs", v, "whole number") for v in (1.0, "5", True)],
    *[("prompt_logprobs", v, "must lie in") for v in (-2, MAX_LOGPROBS + 1)],
    *[("prompt_logprobs", v, "whole number") for v in (1.0, "5", False)],
    *[("stop", v, "non-empty string") for v in ("", [""], ["a", ""], [7], [None], [["a"]])],
    *[("stop", v, "string or a list") for v in (7, b"a", {"a": 1})],
    *[("bad_words", v, "non-empty string") for v in ([""], [7])],
    *[("bad_words", v, "string or a list") for v in (7, 1.0)],
    *[("stop_token_ids", v, "list of token ids") for v in (7, "12", {1: 2})],
    *[("stop_token_ids", v, "must lie in") for v in ([-1], [2**31])],
    *[("stop_token_ids", v, "whole number") for v in ([1.0], ["1"], [None], [True])],
    ("allowed_token_ids", [], "no token could be drawn"),
    *[("allowed_token_ids", v, "list of token ids") for v in (7, "12")],
    *[("allowed_token_ids", v, "must lie in|whole number") for v in ([-1], [1.5])],
    *[("logit_bias", v, "must map token ids") for v in ([1], "1", 1)],
    *[
        ("logit_bias", {k: 1}, "logit_bias key")
        for k in (-1, "-1", "one", 1.5, None, 2**31, "9" * 12)
    ],
    *[("logit_bias", {1: v}, "logit_bias value") for v in (NAN, "1", None, True)],
    *[("output_kind", v, "is none of") for v in ("all", 1, None)],
    *[
        (name, v, "must be True or False")
        for name in (
            "ignore_eos",
            "detokenize",
            "skip_special_tokens",
            "include_stop_str_in_output",
        )
        for v in (1, "no", None)
    ],
    *[("stop_token_ids", v, "list of token ids") for v in (b"12", bytearray(b"1"), np.array(3))],
    *[("stop_token_ids", v, "whole number") for v in (np.array([1.0]), np.array([[1]]))],
    *[(name, np.True_, "must be a") for name in ("n", "top_k", "temperature")],
]


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: repr(v)[:40])
def test_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidSampling, match=message) as caught:
        SamplingParams(**{name: value})
    assert name in str(caught.value)
    assert isinstance(caught.value, RequestError | ValueError)


UNSUPPORTED: list[tuple[str, Any]] = [
    ("watermarking", {}),
    ("prompt_logprob_token_ids", [1]),
    ("prompt_logprob_start", 0),
    ("logprob_token_ids", [1]),
    ("flat_logprobs", True),
    ("flat_logprobs", 0),
    ("extra_args", np.zeros(2)),
    ("spaces_between_special_tokens", False),
    ("stream_interval", 2),
    ("structured_outputs", {"json": "{}"}),
    ("extra_args", {"a": 1}),
    ("thinking_token_budget", 100),
    ("repetition_detection", {}),
]


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
def test_known_and_not_honoured(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter, match=f"{name}=.* is not supported; leave it at"):
        SamplingParams(**{name: value})


def test_a_name_nobody_knows() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)  # type: ignore[call-arg]


def test_stop_strings_need_text() -> None:
    with pytest.raises(InvalidSampling, match="stop strings need detokenize=True"):
        SamplingParams(stop="a", detokenize=False)
    assert SamplingParams(stop_token_ids=[1], detokenize=False).stop_token_ids == (1,)


def test_several_greedy_answers_are_refused() -> None:
    with pytest.raises(InvalidSampling, match="n=2 with temperature=0"):
        SamplingParams(n=2, temperature=0)


GOOD: list[tuple[str, Any, Any]] = [
    *[("n", v, v) for v in (1, 16384)],
    *[("presence_penalty", v, float(v)) for v in (-2, 0, 2)],
    ("repetition_penalty", 1e-3, 1e-3),
    ("temperature", 2, 2.0),
    ("temperature", 1e-5, 0.01),
    ("temperature", 0.009, 0.01),
    ("temperature", 0.01, 0.01),
    ("temperature", 9e-6, 0.0),
    *[("top_k", v, max(v, 0)) for v in (-1, 0, 1, 2**31 - 1)],
    ("top_p", 1, 1.0),
    ("min_p", 1, 1.0),
    ("seed", -1, None),
    *[("seed", v, v) for v in (None, 0, -(2**63), 2**64 - 1, -2)],
    ("max_tokens", None, None),
    ("logprobs", -1, MAX_LOGPROBS),
    *[("logprobs", v, v) for v in (None, 0, 20)],
    ("prompt_logprobs", -1, MAX_LOGPROBS),
    ("stop", "a", ("a",)),
    ("stop", ["a", "b"], ("a", "b")),
    ("stop", None, ()),
    ("bad_words", ["a"], ("a",)),
    ("stop_token_ids", None, ()),
    ("stop_token_ids", [3, 1], (3, 1)),
    ("allowed_token_ids", None, None),
    ("allowed_token_ids", [3], (3,)),
    ("logit_bias", {1: 101, "2": -101, 3: 5}, {1: 100.0, 2: -100.0, 3: 5.0}),
    ("logit_bias", {np.int64(1): INF, 2: -INF}, {1: 100.0, 2: -100.0}),
    ("output_kind", "delta", RequestOutputKind.DELTA),
    *[("repetition_penalty", v, v) for v in (1e-4, 1e4)],
    *[(name, np.int64(5), 5) for name in ("n", "top_k", "seed", "max_tokens", "min_tokens")],
    ("logprobs", np.uint8(5), 5),
    ("temperature", np.float32(0.5), 0.5),
    ("top_p", np.float64(0.5), 0.5),
    *[
        (name, v, (1, 2))
        for name in ("stop_token_ids", "allowed_token_ids")
        for v in (np.array([1, 2]), range(1, 3), iter([1, np.int8(2)]))
    ],
    ("skip_reading_prefix_cache", True, True),
]


@pytest.mark.parametrize(("name", "value", "kept"), GOOD, ids=lambda v: repr(v)[:40])
def test_accepted_and_normalised(name: str, value: Any, kept: Any) -> None:
    params = SamplingParams(**{name: value})
    assert getattr(params, name) == kept
    assert type(getattr(params, name)) is type(kept), "plain, whatever it was"
    assert replace(params) == params, "what was normalised once stays"


@pytest.mark.parametrize("temperature", [0, 0.0, 9e-6])
def test_greedy_switches_filters_off(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_p=0.5, top_k=7, min_p=0.1)
    assert params.greedy
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.0, 1.0, 0, 0.0)
    assert not SamplingParams(temperature=1e-5).greedy


def test_no_limit_leaves_min_tokens_free() -> None:
    assert SamplingParams(min_tokens=10**6, max_tokens=None).min_tokens == 10**6


def test_defaults_are_those_of_vllm() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.max_tokens) == (1, 1.0, 1.0, 16)
    assert (params.top_k, params.min_p, params.repetition_penalty) == (0, 0.0, 1.0)
    assert params.seed is None and params.stop_strings == () and not params.ignore_eos
    assert params.detokenize and params.skip_special_tokens
    assert params.output_kind is RequestOutputKind.CUMULATIVE


def test_fields_are_those_of_vllm() -> None:
    assert set(SamplingParams.known_fields()) == set(VLLM_FIELDS.split())
    assert SamplingParams.known_fields() == tuple(f.name for f in fields(SamplingParams))


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError, match=r"use params.clone\(temperature=0.5\)"):
        SamplingParams().temperature = 0.5  # type: ignore[misc]


def test_a_clone_is_a_copy_with_changes() -> None:
    params = SamplingParams(seed=3, stop="a")
    assert params.clone() == params
    assert params.clone(seed=4) == SamplingParams(seed=4, stop="a")
    with pytest.raises(InvalidSampling, match="top_k"):
        params.clone(top_k=-2)
