"""Where the time of a request went, told once it has ended; and who wants to hear of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from argosy.client.intake import Accepted
from argosy.types import Story


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answers of one request together.

    queue_s: seconds until the first of them ran.  prompt_tokens, generated_tokens: of the request.
    cached_tokens: of the prompt, found in the prefix cache.  computed_prompt_tokens: computed for
    it, again after a preemption.  steps: those the answers rode in, added up; batch_min,
    batch_mean, batch_max: sequences in these.  preemptions: times they lost their pages.
    restarts: times the engine died under it and it was replayed; what the engine tells, from
    queue_s to preemptions, is then of the last engine alone.
    ttft_s: seconds from arrival to the first token, None without one.  total_s: to the end.
    is_complete: whether the engine told of every answer; an answer that a stop string ended is told
    of one step later (`Stream.explain` waits for it).
    """

    queue_s: float
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    computed_prompt_tokens: int
    steps: int
    preemptions: int
    batch_min: int
    batch_mean: float
    batch_max: int
    restarts: int
    ttft_s: float | None
    total_s: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over. reasons, num_tokens: of each answer, in order of index."""

    accepted: Accepted
    reasons: Sequence[str]
    num_tokens: Sequence[int]
    story: Explanation


class Meter(Protocol):
    """Hears of every request of a client, between two frames of the engine: it must be quick."""

    def first_token(self, seconds: float) -> None:
        """A request's first token came, `seconds` after the request."""
        ...

    def tokens(self, gaps: Sequence[float]) -> None:
        """Of one step: for each token, seconds since the same answer's token before."""
        ...

    def ended(self, ended: Ended) -> None:
        """A request is over, however it ended; called once for each that was submitted."""
        ...


def explain(
    stories: Collection[Story],
    *,
    num_answers: int,
    prompt_tokens: int,
    generated_tokens: int,
    cached_tokens: int,
    restarts: int,
    ttft_s: float | None,
    total_s: float,
) -> Explanation:
    """The account of `num_answers` answers, of which the engine told `stories`."""
    steps = sum(s.num_steps for s in stories)
    return Explanation(
        queue_s=min((s.queued_s for s in stories), default=0.0),
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        cached_tokens=cached_tokens,
        computed_prompt_tokens=sum(s.num_computed_prompt for s in stories),
        steps=steps,
        preemptions=sum(s.num_preemptions for s in stories),
        batch_min=min((s.batch_min for s in stories if s.num_steps), default=0),
        batch_mean=sum(s.batch_sum for s in stories) / steps if steps else 0.0,
        batch_max=max((s.batch_max for s in stories), default=0),
        restarts=restarts,
        ttft_s=ttft_s,
        total_s=total_s,
        is_complete=len(stories) == num_answers,
    )
