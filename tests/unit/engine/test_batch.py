"""Plans become batches, results become outcomes."""

from __future__ import annotations

import numpy as np

from argosy.engine.batch import build_batch, read_result
from argosy.engine.pages import PagePool
from argosy.engine.scheduler import Scheduler
from argosy.engine.step import Limits, Plan
from argosy.types import NULL_PAGE, PAGE_TOKENS, Abort, Result, RowError, TokenLogprobs
from unit.engine.driver import VOCAB, outcome, request, shares

LIMITS = Limits(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=500, vocab_size=VOCAB)


def made(*windows: int | None) -> Scheduler:
    return Scheduler(LIMITS, [PagePool(30, window=window) for window in windows])


def go(scheduler: Scheduler) -> Plan:
    plan = scheduler.plan()
    scheduler.commit(plan, [outcome(work) for work in plan.work])
    return plan


def test_rows_positions_and_slots() -> None:
    scheduler = made(None)
    scheduler.admit([request("a", range(20))], 0.0)
    go(scheduler)
    scheduler.admit([request("b", [7, 8])], 0.0)
    plan = scheduler.plan()
    assert shares(plan) == [("a", 0, 20, 1), ("b", 0, 0, 2)]
    batch = build_batch(plan, vocab_size=VOCAB)
    assert batch.tokens.tolist() == [50, 7, 8]
    assert batch.positions.tolist() == [[20, 0, 1]]
    assert batch.row_starts.tolist() == [0, 1, 3]
    assert batch.lengths.tolist() == [21, 2]
    (table,) = batch.page_tables
    assert table.shape == (2, 2)
    assert table[1, 1] == NULL_PAGE
    a, b = table[0, 1], table[1, 0]
    slots = [a * PAGE_TOKENS + 4, b * PAGE_TOKENS, b * PAGE_TOKENS + 1]
    assert batch.slots.tolist() == [slots]
    assert len({*table[0], b}) == 3
    assert [array.shape for array in batch.copies] == [(0, 2)]
    arrays = (batch.tokens, batch.positions, batch.row_starts, batch.lengths, batch.slots, table)
    assert {str(array.dtype) for array in (*arrays, *batch.copies)} == {"int32"}


def test_every_group_has_its_table() -> None:
    scheduler = made(None, 16)
    scheduler.admit([request("a", range(40))], 0.0)
    go(scheduler)
    batch = build_batch(scheduler.plan(), vocab_size=VOCAB)
    paged, window = batch.page_tables
    assert NULL_PAGE not in paged
    assert window[0, 0] == NULL_PAGE  # the row at 40 sees 25..40
    assert NULL_PAGE not in window[0, 1:]
    assert batch.slots[1, 0] == window[0, 2] * PAGE_TOKENS + 8


def test_no_groups_no_tables() -> None:
    scheduler = made()
    scheduler.admit([request("a", range(40))], 0.0)
    batch = build_batch(scheduler.plan(), vocab_size=VOCAB)
    assert batch.slots.shape == (0, 40)
    assert batch.page_tables == batch.copies == ()


def test_copies_are_pairs() -> None:
    scheduler = made(None)
    scheduler.admit([request("a", range(20), n=3)], 0.0)
    parent = build_batch(go(scheduler), vocab_size=VOCAB).page_tables[0][0]
    batch = build_batch(scheduler.plan(), vocab_size=VOCAB)
    (copies,) = batch.copies
    assert copies.tolist() == [[parent[1], table[1]] for table in batch.page_tables[0][1:]]


def result(plan: Plan, tokens: list[int], errors: dict[int, RowError] | None = None) -> Result:
    head = build_batch(plan, vocab_size=VOCAB).head
    count = len(head.rows)
    return Result(
        starts=head.starts,
        tokens=np.array(tokens, np.int32),
        logprob=-np.arange(count, dtype=np.float32),
        rank=np.arange(1, count + 1, dtype=np.int32),
        top_ids=np.arange(3 * count, dtype=np.int32).reshape(count, 3),
        top_logprobs=np.zeros((count, 3), np.float32),
        errors=errors or {},
    )


def test_a_result_is_cut_by_sequence_and_kind() -> None:
    scheduler = made(None)
    scheduler.admit(
        [request("a", [4, 5], prompt_logprobs=1, logprobs=2), request("b"), request("c", [1] * 80)],
        0.0,
    )
    plan = scheduler.plan()
    a, b, c = read_result(plan, result(plan, [5, 60, 61]))
    assert a.prompt_logprobs == (TokenLogprobs(5, 0.0, 1, ((0, 0.0),)),)
    assert a.logprobs == (TokenLogprobs(60, -1.0, 2, ((3, 0.0), (4, 0.0))),)
    assert (a.token_ids, b.token_ids, c.token_ids) == ((60,), (61,), ())
    assert b.logprobs == c.prompt_logprobs == ()


def test_errors_say_where_and_why() -> None:
    scheduler = made(None)
    scheduler.admit([request("a"), request("b")], 0.0)
    plan = scheduler.plan()
    errors = {0: RowError.NONFINITE, 1: RowError.NO_TOKEN}
    a, b = read_result(plan, result(plan, [0, 0], errors))
    assert a.error is not None
    assert "not finite" in a.error
    assert b.error is not None
    assert "no token may be drawn at position 2" in b.error


def test_drafts_count_up_to_the_first_that_was_not_drawn() -> None:
    drafts = [8, 9, 10]
    for drawn, accepted in (
        ([8, 9, 10, 11], (8, 9, 10, 11)),
        ([8, 7, 10, 11], (8, 7)),
        ([7, 9, 10, 11], (7,)),
    ):
        scheduler = Scheduler(LIMITS, [PagePool(30)], propose=lambda seq: drafts)
        scheduler.admit([request("a")], 0.0)
        plan = scheduler.plan()
        (got,) = read_result(plan, result(plan, drawn))
        assert got.token_ids == accepted
        scheduler.admit([Abort("a")], 0.0)
