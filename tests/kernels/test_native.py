"""Every native kernel, on every ISA this processor has, against the reference runtime.

Tolerances are computed: a sum of K products in fp32 is off by at most about K * 2^-24 times the sum
of the products' magnitudes (Higham 2002, section 3.1), in any order; the chains used here are far
shorter, so a quarter of that is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from argosy.bundle.pack import unpack_matrix
from argosy.model.program import Linear, Norm, Segment, Vector
from argosy.runtime.native import NativeRuntime, variants
from argosy.runtime.reference import ReferenceRuntime
from argosy.types import Result, RowError
from kernels.programs import (
    F32,
    MemoryBundle,
    attention_bundle,
    batch,
    every_row,
    linear_bundle,
    logits,
    run,
)

FORMATS = (
    "fp32",
    "fp16",
    "bf16",
    "w8",
    "w8g64",
    "w8g128",
    "w4",
    "w4g64",
    "w4g128",
    "w4z",
    "w4g128z",
)
CACHE_DTYPES = ("fp32", "bf16", "int8")
SHAPES = ((8, 16, 1), (40, 33, 2), (172, 20, 9), (2100, 48, 5))
EPS = 2.0**-24


def native(
    bundle: MemoryBundle, isa: str = "", threads: int = 1, **options: object
) -> NativeRuntime:
    groups = len(bundle.program.caches)
    defaults = {"num_pages": (200,) * groups, "cache_dtype": "fp32", "keep_logits": True}
    return NativeRuntime(bundle, **{**defaults, **options}, num_threads=threads, isa=isa)


def reference(bundle: MemoryBundle, cache_dtype: str = "fp32") -> ReferenceRuntime:
    groups = len(bundle.program.caches)
    return ReferenceRuntime(
        bundle, num_pages=(200,) * groups, cache_dtype=cache_dtype, keep_logits=True
    )


def random_linear(
    fmt: str, k: int, n: int, rows: int, *, gated: bool = False, bias: bool = False
) -> MemoryBundle:
    rng = np.random.default_rng(k * n + rows)
    inputs = (rng.standard_normal((rows, k)) * rng.lognormal(0, 1, (rows, 1))).astype(np.float32)
    parts = [rng.standard_normal((n, k)).astype(np.float32) for _ in range(2 if gated else 1)]
    return linear_bundle(fmt, inputs, parts, gated=gated, bias=bias)


def magnitude(bundle: MemoryBundle, rows: int) -> F32:
    """Sum of |x| |w| per row and column, of the first segment."""
    inputs = unpack_matrix(bundle.program.matrices["embed"], bundle.matrix("embed"))[0][:rows]
    weights = unpack_matrix(bundle.program.matrices["w"], bundle.matrix("w"))[0]
    return np.abs(inputs) @ np.abs(weights).T


def one_prompt(rows: int) -> list[tuple[list[int], int, list[int]]]:
    return [(list(range(rows)), 0, [0] * (rows // 16 + 1))]


@pytest.mark.parametrize("isa", variants())
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("k", "n", "rows"), SHAPES)
def test_linear_agrees_with_the_reference(isa: str, fmt: str, k: int, n: int, rows: int) -> None:
    bundle = random_linear(fmt, k, n, rows, bias=True)
    step = batch(one_prompt(rows), groups=0)
    got = logits(native(bundle, isa), step)[:, :n]
    want = logits(reference(bundle), step)[:, :n]
    tolerance = 0.25 * k * EPS * magnitude(bundle, rows) + 4 * EPS * (np.abs(want) + 2)
    assert np.all(np.abs(got - want) <= tolerance)
    assert np.abs(want).max() > 1


@pytest.mark.parametrize("isa", variants())
@pytest.mark.parametrize("fmt", ["fp32", "bf16", "w8", "w4z"])
def test_gated_linear_agrees_with_the_reference(isa: str, fmt: str) -> None:
    bundle = random_linear(fmt, 96, 40, 11, gated=True, bias=True)
    step = batch(one_prompt(11), groups=0)
    got, want = logits(native(bundle, isa), step), logits(reference(bundle), step)
    spread = magnitude(bundle, 11)
    tolerance = 8 * EPS * (96 * spread[:, :1] + 1) * (np.abs(want).max() + 1)
    assert np.all(np.abs(got - want) <= tolerance)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_row_does_not_depend_on_its_neighbours(fmt: str) -> None:
    """Bitwise: one row alone, in every tile size, with one thread and two."""
    bundle = random_linear(fmt, 2100, 48, 19)
    alone = native(bundle)
    single = [logits(alone, batch([([t], 0, [0])], groups=0))[0] for t in range(19)]
    for threads in (1, 2):
        runtime = native(bundle, threads=threads)
        for rows in (2, 3, 7, 8, 9, 19):
            together = logits(runtime, batch(one_prompt(rows), groups=0))
            assert together.tobytes() == np.stack(single[:rows]).tobytes(), (threads, rows)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f != "bf16"])
def test_every_isa_gives_the_same_bits(fmt: str) -> None:
    """Except bf16, where one instruction rounds its own way."""
    bundle = random_linear(fmt, 300, 40, 6)
    step = batch(one_prompt(6), groups=0)
    first, *others = (logits(native(bundle, isa), step).tobytes() for isa in variants())
    assert all(other == first for other in others)


@pytest.mark.parametrize("isa", variants())
@pytest.mark.parametrize("cache", CACHE_DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "window"),
    [(2, 2, 8, None), (6, 2, 20, None), (8, 1, 80, None), (3, 1, 128, 100), (4, 2, 64, 600)],
)
def test_attention_agrees_with_the_reference(
    isa: str, cache: str, heads: int, kv_heads: int, dim: int, window: int | None
) -> None:
    """A prompt in chunks over shuffled pages, across tiles of 64 and splits of 512."""
    rng = np.random.default_rng(dim)
    bundle = attention_bundle(rng, heads=heads, kv_heads=kv_heads, dim=dim, window=window)
    runtimes = native(bundle, isa, 2, cache_dtype=cache), reference(bundle, cache)
    length = 1100 if isa == variants()[0] else 150
    tokens = rng.integers(0, 64, length).tolist()
    pages = rng.permutation(np.arange(1, 200))[: length // 16 + 1].tolist()
    cuts = [0, 1, 65, length - 40, length - 1, length]
    for start, end in pairwise(cuts):
        step = batch([(tokens[start:end], start, pages)])
        got, want = (logits(runtime, step) for runtime in runtimes)
        # Keys that are rounded may round apart where the runtimes' norms differ in the last bit.
        tolerance = (2e-5 if cache == "fp32" else 2.0**-7) * np.abs(want).max()
        assert np.abs(got - want).max() <= tolerance, (start, end)


@pytest.mark.parametrize("cache", CACHE_DTYPES)
def test_chunks_and_neighbours_change_no_bit_of_attention(cache: str) -> None:
    rng = np.random.default_rng(5)
    bundle = attention_bundle(rng, heads=6, kv_heads=2, dim=20)
    tokens = rng.integers(0, 64, 1100).tolist()
    pages = list(range(1, 70))
    whole = logits(native(bundle, cache_dtype=cache), batch([(tokens, 0, pages)]))
    runtime = native(bundle, threads=2, cache_dtype=cache)
    others = [(rng.integers(0, 64, 5).tolist(), 0, [100 + i]) for i in range(3)]
    for start, end in ((0, 16), (16, 530), (530, 531), (531, 1000), (1000, 1100)):
        step = batch([*others, (tokens[start:end], start, pages)])
        got = logits(runtime, step)[-(end - start) :]
        assert got.tobytes() == whole[start:end].tobytes(), (start, end)


@pytest.mark.parametrize("cache", CACHE_DTYPES)
def test_every_isa_gives_the_same_bits_of_attention(cache: str) -> None:
    rng = np.random.default_rng(6)
    bundle = attention_bundle(rng, heads=6, kv_heads=2, dim=20)
    step = batch([(rng.integers(0, 64, 150).tolist(), 0, list(range(1, 11)))])
    first, *others = (
        logits(native(bundle, isa, cache_dtype=cache), step).tobytes() for isa in variants()
    )
    assert all(other == first for other in others)


@pytest.mark.parametrize("cache", CACHE_DTYPES)
def test_leavings_of_a_page_change_nothing_for_its_next_owner(cache: str) -> None:
    """A page that held not-a-numbers serves as if it were new."""
    rng = np.random.default_rng(7)
    bundle = attention_bundle(rng, heads=2, kv_heads=1, dim=16)
    tokens = rng.integers(0, 64, 20).tolist()
    clean = logits(native(bundle, cache_dtype=cache), batch([(tokens, 0, [1, 2])]))
    spoiled = native(with_embedding(bundle, 63, 0, np.nan), cache_dtype=cache)
    bad = run(spoiled, batch([([63] * 64, 0, [1, 2, 3, 4])]))
    assert bad.errors == {0: RowError.NONFINITE}
    tokens = [t if t != 63 else 0 for t in tokens]
    fresh = logits(native(bundle, cache_dtype=cache), batch([(tokens, 0, [1, 2])]))
    again = logits(spoiled, batch([(tokens, 0, [1, 2])]))
    assert again.tobytes() == fresh.tobytes()
    assert clean.shape == again.shape


def with_embedding(bundle: MemoryBundle, token: int, k: int, value: float) -> MemoryBundle:
    """`bundle` with one number of its fp32 embedding replaced, behind the packer's back."""
    packed = bundle.matrix("embed").copy()
    width = bundle.program.matrices["embed"].k
    packed.view(np.float32).reshape(-1, width, 16)[token // 16, k, token % 16] = value
    return MemoryBundle(bundle.program, {**bundle.matrices, "embed": packed}, bundle.vectors)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_ends_its_own_sequence_only(fmt: str, value: float) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((4, 64)).astype(np.float32)
    sound = linear_bundle(fmt, inputs, [rng.standard_normal((20, 64)).astype(np.float32)])
    bundle = with_embedding(sound, 2, 5, value)
    pieces = [([t], 0, [0]) for t in range(4)]
    errors = run(native(bundle), batch(pieces, groups=0)).errors
    assert errors == {2: RowError.NONFINITE}


def test_copies_are_made_before_the_step() -> None:
    rng = np.random.default_rng(3)
    bundle = attention_bundle(rng, heads=2, kv_heads=1, dim=16)
    tokens = rng.integers(0, 64, 21).tolist()
    runtime = native(bundle)
    whole = logits(runtime, batch([(tokens, 0, [1, 2])]))
    copies = (np.array([[1, 7], [2, 9]], np.int32),)
    moved = logits(runtime, batch([(tokens[20:], 20, [7, 9])], copies=copies))
    assert moved.tobytes() == whole[20:].tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": np.array([64], np.int32)}, "token 64"),
        ({"tokens": np.array([-1], np.int32)}, "token -1"),
        ({"slots": np.array([[3200]], np.int32)}, "slot 3200"),
        ({"positions": np.array([[99]], np.int32)}, "position 99"),
        ({"page_tables": (np.array([[200]], np.int32),)}, "page 200"),
        ({"copies": (np.array([[0, 200]], np.int32),)}, "page to copy 200"),
        ({"head": every_row(1, rows=np.array([1], np.int32))}, "head row 1"),
        ({"head": every_row(1, targets=np.array([64], np.int32))}, "target 64"),
        ({"row_starts": np.array([0, 2], np.int32)}, "row_starts"),
        ({"lengths": np.zeros(0, np.int32)}, "row_starts"),
    ],
)
def test_indices_out_of_bounds_are_refused(change: dict[str, object], words: str) -> None:
    """Nothing a batch holds becomes an address unchecked."""
    bundle = attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)
    with pytest.raises(ValueError, match=words):
        run(native(bundle), batch([([1], 0, [1])], **change))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("tokens", np.array([1, 1], np.int64)),
        ("tokens", np.array([1, 0, 1, 0], np.int32)[::2]),
        ("positions", np.array([[0.0, 1.0]], np.float32)),
        ("slots", np.array([16, 17], np.int32)),
    ],
)
def test_arrays_of_another_kind_are_refused(name: str, array: np.ndarray) -> None:
    """Never converted: a temporary copy would be gone when the step reads it."""
    bundle = attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)
    with pytest.raises(ValueError, match=name):
        run(native(bundle), batch([([1, 1], 0, [1])], **{name: array}))


def test_a_failed_row_leaves_nothing_to_the_next() -> None:
    """Residuals add whole blocks: what lies past an odd width must not stay not-a-number."""
    rng = np.random.default_rng(4)
    inputs = rng.standard_normal((3, 40)).astype(np.float32)
    inputs[1] = 3e38
    bundle = linear_bundle("fp32", inputs, [rng.standard_normal((40, 40)).astype(np.float32) * 10])
    ops = list(bundle.program.ops)
    residual = Linear(x="y", out="x", weight="w", residual=True)
    norm = Norm(x="x", out="y", weight="n", eps=1e-5)
    ops[2:2] = [residual, norm]
    vectors = {"n": Vector("n", (Segment("n", 40, "n"),))}
    program = msgspec.structs.replace(bundle.program, ops=tuple(ops), vectors=vectors)
    runtime = native(replace(bundle, program=program, vectors={"n": np.ones(40, np.float32)}))

    def alone(token: int) -> Result:
        return run(runtime, batch([([token], 0, [0])], groups=0))

    first, failed, again = alone(0), alone(1), alone(0)
    assert failed.errors == {0: RowError.NONFINITE}
    assert not again.errors
    assert again.logits.tobytes() == first.logits.tobytes()


@pytest.mark.parametrize(
    ("change", "value"), [("temperature", np.nan), ("temperature", -1.0), ("min_p", 2.0)]
)
def test_sampling_out_of_range_is_refused(change: str, value: float) -> None:
    bundle = attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)
    head = every_row(1, **{change: np.array([value], np.float32)})
    with pytest.raises(ValueError, match=change):
        run(native(bundle), batch([([1], 0, [1])], head=head))


@pytest.mark.parametrize("threads", [0, -1])
def test_a_pool_needs_a_thread(threads: int) -> None:
    bundle = attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)
    with pytest.raises(ValueError, match="at least one thread"):
        native(bundle, threads=threads)


def test_an_unknown_isa_is_refused() -> None:
    bundle = attention_bundle(np.random.default_rng(0), heads=2, kv_heads=1, dim=16)
    with pytest.raises(ValueError, match="vax"):
        native(bundle, "vax")
