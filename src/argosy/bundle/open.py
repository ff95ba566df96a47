"""Open a bundle: check its manifest, map its weights; and check its full sums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.manifest import Manifest, read_manifest
from argosy.bundle.texts import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, read_json
from argosy.errors import BundleError, CheckpointError
from argosy.model.program import Program

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, often, the last time with both equal."""

_CHUNK_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: weights mapped read-only, nothing of them read. See `open_bundle`."""

    path: Path
    manifest: Manifest
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None
    maps: tuple[NDArray[np.uint8], ...]

    def matrix(self, name: str) -> NDArray[np.uint8]:
        """A matrix as packed by bundle/pack.py: (num_bytes,) u8, read-only, on 64 bytes."""
        return self._bytes(name)

    def vector(self, name: str) -> NDArray[np.float32]:
        """A vector as stored, (size,) f32, read-only; its `offset` is not added."""
        return self._bytes(name).view("<f4")

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        place = self.manifest.places[name]
        return self.maps[place.file][place.offset : place.offset + place.num_bytes]

    @property
    def program(self) -> Program:
        """What to execute, formats chosen."""
        return self.manifest.program

    @property
    def dtype(self) -> str:
        """fp32, fp16 or bf16: of activations, and what a cache dtype of "auto" follows."""
        return self.manifest.dtype

    @property
    def config(self) -> Mapping[str, Any]:
        """The Hugging Face config it was built from."""
        return self.manifest.config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """The Hugging Face generation config, or an empty map."""
        return self.manifest.generation_config

    @property
    def limits(self) -> Mapping[str, int]:
        """Defaults for entries of EngineConfig the caller leaves open (bundle/trtllm.py)."""
        return self.manifest.limits

    @property
    def tokenizer_file(self) -> Path | None:
        """tokenizer.json, or None for a bundle without a tokenizer."""
        return self._text(TOKENIZER)

    @property
    def bos_token_id(self) -> int | None:
        """The token a text begins with."""
        return self.manifest.bos_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the generation config's, then the tokenizer's."""
        return self.manifest.eos_token_ids

    @property
    def pad_token_id(self) -> int | None:
        """The padding token, of no use here."""
        return self.manifest.pad_token_id

    def _text(self, name: str) -> Path | None:
        return self.path / name if any(t.name == name for t in self.manifest.texts) else None


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle: work per tensor, not per byte; no weight is read.

    Raises BundleError for a bundle that is damaged, truncated or of a newer format, saying what to
    do, and TokenizerError for a tokenizer larger than the embedding.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    names = {entry.name for entry in manifest.texts}
    try:
        tokenizer_config = read_json(folder / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in names else {}
        template = (folder / TEMPLATE).read_text("utf-8") if TEMPLATE in names else None
        maps = tuple(_map(folder / entry.name) for entry in manifest.weights)
    except (CheckpointError, OSError, ValueError) as exc:
        raise BundleError(f"{folder}: {exc}; check it with `argosy verify`") from exc
    return Bundle(folder, manifest, tokenizer_config, template, maps)


def _map(path: Path) -> NDArray[np.uint8]:
    return np.memmap(path, dtype=np.uint8, mode="r")


def verify(path: Path | str, progress: Progress | None = None) -> Manifest:
    """Check the sums of all files of a bundle, reading every byte; returns its manifest.

    Raises BundleError naming every file whose bytes are not those that were built.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    entries = (*manifest.weights, *manifest.texts)
    total = sum(entry.num_bytes for entry in entries)
    done, damaged = 0, []
    for entry in entries:
        if _sha256(folder / entry.name, done, total, progress) != entry.sha256:
            damaged.append(f"{entry.name} does not have its sum {entry.sha256[:12]}…")
        done += entry.num_bytes
    if damaged:
        raise BundleError(
            f"{folder} is damaged: {'; '.join(damaged)}; copy it again, or build it again"
        )
    return manifest


def _sha256(path: Path, done: int, total: int, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}; copy the bundle again") from exc
    return digest.hexdigest()
