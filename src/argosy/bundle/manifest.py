"""The manifest of a bundle: what it holds, where every byte lies, and the sums of its files.

`manifest.json` describes, `manifest.sha256` (as sha256sum writes it) vouches for it. Reading
trusts neither: the sum, the version, the program, and every place are checked against the
lengths of the files, so that what passes can be mapped and executed whatever the weights hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from argosy.bundle.texts import check_tokenizer_size
from argosy.errors import BundleError, ConfigError
from argosy.model.check import check_program
from argosy.model.formats import parse_format
from argosy.model.program import Program

FORMAT_VERSION = 1
ALIGNMENT = 64
FILE_BYTES_MAX = 10**9
"""Weight files are at most this long, so that a browser can fetch them."""

MANIFEST = "manifest.json"
MANIFEST_SUM = "manifest.sha256"
MANIFEST_BYTES_MAX = 2**28
DTYPES = ("fp32", "fp16", "bf16")


class FileEntry(Struct, frozen=True):
    """A file of the bundle: its name in the folder, length and sha256 (hex)."""

    name: str
    num_bytes: int
    sha256: str


class Place(Struct, frozen=True):
    """Where a weight lies: index into `weights`, offset and length in bytes."""

    file: int
    offset: int
    num_bytes: int


class Manifest(Struct, frozen=True, kw_only=True):
    """All a bundle says about itself; docs/reference/bundle-format.md tells each field.

    dtype: fp32, fp16 or bf16, of activations.  quantization: the matrices' default format.
    rules: (glob, format) where it was not followed.  limits: defaults of EngineConfig entries.
    """

    format_version: int
    source: str
    dtype: str
    quantization: str
    rules: tuple[tuple[str, str], ...]
    program: Program
    weights: tuple[FileEntry, ...]
    texts: tuple[FileEntry, ...]
    places: dict[str, Place]
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_size: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    limits: dict[str, int]


class _Version(Struct):
    format_version: int


def write_manifest(folder: Path, manifest: Manifest) -> tuple[Path, Path]:
    """Write both manifest files into `folder`; returns their paths."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    path, sum_path = folder / MANIFEST, folder / MANIFEST_SUM
    path.write_bytes(data)
    sum_path.write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n", encoding="ascii")
    return path, sum_path


def is_bundle(folder: Path) -> bool:
    """Whether a folder says it is a bundle."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest, without touching the weights.

    Raises BundleError for one that is corrupt, of a newer format, or does not fit the files, and
    TokenizerError for a tokenizer larger than the embedding.
    """
    data = _read(folder / MANIFEST)
    _check_sum(folder, data)
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        _check_version(folder, version)
        manifest = msgspec.json.decode(data, type=Manifest)
        check_program(manifest.program)
        _check_numbers(manifest)
        _check_files(folder, manifest)
        _check_places(manifest)
    except (msgspec.MsgspecError, BundleError, ConfigError, RecursionError) as exc:
        raise BundleError(f"{folder}: {exc}") from exc
    check_tokenizer_size(manifest.tokenizer_size, manifest.program.vocab_size)
    return manifest


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise BundleError(f"{path} is longer than {MANIFEST_BYTES_MAX} bytes; {_REMEDY}")
        return path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}; {_REMEDY}") from exc


_REMEDY = "it is damaged: copy it again, or build it from the checkpoint with `argosy build`"


def _check_sum(folder: Path, data: bytes) -> None:
    said = _read(folder / MANIFEST_SUM)[:64]
    if said != hashlib.sha256(data).hexdigest().encode():
        raise BundleError(f"{folder}: {MANIFEST} is not what {MANIFEST_SUM} says; {_REMEDY}")


def _check_version(folder: Path, version: int) -> None:
    if version > FORMAT_VERSION:
        raise BundleError(
            f"it has bundle format {version}, this version reads up to {FORMAT_VERSION}; "
            "update argosy, or build the bundle again with this version"
        )
    if version < 1:
        raise BundleError(f"it has bundle format {version}, which never existed; {_REMEDY}")


def _check_numbers(m: Manifest) -> None:
    if m.dtype not in DTYPES:
        raise BundleError(f"dtype {m.dtype!r} is unknown; {_REMEDY}")
    parse_format(m.quantization)
    ids = (m.bos_token_id, m.pad_token_id, *m.eos_token_ids)
    for token_id in ids:
        if token_id is not None and not 0 <= token_id < m.program.vocab_size:
            raise BundleError(f"special token id {token_id} is outside the vocabulary; {_REMEDY}")


def _check_files(folder: Path, m: Manifest) -> None:
    names = [entry.name for entry in (*m.weights, *m.texts)]
    if len(set(names)) != len(names) or not all(_is_plain(name) for name in names):
        raise BundleError(f"its files are called {names}; {_REMEDY}")
    for entry in (*m.weights, *m.texts):
        try:
            length = (folder / entry.name).stat().st_size
        except OSError as exc:
            raise BundleError(f"{entry.name} is missing ({exc.strerror}); {_REMEDY}") from exc
        if length != entry.num_bytes:
            raise BundleError(f"{entry.name} has {length} bytes, not {entry.num_bytes}; {_REMEDY}")


def _is_plain(name: str) -> bool:
    return name == Path(name).name and name not in ("", ".", "..", MANIFEST, MANIFEST_SUM)


def weight_sizes(program: Program) -> dict[str, int]:
    """Bytes of every weight by name, vectors first: the order in which a bundle stores them."""
    vectors = {name: vector.num_bytes for name, vector in program.vectors.items()}
    matrices = {name: matrix.num_bytes for name, matrix in program.matrices.items()}
    return vectors | matrices


def _check_places(m: Manifest) -> None:
    sizes = weight_sizes(m.program)
    if len(sizes) != len(m.program.vectors) + len(m.program.matrices):
        raise BundleError(f"a matrix and a vector share a name; {_REMEDY}")
    if sizes.keys() != m.places.keys():
        odd = sorted(sizes.keys() ^ m.places.keys())
        raise BundleError(f"places and program disagree about {', '.join(odd)}; {_REMEDY}")
    ends = [0] * len(m.weights)
    for name, place in sorted(m.places.items(), key=lambda item: item[1].offset):
        _check_place(name, place, sizes[name], m.weights, ends)


def _check_place(
    name: str, place: Place, size: int, weights: tuple[FileEntry, ...], ends: list[int]
) -> None:
    inside = 0 <= place.file < len(weights) and place.num_bytes == size
    inside = inside and place.offset + size <= weights[place.file].num_bytes
    if not inside or place.offset % ALIGNMENT or place.offset < ends[place.file]:
        raise BundleError(
            f"weight {name} of {size} bytes cannot lie at {place.offset} of file {place.file}; "
            f"{_REMEDY}"
        )
    ends[place.file] = place.offset + size


def lay_out(
    sizes: Mapping[str, int], file_bytes_max: int = FILE_BYTES_MAX
) -> tuple[dict[str, Place], list[int]]:
    """Places for weights in the order given, and the files' lengths.

    Every weight starts on `ALIGNMENT` bytes. None crosses a file: one that does not fit in what is
    left opens the next file, and one larger than `file_bytes_max` has a file of its own.
    """
    places: dict[str, Place] = {}
    lengths: list[int] = []
    for name, size in sizes.items():
        offset = -(-lengths[-1] // ALIGNMENT) * ALIGNMENT if lengths else 0
        if not lengths or offset + size > file_bytes_max:
            lengths.append(0)
            offset = 0
        places[name] = Place(len(lengths) - 1, offset, size)
        lengths[-1] = offset + size
    return places, lengths
