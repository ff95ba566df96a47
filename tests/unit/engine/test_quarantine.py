"""Who runs after a crash, with whom, and who does not run again."""

from __future__ import annotations

import pytest

from argosy.engine.quarantine import Quarantine


def deaths(quarantine: Quarantine) -> dict[int, int]:
    return dict(quarantine.suspects())


def isolating(*suspects: tuple[int, int]) -> Quarantine:
    return Quarantine(suspects, is_isolating=True)


def test_a_first_death_lets_everybody_run_again() -> None:
    state = Quarantine.after_death([1, 2, 2], [], is_isolating=False)
    assert deaths(state) == {1: 0, 2: 0}
    assert not state.is_isolating
    assert state.choose({1, 2, 3}, is_complete=True) is None
    assert all(state.may_run(number) for number in (1, 2, 3))


@pytest.mark.parametrize("is_isolating", [False, True])
def test_a_death_between_steps_accuses_nobody(is_isolating: bool) -> None:
    state = Quarantine.after_death([], [(1, 1), (2, 0)], is_isolating=is_isolating)
    assert deaths(state) == {1: 1, 2: 0}
    assert state.is_isolating == is_isolating
    assert Quarantine.after_death([], [], is_isolating=False).is_open


def test_a_second_death_isolates_the_uncleared_and_those_of_its_step() -> None:
    state = Quarantine.after_death([2, 3], [(1, 0), (2, 0)], is_isolating=False)
    assert deaths(state) == {1: 0, 2: 0, 3: 0}
    assert state.is_isolating


def test_only_deaths_alone_count_and_the_second_condemns() -> None:
    state = Quarantine.after_death([7, 7], [(7, 0), (8, 0)], is_isolating=True)
    assert deaths(state) == {7: 1, 8: 0}
    assert not state.is_condemned(7)
    state = Quarantine.after_death([7], state.suspects(), is_isolating=True)
    assert state.is_condemned(7)
    assert not state.is_condemned(8)
    assert not state.is_condemned(9)


def test_in_isolation_one_suspect_runs_those_never_caught_alone_first() -> None:
    state = isolating((1, 1), (2, 0), (3, 0))
    state.choose({1, 2, 3, 4}, is_complete=True)
    assert [number for number in (1, 2, 3, 4) if state.may_run(number)] == [2]


def test_the_next_has_its_turn_when_the_one_before_delivered_and_left() -> None:
    state = isolating((1, 1), (2, 0))
    state.choose({1, 2, 4}, is_complete=True)
    state.entered(2, 0)
    assert state.choose({1, 4}, is_complete=True) is None
    assert not state.may_run(1)
    state.delivered(2, 0)
    assert state.choose({1, 4}, is_complete=True) == 2
    assert [number for number in (1, 2, 4) if state.may_run(number)] == [1]


def test_the_last_one_stays_when_everybody_else_comes_in() -> None:
    state = isolating((1, 0))
    state.choose({1, 4}, is_complete=True)
    state.entered(1, 0)
    state.delivered(1, 0)
    assert state.is_open
    assert state.choose({4}, is_complete=True) is None
    assert state.may_run(4)


def test_a_request_is_cleared_when_each_of_its_sequences_delivered() -> None:
    state = Quarantine([(1, 0)])
    state.entered(1, 0)
    state.entered(1, 1)
    state.delivered(1, 0)
    state.delivered(1, 0)
    assert deaths(state) == {1: 0}
    state.delivered(1, 1)
    assert state.is_open


def test_clearing_forgets_deaths_alone() -> None:
    state = Quarantine([(1, 1), (2, 0)])
    state.entered(1, 0)
    state.delivered(1, 0)
    assert deaths(state) == {2: 0}


def test_all_wait_for_suspects_that_may_yet_come_back() -> None:
    state = isolating((1, 0))
    assert state.choose({4}, is_complete=False) is None
    assert not state.may_run(4)
    state.choose({4, 1}, is_complete=False)
    assert state.may_run(1)
    assert not state.may_run(4)


def test_suspects_that_do_not_come_back_are_given_up() -> None:
    state = isolating((1, 0), (2, 1))
    state.choose({4}, is_complete=True)
    assert state.is_open
    assert state.may_run(4)


def test_who_runs_is_not_given_up_for_being_absent_from_the_queue() -> None:
    state = isolating((1, 0))
    state.choose({1}, is_complete=True)
    state.entered(1, 0)
    state.choose({4}, is_complete=True)
    assert deaths(state) == {1: 0}


def test_who_left_makes_way() -> None:
    state = isolating((1, 0), (2, 0))
    state.choose({1, 2}, is_complete=True)
    state.entered(1, 0)
    state.left(1)
    state.choose({2, 4}, is_complete=True)
    assert state.may_run(2)
    state.left(2)
    state.choose({4}, is_complete=True)
    assert state.may_run(4)
