"""The plain sampler: from a row of logits to a token, with log probabilities of the raw logits.

The draw is argmax over the allowed ids of logit / temperature + Gumbel(seed, position, id), ties to
the smaller id. native/sampler.h is its fast twin: all arithmetic is the same fp32 operations in the
same order, or exact sums, so the two agree bit for bit.
Sources: Gumbel-max, Maddison et al. 2014, arXiv:1411.0030; top-p, Holtzman et al. 2020,
arXiv:1904.09751; min-p, Nguyen et al. 2024, arXiv:2407.01082.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from argosy.runtime.reference.elementary import exp, gumbel, log
from argosy.types import HeadRows, Result, RowError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

PART = 4096
"""Ids of a part of the vocabulary: sums of exponentials are made by parts, merged ascending."""

LANES = 16
"""Running sums of a part: id i adds to lane i % 16; then halves are added until one is left."""

LARGEST = np.float32(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one row gave; with an error, nothing else counts."""

    token: int = 0
    logprob: float = 0.0
    rank: int = 0
    top_ids: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    top_logprobs: F32 = field(default_factory=lambda: np.empty(0, np.float32))
    error: RowError | None = None


def sample_rows(logits: F32, head: HeadRows) -> Result:
    """Draw from, or score, each row of `logits` (H, V) as `head` asks."""
    with np.errstate(over="ignore", invalid="ignore"):  # huge logits may differ by infinity
        rows = [sample_row(x, head, h) for h, x in enumerate(logits)]
    widest = int((head.logprobs * head.want_logprobs).max(initial=0))
    errors: dict[int, RowError] = {}
    top_ids = np.zeros((len(rows), widest), np.int32)
    top_logprobs = np.zeros((len(rows), widest), np.float32)
    for h, row in enumerate(rows):
        top_ids[h, : len(row.top_ids)] = row.top_ids
        top_logprobs[h, : len(row.top_ids)] = row.top_logprobs
        if row.error is not None:
            sequence = int(np.searchsorted(head.starts, h, side="right")) - 1
            errors.setdefault(sequence, row.error)
    return Result(
        starts=head.starts,
        tokens=np.array([row.token for row in rows], np.int32),
        logprob=np.array([row.logprob for row in rows], np.float32),
        rank=np.array([row.rank for row in rows], np.int32),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        errors=errors,
    )


def sample_row(x: F32, head: HeadRows, h: int) -> Sampled:
    """Draw from, or score, the raw logits `x` (V,) of head row `h`."""
    if not np.isfinite(x).all():
        return Sampled(error=RowError.NONFINITE)
    token: int | None = int(head.targets[h])
    if head.draw[h]:
        token = draw(allowed_logits(x, head, h), head, h)
    if token is None:
        return Sampled(error=RowError.NO_TOKEN)
    if not head.want_logprobs[h]:
        return Sampled(token)
    logprobs = log_softmax(x)
    top = best_first(x)[: head.logprobs[h]]
    rank = 1 + np.count_nonzero(x > x[token]) + np.count_nonzero(x[:token] == x[token])
    return Sampled(token, float(logprobs[token]), int(rank), top, logprobs[top])


def log_softmax(x: F32) -> F32:
    """Log probabilities of finite logits `x` (V,), by parts in a fixed order."""
    largest = x.max()
    total = 0.0
    for start in range(0, x.size, PART):
        part = x[start : start + PART]
        own = part.max()
        weight = exp(np.atleast_1d(own - largest))[0]
        total += float(_sum_by_lanes(exp(part - own))) * float(weight)
    logprobs: F32 = (x - largest) - log(np.array([total], np.float32))
    return logprobs


def allowed_logits(x: F32, head: HeadRows, h: int) -> F32:
    """`x` after the row's edits and mask; -inf is banned."""
    mine = slice(head.edits.starts[h], head.edits.starts[h + 1])
    ids, repetition = head.edits.ids[mine], head.edits.repetition[mine]
    y = x.copy()
    edited = y[ids] + head.edits.bias[mine]
    edited = np.where(edited > 0, edited / repetition, edited * repetition)
    edited = edited - head.edits.penalty[mine]
    y[ids] = np.where(np.isnan(edited), -np.inf, edited)
    if head.has_mask[h]:
        assert head.masks is not None
        words = head.masks[head.mask_rows[h]].astype("<u4")
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: x.size]
        y[bits == 0] = -np.inf
    return y


def draw(x: F32, head: HeadRows, h: int) -> int | None:
    """A token drawn from edited logits `x` (V,), or None if all are banned."""
    if x.max() == -np.inf:
        return None
    if head.temperature[h] == 0:
        return int(np.argmax(x))
    y = tempered(x, head.temperature[h])
    allowed = y > -np.inf
    if head.min_p[h] > 0:
        allowed &= y >= y.max() + log(head.min_p[h : h + 1])
    if head.top_k[h] > 0:
        allowed = _keep(best_first(y)[: head.top_k[h]], allowed)
    if head.top_p[h] < 1:
        allowed = _keep(nucleus(y, allowed, float(head.top_p[h])), allowed)
    ids = np.flatnonzero(allowed).astype(np.int32)
    noise = gumbel(int(head.seeds[h]), int(head.positions[h]), ids)
    return int(ids[np.argmax(y[ids] + noise)])


def tempered(x: F32, temperature: np.float32) -> F32:
    """x / temperature; what overflows becomes the largest number, what was banned stays -inf."""
    y = np.minimum(x / temperature, LARGEST)
    return np.where(x == -np.inf, x, np.maximum(y, -LARGEST))


def nucleus(y: F32, allowed: NDArray[np.bool_], top_p: float) -> I32:
    """The shortest run of best ids, among the allowed, that holds `top_p` of their probability.

    Weights are rounded to whole multiples of 2^-34 of the best one's, so that sums are exact and no
    order of adding can change the set.
    """
    order = best_first(y)
    order = order[allowed[order]]
    weights = np.rint(exp(y[order] - y[order[0]]).astype(np.float64) * 2.0**34)
    sums = np.cumsum(weights)
    return order[: 1 + int(np.searchsorted(sums, top_p * sums[-1]))]


def best_first(y: F32) -> I32:
    """Ids by falling logit, ties to the smaller id."""
    return np.argsort(-y, kind="stable").astype(np.int32)


def _keep(ids: I32, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    kept = np.zeros_like(allowed)
    kept[ids] = allowed[ids]
    return kept


def _sum_by_lanes(e: F32) -> np.float32:
    lanes = np.pad(e, (0, -e.size % LANES)).reshape(-1, LANES)
    sums = np.add.accumulate(lanes, axis=0)[-1]  # accumulate adds one after another, ascending
    while sums.size > 1:
        half = sums.size // 2
        sums = sums[:half] + sums[half:]
    return np.float32(sums[0])
