"""What passes between scheduler and batch: limits, one step's work, and what came of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from argosy.types import TokenLogprobs

if TYPE_CHECKING:
    from argosy.engine.sequence import Sequence


MIN_BATCHED_TOKENS = 32
"""Fewer in a step would make prompts slow; so no fewer are advised, or chosen."""


def prompt_share(step_tokens: int) -> int:
    """Prompt tokens a step has room for however many decode, or arrivals would hardly start."""
    return max(step_tokens // 4, MIN_BATCHED_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the scheduler keeps to.

    max_num_seqs: sequences running at once.  max_num_batched_tokens: tokens of one step.
    max_model_len: tokens of prompt and answer.  vocab_size: ids are below it.
    step_tokens: those a step should have at most, so that it ends in time; more only for a token of
    each that decodes and `prompt_share` of it. None: max_num_batched_tokens.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    vocab_size: int
    step_tokens: int | None = None
    by_priority: bool = False
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a step: the tokens at positions start..end-1.

    seq: read by `build_batch` for its sampling parameters and its tokens.
    tokens: known tokens, then drafts.  tables: page ids, one array per cache group.
    num_draws: the last rows that draw a token: 0, or 1 and one more for each draft.
    score_from, num_scores: rows at these positions score the prompt token after them.
    """

    seq: Sequence
    start: int
    tokens: array[int]
    tables: tuple[array[int], ...]
    num_draws: int
    score_from: int = 0
    num_scores: int = 0

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: decoding sequences first, then prompts and chunks of them, best first.

    number: steps are numbered in order and committed in that order; an empty plan takes none.
    copies: per cache group, pages (from, to) to be copied before anything is computed; no page
    is both a source and a target.
    """

    number: int
    work: tuple[Work, ...]
    copies: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step gave one sequence.

    token_ids: at most `num_draws`, the accepted drafts and the token after them; fewer, down to
    none, when the runtime drew fewer.  logprobs: of these, where wanted.
    prompt_logprobs: of the rows that scored.  error: why it failed; then all else means nothing,
    save is_refusal: that the request is at fault.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    is_refusal: bool = False


class Observer(Protocol):
    """Told of every step that has work, on the engine's thread; what it raises fails the step."""

    def planned(self, plan: Plan) -> None:
        """`plan` is about to be submitted."""
        ...

    def ran(self, plan: Plan) -> None:
        """`plan` came back, or failed, and is about to be committed."""
        ...


@dataclass(slots=True)
class Counters:
    """What a scheduler has done since it was made; only it counts.

    prefix_queries: tokens looked up in the prefix cache when a sequence first runs.
    prefix_hits: of these, found there or lent by a sibling.  preemptions: of sequences.
    prompt_tokens: of sequences that drew their first token.  generated_tokens: drawn and kept.
    """

    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
