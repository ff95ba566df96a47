"""The heartbeat: whoever watches sees a step get on, operation by operation, and no bit changes."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from argosy.runtime.native import NativeRuntime
from argosy.runtime.reference import ReferenceRuntime
from argosy.types import Runtime
from kernels.programs import MemoryBundle, attention_bundle, batch, logits, run

COPIES = (np.array([[1, 7], [2, 9]], np.int32),)


@pytest.fixture(scope="module")
def bundle() -> MemoryBundle:
    return attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)


def runtime(name: str, bundle: MemoryBundle, threads: int = 1) -> Runtime:
    options = {"num_pages": (20,), "cache_dtype": "fp32", "keep_logits": True}
    if name == "reference":
        return ReferenceRuntime(bundle, **options)
    return NativeRuntime(bundle, num_threads=threads, **options)


@pytest.mark.parametrize(("name", "threads"), [("native", 1), ("native", 3), ("reference", 1)])
def test_it_advances_at_every_operation_and_changes_nothing(
    name: str, threads: int, bundle: MemoryBundle
) -> None:
    made, heartbeat = runtime(name, bundle, threads), np.zeros(1, np.uint64)
    step = batch([(list(range(20)), 0, [1, 2])])
    unwatched = logits(made, step)
    made.watch(heartbeat)
    assert heartbeat[0] == 0
    for count in (1, 2):
        assert logits(made, step).tobytes() == unwatched.tobytes()
        assert heartbeat[0] >= count * len(bundle.program.ops)


def test_it_advances_at_every_page_copied(bundle: MemoryBundle) -> None:
    made, heartbeat = runtime("native", bundle), np.zeros(1, np.uint64)
    made.watch(heartbeat)
    beats = []
    for copies in ({}, {"copies": COPIES}):
        before = int(heartbeat[0])
        run(made, batch([([1], 20, [7, 9])], **copies))
        beats.append(int(heartbeat[0]) - before)
    layers = sum(len(group.layers) for group in bundle.program.caches)
    assert beats[1] - beats[0] == len(COPIES[0]) * layers


def test_the_cell_lives_as_long_as_it_is_written(bundle: MemoryBundle) -> None:
    made, heartbeat = runtime("native", bundle), np.zeros(1, np.uint64)
    alive = weakref.ref(heartbeat)
    made.watch(heartbeat)
    del heartbeat
    assert alive() is not None
    run(made, batch([([1], 0, [1])]))
    made.close()
    assert alive() is None


@pytest.mark.parametrize(
    "cell", [np.zeros(1, np.int64), np.zeros(0, np.uint64), np.zeros(2, np.uint64)], ids=str
)
def test_other_cells_are_refused(bundle: MemoryBundle, cell: np.ndarray) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        runtime("native", bundle).watch(cell)


def test_loading_weights_advances_it(bundle: MemoryBundle) -> None:
    heartbeat = np.zeros(1, np.uint64)
    ReferenceRuntime(bundle, num_pages=(20,), cache_dtype="fp32", heartbeat=heartbeat)
    assert heartbeat[0] == len(bundle.program.matrices)
