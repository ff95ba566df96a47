"""The frozen values that cross layers, and the runtime protocol.

Axis letters: N rows (tokens) of a step, B sequences, H rows that reach the head, G cache groups,
T pages of a table, V vocabulary, E edits. A *page* holds `PAGE_TOKENS` tokens of one cache group; a
*slot* is page * PAGE_TOKENS + offset. A value here is complete when constructed and never changed
after.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from argosy.errors import InvalidSampling, UnsupportedParameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    I32 = NDArray[np.int32]
    U8 = NDArray[np.uint8]
    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]
    F32 = NDArray[np.float32]

PAGE_TOKENS = 16
"""Tokens of a page: the granularity of allocation and of the prefix cache."""

MAX_LOGPROBS = 20
NULL_PAGE = 0
"""Page 0 of every group belongs to nobody: it stands in tables where a page was freed."""


class RequestOutputKind(StrEnum):
    """What a stream of outputs carries: all text so far, only what is new, or the end alone."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    FINAL_ONLY = "final_only"


# Fields vLLM knows and Argosy cannot honour yet, with the only value accepted.
_NEUTRAL: dict[str, Any] = {
    "watermarking": None,
    "prompt_logprob_token_ids": None,
    "prompt_logprob_start": None,
    "logprob_token_ids": None,
    "flat_logprobs": False,
    "spaces_between_special_tokens": True,
    "stream_interval": None,
    "structured_outputs": None,
    "extra_args": None,
    "thinking_token_budget": None,
    "repetition_detection": None,
}


_FLAGS = ("ignore_eos", "detokenize", "skip_special_tokens", "include_stop_str_in_output")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request is sampled; names, defaults and limits are vLLM's.

    temperature: 0 <= t <= 2; below 1e-5 greedy, below 0.01 raised to 0.01.
    top_k: 0 or -1 is off. top_p: (0, 1]. min_p: [0, 1], a share of the best probability.
    presence_penalty, frequency_penalty: [-2, 2], over generated tokens.
    repetition_penalty: [1e-4, 1e4], over prompt and generated tokens.
    seed: any integer; None or -1 draws one.
    stop: strings that end the answer (a special token's text such as "</s>" too).
    logprobs, prompt_logprobs: alternatives to report, 0..20; -1 the most allowed.
    logit_bias: token id -> [-100, 100], what lies beyond is cut.
    bad_words: texts never generated, as they are usually written in tokens: at the start of a text
        and after a space. Other casings, and other tokens that spell the same, are not covered.
    Whole numbers, numbers and lists of any kind are taken, NumPy's too, and kept as plain ones.
    Raises InvalidSampling (out of range) or UnsupportedParameter (known, but not honoured).
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Seq[str] | None = None
    stop_token_ids: Seq[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: Seq[int] | None = None
    bad_words: Seq[str] | None = None
    skip_reading_prefix_cache: bool | None = None
    # Known to vLLM; anything but the neutral value is refused by name.
    watermarking: Any = None
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: Any = None
    logprob_token_ids: Any = None
    flat_logprobs: bool = False
    spaces_between_special_tokens: bool = True
    stream_interval: Any = None
    structured_outputs: Any = None
    extra_args: Any = None
    thinking_token_budget: Any = None
    repetition_detection: Any = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # the only writes: normalising while the value is being built
        for name, neutral in _NEUTRAL.items():
            value = getattr(self, name)
            if type(value) is not type(neutral) or value != neutral:
                raise UnsupportedParameter(
                    f"{name}={value!r} is not supported; leave it at {neutral!r}"
                )
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidSampling(f"{name}={getattr(self, name)!r} must be True or False")
        put(self, "n", _whole("n", self.n, 1, 16384))
        for name in ("presence_penalty", "frequency_penalty"):
            put(self, name, _number(name, getattr(self, name), -2.0, 2.0))
        # Beyond these a logit may leave fp32.
        repetition = _number("repetition_penalty", self.repetition_penalty, 1e-4, 1e4)
        put(self, "repetition_penalty", repetition)
        put(self, "temperature", _number("temperature", self.temperature, 0.0, 2.0))
        put(self, "top_p", _number("top_p", self.top_p, 0.0, 1.0))
        if self.top_p == 0.0:
            raise InvalidSampling("top_p=0 must be above 0 and at most 1; 1 is off")
        put(self, "min_p", _number("min_p", self.min_p, 0.0, 1.0))
        put(self, "top_k", max(_whole("top_k", self.top_k, -1, 2**31 - 1), 0))
        if self.seed is not None:
            seed = _whole("seed", self.seed, -(2**63), 2**64 - 1)
            put(self, "seed", None if seed == -1 else seed)
        if self.max_tokens is not None:
            put(self, "max_tokens", _whole("max_tokens", self.max_tokens, 1, 2**31 - 1))
        put(self, "min_tokens", _whole("min_tokens", self.min_tokens, 0, 2**31 - 1))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSampling(
                f"min_tokens={self.min_tokens} exceeds max_tokens={self.max_tokens}; lower it"
            )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                count = _whole(name, value, -1, MAX_LOGPROBS)
                put(self, name, MAX_LOGPROBS if count == -1 else count)
        put(self, "stop", _strings("stop", self.stop))
        put(self, "bad_words", _strings("bad_words", self.bad_words))
        put(self, "stop_token_ids", _ids("stop_token_ids", self.stop_token_ids))
        if self.allowed_token_ids is not None:
            put(self, "allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
            if not self.allowed_token_ids:
                raise InvalidSampling("allowed_token_ids is empty: no token could be drawn")
        if self.logit_bias is not None:
            put(self, "logit_bias", _bias(self.logit_bias))
        if self.stop and not self.detokenize:
            raise InvalidSampling("stop strings need detokenize=True; use stop_token_ids instead")
        try:
            put(self, "output_kind", RequestOutputKind(self.output_kind))
        except ValueError:
            raise InvalidSampling(
                f"output_kind={self.output_kind!r} is none of {[str(k) for k in RequestOutputKind]}"
            ) from None
        self._settle_temperature()

    def _settle_temperature(self) -> None:
        put = object.__setattr__
        if self.temperature >= 1e-5:
            put(self, "temperature", max(self.temperature, 0.01))
            return
        if self.n != 1:
            raise InvalidSampling(
                f"n={self.n} with temperature=0 gives {self.n} equal answers; set n=1"
            )
        for name, value in (("temperature", 0.0), ("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            put(self, name, value)

    @property
    def greedy(self) -> bool:
        """Whether the best token is taken without drawing."""
        return self.temperature == 0.0

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return tuple(self.stop or ())

    def clone(self, **changes: Any) -> Self:
        """A copy, with `changes` to its fields. Raises as the constructor does."""
        return replace(self, **changes)

    @classmethod
    def known_fields(cls) -> tuple[str, ...]:
        """The names of all fields, in order."""
        return tuple(f.name for f in fields(cls))


def _assign(self: SamplingParams, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(
        f"SamplingParams are not changed once made; use params.clone({name}={value!r})"
    )


# The message of dataclasses names no remedy, and a frozen class must not define its own.
SamplingParams.__setattr__ = _assign  # type: ignore[method-assign, assignment]


def whole(value: object) -> int | None:
    """A whole number of any kind (NumPy's too) as an int; None for anything else, and for bools."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def plain(values: Any) -> Any:
    """`values` as nested lists where it is an array, as it is elsewhere."""
    return values.tolist() if hasattr(values, "tolist") else values


def _whole(name: str, value: object, low: int, high: int) -> int:
    number = whole(value)
    if number is None:
        raise InvalidSampling(f"{name}={value!r} must be a whole number")
    if not low <= number <= high:
        raise InvalidSampling(f"{name}={number} must lie in [{low}, {high}]")
    return number


def _number(name: str, value: object, low: float, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidSampling(f"{name}={value!r} must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise InvalidSampling(f"{name}={value} must be finite and lie in [{low}, {high}]")
    return number


def _strings(name: str, value: object) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(items, list | tuple | set | frozenset):
        raise InvalidSampling(f"{name}={value!r} must be a string or a list of strings")
    for item in items:
        if not isinstance(item, str) or not item:
            raise InvalidSampling(f"{name} holds {item!r}; every entry must be a non-empty string")
    return tuple(items)


def _ids(name: str, value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray | Mapping):
        raise InvalidSampling(f"{name}={value!r} must be a list of token ids")
    items = plain(value)
    if not isinstance(items, Iterable):  # an array without axes
        raise InvalidSampling(f"{name}={value!r} must be a list of token ids")
    return tuple(_whole(f"{name} entry", item, 0, 2**31 - 1) for item in items)


def _bias(value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise InvalidSampling(f"logit_bias={value!r} must map token ids to numbers")
    out: dict[int, float] = {}
    for key, bias in value.items():
        token = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 12 else key
        if isinstance(bias, Real) and not isinstance(bias, bool) and not math.isnan(bias):
            bias = min(max(bias, -100.0), 100.0)
        out[_whole("logit_bias key", token, 0, 2**31 - 1)] = _number("logit_bias value", bias, -100)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the engine sees it: ids only, every choice made.

    token_ids: the prompt, followed on a replay by the tokens delivered before.
    num_prompt_tokens: where the prompt ends; penalties, min/max_tokens and usage count from here.
    seed: drawn by the client when the caller gave none; child i of n derives its own from it.
    index: number of the first child; `params.n` children are numbered from it.
    stop_token_ids: ids that end an answer (the model's end-of-sequence ids unless ignore_eos, and
        the caller's); never masked here, see `banned_until_min_tokens`.
    bad_words: token sequences whose last token is banned after the others.
    deadline: engine time in seconds after which the request is aborted.
    cache_salt, adapter: each value is a prefix-cache space of its own.
    """

    request_id: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    params: SamplingParams
    seed: int
    max_total_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    index: int = 0
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    """Ends a request, or one of its children; unknown ids are ignored."""

    request_id: str
    index: int | None = None


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities at one place: the token's own, its rank (1 is best), the best others.

    Of the raw logits: before penalties, masks and temperature, as vLLM's `raw_logprobs`.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Where the time of one sequence went.

    queued_s: seconds from its arrival to the first step that ran it, or to its end if none did.
    num_steps: steps it rode in.  batch_min, batch_max, batch_sum: sequences in these; 0 if none.
    num_preemptions: times it lost its pages.  num_computed_prompt: prompt tokens computed for it,
    again after a preemption; the others were found in the prefix cache or lent by a sibling.
    """

    queued_s: float = 0.0
    num_steps: int = 0
    num_preemptions: int = 0
    batch_min: int = 0
    batch_max: int = 0
    batch_sum: int = 0
    num_computed_prompt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What one step did for one sequence. The one with a `finish_reason` is its last.

    stop_reason: the id of the caller's stop token, or "deadline"; None for end-of-sequence.
    prompt_logprobs: per prompt token after the first; sent once, with the first token.
    error: what went wrong.  is_refusal: the request is at fault, and would fail again.
    story: with the last one, unless the request was refused at the door.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    is_refusal: bool = False
    story: Story | None = None


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes to logits before the draw, sorted by token id within a row, as E flat entries.

    Row h owns entries starts[h]:starts[h+1]. For logit x of token ids[e]:
    y = x + bias; y = y / repetition if y > 0 else y * repetition; y = y - penalty.
    A ban is bias = -inf.  starts: (H+1,) i32.  ids: (E,) i32.  others: (E,) f32.
    """

    starts: I32
    ids: I32
    bias: F32
    repetition: F32
    penalty: F32


@dataclass(frozen=True, slots=True)
class HeadRows:
    """The rows that reach the head, in batch order, and what is wanted of each.

    rows: (H,) i32 row of the batch.  starts: (B+1,) i32, sequence b owns starts[b]:starts[b+1].
    targets: (H,) i32, the token to score where `draw` is 0 (a prompt token), else 0.
    draw: (H,) u8.  logprobs: (H,) i32, alternatives wanted; only read where want_logprobs is 1.
    temperature 0 is greedy; top_k 0 and top_p 1 and min_p 0 are off.
    seeds: (H,) u64.  positions: (H,) i32, index in its sequence of the token to draw.
    masks: (M, ceil(V/32)) u32, bit set = allowed, or None; mask_rows: (H,) i32 index into masks,
    read only where has_mask is 1.
    """

    rows: I32
    starts: I32
    draw: U8
    targets: I32
    want_logprobs: U8
    logprobs: I32
    temperature: F32
    top_k: I32
    top_p: F32
    min_p: F32
    seeds: U64
    positions: I32
    edits: Edits
    has_mask: U8
    mask_rows: I32
    masks: U32 | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One step for a runtime: flat arrays only.

    tokens: (N,) i32 ids.  positions: (A, N) i32, A is 1 (or 3 axes, later).
    slots: (G, N) i32, where each row's key and value go in each cache group.
    row_starts: (B+1,) i32, sequence b owns rows row_starts[b]:row_starts[b+1], in order.
    lengths: (B,) i32, tokens of the sequence in the cache after this step.
    page_tables: G arrays (B, T) i32, NULL_PAGE where freed or unused.
    copies: G arrays (C, 2) i32 of (from, to) pages, done before the program (copy on write).
    The rest is room for later; a runtime refuses by name what it does not serve:
    token_rows (N,) i32 with token_is_row (N,) u8: the input is the draw of that row of the step
    before; ancestors: a mask for trees of drafts; adapters: (B,) i32; embeddings: rows given as
    vectors.
    """

    tokens: I32
    positions: I32
    slots: I32
    row_starts: I32
    lengths: I32
    page_tables: tuple[I32, ...]
    copies: tuple[I32, ...]
    head: HeadRows
    program: str = "main"
    token_is_row: U8 | None = None
    token_rows: I32 | None = None
    ancestors: U8 | None = None
    adapters: I32 | None = None
    embeddings: F32 | None = None


class RowError(StrEnum):
    """Why a runtime could not finish a sequence's step."""

    NONFINITE = "not-finite"
    NO_TOKEN = "no-token-allowed"


@dataclass(frozen=True, slots=True)
class Result:
    """What a step gave, ragged: sequence b owns entries starts[b]:starts[b+1] of the H entries.

    tokens: (H,) i32, drawn, or the scored target.  logprob: (H,) f32 and rank: (H,) i32 of that
    token, of the raw logits; 0 where not wanted.  top_ids: (H, L) i32 and top_logprobs: (H, L) f32,
    best first, L the most wanted by any row, zeros beyond a row's own number.
    errors: sequence index -> why it failed; its entries mean nothing.
    logits: (H, V) f32 when the runtime was asked to keep them (tests), else None.
    """

    starts: I32
    tokens: I32
    logprob: F32
    rank: I32
    top_ids: I32
    top_logprobs: F32
    errors: dict[int, RowError] = field(default_factory=dict)
    logits: F32 | None = None


class Pending(Protocol):
    """A submitted step."""

    def result(self) -> Result:
        """Wait for the step and return what it gave; raises what the step raised."""
        ...


class Runtime(Protocol):
    """Executes programs; owns the weights and the pages on its device."""

    @property
    def name(self) -> str:
        """`reference`, `native` or `torch`."""
        ...

    def submit(self, batch: Batch) -> Pending:
        """Start one step. Raises UnsupportedParameter for a part of `batch` it does not serve."""
        ...

    def watch(self, heartbeat: U64) -> None:
        """Advance heartbeat[0], of (1,) u64, at every operation of a step and while copying pages.

        It is written in place, from the thread that calls `submit`, until the runtime is closed.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back; the runtime is of no use after."""
        ...
