"""The gate: what is let in, what is told to those who are not, and that every slot comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy.engine.board import Board
from argosy.serve.gate import MAX_RETRY_S, Full, Gate, Limits, Slot
from argosy.serve.tally import GAUGES, Tallies, Tally, zero_gauges


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gates(num_fronts: int = 1, **limits: int) -> tuple[list[Gate], Clock, list[Tallies]]:
    board, clock = Board.create(num_fronts), Clock()
    tallies = [Tallies(board, front) for front in range(num_fronts)]
    return [Gate(one, Limits(**limits), clock) for one in tallies], clock, tallies


def test_a_slot_is_taken_and_given_back_once() -> None:
    (gate,), _, _ = gates(requests=2)
    with gate.slot() as slot:
        slot.charge(tokens=10)
        assert gate.held == 1
        slot.release()
        assert gate.held == 0
    assert gate.held == 0
    slot.release()
    assert gate.held == 0


def test_a_slot_is_given_back_by_an_exception() -> None:
    (gate,), _, (tallies,) = gates(requests=1)
    with pytest.raises(ZeroDivisionError), gate.slot() as slot:
        slot.charge(tokens=3)
        raise ZeroDivisionError
    assert (gate.held, tallies.total(Tally.HELD_TOKENS)) == (0, 0)


def test_full_is_told_at_once_and_counted() -> None:
    (gate,), _, (tallies,) = gates(requests=2)
    slots = [gate.slot(), gate.slot()]
    with pytest.raises(Full, match="has 2 requests and takes 2; try again in 1 s"):
        gate.slot()
    assert tallies.total(Tally.REFUSED_REQUESTS) == 1
    slots[0].release()
    gate.slot()


def test_tokens_are_charged_and_a_refused_charge_leaves_nothing() -> None:
    (gate,), _, (tallies,) = gates(requests=9, tokens=100)
    with gate.slot() as first:
        first.charge(tokens=80)
        with pytest.raises(Full, match="80 tokens and takes 100, which leaves no room for 30"):  # noqa: SIM117
            with gate.slot() as second:
                second.charge(tokens=30)
        assert tallies.total(Tally.HELD_TOKENS) == 80
        assert gate.held == 1
    assert tallies.total(Tally.HELD_TOKENS) == 0


def test_what_is_alone_always_fits() -> None:
    (gate,), _, _ = gates(requests=4, tokens=100)
    with gate.slot() as slot:
        slot.charge(tokens=5000, requests=50)
        assert gate.held == 50
        with pytest.raises(Full):
            gate.slot()
    assert gate.held == 0


def test_prompts_take_a_slot_each() -> None:
    (gate,), _, _ = gates(requests=10)
    with gate.slot(), gate.slot() as slot:
        slot.charge(tokens=1, requests=9)
        assert gate.held == 10
        with pytest.raises(Full, match="no room for 1 more"):
            slot.charge(tokens=1, requests=2)
    assert gate.held == 0


def test_slots_are_counted_over_all_fronts() -> None:
    (one, other), _, _ = gates(2, requests=2)
    with one.slot(), other.slot():
        with pytest.raises(Full):
            one.slot()
        with pytest.raises(Full):
            other.slot()


def test_a_dead_fronts_slots_are_free() -> None:
    (one, other), _, tallies = gates(2, requests=2)
    held = [one.slot(), one.slot()]
    zero_gauges(tallies[0].mine)
    assert [tallies[0].mine[cell] for cell in GAUGES] == [0] * len(GAUGES)
    with other.slot():
        assert other.held == 1
    del held


def told(gate: Gate) -> int:
    with pytest.raises(Full) as caught:
        gate.slot()
    assert caught.value.headers == ((b"retry-after", b"%d" % caught.value.retry_after),)
    return caught.value.retry_after


def busy(rate: float, seconds: int = 8) -> tuple[Gate, Clock, list[Slot]]:
    """A full gate whose slots have been coming back at `rate` a second."""
    (gate,), clock, _ = gates(requests=8)
    slots = [gate.slot() for _ in range(8)]
    for _ in range(int(seconds * rate)):
        clock.now += 1 / rate
        slots.pop(0).release()
        slots.append(gate.slot())
    return gate, clock, slots


def test_those_who_must_wait_are_told_different_times() -> None:
    gate, _, _ = busy(rate=2.0)
    assert [told(gate) for _ in range(6)] == [1, 1, 2, 2, 3, 3]


def test_the_time_follows_the_rate_of_endings() -> None:
    assert told(busy(rate=0.25, seconds=40)[0]) in (4, 5)
    assert told(busy(rate=100.0)[0]) == 1


def test_promises_age() -> None:
    gate, clock, _ = busy(rate=1.0)
    assert [told(gate) for _ in range(5)] == [1, 2, 3, 4, 5]
    clock.now += 4
    assert told(gate) in (2, 3)  # the rate has sunk meanwhile


def test_who_hammers_makes_nobody_wait_for_ever() -> None:
    gate, _, _ = busy(rate=1.0)
    assert max(told(gate) for _ in range(1000)) == MAX_RETRY_S


def test_an_idle_servers_rate_says_nothing() -> None:
    (gate,), clock, _ = gates(requests=2)
    with gate.slot():
        pass
    clock.now += 8
    slots = [gate.slot(), gate.slot()]
    assert told(gate) == 1
    del slots


def test_bodies_share_a_budget() -> None:
    (gate,), _, (tallies,) = gates(requests=9, body_bytes=100)
    with gate.body() as first:
        first.take(500)  # alone
        with gate.body() as second, pytest.raises(Full, match="hold 500 bytes and may hold 100"):
            second.take(1)
        assert tallies.total(Tally.BODY_BYTES) == 500
    assert tallies.total(Tally.BODY_BYTES) == 0


@given(st.lists(st.tuples(st.sampled_from(("slot", "charge", "release")), st.integers(0, 7))))
def test_nothing_leaks(acts: list[tuple[str, int]]) -> None:
    (gate,), clock, (tallies,) = gates(requests=5, tokens=20)
    slots: list[Slot] = []
    for act, number in acts:
        clock.now += number / 3
        try:
            if act == "slot":
                slots.append(gate.slot())
            elif slots and act == "charge":
                slots[number % len(slots)].charge(tokens=number, requests=number % 3)
            elif slots:
                slots.pop(number % len(slots)).release()
        except Full as full:
            assert 1 <= full.retry_after <= MAX_RETRY_S
        assert gate.held >= len(slots)
    for slot in slots:
        slot.release()
    assert [tallies.mine[cell] for cell in GAUGES] == [0] * len(GAUGES)
