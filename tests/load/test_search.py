"""How many users: the search alone, then judged levels."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from argosy.load.drive import Run, Users
from argosy.load.limits import Objective
from argosy.load.measure import Outcome, Window, summarize
from argosy.load.search import TOLERANCE, Level, best, level_of, most_users

EMPTY = summarize([], Window(0.0, 1.0))


def search(limit: int, *, start: int = 1, most: int = 4096) -> list[Level]:
    async def attempt(users: int) -> Level:
        return Level(users, users <= limit, {}, EMPTY)

    return asyncio.run(most_users(attempt, start=start, most=most))


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 12, 19])
def test_small_answers_are_exact(limit: int) -> None:
    assert best(search(limit)) == limit


@pytest.mark.parametrize("limit", [40, 137, 1000, 4095])
def test_large_answers_are_within_the_tolerance(limit: int) -> None:
    levels = search(limit)
    assert limit >= best(levels) >= limit / (1 + TOLERANCE) - 1
    assert len(levels) < 20


def test_levels_double_before_they_are_halved() -> None:
    assert [level.users for level in search(5)] == [1, 2, 4, 8, 6, 5]


def test_no_level_is_above_the_most() -> None:
    levels = search(10**6, most=100)
    assert best(levels) == 100 and max(level.users for level in levels) == 100
    assert [level.users for level in search(10**6, start=64, most=8)] == [8]


def test_a_start_that_is_too_high_is_halved() -> None:
    assert best(search(3, start=32)) == 3


OBJECTIVE = Objective("ttft", 95.0, 0.2)


def judge(slow: int, fast: int, *errors: str) -> Level:
    seen = [Outcome(1.0, 1.0, 2.0, array("d", [1.5]), tokens=1) for _ in range(slow)]
    seen += [Outcome(1.0, 1.0, 2.0, array("d", [1.1]), tokens=1) for _ in range(fast)]
    seen += [Outcome(1.0, 1.0, 1.0, array("d"), error=error) for error in errors]
    load = Users(users=7, input_len=1, output_len=1)
    return level_of(load, (OBJECTIVE,), Run(seen, Window(0.5, 3.0), 0.0))


def test_a_level_is_met_when_its_percentile_is() -> None:
    level = judge(slow=4, fast=96)
    assert level.met and level.users == 7
    assert level.values == {"ttft_p95": pytest.approx(0.1)}
    assert not judge(slow=6, fast=94).met


def test_a_level_where_a_request_failed_is_missed() -> None:
    assert not judge(0, 100, "429").met
    assert judge(0, 100, "cut").met
