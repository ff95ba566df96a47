"""How well a model predicts a text, and how far it is from another: what `argosy eval` reports.

Texts are read token by token, teacher-forced: each position's distribution over the next token is
that of the very path that serves (pages, kernels, cache), and positions share steps as prompts do.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from argosy.engine.batch import build_batch
from argosy.engine.engine import Engine
from argosy.engine.sequence import Family, Sequence
from argosy.engine.step import Plan, Work
from argosy.errors import ConfigError, ModelError
from argosy.types import PAGE_TOKENS, Request, SamplingParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from argosy.types import F32

    F64 = NDArray[np.float64]

ROWS = 128
"""Positions whose logits are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Sums over positions, of one text or of several added up.

    positions: places with a token before and after.  surprise: -log p of the token there, nats.
    divergence, worst: KL(reference || model), nats: their sum and the largest.  agreed: places
    where both hold the same token for the best. These three are 0 without a reference.
    """

    positions: int = 0
    surprise: float = 0.0
    divergence: float = 0.0
    worst: float = 0.0
    agreed: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            positions=self.positions + other.positions,
            surprise=self.surprise + other.surprise,
            divergence=self.divergence + other.divergence,
            worst=max(self.worst, other.worst),
            agreed=self.agreed + other.agreed,
        )

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise; infinite where that is too large for a number."""
        mean = self.surprise / self.positions
        return math.exp(mean) if mean < 700 else math.inf


def windows(token_ids: Seq[int], length: int) -> list[tuple[int, ...]]:
    """`token_ids` cut into texts of `length` tokens, a shorter last one left out.

    Raises ConfigError where there is not one.
    """
    starts = range(0, len(token_ids) - length + 1, length)
    if not starts or length < 2:
        raise ConfigError(
            f"the text has {len(token_ids)} tokens and windows are {length}; give a longer text, "
            "or shorter windows of at least 2 tokens"
        )
    return [tuple(token_ids[s : s + length]) for s in starts]


def score(model: Engine, reference: Engine | None, token_ids: Seq[int]) -> Score:
    """The score of one text, every token after the first predicted from those before it."""
    total = Score()
    theirs: Iterator[F32 | None] = iter(lambda: None, 0)
    if reference is not None:
        theirs = iter(prompt_logits(reference, token_ids))
    next_ids = np.array(token_ids[1:], np.int64)
    for mine in prompt_logits(model, token_ids):
        targets = next_ids[total.positions : total.positions + len(mine)]
        total += compare(mine, next(theirs), targets)
    return total


def compare(mine: F32, theirs: F32 | None, targets: NDArray[np.int64]) -> Score:
    """The score of rows of logits (H, V), of which row h should predict targets[h]."""
    log_q = _log_softmax(mine)
    surprise = -float(log_q[np.arange(len(targets)), targets].sum())
    if theirs is None:
        return Score(positions=len(targets), surprise=surprise)
    log_p = _log_softmax(theirs)
    apart = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return Score(
        positions=len(targets),
        surprise=surprise,
        divergence=float(apart.sum()),
        worst=float(apart.max()),
        agreed=int((mine.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
    )


def _log_softmax(logits: F32) -> F64:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    rest: F64 = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return rest


def prompt_logits(engine: Engine, token_ids: Seq[int]) -> Iterator[F32]:
    """Raw logits (H, V) of all positions but the last, at most ROWS at a time, in order.

    engine: opened with keep_logits, with nothing running: its first pages are written over.
    Raises ConfigError for a text longer than it has pages or positions for, ModelError where
    logits are not finite.
    """
    pools, limits = engine.scheduler.tables.pools, engine.scheduler.limits
    room = min([limits.max_model_len, *(pool.num_usable * PAGE_TOKENS for pool in pools)])
    if len(token_ids) > room:
        raise ConfigError(
            f"a text of {len(token_ids)} tokens does not fit: there is room for {room}; use "
            "shorter windows, or more memory"
        )
    engine.reset_prefix_cache()
    request = Request(
        request_id="",
        token_ids=tuple(token_ids),
        num_prompt_tokens=len(token_ids),
        params=SamplingParams(temperature=0.0),
        seed=0,
        max_total_tokens=len(token_ids) + 1,
    )
    seq = Sequence(request, Family(request), index=0, key=(0, 0, 0), limit=len(token_ids) + 1)
    table = array("i", range(1, -(-len(token_ids) // PAGE_TOKENS) + 1))
    for start in range(0, len(token_ids) - 1, ROWS):
        end = min(start + ROWS, len(token_ids) - 1)
        work = Work(
            seq,
            start,
            seq.tokens[start:end],
            tuple(table for _ in pools),
            num_draws=0,
            score_from=start,
            num_scores=end - start,
        )
        batch = build_batch(
            Plan(0, (work,), tuple(() for _ in pools)), vocab_size=limits.vocab_size
        )
        result = engine.runtime.submit(batch).result()
        assert result.logits is not None, "the engine was opened without keep_logits"
        if result.errors:
            raise ModelError(
                f"the model gives numbers that are not finite between tokens {start} and {end} of "
                "a text; its weights, or their number format, do not suit it"
            )
        yield result.logits
