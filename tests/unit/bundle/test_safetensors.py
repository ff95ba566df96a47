"""The reader gives what the writer wrote, and no file can hurt it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy.bundle.safetensors import open_safetensors, write_safetensors
from argosy.errors import CheckpointError

TENSORS = {
    "a": np.arange(12, dtype="<f4").reshape(3, 4),
    "b": np.array([1.5, -np.inf, 65504], "<f2"),
    "c": np.array([[0x3F80], [0x7FC0]], "<u2"),
    "empty": np.zeros((0, 5), "<f4"),
    "scalar": np.array(2.5, "<f4"),
}


def written(tmp_path: Path) -> Path:
    """A small valid file."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {"format": "pt"})
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = open_safetensors(written(tmp_path))
    assert file.metadata == {"format": "pt"}
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(file.raw_rows(name), values)
    np.testing.assert_array_equal(file.rows("a", 1, 3), TENSORS["a"][1:])
    np.testing.assert_array_equal(file.rows("b"), TENSORS["b"].astype(np.float32))


def test_bf16_is_widened_exactly_and_nan_kept(tmp_path: Path) -> None:
    values = open_safetensors(written(tmp_path)).rows("c")
    assert values[0, 0] == 1.0 and np.isnan(values[1, 0])


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    """A header of one tensor of 8 bytes, changed."""
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


EIGHT = bytes(8)
BROKEN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "too few"),
    ("cut in the length", b"\x01\x02", "too few"),
    ("huge header", file_of(b"", length=2**63), "over the limit"),
    ("header past the end", file_of(tensor(), EIGHT, length=10_000), "truncated"),
    ("not JSON", file_of(b"{nonsense"), "no JSON"),
    ("not text", file_of(b"\xff\xfe\x00"), "no JSON"),
    ("deep nesting", file_of(b"[" * 100_000), "no JSON"),
    ("huge number", file_of(b'{"t":' + b"9" * 5000 + b"}"), "no JSON"),
    ("a list", file_of([1]), "not a JSON object"),
    ("name twice", file_of(b'{"t":{},"t":{}}'), "twice"),
    ("entry is no map", file_of({"t": 1}), "not a map"),
    ("metadata is no map", file_of({"__metadata__": 1}), "__metadata__"),
    ("unknown dtype", file_of(tensor(dtype="F12"), EIGHT), "F12"),
    ("dtype no text", file_of(tensor(dtype=["F32"]), EIGHT), "dtype"),
    ("negative size", file_of(tensor(shape=[-2]), EIGHT), "shape"),
    ("size no number", file_of(tensor(shape=["2"]), EIGHT), "shape"),
    ("size a truth value", file_of(tensor(shape=[True]), EIGHT), "shape"),
    ("too many axes", file_of(tensor(shape=[1] * 17), EIGHT), "shape"),
    ("overflowing size", file_of(tensor(shape=[2**62, 2**62]), EIGHT), "takes"),
    ("shape against bytes", file_of(tensor(shape=[3]), EIGHT), "takes 12 bytes, not 8"),
    ("offsets reversed", file_of(tensor(data_offsets=[8, 0]), EIGHT), "not a range"),
    ("offsets missing", file_of({"t": {"dtype": "F32", "shape": [2]}}, EIGHT), "data_offsets"),
    ("offsets past the end", file_of(tensor(data_offsets=[8, 16]), EIGHT), "gap"),
    ("data cut", file_of(tensor(), bytes(7)), "truncated"),
    ("data too long", file_of(tensor(), bytes(9)), "no tensor"),
    ("overlap", file_of(tensor() | {"u": tensor()["t"]}, EIGHT), "overlaps"),
    ("gap", file_of(tensor(data_offsets=[4, 12]), bytes(12)), "gap"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "said"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_broken_files_are_refused_by_name(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value)


@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    path = written(tmp_path_factory.mktemp("damage"))
    data = bytearray(path.read_bytes())
    data[min(at, len(data) - 1)] = byte
    path.write_bytes(data[: len(data) - cut] if cut < len(data) else b"")
    try:
        file = open_safetensors(path)
        for name in file.tensors:
            file.rows(name)
    except CheckpointError:
        pass


def missing(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def shortened(path: Path) -> None:
    """Cut the file's last bytes."""
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "said"), [(missing, "No such file"), (shortened, "ended while")]
)
def test_a_file_changed_after_opening_is_an_error(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    file = open_safetensors(written(tmp_path))
    damage(file.path)
    with pytest.raises(CheckpointError, match=said):
        file.rows("scalar")


def test_other_dtypes_are_listed_but_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ints.safetensors"
    path.write_bytes(file_of({"t": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, EIGHT))
    file = open_safetensors(path)
    with pytest.raises(CheckpointError, match="I64"):
        file.rows("t")
