"""The scheduler by example: order, budget, preemption, forks, ends."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from argosy.engine.scheduler import Scheduler
from argosy.engine.sequence import Sequence, child_seed
from argosy.engine.step import Outcome, Plan
from argosy.types import NULL_PAGE, Abort, Event, FinishReason, SamplingParams
from unit.engine.driver import (
    PAGE,
    finish,
    outcome,
    request,
    scheduler,
    shares,
    step,
    tables,
)


def ends(events: list[Event]) -> dict[tuple[str, int], FinishReason]:
    return {(e.request_id, e.index): e.finish_reason for e in events if e.finish_reason}


# -- order and budget


def test_first_come_first_served() -> None:
    made = scheduler(50, max_num_seqs=2)
    plan, _ = step(made, request("a"), request("b"), request("c", priority=-5))
    assert shares(plan) == [("a", 0, 0, 3), ("b", 0, 0, 3)]


def test_lower_priority_numbers_first_then_by_arrival() -> None:
    made = scheduler(50, by_priority=True, max_num_seqs=3)
    items = [request("a", priority=1), request("b"), request("c", priority=1), request("d")]
    plan, _ = step(made, *items)
    assert [name for name, *_ in shares(plan)] == ["b", "d", "a"]


def test_a_prompt_goes_in_chunks_and_decodes_go_first() -> None:
    made = scheduler(50, max_num_batched_tokens=4)
    step(made, request("a", range(3)))
    assert shares(step(made, request("b", range(7)))[0]) == [("a", 0, 3, 1), ("b", 0, 0, 3)]
    assert shares(step(made)[0]) == [("a", 0, 4, 1), ("b", 0, 3, 3)]
    assert shares(step(made)[0]) == [("a", 0, 5, 1), ("b", 0, 6, 1)]


def test_decodes_go_first_in_the_batch_even_after_better_prompts() -> None:
    made = scheduler(50, by_priority=True)
    step(made, request("low", priority=9))
    plan, _ = step(made, request("high", range(6), priority=0))
    assert [name for name, *_ in shares(plan)] == ["low", "high"]


def test_the_head_of_the_queue_is_not_overtaken_when_it_does_not_fit() -> None:
    made = scheduler(6)
    step(made, request("a", range(12), max_tokens=4))
    plan, _ = step(made, request("large", [9] * 16, max_tokens=2), request("small", [1]))
    assert [name for name, *_ in shares(plan)] == ["a"]
    assert set(ends(finish(made))) == {("a", 0), ("large", 0), ("small", 0)}


def test_a_decode_has_its_token_even_beside_a_better_prompt() -> None:
    made = scheduler(50, by_priority=True, max_num_batched_tokens=4)
    step(made, request("low", priority=9))
    step(made, request("high", range(20), priority=0))
    assert shares(step(made)[0]) == [("low", 0, 4, 1), ("high", 0, 3, 3)]


def test_decodes_do_not_take_the_last_token_from_the_best() -> None:
    made = scheduler(5, by_priority=True, max_num_batched_tokens=1, prefix_caching=False)
    made.admit([request("low", range(3), priority=9, max_tokens=14)], 0.0)
    for _ in range(12):
        step(made)
    plan, _ = step(made, request("high", range(8), priority=0, max_tokens=2))
    assert shares(plan) == [("high", 0, 0, 1)]
    assert set(ends(finish(made))) == {("low", 0), ("high", 0)}


# -- preemption


def test_the_preempted_one_is_scheduled_at_most_once_in_a_plan() -> None:
    made = scheduler(21, by_priority=True, max_num_batched_tokens=36)
    step(made, request("low", range(3), priority=1))
    high = request("high", [90] * 80, priority=0, max_tokens=2, prompt_logprobs=0)
    plan, _ = step(made, high)
    assert made.counters.preemptions == 1
    assert shares(plan) == [("high", 0, 0, 32), ("low", 0, 0, 3)]


def test_admission_counts_idle_pages_once() -> None:
    made = scheduler(6)
    finish(made, request("a", range(16), max_tokens=1))
    step(made, request("b", [90] * 7, max_tokens=9))
    step(made, request("c", range(17), max_tokens=1))  # 4 idle pages found, 0 left
    assert [seq.request.request_id for seq in made.roster.running] == ["b"]


def test_a_fork_needs_a_page_for_the_copy() -> None:
    made = scheduler(4, prefix_caching=False)
    step(made, request(prompt=range(10), n=2, max_tokens=2))  # 3 pages, 1 free, 1 to spare
    plan, _ = step(made)
    assert shares(plan) == [("a", 0, 10, 1)]


def test_the_same_class_is_not_preempted_by_a_child_that_waited() -> None:
    made = scheduler(50, max_num_seqs=2)
    step(made, request("a", n=2), request("b"))
    plan, _ = step(made)
    assert [(name, index) for name, index, *_ in shares(plan)] == [("a", 0), ("b", 0)]
    assert made.counters.preemptions == 0


def test_the_worst_is_preempted_and_comes_back_first() -> None:
    made = scheduler(8, prefix_caching=False)
    step(made, request("a", range(8), max_tokens=20), request("b", range(8), max_tokens=20))
    while made.counters.preemptions == 0:
        step(made, now=1.0)
    assert [seq.request.request_id for seq in made.roster.running] == ["a"]
    made.admit([request("c", range(2))], 1.0)
    assert [seq.request.request_id for seq in made.roster.waiting] == ["b", "c"]
    assert made.roster.waiting[0].tables == ()
    assert ends(finish(made))["b", 0] is FinishReason.LENGTH


def test_a_preempted_sequence_computes_its_answer_again_and_delivers_it_once() -> None:
    made = scheduler(6, prefix_caching=False)
    delivered: dict[str, list[int]] = {"a": [], "b": []}
    made.admit([request(name, range(6), max_tokens=12) for name in delivered], 0.0)
    numbers = iter(range(10, 99))
    while made.has_work:
        for event in step(made, draw=lambda work: next(numbers))[1]:
            delivered[event.request_id] += event.token_ids
    assert made.counters.preemptions > 0
    assert all(len(tokens) == 12 == len(set(tokens)) for tokens in delivered.values())


def test_a_better_class_takes_the_seat_of_a_worse_one() -> None:
    made = scheduler(50, max_num_seqs=1, by_priority=True)
    step(made, request("low", priority=1))
    plan, _ = step(made, request("high", priority=0), request("same", priority=1))
    assert [name for name, *_ in shares(plan)] == ["high"]
    assert [seq.request.request_id for seq in made.roster.waiting] == ["low", "same"]


def test_nobody_is_preempted_for_its_own_class() -> None:
    made = scheduler(50, max_num_seqs=1, by_priority=True)
    step(made, request("first", priority=1))
    plan, _ = step(made, request("second", priority=1))
    assert [name for name, *_ in shares(plan)] == ["first"]
    assert made.counters.preemptions == 0


# -- what can never run


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(prompt=()), "no tokens"),
        (request(num_prompt_tokens=9), "num_prompt_tokens=9"),
        (request(prompt=[1, 100]), "100, outside the vocabulary of 100"),
        (request(prompt=[-1]), "-1, outside"),
        (request(logit_bias={300: 1.0}), "logit_bias holds 300"),
        (request(allowed_token_ids=[1, 100]), "allowed_token_ids holds 100"),
        (request(bad_words=((1, 700),)), "bad_words holds 700"),
        (request(prompt=[1] * 30, max_total_tokens=30), "context 30"),
        (request(prompt=[1] * 30, max_tokens=None), "200 tokens need 50 pages of 4 .* has 10"),
    ],
    ids=range(9),
)
def test_a_hopeless_request_ends_at_once_with_a_reason(asked: object, words: str) -> None:
    made = scheduler(10)
    plan, (event,) = step(made, asked)  # type: ignore[arg-type]
    assert not plan.work
    assert event.finish_reason is FinishReason.ERROR
    assert event.error is not None
    assert re.search(words, event.error)
    assert not made.has_work


def test_every_child_of_a_hopeless_request_ends() -> None:
    events = finish(scheduler(10), request(prompt=(), n=3, index=4))
    assert [event.index for event in events] == [4, 5, 6]


def test_a_sequence_may_fill_the_whole_pool() -> None:
    events = finish(scheduler(4), request(prompt=range(10), max_tokens=7))
    assert sum(len(event.token_ids) for event in events) == 7


def test_a_chunk_shrinks_to_what_a_window_pool_holds() -> None:
    made = scheduler(20, 3, windows=(None, 6))
    events = finish(made, request(prompt=range(40), max_tokens=5))
    assert ends(events) == {("a", 0): FinishReason.LENGTH}


# -- ends


def test_stop_ids_end_it_and_only_the_callers_own_are_named() -> None:
    made = scheduler(20)
    params, ids = SamplingParams(stop_token_ids=[6]), frozenset({5, 6})
    a, b = (request(name, params=params, stop_token_ids=ids) for name in "ab")
    events = step(made, a, draw=lambda work: 5)[1] + step(made, b, draw=lambda work: 6)[1]
    assert [(e.token_ids, e.finish_reason, e.stop_reason) for e in events] == [
        ((5,), FinishReason.STOP, None),
        ((6,), FinishReason.STOP, 6),
    ]


def test_length_counts_from_the_prompt_or_to_the_context() -> None:
    made = scheduler(20)
    events = finish(made, request("a", max_tokens=2), request("b", max_total_tokens=6))
    assert [sum(len(e.token_ids) for e in events if e.request_id == n) for n in "ab"] == [2, 3]
    assert set(ends(events).values()) == {FinishReason.LENGTH}


def test_abort_ends_a_request_or_one_child_wherever_it_stands() -> None:
    made = scheduler(50, max_num_seqs=2)
    step(made, request("a", n=3), request("b"))
    _, events = step(made, Abort("a", 1), Abort("b"), Abort("b"), Abort("nobody"), Abort("a", 9))
    assert ends(events) == {("a", 1): FinishReason.ABORT, ("b", 0): FinishReason.ABORT}
    assert set(ends(finish(made))) == {("a", 0), ("a", 2)}
    assert made.tables.pools[0].num_available == 50


def test_a_deadline_aborts() -> None:
    made = scheduler(20)
    step(made, request("a", deadline=5.0, n=2), request("b"), now=1.0)
    assert not ends(step(made, now=4.9)[1])
    _, events = step(made, now=5.0)
    said = [(e.request_id, e.finish_reason, e.stop_reason) for e in events if e.finish_reason]
    assert said == [("a", FinishReason.ABORT, "deadline")] * 2


def test_a_deadline_is_its_own_requests() -> None:
    made = scheduler(20)
    step(made, request(deadline=5.0), request(index=1))
    assert set(ends(step(made, now=9.0)[1])) == {("a", 0)}


def test_a_replay_goes_on_with_the_next_token() -> None:
    made = scheduler(20)
    again = request(prompt=[1, 2, 3, 50, 50], num_prompt_tokens=3, max_tokens=4)
    events = finish(made, again)
    assert [event.token_ids for event in events] == [(50,), (50,)]


@pytest.mark.parametrize(("last", "reason"), [(7, FinishReason.STOP), (50, FinishReason.LENGTH)])
def test_a_replay_whose_last_token_was_its_last(last: int, reason: FinishReason) -> None:
    again = request(
        prompt=[1, 50, last],
        num_prompt_tokens=1,
        max_tokens=2,
        stop_token_ids=frozenset({7}),
    )
    (event,) = finish(scheduler(20), again)
    assert (event.token_ids, event.finish_reason) == ((), reason)


def test_an_error_ends_its_own_sequence_only() -> None:
    made = scheduler(20)
    made.admit([request("a"), request("b")], 0.0)
    plan = made.plan()
    events = made.commit(plan, [Outcome(error="broken"), outcome(plan.work[1])])
    assert [(e.request_id, e.finish_reason, e.error) for e in events] == [
        ("a", FinishReason.ERROR, "broken"),
        ("b", None, None),
    ]
    assert set(ends(finish(made))) == {("b", 0)}


# -- forks


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_children_share_the_prompt_and_copy_what_they_write(prefix_caching: bool) -> None:
    made = scheduler(20, prefix_caching=prefix_caching)
    plan, _ = step(made, request(prompt=range(7), n=3))
    assert shares(plan) == [("a", 0, 0, 7)]
    (parent,) = tables(plan)
    plan, _ = step(made)
    assert shares(plan) == [("a", 0, 7, 1), ("a", 1, 6, 1), ("a", 2, 6, 1)]
    of_parent, *of_children = tables(plan)
    assert of_parent == parent
    assert [table[0] for table in of_children] == [parent[0]] * 2
    assert len({table[1] for table in (of_parent, *of_children)}) == 3
    assert plan.copies == (tuple((parent[1], table[1]) for table in of_children),)
    assert made.tables.pools[0].num_available == 20 - 4


def test_a_prompt_that_ends_with_its_page_is_shared_too() -> None:
    made = scheduler(20, prefix_caching=False)
    (parent,) = tables(step(made, request(prompt=range(2 * PAGE), n=2))[0])
    plan, _ = step(made)
    assert shares(plan)[1] == ("a", 1, 2 * PAGE - 1, 1)
    assert tables(plan)[1][0] == parent[0]
    assert plan.copies == (((parent[1], tables(plan)[1][1]),),)


def test_children_run_when_the_parent_was_aborted_before_its_prompt_was_done() -> None:
    made = scheduler(20, max_num_batched_tokens=4)
    step(made, request(prompt=range(10), n=3))
    plan, _ = step(made, Abort("a", 0))
    assert shares(plan) == [("a", 1, 0, 4)]
    assert set(ends(finish(made))) == {("a", 1), ("a", 2)}


def test_children_run_one_after_another_on_one_seat() -> None:
    made = scheduler(20, max_num_seqs=1, prefix_caching=False)
    events = finish(made, request(prompt=range(7), n=3, max_tokens=3))
    assert [event.index for event in events] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_children_have_seeds_of_their_own() -> None:
    made = scheduler(20)
    made.admit([request(n=3, seed=2**63 + 5, index=0)], 0.0)
    seeds = [seq.seed for seq in made.roster.waiting]
    assert seeds[0] == 2**63 + 5
    assert len(set(seeds)) == 3
    assert seeds == [child_seed(2**63 + 5, index) for index in range(3)]
    made.admit([request("again", seed=2**63 + 5, index=2)], 0.0)  # child 2, replayed alone
    assert made.roster.waiting[-1].seed == seeds[2]


def test_known_values_of_child_seeds() -> None:
    # The first outputs of SplitMix64 seeded with 0 and with 1.
    assert child_seed(0, 1) == 0xE220A8397B1DCDAF
    assert child_seed(1, 1) == 0x910A2DEC89025CC1
    assert child_seed(-1, 0) == 2**64 - 1


# -- several plans in flight


def commit(made: Scheduler, plan: Plan) -> list[Event]:
    return made.commit(plan, [outcome(work) for work in plan.work])


def test_a_copys_source_is_kept_until_the_step_was_committed() -> None:
    made = scheduler(20, prefix_caching=False, max_num_batched_tokens=1)
    for _ in range(6):
        step(made, *[request(prompt=range(6), n=2)] * (not made.has_work))
    parent, child = made.plan(), made.plan()
    assert [shares(plan) for plan in (parent, child)] == [[("a", 0, 6, 1)], [("a", 1, 5, 1)]]
    ((source, _),) = child.copies[0]
    commit(made, parent)
    made.admit([Abort("a")], 0.0)
    assert made.tables.pools[0].num_refs(source) == 1
    commit(made, child)
    assert made.tables.pools[0].num_available == 20


def test_copies_are_never_chained() -> None:
    made = scheduler(20, max_num_seqs=2, prefix_caching=False)
    (parent,) = tables(step(made, request(prompt=range(6), n=4))[0])
    first = made.plan()
    made.admit([Abort("a", 1)], 0.0)
    second = made.plan()
    made.admit([Abort("a", 2)], 0.0)
    commit(made, first)
    third = made.plan()  # the parent leaves its page to the second step, child 3 follows it
    assert [shares(plan) for plan in (first, second, third)] == [
        [("a", 0, 6, 1), ("a", 1, 5, 1)],
        [("a", 2, 5, 1)],
        [("a", 0, 7, 1), ("a", 3, 5, 1)],
    ]
    assert [source for source, _ in third.copies[0]] == [parent[1], parent[1]]


def test_nobody_is_preempted_while_in_flight() -> None:
    made = scheduler(20, max_num_seqs=1, by_priority=True)
    step(made, request("low", priority=1))
    flying = made.plan()
    made.admit([request("high", priority=0)], 0.0)
    assert not made.plan().work
    commit(made, flying)
    assert [name for name, *_ in shares(made.plan())] == ["high"]


def test_two_chunks_of_a_prompt_in_flight() -> None:
    made = scheduler(20, max_num_batched_tokens=4)
    made.admit([request(prompt=range(10))], 0.0)
    plans = [made.plan(), made.plan(), made.plan(), made.plan()]
    assert [shares(plan) for plan in plans] == [
        [("a", 0, 0, 4)],
        [("a", 0, 4, 4)],
        [("a", 0, 8, 2)],
        [],  # its next token is being drawn
    ]
    made.admit([Abort("a")], 0.0)
    assert made.tables.pools[0].num_available == 20 - 3
    for plan in plans:
        made.commit(plan, [outcome(work) for work in plan.work])
    assert made.tables.pools[0].num_available == 20


# -- windows, drafts, prompt logprobs


def test_pages_behind_the_window_go_back() -> None:
    made = scheduler(20, windows=(6,), prefix_caching=False)
    step(made, request(prompt=range(12), max_tokens=9))
    plan, _ = step(made)
    (table,) = tables(plan)
    assert table[0] == NULL_PAGE  # the row at 12 sees 7..12
    assert NULL_PAGE not in table[1:]
    assert made.tables.pools[0].num_available == 20 - 2  # the row at 13 sees 8..13


def test_drafts_are_taken_up_to_the_first_wrong_one_and_pages_go_back() -> None:
    def propose(seq: Sequence) -> list[int]:
        return [51, 52, 60, 61, 62]

    made = scheduler(20, propose=propose, prefix_caching=False)
    made.admit([request(prompt=range(3), max_tokens=9)], 0.0)
    plan = made.plan()
    (work,) = plan.work
    assert (list(work.tokens), work.num_draws) == ([0, 1, 2, 51, 52, 60, 61, 62], 6)
    assert made.tables.pools[0].num_available == 18
    (event,) = made.commit(plan, [Outcome(token_ids=(51, 52, 53))])
    assert event.token_ids == (51, 52, 53)
    assert shares(made.plan())[0][2] == 5  # 53 is the next to be computed


def test_rejected_drafts_hand_their_pages_back_at_commit() -> None:
    made = scheduler(20, propose=lambda seq: [60] * 8, prefix_caching=False)
    made.admit([request(prompt=range(3), max_tokens=9)], 0.0)
    plan = made.plan()
    assert made.tables.pools[0].num_available == 17
    made.commit(plan, [Outcome(token_ids=(51,))])
    assert made.tables.pools[0].num_available == 19


def test_no_token_at_all_means_the_row_runs_again() -> None:
    made = scheduler(20)
    made.admit([request()], 0.0)
    plan = made.plan()
    assert made.commit(plan, [Outcome()]) == []
    assert shares(made.plan()) == [("a", 0, 2, 1)]


def test_tokens_after_the_last_are_dropped() -> None:
    made = scheduler(20, propose=lambda seq: [8, 7, 9])
    made.admit([request(stop_token_ids=frozenset({7}))], 0.0)
    plan = made.plan()
    (event,) = made.commit(plan, [Outcome(token_ids=(8, 7, 9))])
    assert (event.token_ids, event.finish_reason) == ((8, 7), FinishReason.STOP)


def test_prompt_logprobs_reach_the_head_in_tiles_of_32() -> None:
    made = scheduler(50, max_num_batched_tokens=100)
    made.admit([request(prompt=[1] * 80, prompt_logprobs=0)], 0.0)
    tiles, events = [], []
    for _ in range(3):
        plan = made.plan()
        (work,) = plan.work
        tiles.append(
            (work.start, len(work.tokens), work.score_from, work.num_scores, work.num_draws)
        )
        events += made.commit(plan, [outcome(work)])
    assert tiles == [(0, 32, 0, 32, 0), (32, 32, 32, 32, 0), (64, 16, 64, 15, 1)]
    assert [len(event.prompt_logprobs) for event in events] == [79]


def test_all_sequences_together_score_32_rows_a_step() -> None:
    made = scheduler(50, max_num_batched_tokens=100)
    made.admit([request(n, [1] * 21, prompt_logprobs=0) for n in "ab"], 0.0)
    plan = made.plan()
    assert [work.num_scores for work in plan.work] == [20, 12]


def test_after_a_preemption_only_what_was_not_scored_is() -> None:
    made = scheduler(20, by_priority=True, max_num_seqs=1)
    step(made, request(prompt=[1] * 40, prompt_logprobs=0, priority=1))
    step(made, request("b", priority=0, max_tokens=1))
    plan, events = step(made)
    assert [(w.start, len(w.tokens), w.score_from, w.num_scores) for w in plan.work] == [
        (0, 40, 32, 7)
    ]
    assert [len(event.prompt_logprobs) for event in events] == [39]


def test_logprobs_are_cut_with_their_tokens() -> None:
    made = scheduler(20, propose=lambda seq: [8, 9])
    made.admit([request(max_tokens=2, logprobs=0)], 0.0)
    plan = made.plan()
    given = replace(outcome(plan.work[0]), token_ids=(8, 9), logprobs=(1, 2, 3))  # type: ignore[arg-type]
    (event,) = made.commit(plan, [given])
    assert len(event.logprobs) == 2
