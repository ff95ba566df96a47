"""A sequence and its family: one answer of a request, and what the n answers share.

Both belong to the scheduler and its page tables; nobody else changes them.

    tokens     [prompt | replayed | drawn]      known; drafts are never in it
    positions  [0, num_computed)                in the cache, their step was committed
               [num_computed, num_scheduled)    named by a submitted step
"""

from __future__ import annotations

from array import array
from enum import Enum, auto

from argosy.types import FinishReason, Request, SamplingParams, Story, TokenLogprobs

_MASK64 = 2**64 - 1


class State(Enum):
    """Where a sequence stands; preemption leads from RUNNING back to WAITING."""

    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


def child_seed(seed: int, index: int) -> int:
    """The 64-bit seed of child `index`: the request's own for child 0, else a hash of both.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195.
    """
    if index == 0:
        return seed & _MASK64
    x = (seed + index * 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


class Family:
    """The children of one request.

    num_shared: tokens they start with.  running: those that run now, any of which can lend the
    pages of the prompt.  num_cached: prompt tokens found in the prefix cache by the first to run.
    num_scores: prompt logprobs wanted; whoever computes the prompt fills `prompt_logprobs`, once,
    and each child sends them with its first token.
    """

    __slots__ = (
        "num_cached",
        "num_scores",
        "num_shared",
        "prompt_logprobs",
        "reads_cache",
        "running",
    )

    def __init__(self, request: Request) -> None:
        params = request.params
        wants_scores = params.prompt_logprobs is not None
        is_replay = len(request.token_ids) > request.num_prompt_tokens
        self.num_shared = len(request.token_ids)
        self.running: list[Sequence] = []
        self.num_cached: int | None = None
        self.num_scores = request.num_prompt_tokens - 1 if wants_scores and not is_replay else 0
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.reads_cache = not (wants_scores or params.skip_reading_prefix_cache)

    @property
    def is_computing(self) -> bool:
        """Whether one of them computes the prompt now, so that the others had better wait."""
        return any(seq.num_computed < self.num_shared for seq in self.running)


class Sequence:
    """One answer under way.

    key: its place in the policy's order, unique, lower is better: (class, arrival, index).
    limit: tokens at which it ends.  tables: page ids, one array per cache group, while it runs.
    page_keys: prefix-cache keys of its full pages as far as computed; num_published: how many of
    them were entered.

    For its story: arrived, in the caller's seconds; queued_s, None until it runs; batches, the
    sequences in each step it rode in; num_lent, tokens it did not compute since it last began;
    num_computed_prompt, prompt tokens computed before that.
    """

    __slots__ = (
        "arrived",
        "batches",
        "family",
        "has_spoken",
        "index",
        "key",
        "limit",
        "num_computed",
        "num_computed_prompt",
        "num_lent",
        "num_preemptions",
        "num_prompt",
        "num_published",
        "num_scheduled",
        "page_keys",
        "params",
        "queued_s",
        "request",
        "seed",
        "state",
        "tables",
        "tokens",
    )

    def __init__(
        self,
        request: Request,
        family: Family,
        *,
        index: int,
        key: tuple[int, int, int],
        limit: int,
        arrived: float = 0.0,
    ) -> None:
        self.request = request
        self.params: SamplingParams = request.params
        self.family = family
        self.index = index
        self.key = key
        self.limit = limit
        self.seed = child_seed(request.seed, index)
        self.tokens = array("i", request.token_ids)
        self.num_prompt = request.num_prompt_tokens
        self.state = State.WAITING
        self.num_computed = 0
        self.num_scheduled = 0
        self.tables: tuple[array[int], ...] = ()
        self.page_keys: list[bytes] = []
        self.num_published = 0
        self.has_spoken = False
        self.arrived = arrived
        self.queued_s: float | None = None
        self.batches = array("I")
        self.num_lent = 0
        self.num_preemptions = 0
        self.num_computed_prompt = 0

    @property
    def num_remaining(self) -> int:
        """Known tokens not scheduled yet; none while its next token is being drawn."""
        return len(self.tokens) - self.num_scheduled

    @property
    def is_in_flight(self) -> bool:
        """Whether a submitted step names its pages."""
        return self.num_scheduled > self.num_computed

    def finish_reason(self) -> FinishReason | None:
        """Why its last token ends it; None if it does not, or was not drawn."""
        if len(self.tokens) > self.num_prompt and self.tokens[-1] in self.request.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.limit else None

    def story(self, now: float) -> Story:
        """Where its time went, told at its end: it holds no pages any more."""
        batches = self.batches or (0,)
        return Story(
            queued_s=now - self.arrived if self.queued_s is None else self.queued_s,
            num_steps=len(self.batches),
            num_preemptions=self.num_preemptions,
            batch_min=min(batches),
            batch_max=max(batches),
            batch_sum=sum(batches),
            num_computed_prompt=self.num_computed_prompt,
        )
