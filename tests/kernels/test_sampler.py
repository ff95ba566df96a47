"""The native sampler agrees with the plain one bit for bit, on every variant of the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from argosy.runtime.native import variants
from argosy.runtime.reference import elementary
from argosy.runtime.reference.sampling import sample_rows
from argosy.types import Edits, HeadRows, Result, RowError

if TYPE_CHECKING:
    from argosy.types import F32, I32, U8

STATUS = (None, RowError.NONFINITE, RowError.NO_TOKEN)
ISAS = variants()


@dataclass(frozen=True)
class Arrays:
    """What `_core.sample_rows` fills; L alternatives at most."""

    head_status: U8
    tokens: I32
    rank: I32
    top_ids: I32
    logprob: F32
    top_logprobs: F32


def native(logits: F32, head: HeadRows, isa: str) -> Result:
    from argosy.runtime.native import _core

    rows, wanted = len(logits), int((head.logprobs * head.want_logprobs).max(initial=0))
    got = Arrays(
        np.zeros(rows, np.uint8),
        np.zeros(rows, np.int32),
        np.zeros(rows, np.int32),
        np.zeros((rows, wanted), np.int32),
        np.zeros(rows, np.float32),
        np.zeros((rows, wanted), np.float32),
    )
    _core.sample_rows(logits.copy(), head, got, isa)
    errors = {h: error for h, s in enumerate(got.head_status) if (error := STATUS[s]) is not None}
    return Result(
        head.starts, got.tokens, got.logprob, got.rank, got.top_ids, got.top_logprobs, errors
    )


def make_head(rows: int, vocab: int, rng: np.random.Generator, **fixed: float) -> HeadRows:
    """Random settings for `rows` sequences of one row each; `fixed` overrides a field's values."""

    def some(values: list[float], dtype: type) -> np.ndarray:
        return rng.choice(np.array(values, np.float64), rows).astype(dtype)

    head = HeadRows(
        rows=np.arange(rows, dtype=np.int32),
        starts=np.arange(rows + 1, dtype=np.int32),
        draw=some([1, 1, 1, 0], np.uint8),
        targets=rng.integers(0, vocab, rows, dtype=np.int32),
        want_logprobs=some([0, 1], np.uint8),
        logprobs=np.minimum(some([0, 1, 5, 20], np.int32), vocab),
        temperature=some([0, 0.01, 0.3, 0.7, 1, 1.7, 2], np.float32),
        top_k=some([0, 0, 1, 2, 50, 1000, vocab, 2**31 - 1], np.int32),
        top_p=some([1, 1, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999999], np.float32),
        min_p=some([0, 0, 0, 1e-6, 0.05, 0.5, 1], np.float32),
        seeds=rng.integers(0, 2**64, rows, dtype=np.uint64),
        positions=rng.integers(0, 2**20, rows, dtype=np.int32),
        edits=no_edits(rows),
        has_mask=np.zeros(rows, np.uint8),
        mask_rows=np.zeros(rows, np.int32),
    )
    return replace(
        head,
        **{k: np.full(rows, v, getattr(head, k).dtype) for k, v in fixed.items()},
    )


def no_edits(rows: int) -> Edits:
    none = np.empty(0, np.float32)
    return Edits(np.zeros(rows + 1, np.int32), np.empty(0, np.int32), none, none, none)


def random_edits(rows: int, vocab: int, rng: np.random.Generator) -> Edits:
    """Bans, biases and penalties of either sign, sorted by id within a row."""
    counts = rng.integers(0, min(vocab, 40) + 1, rows)
    ids = [np.sort(rng.choice(vocab, n, replace=False)) for n in counts]
    total = int(counts.sum())
    bias = rng.choice(np.array([0, 0, 0, 3, -5, 100, -100, -np.inf], np.float32), total)
    return Edits(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        ids=np.concatenate([*ids, []]).astype(np.int32),
        bias=bias,
        repetition=rng.choice(np.array([1, 1, 1.3, 0.7, 1e-30, np.inf], np.float32), total),
        penalty=rng.choice(np.array([0, 0.5, -1.5, 2], np.float32), total),
    )


def random_masks(head: HeadRows, vocab: int, rng: np.random.Generator) -> HeadRows:
    rows = len(head.rows)
    shares = rng.choice([0.0, 0.02, 0.5, 0.98], (4, 1))
    bits = np.zeros((4, -(-vocab // 32) * 32), np.uint8)
    bits[:, :vocab] = rng.random((4, vocab)) < shares
    masks = np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)
    return replace(
        head,
        has_mask=rng.integers(0, 2, rows, dtype=np.uint8),
        mask_rows=rng.integers(0, 4, rows, dtype=np.int32),
        masks=masks,
    )


def random_logits(rows: int, vocab: int, rng: np.random.Generator) -> F32:
    """Rows of many kinds: bell-shaped, peaked, with ties, flat, huge, tiny, of either zero."""
    kinds = [
        lambda: rng.normal(0, 3, vocab),
        lambda: rng.gumbel(0, 4, vocab) * 2,
        lambda: rng.integers(-3, 4, vocab) / 2,
        lambda: np.zeros(vocab) - 7,
        lambda: rng.normal(0, 1e37, vocab),
        lambda: rng.choice([-3e38, 3e38, 0], vocab),
        lambda: rng.normal(0, 1e-30, vocab),
        lambda: rng.choice([-0.0, 0.0, -1e-40], vocab),
        lambda: np.sort(rng.normal(0, 2, vocab)),
        lambda: rng.normal(1000, 3, vocab),
    ]
    return np.stack([kinds[i]() for i in rng.integers(0, len(kinds), rows)]).astype(np.float32)


def assert_agree(logits: F32, head: HeadRows, isa: str) -> None:
    expected, got = sample_rows(logits, head), native(logits, head, isa)
    assert got.errors == expected.errors
    good = np.array([h not in expected.errors for h in range(len(logits))])
    for field in ("tokens", "rank", "logprob", "top_ids", "top_logprobs"):
        np.testing.assert_array_equal(
            getattr(got, field)[good], getattr(expected, field)[good], err_msg=field
        )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [1, 2, 3, 5, 15, 16, 17, 63, 64, 65, 128, 1000, 4096, 5003])
def test_rows_of_every_kind_agree(vocab: int, isa: str) -> None:
    rng = np.random.default_rng(vocab)
    rows = 150
    head = make_head(rows, vocab, rng)
    assert_agree(random_logits(rows, vocab, rng), head, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [1, 7, 64, 333, 5003])
def test_edits_and_masks_agree(vocab: int, isa: str) -> None:
    rng = np.random.default_rng(1000 + vocab)
    rows = 150
    head = replace(make_head(rows, vocab, rng), edits=random_edits(rows, vocab, rng))
    assert_agree(random_logits(rows, vocab, rng), head, isa)
    assert_agree(random_logits(rows, vocab, rng), random_masks(head, vocab, rng), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_large_vocabulary_agrees(isa: str) -> None:
    rng = np.random.default_rng(3)
    head = make_head(24, 151_936, rng, want_logprobs=1)
    assert_agree(random_logits(24, 151_936, rng), head, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_an_error(bad: float, isa: str) -> None:
    rng = np.random.default_rng(4)
    for vocab in (1, 40, 5003):
        logits = random_logits(6, vocab, rng)
        logits[[1, 4], [0, vocab - 1]] = bad
        head = make_head(6, vocab, rng)
        assert set(native(logits, head, isa).errors.items()) == {
            (1, RowError.NONFINITE),
            (4, RowError.NONFINITE),
        }
        assert_agree(logits, head, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.75])
def test_top_p_on_the_border_agrees(top_p: float, isa: str) -> None:
    """Equal probabilities whose sums meet top_p exactly: the shortest prefix is the same one."""
    for vocab in (4, 64, 1024, 4096):
        logits = np.ones((64, vocab), np.float32)
        head = make_head(
            64,
            vocab,
            np.random.default_rng(5),
            draw=1,
            temperature=1,
            top_k=0,
            min_p=0,
            top_p=top_p,
        )
        assert_agree(logits, head, isa)
        assert native(logits, head, isa).tokens.max() < vocab * top_p


@pytest.mark.parametrize("isa", ISAS)
def test_draws_from_a_flat_vocabulary_agree(isa: str) -> None:
    """Every id can win, so a bound on the noise that is a little too tight shows."""
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 0.2, (1500, 700)).astype(np.float32)
    logits[:1000] = 1
    head = make_head(1500, 700, rng, draw=1, temperature=1, top_k=0, top_p=1, min_p=0)
    assert_agree(logits, head, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_ban_holds_where_temperature_overflows(isa: str) -> None:
    logits = np.full((4, 2), -3e38, np.float32)
    head = make_head(4, 2, np.random.default_rng(8), draw=1, temperature=0.01, top_k=0, min_p=0)
    ban = np.full(4, -np.inf, np.float32)
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    starts, ids = np.arange(5, dtype=np.int32), np.zeros(4, np.int32)
    head = replace(head, edits=Edits(starts, ids, ban, one, zero))
    assert_agree(logits, head, isa)
    assert native(logits, head, isa).tokens.tolist() == [1] * 4


@pytest.mark.parametrize("isa", ISAS)
def test_an_edit_that_gives_no_number_is_a_ban(isa: str) -> None:
    """0 times an infinite repetition penalty."""
    logits = np.array([[0, 5, 1]], np.float32)
    settings = {"draw": 1, "temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}
    head = make_head(1, 3, np.random.default_rng(9), **settings)
    zero, infinite = np.zeros(1, np.float32), np.full(1, np.inf, np.float32)
    starts, ids = np.array([0, 1], np.int32), np.zeros(1, np.int32)
    head = replace(head, edits=Edits(starts, ids, zero, infinite, zero))
    assert_agree(logits, head, isa)
    assert native(logits, head, isa).tokens.tolist() == [1]


@pytest.mark.parametrize("isa", ISAS)
def test_elementary_functions_have_the_same_bits(isa: str) -> None:
    from argosy.runtime.native import _core

    x = np.random.default_rng(6).integers(0, 2**32, 1 << 18, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, np.array([0, -0.0, np.inf, -np.inf, np.nan, 88.8, -87], np.float32)])
    for name in ("exp", "log"):
        expected, got = getattr(elementary, name)(x), np.empty_like(x)
        _core.elementary(name, x, got, isa)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(got[number].view("u4"), expected[number].view("u4"))
