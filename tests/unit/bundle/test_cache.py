"""From a model's name to a bundle: built once, by one process, and only what was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from argosy.bundle import cache
from argosy.bundle.build import build_bundle, partial_name
from argosy.bundle.cache import program_of, resolve_model
from argosy.bundle.manifest import read_manifest
from argosy.bundle.open import open_bundle, verify
from argosy.errors import BundleError, ConfigError, ModelNotFound
from random_models import write_model

# Builds slowly, and says how often it was told of progress: 0 for the process that waited.
BUILD = """
import sys, time
from pathlib import Path
from argosy.bundle.cache import resolve_model
calls = []
def slowly(done, total):
    calls.append(done)
    print("building", flush=True) if len(calls) == 1 else None
    time.sleep(float(sys.argv[3]))
path = resolve_model(sys.argv[1], cache_dir=Path(sys.argv[2]), progress=slowly)
print(len(calls), path, flush=True)
"""


def builder(source: Path, folder: Path, pause: float) -> subprocess.Popen[str]:
    """A process that resolves a model."""
    command = [sys.executable, "-c", BUILD, str(source), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def resolve(source: Path, folder: Path, **options: Any) -> Path:
    """resolve_model with a cache folder."""
    return resolve_model(source, cache_dir=folder, **options)


def built(folder: Path) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_two_processes_build_once(tmp_path: Path) -> None:
    source, folder = write_model(tmp_path / "hf"), tmp_path / "cache"
    processes = [builder(source, folder, 0.02) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines()[-1].split() for process in processes]
    assert sorted(int(count) > 0 for count, _ in said) == [False, True]
    assert said[0][1] == said[1][1]
    verify(said[0][1])
    assert built(folder) == [Path(said[0][1]).name]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    source, folder = write_model(tmp_path / "hf"), tmp_path / "cache"
    with builder(source, folder, 5.0) as process:
        assert process.stdout is not None and process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    (left,) = built(folder)
    target = resolve(source, folder)
    assert left.startswith(partial_name(target))
    assert built(folder) == [target.name]
    verify(target)


def test_the_second_time_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(tmp_path / "hf")
    first = resolve(source, tmp_path / "cache")
    monkeypatch.setattr(cache, "build_bundle", None)
    assert resolve(source, tmp_path / "cache") == first
    assert open_bundle(first).manifest.source == "hf"


def test_everything_the_bytes_depend_on_is_in_the_key(tmp_path: Path) -> None:
    source, folder = write_model(tmp_path / "hf"), tmp_path / "cache"
    paths = [
        resolve(source, folder),
        resolve(source, folder, dtype="bfloat16"),
        resolve(source, folder, quantization="w4"),
        resolve(source, folder, quantization="w4", rules=[("head", "bf16")]),
        resolve(write_model(tmp_path / "other", seed=1), folder),
    ]
    os.utime(source / "model.safetensors", ns=(0, 1))
    paths.append(resolve(source, folder))
    write_model(source, config={"rms_norm_eps": 1e-3})
    paths.append(resolve(source, folder))
    assert len(set(paths)) == len(paths)
    assert resolve(source, folder, dtype="auto", quantization=None) == paths[-1]
    assert resolve(source, folder, quantization="w4g32") == resolve(
        source, folder, quantization="w4"
    )


def test_a_damaged_entry_is_built_again(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    target = resolve(source, tmp_path / "cache")
    (target / "tokenizer.json").unlink()
    assert resolve(source, tmp_path / "cache") == target
    verify(target)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cache .* cannot be written"):
        resolve(source, tmp_path / "file" / "cache")


def test_a_bundle_is_used_as_it_is(tmp_path: Path) -> None:
    bundle = build_bundle(write_model(tmp_path / "hf"), tmp_path / "bundle")
    assert resolve(bundle, tmp_path / "cache") == bundle
    assert not (tmp_path / "cache").exists()


HELD: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"quantization": "w4"}, {"dtype": "float32"}, "dtype=float32.*w4g32"),
    ({"quantization": "w8"}, {"dtype": "float32"}, "dtype=float32.*w8g32"),
    ({"quantization": "w4"}, {"dtype": "float16"}, None),
    ({"quantization": "w4"}, {"dtype": "bfloat16", "quantization": "w4g32"}, None),
    ({"quantization": "w4"}, {"quantization": "w8"}, "quantization=w8.*w4g32"),
    ({"quantization": "w4"}, {"rules": [("head", "bf16")]}, "rules"),
    ({"rules": [("head", "bf16")]}, {"rules": [("head", "bf16")]}, None),
    ({"dtype": "bfloat16"}, {"dtype": "float32"}, "dtype=float32.*bf16"),
    ({"dtype": "bfloat16"}, {"dtype": "float16"}, "dtype=float16.*bf16"),
    ({"dtype": "float32"}, {"dtype": "bfloat16"}, "dtype=bfloat16.*fp32"),
    ({"dtype": "float32"}, {"dtype": "float32", "quantization": "fp32"}, None),
    ({"rules": [("head", "w8")]}, {"dtype": "float32"}, "dtype=float32"),
]


@pytest.mark.parametrize(("held", "asked", "said"), HELD)
def test_a_ready_bundle_is_never_another(
    tmp_path: Path, held: dict[str, Any], asked: dict[str, Any], said: str | None
) -> None:
    bundle = build_bundle(write_model(tmp_path / "hf"), tmp_path / "bundle", **held)
    if said is None:
        assert resolve(bundle, tmp_path / "cache", **asked) == bundle
        return
    for ask in (resolve_model, program_of):
        options = {"cache_dir": tmp_path} if ask is resolve_model else {}
        with pytest.raises(ConfigError, match=said):
            ask(bundle, **options, **asked)


def test_the_program_is_known_without_building(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    program = program_of(source, quantization="w4")
    bundle = resolve(source, tmp_path / "cache", quantization="w4")
    assert program == read_manifest(bundle).program == program_of(bundle)


def test_no_embedded_model_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "EMBEDDED", tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match="no embedded model"):
        resolve_model(None, cache_dir=tmp_path)


def test_the_embedded_model_is_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = build_bundle(write_model(tmp_path / "hf"), tmp_path / "embedded", quantization="w8")
    monkeypatch.setattr(cache, "EMBEDDED", bundle)
    assert resolve_model(None, cache_dir=tmp_path) == bundle
    with pytest.raises(ConfigError, match="float32"):
        resolve_model(None, cache_dir=tmp_path, dtype="float32")


def test_names_are_recognisable(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "abc"
    assert resolve(write_model(snapshot), tmp_path / "cache").name.startswith("org--tiny-")
    odd = write_model(tmp_path / "a model [1]*")
    path = resolve(odd, tmp_path / "cache")
    assert path.name.startswith("a-model-1-")
    assert resolve(odd, tmp_path / "cache") == path
