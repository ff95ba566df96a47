"""The token budget from measured speed, on a machine whose speed is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from argosy.engine.calibrate import MARGIN, STEP_S, Speed, measure_speed
from argosy.engine.pages import PagePool
from argosy.engine.step import MIN_BATCHED_TOKENS
from argosy.types import PAGE_TOKENS, Batch

VOCAB = 100


@dataclass
class Machine:
    """A runtime whose time is known: so much a step, a row, and a token that a row attends to."""

    step_s: float
    row_s: float
    context_s: float = 0.0
    now: float = 0.0
    batches: list[Batch] = field(default_factory=list)

    def submit(self, batch: Batch) -> Machine:
        self.batches.append(batch)
        self.now += self.seconds(batch.positions[0])
        return self

    def seconds(self, positions: np.ndarray) -> float:
        attended = float((positions + 1).sum())
        return self.step_s + len(positions) * self.row_s + attended * self.context_s

    def result(self) -> None:
        pass

    def clock(self) -> float:
        return self.now


def measured(machine: Machine, length: int = 8192, *pages: int) -> Speed:
    pools = [PagePool(n + 1) for n in pages or (10_000,)]
    return measure_speed(
        machine,  # type: ignore[arg-type]
        pools,
        vocab_size=VOCAB,
        max_model_len=length,
        clock=machine.clock,
    )


@pytest.mark.parametrize("length", [100, 512, 4000, 8192, 32768, 131072])
@pytest.mark.parametrize("row_s", [2e-5, 2e-4, 2e-3])
def test_a_step_of_the_budget_ends_in_time_at_any_context(row_s: float, length: int) -> None:
    machine = Machine(step_s=5e-3, row_s=row_s, context_s=row_s / 4000)
    count = measured(machine, length).tokens_per_step
    assert count % PAGE_TOKENS == 0 and count >= MIN_BATCHED_TOKENS
    taken = machine.seconds(np.full(count, length - 1))
    assert taken < STEP_S or count == MIN_BATCHED_TOKENS
    more = machine.seconds(np.full(count + 2 * PAGE_TOKENS, length - 1))
    assert more > 0.6 * MARGIN * STEP_S or count == 2048, "the budget is too careful"


def test_it_takes_a_fraction_of_a_second() -> None:
    for row_s in (1e-5, 1e-4, 1e-3, 2e-3):
        machine = Machine(step_s=3e-3, row_s=row_s, context_s=row_s / 4000)
        measured(machine, 131072)
        assert machine.now < 0.25


def test_the_speed_is_that_of_prompts() -> None:
    machine = Machine(step_s=1e-3, row_s=1e-3)
    assert measured(machine).tokens_per_s == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("pages", [1, 3, 200])
def test_it_writes_each_slot_once_and_stays_within_its_pages(pages: int) -> None:
    machine = Machine(step_s=1e-4, row_s=1e-6)
    measured(machine, 9000, pages, 250)
    assert len(machine.batches) in (3, 4)
    for batch in machine.batches:
        assert len(batch.tokens) <= pages * PAGE_TOKENS and batch.tokens.max() < VOCAB
        for slots, table, limit in zip(batch.slots, batch.page_tables, (pages, 250), strict=True):
            assert len(set(slots.tolist())) == len(slots), "two rows write one slot"
            assert slots.min() >= PAGE_TOKENS, "page 0 is nobody's"
            assert max(slots.max() // PAGE_TOKENS, table.max()) <= limit


@pytest.mark.parametrize("length", [1, 5, 16, 17])
def test_short_contexts_and_programs_without_caches(length: int) -> None:
    machine = Machine(step_s=1e-4, row_s=1e-6)
    measured(machine, length)
    assert max(batch.positions.max() for batch in machine.batches) < length
    speed = measure_speed(
        machine,  # type: ignore[arg-type]
        [],
        vocab_size=VOCAB,
        max_model_len=length,
        clock=machine.clock,
    )
    assert speed.tokens_per_step == 2048
