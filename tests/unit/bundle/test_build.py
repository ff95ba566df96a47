"""Checkpoint to bundle and back, in every format; and builds that fail leave nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.bundle import build
from argosy.bundle.build import build_bundle
from argosy.bundle.checkpoint import open_checkpoint
from argosy.bundle.manifest import lay_out
from argosy.bundle.open import Bundle, open_bundle, verify
from argosy.bundle.pack import unpack_matrix
from argosy.errors import BundleError, CheckpointError, ConfigError, TokenizerError
from random_models import CHAT_TEMPLATE, EOS, IM_END, write_model

ODD: dict[str, Any] = {"hidden": 72, "heads": 3, "kv_heads": 1, "head_dim": 20, "inter": 100}
# The largest error of a weight, as a share of the largest weight of its matrix.
ERRORS = {"fp32": 0, "fp16": 2**-11, "bf16": 2**-8, "w8": 2**-7, "w8g128": 2**-7, "w4": 0.15}
ERRORS |= {"w4g64z": 0.15, "w4g128": 0.25}


def worst_error(bundle: Bundle, source: Path) -> float:
    """The largest error of any weight; what only pads must be zero and is checked by unpacking."""
    checkpoint, worst = open_checkpoint(source), 0.0
    for matrix in bundle.program.matrices.values():
        for segment, found in zip(
            matrix.segments, unpack_matrix(matrix, bundle.matrix(matrix.name)), strict=True
        ):
            true = checkpoint.rows(segment.source, 0, segment.cols)
            assert found.shape == true.shape
            worst = max(worst, float(np.abs(found - true).max() / np.abs(true).max()))
    return worst


@pytest.mark.parametrize("quantization", ERRORS)
def test_every_format_holds_the_weights(tmp_path: Path, quantization: str) -> None:
    source = write_model(tmp_path / "hf", arch="qwen2", **ODD)
    rules = [("head", quantization), ("embed", quantization)]
    out = build_bundle(source, tmp_path / "out", quantization=quantization, rules=rules)
    verify(out)
    assert worst_error(open_bundle(out), source) <= ERRORS[quantization]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_auto_keeps_every_bit(tmp_path: Path, dtype: str, tied: bool) -> None:
    source = write_model(tmp_path / "hf", dtype=dtype, tied=tied, shards=2, **ODD)
    bundle = open_bundle(build_bundle(source, tmp_path / "out"))
    assert worst_error(bundle, source) == 0
    assert ("embed" in bundle.program.matrices) is not tied


def test_packing_in_pieces_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(tmp_path / "hf", mlp_bias=True, **ODD)
    whole = build_bundle(source, tmp_path / "whole", quantization="w4")
    monkeypatch.setattr(build, "PIECE_BYTES", 1)
    pieces = build_bundle(source, tmp_path / "pieces", quantization="w4")
    assert [p.read_bytes() for p in sorted(whole.iterdir())] == [
        p.read_bytes() for p in sorted(pieces.iterdir())
    ]


def test_vectors_lie_in_the_order_of_their_matrix(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", mlp_bias=True, bias=True, **ODD)
    checkpoint, bundle = open_checkpoint(source), open_bundle(build_bundle(source, tmp_path / "o"))
    gate, up = (
        checkpoint.rows(f"model.layers.1.mlp.{part}_proj.bias", 0, 100) for part in ("gate", "up")
    )
    stored = bundle.vector("layers.1.gate_up_bias").reshape(7, 2, 16)
    np.testing.assert_array_equal(stored[:, 0].ravel()[:100], gate)
    np.testing.assert_array_equal(stored[:, 1].ravel()[:100], up)
    assert not stored[6, :, 4:].any()
    qkv = bundle.vector("layers.0.qkv_bias")
    k_bias = checkpoint.rows("model.layers.0.self_attn.k_proj.bias", 0, 20)
    np.testing.assert_array_equal(qkv[64:84], k_bias)
    assert bundle.vector("layers.0.attn_norm").shape == (72,)


def test_a_bundle_carries_all_that_is_not_weights(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", arch="qwen3")
    bundle = open_bundle(build_bundle(source, tmp_path / "out", limits={"max_num_seqs": 3}))
    assert bundle.chat_template == CHAT_TEMPLATE
    assert bundle.eos_token_ids == (EOS, IM_END)
    assert bundle.config["model_type"] == "qwen3"
    assert bundle.generation_config["eos_token_id"] == [EOS, IM_END]
    assert bundle.tokenizer_config["eos_token"] == "</s>"
    assert bundle.tokenizer_file == tmp_path / "out" / "tokenizer.json"
    assert bundle.limits == {"max_num_seqs": 3}
    shutil.rmtree(source)
    assert bundle.matrix("head").shape == (bundle.program.matrices["head"].num_bytes,)


def test_weights_are_read_only_and_aligned(tmp_path: Path) -> None:
    bundle = open_bundle(build_bundle(write_model(tmp_path / "hf", **ODD), tmp_path / "out"))
    for name in bundle.manifest.places:
        data = bundle._bytes(name)
        assert data.ctypes.data % 64 == 0
        assert not data.flags.writeable


def test_files_are_no_longer_than_asked(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    bundle = open_bundle(build_bundle(source, tmp_path / "out", file_bytes_max=50_000))
    sizes = [entry.num_bytes for entry in bundle.manifest.weights]
    assert len(sizes) > 3
    largest = max(m.num_bytes for m in bundle.program.matrices.values())
    assert all(size <= 50_000 or size == largest for size in sizes)
    assert worst_error(bundle, source) == 0


def test_layout_gives_large_weights_a_file_of_their_own() -> None:
    places, lengths = lay_out({"a": 100, "b": 30, "c": 500, "d": 64, "e": 64}, 200)
    assert [(p.file, p.offset) for p in places.values()] == [
        (0, 0), (0, 128), (1, 0), (2, 0), (2, 64),
    ]  # fmt: skip
    assert lengths == [158, 500, 128]


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    source = write_model(tmp_path / "hf")
    out = build_bundle(source, tmp_path / "out", progress=lambda *c: calls.append(c))
    total = sum(entry.num_bytes for entry in open_bundle(out).manifest.weights)
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    first, second = (build_bundle(source, tmp_path / name) for name in "ab")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {
        p.name: p.read_bytes() for p in second.iterdir()
    }


def test_others_may_read_a_bundle(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        out = build_bundle(write_model(tmp_path / "hf"), tmp_path / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_weights_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", tied=True)
    path = source / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    bundle = open_bundle(build_bundle(source, tmp_path / "out"))
    assert sum(int(np.isnan(bundle.vector(name)).sum()) for name in bundle.program.vectors) == 1


def left_in(folder: Path) -> list[str]:
    """What a failed build left."""
    return sorted(path.name for path in folder.iterdir() if path.name != "hf")


Usage = namedtuple("Usage", "total used free")


def test_a_disk_known_to_be_full_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_model(tmp_path / "hf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000, 9_000, 1_000))
    with pytest.raises(BundleError, match=r"disk is full: .* needs 4\d+ bytes, 1000 are free"):
        build_bundle(source, tmp_path / "out")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, synced = write_model(tmp_path / "hf"), []

    def fill(handle: int) -> None:
        synced.append(handle)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(BundleError, match="the disk is full"):
        build_bundle(source, tmp_path / "out")
    assert synced and left_in(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        build_bundle(source, tmp_path / "file" / "out")


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bundle(source, tmp_path / "out", progress=interrupt)
    assert left_in(tmp_path) == []


def test_what_a_dead_builder_left_is_removed(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    (tmp_path / ".out.partial-12345678").mkdir()
    (tmp_path / ".out.partial-12345678" / "weights").write_text("")
    (tmp_path / ".other.partial-12345678").mkdir()
    build_bundle(source, tmp_path / "out")
    assert left_in(tmp_path) == [".other.partial-12345678", "out"]


def test_a_second_builder_says_that_there_is_one(tmp_path: Path) -> None:
    source, told = write_model(tmp_path / "hf"), []

    def build_again(done: int, total: int) -> None:
        if not told:
            with pytest.raises(BundleError, match="out is being built by another process") as error:
                build_bundle(source, tmp_path / "out")
            told.append(error)

    build_bundle(source, tmp_path / "out", progress=build_again)
    assert told and left_in(tmp_path) == ["out"]


def test_a_bundle_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")

    def appear(done: int, total: int) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "thing").write_text("")

    with pytest.raises(BundleError, match="out exists: another process made it meanwhile"):
        build_bundle(source, tmp_path / "out", progress=appear)
    assert left_in(tmp_path) == ["out"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    out = build_bundle(source, tmp_path / "out")
    with pytest.raises(BundleError, match="a bundle already"):
        build_bundle(source, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(BundleError, match="not an empty folder"):
            build_bundle(source, tmp_path / name)
    (tmp_path / "empty").mkdir()
    open_bundle(build_bundle(source, tmp_path / "empty"))


def test_broken_models_build_nothing(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], dict[str, Any]]] = [
        ({"config": {"vocab_size": 0}}, CheckpointError, {}),
        ({"config": {"num_hidden_layers": 5}}, CheckpointError, {}),
        ({"vocab": 300, "config": {"vocab_size": 200}}, TokenizerError, {}),
        ({}, ConfigError, {"dtype": "float32", "quantization": "w4"}),
        ({}, ConfigError, {"rules": [("nothing", "w8")]}),
    ]
    for options, error, arguments in cases:
        source = write_model(tmp_path / "hf", **options)
        with pytest.raises(error):
            build_bundle(source, tmp_path / "out", **arguments)
        shutil.rmtree(source)
    assert left_in(tmp_path) == []


def test_stories_builds_exactly_in_fp32(stories: Path, tmp_path: Path) -> None:
    bundle = open_bundle(build_bundle(stories, tmp_path / "out", dtype="float32"))
    assert worst_error(bundle, stories) == 0
    assert (bundle.bos_token_id, bundle.eos_token_ids) == (1, (2,))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["format_version"] == 1
