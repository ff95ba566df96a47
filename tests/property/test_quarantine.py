"""Whatever kills the engine, and whenever: who is innocent gets its answer, who kills is ended."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from property.crashes import Front, Rules, World, ask


@st.composite
def worlds(draw: st.DrawFn, *, num_kills: int = 0, num_pairs: int = 0) -> World:
    """Some requests over one to three fronts, some of which kill at a position they reach."""
    numbers = range(1, draw(st.integers(1, 7)) + 1)
    fronts: list[list[object]] = [[] for _ in range(draw(st.integers(1, 3)))]
    positions: dict[int, int] = {}
    for number in numbers:
        prompt, tokens = draw(st.integers(1, 20)), draw(st.integers(1, 6))
        request = ask(number, prompt=prompt, tokens=tokens, n=draw(st.sampled_from((1, 1, 2, 3))))
        draw(st.sampled_from(fronts)).append(request)
        if draw(st.booleans()):
            positions[number] = draw(st.integers(0, prompt + tokens - 2))
    few = st.sets(st.integers(1, 60), max_size=num_kills)
    pair = st.frozensets(st.integers(1, 7), min_size=2, max_size=2)
    pairs = st.sets(pair, max_size=num_pairs)
    return World(
        [Front(requests, draw(st.integers(0, 3))) for requests in fronts],
        Rules(positions, draw(pairs), draw(few), draw(few)),
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(2, 40)),
    )


@settings(max_examples=150)
@given(worlds())
def test_the_guilty_are_ended_and_nobody_else(world: World) -> None:
    world.run()
    guilty = set(world.rules.positions)
    assert world.condemned() == guilty
    for front in world.fronts:
        assert all(world.complete(number) for number in front.requests.keys() - guilty)
    assert len(world.deaths) <= 4 * len(guilty)
    event(f"{len(guilty)} guilty, {len(world.deaths)} deaths")


@settings(max_examples=150)
@given(worlds(num_kills=20, num_pairs=3))
def test_none_is_condemned_that_was_not_alone_in_two_deaths(world: World) -> None:
    world.run()
    for number in world.condemned():
        assert world.deaths.count({number}) >= 2
    for front in world.fronts:
        innocent = front.requests.keys() - world.condemned()
        assert all(world.complete(number) for number in innocent)
