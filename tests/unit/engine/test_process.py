"""What an engine process decides before it opens its engine."""

from __future__ import annotations

import pytest

from argosy.engine.machine import Machine
from argosy.engine.process import SMALL_BYTES, served_machine


@pytest.mark.parametrize(
    ("cores", "weight_bytes", "threads"),
    [(2, SMALL_BYTES, 2), (2, SMALL_BYTES - 1, 1), (16, 10**6, 15), (1, 10**6, 1), (1, 10**9, 1)],
)
def test_a_small_model_leaves_a_core_to_the_fronts(
    cores: int, weight_bytes: int, threads: int
) -> None:
    machine = Machine(cores=cores, memory=10**9, memory_source="here")
    assert served_machine(machine, weight_bytes).cores == threads
