"""What is told of a sequence at its end, what is counted, and the check of all pages."""

from __future__ import annotations

from typing import Any

import pytest

from argosy.engine.scheduler import Scheduler
from argosy.types import Abort, Event, Request, Story
from unit.engine.driver import finish, outcome, request, scheduler, step


def stories(events: list[Event]) -> dict[tuple[str, int], Story | None]:
    """By name, of those that ended."""
    return {(e.request_id, e.index): e.story for e in events if e.finish_reason is not None}


def until_idle(made: Scheduler, *items: Request | Abort, now: float = 0.0) -> list[Event]:
    events = step(made, *items, now=now)[1]
    while made.has_work:
        now += 1.0
        events += step(made, now=now)[1]
    return events


def test_a_sequence_alone() -> None:
    events = finish(scheduler(20), request(prompt=range(10), max_tokens=3))
    assert [event.story for event in events[:-1]] == [None, None]
    assert events[-1].story == Story(
        queued_s=0.0,
        num_steps=3,
        num_preemptions=0,
        batch_min=1,
        batch_max=1,
        batch_sum=3,
        num_computed_prompt=10,
    )


def test_the_wait_for_a_seat_is_told_and_who_rode_along() -> None:
    made = scheduler(50, max_num_seqs=1)
    events = until_idle(made, request("a", max_tokens=3), request("b", max_tokens=1), now=7.0)
    told = stories(events)
    assert told["b", 0] == Story(
        queued_s=3.0, num_steps=1, batch_min=1, batch_max=1, batch_sum=1, num_computed_prompt=3
    )
    made = scheduler(50)
    told = stories(until_idle(made, request("a", max_tokens=3), request("b", max_tokens=1)))
    a = told["a", 0]
    assert a is not None and (a.num_steps, a.batch_min, a.batch_max, a.batch_sum) == (3, 1, 2, 4)


def test_who_never_ran_waited_until_the_end() -> None:
    made = scheduler(50, max_num_seqs=1)
    step(made, request("a"), now=1.0)
    step(made, request("b"), now=2.0)
    events = step(made, Abort("b"), now=4.5)[1]
    assert stories(events) == {("b", 0): Story(queued_s=2.5)}


def test_who_was_refused_has_no_story() -> None:
    (event,) = step(scheduler(2), request(prompt=range(50)))[1]
    assert event.error is not None and event.story is None


def test_chunks_hits_and_siblings_are_told_apart_from_what_was_computed() -> None:
    made = scheduler(50, max_num_batched_tokens=4)
    told = stories(finish(made, request("a", prompt=range(10), max_tokens=1)))
    a = told["a", 0]
    assert a is not None and (a.num_steps, a.num_computed_prompt) == (3, 10)
    told = stories(finish(made, request("b", prompt=range(10), max_tokens=2, n=2)))
    first, second = told["b", 0], told["b", 1]
    assert first is not None and first.num_computed_prompt == 2
    assert second is not None and second.num_computed_prompt == 1


def test_what_preemption_costs_is_told() -> None:
    made = scheduler(6, prefix_caching=False)
    both = [request(name, prompt=range(8), max_tokens=10) for name in "ab"]
    told = stories(until_idle(made, *both))
    a, b = told["a", 0], told["b", 0]
    assert a is not None and (a.num_preemptions, a.num_computed_prompt) == (0, 8)
    assert b is not None and b.num_preemptions == made.counters.preemptions == 1
    assert b.num_computed_prompt == 16, "its prompt was computed twice"
    assert b.queued_s == 0.0, "it ran at once, whatever came after"


def test_a_prompt_cut_short_counts_as_far_as_it_came() -> None:
    made = scheduler(50, max_num_batched_tokens=4)
    step(made, request(prompt=range(10)))
    events = step(made, Abort("a"))[1]
    a = stories(events)["a", 0]
    assert a is not None and (a.num_steps, a.num_computed_prompt) == (1, 4)


def test_tokens_are_counted_once_each() -> None:
    made = scheduler(50)
    finish(made, request("a", prompt=range(9), max_tokens=3, n=2))
    counters = made.counters
    assert (counters.prompt_tokens, counters.generated_tokens) == (18, 6)
    assert (counters.prefix_queries, counters.prefix_hits) == (18, 8)
    replay = request("b", prompt=[*range(9), 50], num_prompt_tokens=9, max_tokens=3)
    finish(made, replay)
    assert (counters.prompt_tokens, counters.generated_tokens) == (18, 8)
    assert (counters.prefix_queries, counters.prefix_hits) == (28, 16)


@pytest.mark.parametrize(
    ("options", "limits"),
    [({"skip_reading_prefix_cache": True}, {}), ({}, {"prefix_caching": False})],
    ids=["not read", "off"],
)
def test_where_nothing_is_looked_up_nothing_is_counted(
    options: dict[str, Any], limits: dict[str, Any]
) -> None:
    made = scheduler(50, **limits)
    finish(made, request(prompt=range(9), max_tokens=3, n=2, **options))
    assert (made.counters.prefix_queries, made.counters.prefix_hits) == (0, 0)


def test_a_step_has_the_tokens_it_should_and_more_only_so_that_all_get_on() -> None:
    made = scheduler(900, max_num_batched_tokens=64, step_tokens=36, max_num_seqs=20)
    plan, _ = step(made, request("long", prompt=range(90)))
    assert sum(len(work.tokens) for work in plan.work) == 36
    finish(made)
    made = scheduler(900, max_num_batched_tokens=64, step_tokens=33, max_num_seqs=20)
    short = [request(f"s{i}", prompt=[i], max_tokens=50) for i in range(8)]
    step(made, *short)
    plan, _ = step(made, request("long", prompt=range(90)))
    assert [len(work.tokens) for work in plan.work] == [1] * 8 + [32]


def test_the_check_sees_pages_that_nobody_names() -> None:
    made = scheduler(20, 20, windows=[None, 6])
    made.admit([request(prompt=range(10), max_tokens=9, n=2)], 0.0)
    for _ in range(4):
        made.check()
        plan = made.plan()
        made.check()
        made.commit(plan, [outcome(work) for work in plan.work])
    made.tables.pools[1].allocate()
    with pytest.raises(AssertionError, match=r"group 1: pages \[\d+\] have holders"):
        made.check()


def test_the_check_sees_pages_that_were_let_go_of_too_early() -> None:
    made = scheduler(20)
    step(made, request(prompt=range(10)))
    (seq,) = made.roster.running
    made.tables.pools[0].release(seq.tables[0][0])
    with pytest.raises(AssertionError, match="group 0: pages"):
        made.check()
