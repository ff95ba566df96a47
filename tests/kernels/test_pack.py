"""Packing is exact in both directions, and quantization as near as its steps allow."""

from __future__ import annotations

import numpy as np
import pytest

from argosy.bundle.pack import (
    Integers,
    cut_columns,
    cut_groups,
    dequantize,
    from_bf16,
    from_cells,
    pack_columns,
    pack_matrix,
    quantize,
    to_bf16,
    to_cells,
    unpack_columns,
    unpack_matrix,
)
from argosy.errors import CheckpointError
from argosy.model.formats import Format, Kind, parse_format
from argosy.model.program import Matrix, Segment

QUANTIZED = ["w8", "w8g64", "w8g128", "w4", "w4g64", "w4g128", "w4z", "w4g64z", "w4g128z"]
FLOATS = ["fp32", "fp16", "bf16"]


def random_integers(fmt: Format, n: int, k: int, rng: np.random.Generator) -> Integers:
    groups = fmt.pad_k(k) // fmt.group
    top = 256 if fmt.kind is Kind.W8 else 16
    scales = rng.normal(size=(n, groups)).astype(np.float16)
    minima = rng.normal(size=(n, groups)).astype(np.float16) if fmt.asymmetric else None
    return Integers(rng.integers(0, top, (n, groups * fmt.group), dtype=np.uint8), scales, minima)


def assert_same(a: Integers, b: Integers) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.scales, b.scales)
    assert (a.minima is None) == (b.minima is None)
    if a.minima is not None and b.minima is not None:
        np.testing.assert_array_equal(a.minima, b.minima)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("k", [1, 32, 100, 128, 129, 384, 512])
def test_cells_give_back_the_same_integers(name: str, k: int) -> None:
    fmt = parse_format(name)
    ints = random_integers(fmt, 48, k, np.random.default_rng(k))
    data = to_cells(fmt, ints)
    assert data.size == fmt.matrix_bytes(k, 48)
    assert_same(from_cells(fmt, k, 48, data), ints)


def test_w4_symmetric_bytes_lie_where_the_layout_says() -> None:
    fmt = parse_format("w4")
    ints = random_integers(fmt, 32, 96, np.random.default_rng(1))  # three groups: an odd last one
    stream = to_cells(fmt, ints).reshape(2, -1)[1]  # columns 16..31
    column, group, k0 = 5, 2, 8
    cell = 2 * 256 + 64 + k0 // 8 * 64  # two groups of four cells and their line come before
    k = group * 32 + k0
    for b in range(4):
        byte = stream[cell + 4 * column + b]
        assert byte & 15 == ints.values[16 + column, k + b]
        assert byte >> 4 == ints.values[16 + column, k + 4 + b]
    lines = [stream[512:576].view("<f2"), stream[-64:].view("<f2")]
    np.testing.assert_array_equal(lines[0][:16], ints.scales[16:, 0])
    np.testing.assert_array_equal(lines[0][16:], ints.scales[16:, 1])
    np.testing.assert_array_equal(lines[1][:16], ints.scales[16:, 2])
    assert not lines[1][16:].any()


def test_w4_with_minima_has_a_line_after_each_group() -> None:
    fmt = parse_format("w4g64z")
    ints = random_integers(fmt, 16, 128, np.random.default_rng(2))
    stream = to_cells(fmt, ints).reshape(2, 8 * 64 + 64)
    assert ints.minima is not None
    for group in range(2):
        np.testing.assert_array_equal(stream[group, 512:544].view("<f2"), ints.scales[:, group])
        np.testing.assert_array_equal(stream[group, 544:].view("<f2"), ints.minima[:, group])


def test_w8_and_float_cells_lie_where_the_layout_says() -> None:
    rng = np.random.default_rng(3)
    ints = random_integers(parse_format("w8"), 16, 64, rng)
    cells = to_cells(parse_format("w8"), ints)
    assert cells[3 * 64 + 4 * 7 + 2] == ints.values[7, 3 * 4 + 2]
    w = rng.normal(size=(16, 6)).astype(np.float32)
    fp32 = pack_columns(parse_format("fp32"), w).view("<f4").reshape(6, 16)
    np.testing.assert_array_equal(fp32, w.T)
    fp16 = pack_columns(parse_format("fp16"), w).view("<f2").reshape(6, 16)
    np.testing.assert_array_equal(fp16, w.T.astype(np.float16))
    bf16 = pack_columns(parse_format("bf16"), w).view("<u2").reshape(3, 16, 2)
    np.testing.assert_array_equal(bf16[2, 9], to_bf16(w[9, 4:6]))


@pytest.mark.parametrize("name", [*QUANTIZED, *FLOATS])
@pytest.mark.parametrize("cols", [1, 16, 40])
def test_matrix_comes_back_as_rounded(name: str, cols: int) -> None:
    fmt = parse_format(name)
    w = np.random.default_rng(4).normal(size=(cols, 70)).astype(np.float32)
    matrix = Matrix("m", 70, (Segment("m", cols, "m"),), fmt)
    data = pack_matrix(matrix, [w])
    assert data.shape == (matrix.num_bytes,)
    (back,) = unpack_matrix(matrix, data)
    assert back.shape == w.shape
    if fmt.quantized:
        np.testing.assert_array_equal(back, dequantize(fmt, quantize(w, fmt))[:, :70])
    else:
        rounded = {"fp32": w, "fp16": w.astype(np.float16), "bf16": from_bf16(to_bf16(w))}[name]
        np.testing.assert_array_equal(back, rounded)


@pytest.mark.parametrize("name", ["fp32", "bf16", "w4", "w8g64", "w4z"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_segments_are_padded_and_ordered(name: str, interleaved: bool) -> None:
    fmt, rng = parse_format(name), np.random.default_rng(5)
    widths = (40, 40) if interleaved else (40, 8, 17)
    segments = tuple(Segment(f"s{i}", c, f"s{i}") for i, c in enumerate(widths))
    parts = [rng.normal(size=(c, 64)).astype(np.float32) for c in widths]
    matrix = Matrix("m", 64, segments, fmt, interleaved)
    data = pack_matrix(matrix, parts)
    for part, back in zip(parts, unpack_matrix(matrix, data), strict=True):
        np.testing.assert_array_equal(
            back,
            unpack_columns(fmt, 64, -(-len(part) // 16) * 16, pack_columns(fmt, part))[: len(part)],
        )
    second = data.reshape(matrix.n // 16, -1)[1]
    owner = parts[1][:16] if interleaved else parts[0][16:32]
    np.testing.assert_array_equal(second, pack_columns(fmt, owner))


@pytest.mark.parametrize("name", [*QUANTIZED, *FLOATS])
def test_padding_weighs_nothing(name: str) -> None:
    fmt = parse_format(name)
    w = np.random.default_rng(6).normal(size=(20, 33)).astype(np.float32) + 1
    data = pack_columns(fmt, w)
    if not fmt.quantized:
        assert not unpack_columns(fmt, fmt.pad_k(33), 32, data)[:, 33:].any()
        assert not unpack_columns(fmt, 33, 32, data)[20:].any()
        return
    read = dequantize(fmt, from_cells(fmt, 33, 32, data))
    assert not read[20:].any()
    if not fmt.asymmetric:
        assert not read[:, 33:].any()


@pytest.mark.parametrize("name", [*QUANTIZED, *FLOATS])
def test_cuts_are_the_weights_cut(name: str) -> None:
    fmt, k = parse_format(name), 640
    w = np.random.default_rng(7).normal(size=(64, k)).astype(np.float32)
    data = pack_columns(fmt, w)
    whole = unpack_columns(fmt, k, 64, data)
    columns = cut_columns(fmt, k, data, 1, 3)
    np.testing.assert_array_equal(unpack_columns(fmt, k, 32, columns), whole[16:48])
    unit = fmt.k_multiple
    for first, last in [(0, 2), (1, 4), (3, 5)]:
        rows = cut_groups(fmt, k, data, first, last)
        size = (last - first) * unit
        assert rows.size == fmt.matrix_bytes(size, 64)
        np.testing.assert_array_equal(
            unpack_columns(fmt, size, 64, rows), whole[:, first * unit : last * unit]
        )


@pytest.mark.parametrize("name", QUANTIZED)
def test_error_is_within_the_steps_of_a_group(name: str) -> None:
    fmt = parse_format(name)
    w = np.random.default_rng(8).normal(size=(32, 256)).astype(np.float32)
    error = np.abs(dequantize(fmt, quantize(w, fmt)) - w)
    groups = np.abs(w).reshape(32, -1, fmt.group)
    levels = {Kind.W8: 254, Kind.W4: 15}[fmt.kind]
    step = 2 * groups.max(axis=-1) / levels
    # Half a step, and what clipping the largest weights to spare the others may cost.
    slack = 0.51 if fmt.kind is Kind.W8 else 1.6
    assert (error.reshape(groups.shape) <= slack * step[..., None]).all()


@pytest.mark.parametrize("name", ["w4z", "w4g64z", "w4g128z"])
def test_padded_rows_do_not_widen_the_last_group(name: str) -> None:
    fmt = parse_format(name)
    w = np.random.default_rng(13).uniform(5, 6, (16, fmt.group + 3)).astype(np.float32)
    error = np.abs(dequantize(fmt, quantize(w, fmt))[:, : w.shape[1]] - w)
    assert error.max() < 0.1


def test_w8_never_stores_minus_128() -> None:
    """Not even where a denormal fp16 scale is much too small: kernels count on 127."""
    for size in (1.1e-5, 2.0e-5, 1e-3, 1.0):
        w = np.full((1, 32), -size, np.float32)
        assert quantize(w, parse_format("w8")).values.min() >= 1


@pytest.mark.parametrize("name", ["w4", "w4g128", "w4z", "w4g128z"])
def test_search_beats_the_plain_scale(name: str) -> None:
    fmt = parse_format(name)
    w = np.random.default_rng(9).standard_t(4, size=(64, 512)).astype(np.float32)
    groups = w.reshape(64, -1, fmt.group)
    if fmt.asymmetric:
        low = groups.min(axis=-1, keepdims=True)
        step = (groups.max(axis=-1, keepdims=True) - low) / 15
        plain = np.rint((groups - low) / step) * step + low
    else:
        step = np.abs(groups).max(axis=-1, keepdims=True) / 7
        plain = np.rint(groups / step) * step
    found = dequantize(fmt, quantize(w, fmt)).reshape(groups.shape)
    error = ((found - groups) ** 2).sum()
    assert error < 0.97 * ((plain - groups) ** 2).sum()
    # A scale that is searched finely for each group gains little over those that are tried.
    shares = np.arange(0.7, 1.1, 0.005)
    if not fmt.asymmetric:
        least = np.full(groups.shape[:2], np.inf)
        top = np.abs(groups).max(axis=-1, keepdims=True)
        for step in (sign * top * share / 8 for share in shares for sign in (-1, 1)):
            read = np.clip(np.rint(groups / step), -8, 7) * step
            least = np.minimum(least, ((read - groups) ** 2).sum(axis=-1))
        assert error < 1.02 * least.sum()


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_already_on_the_grid_come_back(name: str) -> None:
    """Weights of a quantized checkpoint survive: scale 2^-4, the whole range used."""
    fmt = parse_format(name)
    rng = np.random.default_rng(10)
    q = (
        rng.integers(-127, 128, (16, 128))
        if fmt.kind is Kind.W8
        else rng.integers(-7, 8, (16, 128))
    )
    top = 127 if fmt.kind is Kind.W8 else 7
    q[:, ::32], q[:, 1::32] = -top - (fmt.kind is Kind.W4), top
    w = (q / 16).astype(np.float32)
    np.testing.assert_array_equal(dequantize(fmt, quantize(w, fmt)), w)


@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_constants_and_tiny_weights(name: str) -> None:
    fmt = parse_format(name)
    w = np.zeros((16, 128), np.float32)
    w[1], w[2] = 1e-9, -0.5
    read = dequantize(fmt, quantize(w, fmt))
    assert not read[0].any()
    assert np.abs(read[1]).max() <= 1e-7  # below the smallest fp16 scale
    np.testing.assert_allclose(read[2], -0.5, rtol=1e-3)


@pytest.mark.parametrize("name", [*QUANTIZED, *FLOATS])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, bad: float) -> None:
    w = np.ones((3, 32), np.float32)
    w[2, 7] = bad
    matrix = Matrix("m", 32, (Segment("layers.0.q", 3, "q_proj.weight"),), parse_format(name))
    with pytest.raises(CheckpointError, match=r"layers\.0\.q \(q_proj\.weight\).*NaN or infinite"):
        pack_matrix(matrix, [w])


@pytest.mark.parametrize(
    ("name", "value"),
    [("fp16", 1e5), ("w4", 1e7), ("w8", 1e8), ("w4z", 1e6), ("w4z", -1e5), ("bf16", 3.4e38)],
)
def test_weights_too_large_for_a_format_are_refused(name: str, value: float) -> None:
    w = np.ones((16, 32), np.float32)
    w[0, 0] = value
    with pytest.raises(CheckpointError, match="does not fit"):
        pack_columns(parse_format(name), w)


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -0.0, np.inf, np.nan, 3.0e38], np.float32)
    assert to_bf16(x)[:3].tolist() == [0x3F80, 0x3F80, 0x3F82]
    back = from_bf16(to_bf16(x))
    assert np.isnan(back[5]) and np.isinf(back[4]) and np.signbit(back[3])
    quiet = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)  # NaN in low bits only
    assert np.isnan(from_bf16(to_bf16(quiet))).all()
    values = np.random.default_rng(11).normal(size=1000).astype(np.float32)
    assert np.abs(from_bf16(to_bf16(values)) / values - 1).max() <= 2**-8


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment larger than what is packed at once equals the same packed whole."""
    fmt = parse_format("w4g64")
    w = np.random.default_rng(12).normal(size=(200, 128)).astype(np.float32)
    whole = pack_columns(fmt, w)
    monkeypatch.setattr("argosy.bundle.pack._WEIGHTS_AT_ONCE", 1)
    np.testing.assert_array_equal(pack_columns(fmt, w), whole)
