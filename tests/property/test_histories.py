"""Ten thousand random histories: nothing leaks, nobody starves, all end once, all is true."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from property.histories import World

EXAMPLES = 50
HISTORIES = 67  # a test, an example; 3 * 50 * 67 = 10,050


@pytest.mark.parametrize("num_groups", [0, 1, 2])
def test_random_histories(num_groups: int) -> None:
    played = 0

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**48))
    def histories(first: int) -> None:
        nonlocal played
        for seed in range(first, first + HISTORIES):
            World(seed, num_groups).run()
            played += 1

    histories()
    assert played >= EXAMPLES * HISTORIES
