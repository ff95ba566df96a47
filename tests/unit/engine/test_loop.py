"""The loop after a crash: who waits, who is given up, and what befalls those who wait."""

from __future__ import annotations

import pytest

from argosy.engine import loop
from argosy.engine.board import Board, Cell
from argosy.engine.process import recall
from argosy.engine.quarantine import CONDEMNED
from argosy.types import FinishReason
from property.crashes import Front, Rules, World, ask


def isolating(world: World, *suspects: tuple[int, int]) -> World:
    """As the world is after two deaths."""
    world.board.write_suspects(suspects)
    world.board[Cell.ISOLATING] = 1
    return world


def test_suspects_of_a_front_that_is_dead_hold_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "COMEBACK_S", 0.0)
    world = isolating(World([Front([ask(1)]), Front([ask(2)], None)]), (2, 0))
    world.run()
    assert world.complete(1)


def test_nobody_runs_while_suspects_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "COMEBACK_S", 1e9)
    world = isolating(World([Front([ask(1)]), Front([ask(2)], 5)]), (2, 0))
    world.run()
    assert world.steps[0] == {2}
    assert world.complete(1)
    assert world.complete(2)


def test_in_isolation_each_runs_alone_until_its_first_token_then_all_together() -> None:
    requests = [ask(1, tokens=3), ask(2, prompt=10, n=2), ask(3)]
    world = isolating(World([Front(requests)]), (1, 1), (2, 0))
    world.run()
    assert world.steps[:4] == [{2}, {2}, {1}, {1, 2, 3}]
    assert all(world.complete(number) for number in (1, 2, 3))


def test_the_deadline_of_who_waits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "COMEBACK_S", 1e9)
    world = isolating(World([Front([ask(1, n=2, deadline=0.0)]), Front([], None)]), (2, 0))
    world.run()
    ends = world.ends()
    assert [ends[1, index].finish_reason for index in (0, 1)] == [FinishReason.ABORT] * 2
    assert ends[1, 0].stop_reason == "deadline"
    assert world.num_steps == 0


def test_who_waits_can_be_dropped_one_answer_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    front, late = Front([ask(1, n=2), ask(3, n=2)]), Front([ask(2)], 9)
    front.drops = {2: [(1, 1), (3, None), (2, None)]}
    world = isolating(World([front, late]), (2, 0))
    world.run()
    ends = world.ends()
    aborted = {name for name, event in ends.items() if event.finish_reason is FinishReason.ABORT}
    assert aborted == {(1, 1), (3, 0), (3, 1)}
    assert len(front.given[1, 0]) == 4
    assert not front.given[1, 1]
    assert world.complete(2)


def test_the_condemned_is_told_before_the_next_can_kill() -> None:
    world = World([Front([ask(1), ask(2)])], Rules(positions={2: 1}))
    world.board.write_suspects([(1, 2)])
    world.run()
    assert world.ends()[1, 0].error == CONDEMNED
    assert world.condemned() == {1, 2}
    assert world.deaths == [{2}, {2}]


def test_state_on_the_board_is_gone_when_all_are_cleared() -> None:
    world = isolating(World([Front([ask(1), ask(2)])]), (1, 1), (2, 0))
    seen = []
    world.on_end = lambda: seen.append((world.board.suspects(), world.board[Cell.ISOLATING]))
    world.run()
    assert seen == [([], 0)]


def test_a_front_that_comes_again_in_the_same_turn_is_not_refused_its_own_names() -> None:
    front = Front([ask(1), ask(2, n=2)])
    front.reconnects = {2, 3}
    world = World([front])
    world.run()
    assert world.complete(1)
    assert world.complete(2)


def test_a_front_that_comes_again_during_isolation() -> None:
    front = Front([ask(1, prompt=30), ask(2, prompt=30), ask(3)])
    front.reconnects = {1, 2}
    world = isolating(World([front], max_num_batched_tokens=8), (1, 0), (2, 0))
    world.run()
    assert all(world.complete(number) for number in (1, 2, 3))


def test_a_death_accuses_once() -> None:
    board = Board.create()
    board.begin_step([5])
    assert recall(board).suspects() == board.suspects() == [(5, 1)]
    assert recall(board).suspects() == [(5, 1)]
    assert board.step_numbers() == []
    board.close()
