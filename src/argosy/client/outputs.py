"""What a request gave, in vLLM's shapes.

The outputs are the caller's: nobody here reads them again. They are not frozen because two are
made for every token, and a frozen one costs three times as much to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token at one place: log probability of the raw logits, rank (1 is best), its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Logprobs = dict[int, Logprob]
"""Token id -> Logprob: the token that stands there first, then the best alternatives."""


@dataclass(slots=True)
class CompletionOutput:
    """One answer of a request, whole or (DELTA) what is new of it.

    token_ids: with the stop token, and the tokens that completed a stop string; `text` is
    without both unless include_stop_str_in_output.
    cumulative_logprob, logprobs: None unless logprobs were asked for.
    finish_reason: None while running, then "stop", "length", "abort" or "error".
    stop_reason: the stop string or the id of the caller's stop token; None for end-of-sequence;
        with "error" what went wrong.
    is_refusal: with "error": the request is at fault, not the engine.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[Logprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: Any = None
    is_refusal: bool = False

    def finished(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """When things happened, in seconds of the client's monotonic clock; None: not yet."""

    arrival_time: float
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(slots=True, kw_only=True)
class RequestOutput:
    """A request and its answers, so far or whole.

    prompt: the text, None where ids were given.
    prompt_logprobs: one entry per prompt token, the first None; None unless asked for.
    num_cached_tokens: prompt tokens found in the prefix cache.
    finished: whether every answer is.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[Logprobs | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    lora_request: Any = None
    encoder_prompt: Any = None
    encoder_prompt_token_ids: Any = None
    kv_transfer_params: Any = None
