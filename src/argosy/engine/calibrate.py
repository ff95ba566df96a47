"""How many tokens a step may compute: as many as this machine does in half a second.

A longer step would keep everybody waiting: those who decode for their next token, who arrives for a
start, an abort for its effect. So prompts are timed when an engine is opened, before any sequence
has pages: what the trial writes there is found by nobody, as what was there before never is.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from argosy.engine.batch import build_batch
from argosy.engine.pages import PagePool
from argosy.engine.plan import MOST_BATCHED_TOKENS
from argosy.engine.sequence import Family, Sequence
from argosy.engine.step import MIN_BATCHED_TOKENS, Plan, Work
from argosy.types import PAGE_TOKENS, Request, Runtime, SamplingParams

STEP_S = 0.5
"""No step should last longer, at any context."""

MARGIN = 0.8
"""The part of it that is planned with: the machine may have more to do than when it was timed."""

TRIAL_S = 0.03
"""About how long a trial lasts; there are four, the first, which maps the weights, left aside."""

FAR = 4096
"""Tokens of context at which attention is timed, in models of longer ones."""

UNMEASURED_TOKENS = 512
"""The budget of a runtime that is not timed."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds a prompt token takes at the beginning of a context, and at the end of the longest."""

    first_s: float
    last_s: float

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens a second at the beginning of a context."""
        return 1.0 / self.first_s

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step that ends in time wherever they stand; a multiple of 16, within bounds.

        The least, MIN_BATCHED_TOKENS, may take longer: at the end of a very long context.
        """
        tokens = int(STEP_S * MARGIN / self.last_s) // PAGE_TOKENS * PAGE_TOKENS
        return min(max(tokens, MIN_BATCHED_TOKENS), MOST_BATCHED_TOKENS)


def measure_speed(
    runtime: Runtime,
    pools: Seq[PagePool],
    *,
    vocab_size: int,
    max_model_len: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time prompts of random ids; takes about 0.15 s, more where even 16 tokens take longer.

    Writes to pages that nobody has been given yet. clock: in seconds. Raises what a step raises.
    """
    trial = _Trial(runtime, pools, vocab_size, clock)
    most = min([MOST_BATCHED_TOKENS, max_model_len, *(p.num_usable * PAGE_TOKENS for p in pools)])
    few = min(PAGE_TOKENS, most)
    trial.run(few, 0)  # maps weights, starts threads
    few_s = trial.run(few, 0)
    many = min(int(few * TRIAL_S / few_s), most) // PAGE_TOKENS * PAGE_TOKENS
    first_s = trial.run(many, 0) / many if many > few else few_s / few
    # Attention to what is before a row, alone: all else is cheaper by the row when there are many.
    # It grows as the context does, save behind a window, where it is taken for more than it is.
    start = (min(max_model_len, FAR) - few) // PAGE_TOKENS * PAGE_TOKENS
    attention_s = max(0.0, trial.run(few, start) - few_s) / few
    return Speed(first_s, first_s + attention_s * max_model_len / (start + few))


class _Trial:
    """Steps of one prompt that comes after any number of tokens."""

    def __init__(
        self,
        runtime: Runtime,
        pools: Seq[PagePool],
        vocab_size: int,
        clock: Callable[[], float],
    ) -> None:
        self._runtime = runtime
        self._pools = pools
        self._vocab_size = vocab_size
        self._clock = clock
        self._random = random.Random(0)

    def run(self, count: int, start: int) -> float:
        """Seconds that a step of `count` tokens at positions start.. takes; start begins a page."""
        ids = self._random.choices(range(self._vocab_size), k=count)
        plan = Plan(0, (self._work(tuple(ids), start),), tuple(() for _ in self._pools))
        batch = build_batch(plan, vocab_size=self._vocab_size)
        begin = self._clock()
        self._runtime.submit(batch).result()
        return self._clock() - begin

    def _work(self, ids: tuple[int, ...], start: int) -> Work:
        request = Request(
            request_id="",
            token_ids=ids,
            num_prompt_tokens=len(ids),
            params=SamplingParams(temperature=0.0),
            seed=0,
            max_total_tokens=start + len(ids) + 1,
        )
        seq = Sequence(request, Family(request), index=0, key=(0, 0, 0), limit=len(ids) + 1)
        return Work(seq, start, seq.tokens, self._tables(start, start + len(ids)), num_draws=1)

    def _tables(self, start: int, end: int) -> tuple[array[int], ...]:
        """The prompt's own pages; they also stand for all that is before it, so few are touched."""
        own = -(-end // PAGE_TOKENS) - start // PAGE_TOKENS
        table = array("i", [1 + page % own for page in range(-(-end // PAGE_TOKENS))])
        return tuple(table for _ in self._pools)
