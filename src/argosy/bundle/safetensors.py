"""Safetensors: a reader that trusts nothing the file says, and a small writer.

A file is a little-endian u64, that many bytes of JSON, then the data. The header is checked whole
when the file is opened: every name, dtype, shape and offset, with no overlap and no gap. Data is
read in ranges of rows rather than mapped, so that a file cut short while it is read is an error
and not a signal, and no more than the rows asked for are in memory. bf16 has no type in
NumPy: it is handed out as uint16 bit patterns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.errors import CheckpointError

HEADER_BYTES_MAX = 100_000_000
"""The reference implementation's limit; a larger header is refused before it is read."""

AXES_MAX = 16
"""No weight has more axes; a longer shape is a corrupt one."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of an element by dtype. A header may name any of these; only `READABLE` ones are read."""

READABLE: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: dtype as in the header, shape, bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked safetensors file. Make one with `open_safetensors`."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows start:stop of a tensor's first axis as fp32, the exact values stored.

        Raises CheckpointError for a dtype other than F32, F16 and BF16, and a file that ends early.
        """
        return to_float32(self.raw_rows(name, start, stop))

    def raw_rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows start:stop as stored: f4, f2, or u2 holding bf16 bit patterns."""
        info = self.tensors[name]
        if info.dtype not in READABLE:
            raise CheckpointError(
                f"{self.path}: {name} has dtype {info.dtype}; weights must be F32, F16 or BF16"
            )
        count = info.shape[0] if info.shape else 1
        stop = count if stop is None else min(stop, count)
        inner = info.shape[1:]
        row_bytes = info.num_bytes // max(count, 1)
        size = (stop - start) * row_bytes
        data = self._read(info.offset + start * row_bytes, size)
        values = np.frombuffer(data, READABLE[info.dtype])
        return values.reshape((stop - start, *inner) if info.shape else ())

    def _read(self, offset: int, size: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as exc:
            raise CheckpointError(f"{self.path} cannot be read: {exc.strerror}") from exc
        if len(data) != size:
            raise CheckpointError(f"{self.path} ended while it was read; was it changed or cut?")
        return data


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Exact fp32 of f4, f2, or u2 (bf16 bit patterns) values; NaN and infinities kept."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open and check a safetensors file without reading its data.

    Raises CheckpointError for a file that is missing, truncated, or whose header does not
    describe its bytes exactly.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = _header_length(path, file.read(8), file_bytes)
            text = file.read(header_bytes)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}") from exc
    header = _parse(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: header's __metadata__ is not a map; the file is corrupt")
    data_start = 8 + header_bytes
    infos = [_info(path, name, entry, data_start) for name, entry in header.items()]
    _check_cover(path, infos, data_start, file_bytes)
    return SafetensorsFile(path, {info.name: info for info in infos}, metadata)


def _header_length(path: Path, first: bytes, file_bytes: int) -> int:
    if len(first) < 8:
        raise CheckpointError(
            f"{path} has {file_bytes} bytes, too few for a safetensors file; fetch it again"
        )
    length = int.from_bytes(first, "little")
    if length > HEADER_BYTES_MAX:
        raise CheckpointError(
            f"{path}: header of {length} bytes is over the limit of {HEADER_BYTES_MAX}; "
            "this is no safetensors file, or it is corrupt"
        )
    if 8 + length > file_bytes:
        raise CheckpointError(
            f"{path}: header of {length} bytes, but the file has {file_bytes}; it is truncated"
        )
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path}: header is no JSON ({exc}); the file is corrupt") from exc
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: header is not a JSON object; the file is corrupt")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name appears twice")
    return out


def _info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    def bad(why: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name}: {why}; the file is corrupt")

    if not isinstance(entry, dict):
        raise bad("its entry is not a map")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    span: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise bad(f"dtype {dtype!r} is unknown")
    if not _whole_numbers(shape):
        raise bad(f"shape {shape!r} is not a list of sizes")
    if not _whole_numbers(span) or len(span) != 2 or span[0] > span[1]:
        raise bad(f"data_offsets {span!r} are not a range")
    bits = DTYPE_BITS[dtype]
    for size in shape:
        bits *= size
    if bits != 8 * (span[1] - span[0]):
        raise bad(f"shape {shape} of {dtype} takes {bits // 8} bytes, not {span[1] - span[0]}")
    return TensorInfo(name, dtype, tuple(shape), data_start + span[0], span[1] - span[0])


def _whole_numbers(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > AXES_MAX:
        return False
    return all(type(v) is int and 0 <= v < 2**63 for v in value)


def _check_cover(path: Path, infos: list[TensorInfo], data_start: int, file_bytes: int) -> None:
    end = data_start
    for info in sorted(infos, key=lambda info: (info.offset, info.num_bytes)):
        if info.offset != end:
            word = "overlaps another" if info.offset < end else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {info.name} {word}; the file is corrupt")
        end += info.num_bytes
    if end != file_bytes:
        word = "truncated" if end > file_bytes else "followed by bytes that belong to no tensor"
        raise CheckpointError(
            f"{path}: tensors take {end} bytes, the file has {file_bytes}; it is {word}"
        )


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write f4, f2 and u2 (bf16 bit patterns) arrays in the order given."""
    names = {np.dtype(code): name for name, code in READABLE.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": names[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.writelines(_chunks(text, tensors))


def _chunks(text: bytes, tensors: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    yield len(text).to_bytes(8, "little")
    yield text
    for values in tensors.values():
        yield np.ascontiguousarray(values).tobytes()
