"""How many users at once within an objective: doubling until it is missed, then halving the gap."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from argosy.load.drive import Driver, Run, Users
from argosy.load.limits import Objective
from argosy.load.measure import Summary, reached, summarize

TOLERANCE = 0.05
"""The search ends when the highest level met and the lowest missed are this near, as a share."""
PAUSE_S = 0.5
LEAST_REQUESTS = 40
PER_USER = 2


@dataclass(frozen=True)
class Level:
    """One number of users that was tried: what each objective came to, in seconds."""

    users: int
    met: bool
    values: dict[str, float]
    summary: Summary


async def most_users(
    attempt: Callable[[int], Awaitable[Level]], *, start: int = 1, most: int
) -> list[Level]:
    """All levels tried, in that order; `best` finds the answer. `most`: no level goes above it."""
    levels: list[Level] = []

    async def met(users: int) -> bool:
        levels.append(await attempt(users))
        return levels[-1].met

    low, high, users = 0, most + 1, min(start, most)
    while users > low:
        if await met(users):
            low, users = users, min(2 * users, most)
        else:
            high = users
            break
    while high - low > max(1, TOLERANCE * low):
        users = (low + high) // 2
        low, high = (users, high) if await met(users) else (low, users)
    return levels


def best(levels: list[Level]) -> int:
    """The most users that met the objectives; 0 if none did."""
    return max((level.users for level in levels if level.met), default=0)


def level_of(load: Users, objectives: tuple[Objective, ...], run: Run) -> Level:
    """Judge a run. With a user whose request the server failed, nothing is met."""
    values = {str(o): reached(run.outcomes, run.window, o.metric, o.percent) for o in objectives}
    failed = any(o.failed and o.due >= run.window.begin for o in run.outcomes)
    met = not failed and all(values[str(o)] <= o.limit_s for o in objectives)
    limits = {o.metric: o.limit_s for o in objectives}
    summary = summarize(run.outcomes, run.window, limits=limits, client_cpu=run.client_cpu)
    return Level(load.users, met, values, summary)


async def search(
    driver: Driver, load: Users, objectives: tuple[Objective, ...], *, most: int,
    told: Callable[[Level], None] = lambda level: None,
) -> list[Level]:  # fmt: skip
    """Try levels of users against a server, each like `load` but for their number.

    A level counts at least LEAST_REQUESTS requests, and PER_USER for each user.
    """
    drain_s = max(10.0, *(2 * o.limit_s for o in objectives))

    async def attempt(users: int) -> Level:
        enough = max(LEAST_REQUESTS, PER_USER * users)
        sized = replace(load, users=users, enough=enough, drain_s=drain_s)
        level = level_of(sized, objectives, await driver.closed_loop(sized))
        told(level)
        await asyncio.sleep(PAUSE_S)  # what was cut leaves the server
        return level

    return await most_users(attempt, start=load.users, most=most)
