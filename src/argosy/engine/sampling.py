"""Sampling parameters become arrays: one row for each row of the batch that reaches the head.

All a draw depends on, besides logits, is the request (parameters, seed, where the prompt ends) and
the tokens before it; hence preemption, chunks and replay draw the same tokens again.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np

from argosy.engine.sequence import Sequence
from argosy.engine.step import Work
from argosy.types import Edits, HeadRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from argosy.types import F32, I32, U8, U32

    I64 = NDArray[np.int64]

_NO_IDS = np.zeros(0, np.int32)
_NO_NUMBERS = np.zeros(0, np.float32)


def head_rows(work: Seq[Work], row_starts: I32, vocab_size: int) -> HeadRows:
    """What reaches the head: of each work the rows that score, then those that draw."""
    numbers = [w.num_scores + w.num_draws for w in work]
    starts = np.zeros(len(work) + 1, np.int32)
    np.cumsum(numbers, out=starts[1:])
    owners = [w.seq for w, number in zip(work, numbers, strict=True) for _ in range(number)]
    offsets = [offset for w in work for offset in _offsets(w)]
    rows = np.repeat(row_starts[:-1], numbers) + np.array(offsets, np.int32)
    positions = np.repeat(np.array([w.start + 1 for w in work], np.int32), numbers)
    draw, targets, logprobs = _wanted(work)
    params = [seq.params for seq in owners]
    has_mask, mask_rows, masks = _masks(owners, draw, vocab_size)
    return HeadRows(
        rows=rows,
        starts=starts,
        draw=np.array(draw, np.uint8),
        targets=np.array(targets, np.int32),
        want_logprobs=np.array([number is not None for number in logprobs], np.uint8),
        logprobs=np.array([number or 0 for number in logprobs], np.int32),
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        seeds=np.array([seq.seed for seq in owners], np.uint64),
        positions=positions + np.array(offsets, np.int32),
        edits=_edits(work, len(owners), vocab_size),
        has_mask=has_mask,
        mask_rows=mask_rows,
        masks=masks,
    )


def _offsets(work: Work) -> list[int]:
    """Rows of a sequence that reach the head, counted from its first."""
    score, end = work.score_from - work.start, len(work.tokens)
    return [*range(score, score + work.num_scores), *range(end - work.num_draws, end)]


def _wanted(work: Seq[Work]) -> tuple[list[bool], list[int], list[int | None]]:
    """Per head row: whether it draws, else the token to score; alternatives, None: no logprobs."""
    draw: list[bool] = []
    targets: list[int] = []
    logprobs: list[int | None] = []
    for w in work:
        first, params = w.score_from + 1, w.seq.params
        draw += [False] * w.num_scores + [True] * w.num_draws
        targets += w.seq.tokens[first : first + w.num_scores].tolist() + [0] * w.num_draws
        logprobs += [params.prompt_logprobs] * w.num_scores + [params.logprobs] * w.num_draws
    return draw, targets, logprobs


def _masks(owners: Seq[Sequence], draw: Seq[bool], vocab_size: int) -> tuple[U8, I32, U32 | None]:
    """Masks of allowed_token_ids, for the rows that draw."""
    has_mask, mask_rows = np.zeros(len(owners), np.uint8), np.zeros(len(owners), np.int32)
    masks: list[U32] = []
    for row, seq in enumerate(owners):
        allowed = seq.params.allowed_token_ids
        if allowed is not None and draw[row]:
            has_mask[row], mask_rows[row] = 1, len(masks)
            masks.append(allowed_mask(allowed, vocab_size))
    return has_mask, mask_rows, np.stack(masks) if masks else None


def allowed_mask(allowed: Seq[int], vocab_size: int) -> U32:
    """Bits (ceil(V/32),) u32: bit v % 32 of word v // 32 is set for an allowed v."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view("<u4")


def is_edited(seq: Sequence) -> bool:
    """Whether its logits are changed before some draw."""
    params = seq.params
    penalties = params.presence_penalty, params.frequency_penalty, params.repetition_penalty - 1
    return bool(any(penalties) or params.logit_bias or params.min_tokens or seq.request.bad_words)


def _edits(work: Seq[Work], num_rows: int, vocab_size: int) -> Edits:
    """The edits of all rows that draw; of most batches none."""
    starts = np.zeros(num_rows + 1, np.int32)
    if not any(w.num_draws and is_edited(w.seq) for w in work):
        return Edits(starts, _NO_IDS, _NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS)
    parts = []
    for w in work:
        parts += [(_NO_IDS, _NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS)] * w.num_scores
        # Tokens before each draw: those computed before this step, those of it, drafts included.
        tokens = np.frombuffer(w.seq.tokens[: w.start] + w.tokens, np.int32)
        for end in range(len(tokens) - w.num_draws + 1, len(tokens) + 1):
            parts.append(edits_of(w.seq, tokens[:end], vocab_size))
    np.cumsum([len(ids) for ids, *_ in parts], out=starts[1:])
    ids, bias, repetition, penalty = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Edits(starts, ids, bias, repetition, penalty)


def edits_of(seq: Sequence, tokens: I32, vocab_size: int) -> tuple[I32, F32, F32, F32]:
    """One row's edits, the draw after `tokens`: ids ascending, bias, repetition, penalty."""
    if not is_edited(seq):
        return _NO_IDS, _NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS
    params, outputs = seq.params, tokens[seq.num_prompt :]
    banned = np.array(_banned(seq, outputs), np.int32)
    banned = banned[banned < vocab_size]
    given = params.logit_bias or {}
    given_ids = np.fromiter(given, np.int32, len(given))
    counts_matter = params.presence_penalty or params.frequency_penalty
    repeated, _ = _counted(tokens if params.repetition_penalty != 1.0 else _NO_IDS)
    penalised, counts = _counted(outputs if counts_matter else _NO_IDS)
    ids, _ = _counted(np.concatenate([banned, given_ids, repeated, penalised]))

    bias, repetition, penalty = np.zeros((3, len(ids)), np.float32)
    bias[np.searchsorted(ids, given_ids)] = list(given.values())
    bias[np.searchsorted(ids, banned)] = -np.inf
    repetition[:] = 1.0
    repetition[np.searchsorted(ids, repeated)] = params.repetition_penalty
    penalised_at = np.searchsorted(ids, penalised)
    penalty[penalised_at] = params.frequency_penalty * counts + params.presence_penalty
    return ids, bias, repetition, penalty


def _counted(ids: I32) -> tuple[I32, I64]:
    """Distinct ids, ascending, and how often each occurs. (Without counts, `unique` is slower.)"""
    return np.unique(ids, return_counts=True)


def _banned(seq: Sequence, outputs: I32) -> list[int]:
    """Ids that must not be drawn next: ends that come too early, last tokens of bad words."""
    banned: list[int] = []
    if len(outputs) < seq.params.min_tokens:
        banned += seq.request.stop_token_ids
    for word in seq.request.bad_words:
        before = list(word[:-1])
        if not before or outputs[-len(before) :].tolist() == before:
            banned.append(word[-1])
    return banned
