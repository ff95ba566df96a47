"""A plan becomes a batch, a result becomes outcomes: the only place index arrays are made.

Both are called between `plan` and the next `admit`, while the sequences are as the plan saw them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np

from argosy.engine.sampling import head_rows
from argosy.engine.step import Outcome, Plan, Work
from argosy.types import PAGE_TOKENS, Batch, Result, RowError, TokenLogprobs

if TYPE_CHECKING:
    from argosy.types import I32

_ERRORS = {
    RowError.NONFINITE: "the model gave numbers that are not finite (NaN or infinity) up to "
    "position {}; its weights, or their number format, do not suit this input",
    RowError.NO_TOKEN: "no token may be drawn at position {}: allowed_token_ids, logit_bias, "
    "bad_words and min_tokens together leave none",
}


def build_batch(plan: Plan, *, vocab_size: int) -> Batch:
    """All arrays of one step, complete; `plan` has work."""
    work = plan.work
    counts = [len(w.tokens) for w in work]
    row_starts = np.zeros(len(work) + 1, np.int32)
    np.cumsum(counts, out=row_starts[1:])
    starts = np.array([w.start for w in work], np.int32)
    owners = np.repeat(np.arange(len(work)), counts)
    positions = np.arange(row_starts[-1], dtype=np.int32) + (starts - row_starts[:-1])[owners]
    page_idx, offsets = positions // PAGE_TOKENS, positions % PAGE_TOKENS
    tables = tuple(_table([w.tables[g] for w in work]) for g in range(len(plan.copies)))
    slots = np.empty((len(tables), len(positions)), np.int32)
    for g, table in enumerate(tables):
        slots[g] = table[owners, page_idx] * PAGE_TOKENS + offsets
    return Batch(
        tokens=np.frombuffer(b"".join([w.tokens for w in work]), np.int32),
        positions=positions[np.newaxis],
        slots=slots,
        row_starts=row_starts,
        lengths=starts + np.diff(row_starts),
        page_tables=tables,
        copies=tuple(np.array(pairs, np.int32).reshape(-1, 2) for pairs in plan.copies),
        head=head_rows(work, row_starts, vocab_size),
    )


def _table(tables: Seq[array[int]]) -> I32:
    """Tables of pages as rows, filled up with NULL_PAGE, which is 0; (B, T), read-only."""
    width = max(len(table) for table in tables)
    nulls = array("i", bytes(4 * width))
    rows = b"".join([table + nulls[len(table) :] for table in tables])
    return np.frombuffer(rows, np.int32).reshape(len(tables), width)


def read_result(plan: Plan, result: Result) -> list[Outcome]:
    """What each sequence of the plan gets."""
    starts, tokens = result.starts.tolist(), result.tokens.tolist()
    return [
        _failed(w, result.errors[b])
        if b in result.errors
        else _outcome(w, result, tokens, starts[b], starts[b + 1])
        for b, w in enumerate(plan.work)
    ]


def _failed(work: Work, error: RowError) -> Outcome:
    text = _ERRORS[error].format(work.end - 1)
    return Outcome(error=text, is_refusal=error is RowError.NO_TOKEN)


def _outcome(work: Work, result: Result, tokens: list[int], start: int, end: int) -> Outcome:
    split = start + work.num_scores
    drawn = tokens[split:end]
    if work.num_draws > 1:
        drawn = drawn[: _num_accepted(work, drawn)]
    params = work.seq.params
    return Outcome(
        token_ids=tuple(drawn),
        logprobs=_logprobs(result, split, split + len(drawn), params.logprobs),
        prompt_logprobs=_logprobs(result, start, split, params.prompt_logprobs),
    )


def _num_accepted(work: Work, drawn: list[int]) -> int:
    """Draws that follow right drafts only, counted with the first, which follows none."""
    drafts = work.tokens[len(work.tokens) - work.num_draws + 1 :]
    wrong = (place for place, draft in enumerate(drafts) if drawn[place] != draft)
    return next(wrong, len(drafts)) + 1


def _logprobs(
    result: Result, start: int, end: int, number: int | None
) -> tuple[TokenLogprobs, ...]:
    """Log probabilities at entries start..end-1, with `number` alternatives; None: not wanted."""
    if number is None:
        return ()
    return tuple(
        TokenLogprobs(
            int(result.tokens[h]),
            float(result.logprob[h]),
            int(result.rank[h]),
            tuple(
                zip(
                    result.top_ids[h, :number].tolist(),
                    result.top_logprobs[h, :number].tolist(),
                    strict=True,
                )
            ),
        )
        for h in range(start, end)
    )
