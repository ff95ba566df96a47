"""Turn a checkpoint into a bundle, a few megabytes at a time.

The bundle grows in a folder beside its place, is synced to disk, and is renamed into place whole; a
failure leaves nothing behind. A lock on that folder tells whether its builder still lives: what the
dead left, the next build of the same name removes. Columns of a matrix are independent of each
other, so a matrix is packed in runs of column blocks and never stands in memory whole.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from argosy.bundle.checkpoint import Checkpoint, open_checkpoint
from argosy.bundle.manifest import (
    FILE_BYTES_MAX,
    FORMAT_VERSION,
    FileEntry,
    Manifest,
    Place,
    is_bundle,
    lay_out,
    weight_sizes,
    write_manifest,
)
from argosy.bundle.open import Progress
from argosy.bundle.pack import pack_matrix
from argosy.errors import BundleError
from argosy.model.formats import COLUMNS
from argosy.model.passes.quantize import Numbers, Rules, choose_numbers, quantize
from argosy.model.program import Matrix, Program, Vector

PIECE_BYTES = 2**25
"""fp32 bytes of a matrix packed at a time; packing takes several times as much."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything one build needs: what to read, what it becomes, and where each weight goes."""

    checkpoint: Checkpoint
    program: Program
    numbers: Numbers
    rules: Rules
    limits: Mapping[str, int]
    places: Mapping[str, Place]
    lengths: Sequence[int]
    progress: Progress | None


def build_bundle(
    source: Path | str,
    out: Path | str,
    *,
    dtype: str = "auto",
    quantization: str | None = None,
    rules: Rules = (),
    limits: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    file_bytes_max: int = FILE_BYTES_MAX,
) -> Path:
    """Build the Hugging Face folder `source` into a new bundle `out`, and return `out`.

    Raises CheckpointError or TokenizerError for a broken model, ConfigError for formats that
    exclude each other, BundleError where `out` exists or the disk is full or not writable.
    """
    checkpoint, target = open_checkpoint(Path(source)), Path(out)
    numbers = choose_numbers(checkpoint.dtype, dtype, quantization, rules)
    program = quantize(checkpoint.program, numbers, rules)
    _check_absent(target)
    places, lengths = lay_out(weight_sizes(program), file_bytes_max)
    job = _Job(checkpoint, program, numbers, rules, limits or {}, places, lengths, progress)
    with _in_place_of(target, sum(lengths)) as folder:
        weights = tuple(_write_weights(folder, job))
        for path in write_manifest(folder, _manifest(folder, job, weights)):
            _sync(path)
    return target


def partial_name(target: Path) -> str:
    """How the folders begin in which a bundle grows before it is renamed to `target`."""
    return f".{target.name}.partial-"


def _check_absent(target: Path) -> None:
    if is_bundle(target):
        raise BundleError(f"{target} is a bundle already and is never rewritten; remove it first")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is not an empty folder; choose another place")


@contextmanager
def _in_place_of(target: Path, needed: int) -> Iterator[Path]:
    """A new folder beside `target`, renamed to it at the end, or removed if anything goes wrong."""
    folder = target.parent / f"{partial_name(target)}{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_dead(target)
        _check_space(target.parent, needed)
        folder.mkdir()
        with _open(folder) as handle:
            _mark_alive(handle)
            yield folder
            os.fsync(handle)
        folder.rename(target)
        _sync(target.parent)
    except OSError as exc:
        raise _explain(exc, target, needed) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _open(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _mark_alive(handle: int) -> None:
    """Lock the folder until `handle` is closed or the process dies."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clear_dead(target: Path) -> None:
    """Remove what dead builders of `target` left. Raises BundleError where one is at work."""
    for folder in target.parent.glob(f"{glob.escape(partial_name(target))}*"):
        try:
            with _open(folder) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError as exc:
            raise BundleError(
                f"{target} is being built by another process; wait for it, or choose another place"
            ) from exc
        except OSError:  # gone meanwhile, or a file system without locks
            continue


def _check_space(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _explain(exc: OSError, target: Path, needed: int) -> BundleError:
    if exc.errno in (errno.ENOTEMPTY, errno.EEXIST) and target.exists():
        return BundleError(f"{target} exists: another process made it meanwhile; use that one")
    if exc.errno not in _FULL:
        return BundleError(
            f"{target} cannot be written: {exc.strerror or exc}; choose another folder, or make "
            f"{target.parent} writable"
        )
    try:
        free = f"{shutil.disk_usage(target.parent).free} are free"
    except OSError:
        free = "fewer are free"
    return BundleError(
        f"the disk is full: {target} needs {needed} bytes, {free} in {target.parent}; free some, "
        "or choose a folder on another disk. Nothing was left behind"
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _manifest(folder: Path, job: _Job, weights: tuple[FileEntry, ...]) -> Manifest:
    """Write the small files and say what the bundle holds."""
    texts = job.checkpoint.texts
    return Manifest(
        format_version=FORMAT_VERSION,
        source=job.checkpoint.path.resolve().name,
        dtype=job.numbers.dtype,
        quantization=str(job.numbers.format),
        rules=tuple((pattern, text) for pattern, text in job.rules),
        program=job.program,
        weights=weights,
        texts=tuple(_write_text(folder, name, data) for name, data in texts.files.items()),
        places=dict(job.places),
        config=dict(job.checkpoint.config),
        generation_config=dict(texts.generation_config),
        tokenizer_size=texts.tokenizer_size,
        bos_token_id=texts.bos_token_id,
        eos_token_ids=texts.eos_token_ids,
        pad_token_id=texts.pad_token_id,
        limits=dict(job.limits),
    )


def _write_text(folder: Path, name: str, data: bytes) -> FileEntry:
    (folder / name).write_bytes(data)
    _sync(folder / name)
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())


def _write_weights(folder: Path, job: _Job) -> Iterator[FileEntry]:
    """Write the weight files one after the other; yields each when it is on disk."""
    total, done = sum(job.lengths), 0
    for index, length in enumerate(job.lengths):
        name = f"weights-{index + 1:05}-of-{len(job.lengths):05}.bin"
        digest = hashlib.sha256()
        with (folder / name).open("wb") as file:
            for chunk in _file_chunks(job, index):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if job.progress is not None:
                    job.progress(done, total)
            file.flush()
            os.fsync(file.fileno())
            assert file.tell() == length, f"{name}: wrote {file.tell()} bytes of {length}"
        yield FileEntry(name, length, digest.hexdigest())


def _file_chunks(job: _Job, index: int) -> Iterator[bytes]:
    """The bytes of one weight file in order, gaps of alignment included."""
    end = 0
    for name, place in job.places.items():
        if place.file != index:
            continue
        yield bytes(place.offset - end)
        end = place.offset + place.num_bytes
        if name in job.program.vectors:
            yield _vector_bytes(job.program.vectors[name], job.checkpoint)
        else:
            yield from _matrix_chunks(job.program.matrices[name], job.checkpoint)


def _vector_bytes(vector: Vector, checkpoint: Checkpoint) -> bytes:
    parts = [checkpoint.rows(s.source, 0, s.cols) for s in vector.segments]
    if len(parts) > 1:
        parts = [np.pad(part, (0, -len(part) % COLUMNS)) for part in parts]
    if vector.interleaved:
        parts = [np.stack([part.reshape(-1, COLUMNS) for part in parts], axis=1)]
    return b"".join(part.astype("<f4").tobytes() for part in parts)


def _matrix_chunks(matrix: Matrix, checkpoint: Checkpoint) -> Iterator[bytes]:
    """The packed matrix, a run of column blocks at a time."""
    together = [matrix.segments] if matrix.interleaved else [(s,) for s in matrix.segments]
    step = max(PIECE_BYTES // (4 * matrix.k * COLUMNS), 1) * COLUMNS
    for segments in together:
        cols = segments[0].cols
        for start in range(0, cols, step):
            stop = min(start + step, cols)
            piece = replace(matrix, segments=tuple(replace(s, cols=stop - start) for s in segments))
            parts = [checkpoint.rows(s.source, start, stop) for s in segments]
            yield _packed(piece, parts)


def _packed(piece: Matrix, parts: list[NDArray[np.float32]]) -> bytes:
    packed = pack_matrix(piece, parts)
    assert packed.nbytes == piece.num_bytes, f"{piece.name}: packed {packed.nbytes} bytes"
    return packed.tobytes()
