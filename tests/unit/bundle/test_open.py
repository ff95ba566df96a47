"""Damaged bundles are refused when opened, flipped bytes found by verify."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from argosy.bundle.build import build_bundle
from argosy.bundle.manifest import MANIFEST, MANIFEST_SUM
from argosy.bundle.open import open_bundle, verify
from argosy.errors import BundleError, TokenizerError
from random_models import write_model


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle of several files."""
    source = write_model(tmp_path / "hf", layers=1)
    return build_bundle(source, tmp_path / "bundle", quantization="w8", file_bytes_max=33_000)


def sign(folder: Path, data: bytes) -> None:
    """Write a manifest with its sum, as somebody would who means harm."""
    (folder / MANIFEST).write_bytes(data)
    (folder / MANIFEST_SUM).write_text(hashlib.sha256(data).hexdigest() + "\n")


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and make its sum fit."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    sign(folder, json.dumps(manifest).encode())


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one entry of the manifest."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], object]:
    """Remove one entry."""
    return lambda manifest: manifest.pop(name)


PLACE = ("places", "layers.0.o")
FORGED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("bundle format 2, .*update argosy", at("format_version", value=2)),
    ("bundle format 0", at("format_version", value=0)),
    ("format_version", at("format_version", value="1")),
    ("format_version", without("format_version")),
    ("program", without("program")),
    ("dtype 'fp8'", at("dtype", value="fp8")),
    ("weight format 'w3'", at("quantization", value="w3")),
    ("cannot lie", at(*PLACE, "offset", value=1)),
    ("cannot lie", at(*PLACE, "offset", value=-64)),
    ("cannot lie", at(*PLACE, "offset", value=2**40)),
    ("cannot lie", at("places", "norm", "offset", value=0)),
    ("cannot lie", at(*PLACE, "num_bytes", value=64)),
    ("cannot lie", at(*PLACE, "file", value=99)),
    ("cannot lie", at(*PLACE, "file", value=-1)),
    ("disagree about layers.0.o", lambda m: m["places"].pop("layers.0.o")),
    ("disagree about extra", lambda m: m["places"].update(extra=m["places"]["head"])),
    ("its files are called", at("weights", 0, "name", value="../hf/model.safetensors")),
    ("its files are called", at("weights", 0, "name", value="..")),
    ("its files are called", at("texts", 0, "name", value="/etc/passwd")),
    ("missing", at("weights", 0, "name", value="other.bin")),
    ("bytes, not 5", at("weights", 0, "num_bytes", value=5)),
    ("special token id 320", at("eos_token_ids", value=[1, 320])),
    ("special token id -1", at("bos_token_id", value=-1)),
    ("width of a is 80", at("program", "widths", "a", value=80)),
    ("operation 0", at("program", "ops", 0, "weight", value="nothing")),
    ("Invalid value", at("program", "ops", 0, "op", value="exec")),
    ("Invalid enum value", at("program", "matrices", "head", "format", "kind", value="w2")),
]


@pytest.mark.parametrize(("said", "change"), FORGED)
def test_a_manifest_that_lies_is_refused(
    bundle: Path, said: str, change: Callable[[dict[str, Any]], object]
) -> None:
    forge(bundle, lambda manifest: None)
    open_bundle(bundle)
    forge(bundle, change)
    with pytest.raises(BundleError, match=said) as caught:
        open_bundle(bundle)
    assert str(bundle) in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(bundle: Path) -> None:
    forge(bundle, at("tokenizer_size", value=321))
    with pytest.raises(TokenizerError, match=r"321 .* 320"):
        open_bundle(bundle)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(bundle: Path, text: bytes) -> None:
    sign(bundle, text)
    with pytest.raises(BundleError):
        open_bundle(bundle)


def test_a_changed_manifest_is_refused(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"hf"', b'"hg"', 1))
    with pytest.raises(BundleError, match="damaged: copy it again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST_SUM, "weights-00001-of-00003.bin", "tokenizer.json"])
def test_missing_files_are_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle)


@pytest.mark.parametrize("change", [-1, 1])
def test_truncated_and_grown_files_are_refused(bundle: Path, change: int) -> None:
    path = bundle / "weights-00002-of-00003.bin"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\0")
    with pytest.raises(BundleError, match="weights-00002"):
        open_bundle(bundle)


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_flipped_bytes_open_but_do_not_verify(bundle: Path) -> None:
    assert verify(bundle).source == "hf"
    damaged = ["weights-00001-of-00003.bin", "weights-00003-of-00003.bin", "tokenizer.json"]
    for name in damaged:
        flip(bundle / name)
    open_bundle(bundle)
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    assert all(name in str(caught.value) for name in damaged)
    assert "weights-00002" not in str(caught.value)


def test_verify_shows_progress(bundle: Path) -> None:
    calls: list[tuple[int, int]] = []
    verify(bundle, lambda *call: calls.append(call))
    total = sum(
        p.stat().st_size for p in bundle.iterdir() if p.name not in (MANIFEST, MANIFEST_SUM)
    )
    assert calls[-1] == (total, total)


def test_texts_that_are_broken_say_what_to_do(bundle: Path) -> None:
    path = bundle / "tokenizer_config.json"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(BundleError, match="argosy verify"):
        open_bundle(bundle)
