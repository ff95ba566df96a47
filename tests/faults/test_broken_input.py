"""Everything broken that a user can hand over, to real processes: one clear line, exit code 1.

A row names what is broken, the command, and words its message must hold. Nothing may hang, die of a
signal, print a traceback, or leave a half-made bundle behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy.bundle.build import build_bundle
from random_models import write_model

Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its bundle, to be copied and broken."""
    folder = tmp_path_factory.mktemp("sound")
    write_model(folder / "model", shards=2, vocab=512)
    build_bundle(folder / "model", folder / "bundle")
    return folder


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound / "model", tmp_path / "model")
    shutil.copytree(sound / "bundle", tmp_path / "bundle")
    return tmp_path


def argosy(place: Path, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "argosy", *args],
        input=stdin,
        capture_output=True,
        timeout=60,
        cwd=place,
        env={**os.environ, "ARGOSY_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"},
    )


def shard(place: Path) -> Path:
    return sorted((place / "model").glob("*.safetensors"))[0]


def weights(place: Path) -> Path:
    return sorted((place / "bundle").glob("weights*"))[0]


def cut(pick: Callable[[Path], Path], keep: float) -> Break:
    def apply(place: Path) -> None:
        path = pick(place)
        os.truncate(path, int(path.stat().st_size * keep))

    return apply


def overwrite(pick: Callable[[Path], Path], at: int, data: bytes) -> Break:
    def apply(place: Path) -> None:
        with pick(place).open("r+b") as file:
            file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            file.write(data)

    return apply


def config(**entries: object) -> Break:
    def apply(place: Path) -> None:
        path = place / "model" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return apply


def large_tokenizer(place: Path) -> None:
    """A tokenizer of 512 ids over an embedding of 300."""
    write_model(place / "small", vocab=300)
    shutil.copy(place / "model" / "tokenizer.json", place / "small" / "tokenizer.json")
    path = place / "small" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["far"] = 400
    path.write_text(json.dumps(tokenizer))
    shutil.rmtree(place / "model")
    (place / "small").rename(place / "model")


def newer_format(place: Path) -> None:
    path = place / "bundle" / "manifest.json"
    changed = re.sub(r'("format_version":\s*)1\b', r"\g<1>99", path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)


ASK = ("generate", "Hi", "--raw", "--max-tokens", "2", "--model")
ROWS: dict[str, tuple[Break, tuple[str, ...], tuple[str, ...]]] = {
    "safetensors cut short": (cut(shard, 0.5), (*ASK, "model"), ("safetensors",)),
    "safetensors empty": (cut(shard, 0), (*ASK, "model"), ("safetensors",)),
    "safetensors header huge": (overwrite(shard, 0, b"\xff" * 8), (*ASK, "model"), ("header",)),
    "safetensors header no JSON": (overwrite(shard, 8, b"\0\0\0"), (*ASK, "model"), ("header",)),
    "tokenizer larger than the embedding": (large_tokenizer, (*ASK, "model"), ("401", "300")),
    "hidden_size 10^12": (
        config(hidden_size=10**12), (*ASK, "model"), ("hidden_size", "10" + "0" * 11),
    ),
    "negative layers": (config(num_hidden_layers=-3), (*ASK, "model"), ("num_hidden_layers", "-3")),
    "heads as text": (config(num_attention_heads="many"), (*ASK, "model"), ("heads", "many")),
    "eps not a number": (config(rms_norm_eps="nan"), (*ASK, "model"), ("rms_norm_eps",)),
    "shapes that do not fit": (config(intermediate_size=128), (*ASK, "model"), ("down_proj",)),
    "remote code": (
        config(model_type="made_up", auto_map={"AutoModel": "x.Y"}),
        (*ASK, "model"),
        ("made_up", "code"),
    ),
    "config no JSON": (
        lambda place: (place / "model" / "config.json").write_bytes(b"\xff{"),  # type: ignore[arg-type, return-value]
        (*ASK, "model"),
        ("config.json",),
    ),
    "no such model": (lambda _: None, (*ASK, "nowhere/model"), ("nowhere/model",)),
    "bundle weights cut short": (cut(weights, 0.5), (*ASK, "bundle"), ("weights",)),
    "bundle manifest cut short": (
        cut(lambda place: place / "bundle" / "manifest.json", 0.7),
        (*ASK, "bundle"),
        ("manifest",),
    ),
    "bundle of a newer format": (newer_format, (*ASK, "bundle"), ("manifest",)),
    "a weight byte flipped": (
        overwrite(weights, -5000, b"\xa5\x5a"), ("verify", "bundle"), ("weights", "damaged"),
    ),
    "prompt empty": (lambda _: None, ("generate", "", "--raw", "--model", "bundle"), ("empty",)),
    "prompt too long": (
        lambda _: None,
        ("generate", "word " * 3000, "--raw", "--model", "bundle"),
        ("512",),
    ),
    "temperature out of range": (
        lambda _: None,
        (*ASK, "bundle", "--temperature", "7"),
        ("temperature", "7", "2"),
    ),
    "too little memory": (lambda _: None, (*ASK, "bundle", "--memory", "100K"), ("--memory",)),
    "context beyond the model's": (
        lambda _: None,
        (*ASK, "bundle", "--max-model-len", "1m"),
        ("512",),
    ),
    "unknown format": (
        lambda _: None,
        ("build", "model", "--quantize", "w3", "-o", "out"),
        ("w3", "w4"),
    ),
    "float32 over quantized weights": (
        lambda _: None,
        ("build", "model", "--quantize", "w4", "--dtype", "float32", "-o", "out"),
        ("float32",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_one_clear_line(place: Path, name: str) -> None:
    damage, command, words = ROWS[name]
    damage(place)
    ran = argosy(place, *command)
    message = ran.stderr.decode()
    assert ran.returncode == 1, message
    said = re.sub(r"^(building|verifying|argosy: memory).*\n", "", message, flags=re.M)
    first, *details = said.splitlines()
    assert first.startswith("argosy: ")
    assert all(line.startswith("  ") for line in details)  # a list of tensors
    for word in words:
        assert word in said
    assert not (place / "out").exists()
    assert not list((place / "cache").glob("*")) or all(
        not p.is_dir() for p in (place / "cache").glob("*")
    )


def test_a_flipped_weight_byte_harms_no_process(place: Path) -> None:
    """Wrong weights give wrong numbers, or an error in one answer: never a crash."""
    size = weights(place).stat().st_size
    overwrite(weights, size // 2, os.urandom(4096))(place)
    ran = argosy(place, *ASK, "bundle")
    assert ran.returncode in (0, 1)
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (b"a\0b", 0, b""),
        (b"\xed\xa0\x80 lone", 1, b"surrogate"),
        (b"\xff\xfe\xfd", 1, b"surrogate"),
    ],
)
def test_odd_bytes_in_a_prompt(place: Path, text: bytes, code: int, words: bytes) -> None:
    ran = argosy(place, *ASK[:1], "-", *ASK[2:], "bundle", stdin=text)
    assert (ran.returncode, b"Traceback" in ran.stderr) == (code, False), ran.stderr
    assert words in ran.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(place: Path, small_disk: Path) -> None:
    """Refused with what is needed and what is there; nothing is left. The cache likewise."""
    ran = argosy(place, "build", "model", "-o", str(small_disk / "out"))
    assert ran.returncode == 1
    assert b"disk is full" in ran.stderr
    assert not list(small_disk.iterdir())
    environment = {**os.environ, "ARGOSY_CACHE": str(small_disk)}
    command = [sys.executable, "-m", "argosy", *ASK, str(place / "model")]
    automatic = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert automatic.returncode == 1
    assert b"disk is full" in automatic.stderr
    assert not [p for p in small_disk.iterdir() if p.is_dir()]


NO_THREADS = """
import resource
from argosy.errors import ConfigError
from argosy.runtime.native.runtime import _open_core
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27,) * 2)
try:
    _open_core(200, "")
except ConfigError as exc:
    print(exc)
"""


def test_threads_the_system_does_not_give() -> None:
    """An error, not an abort: those already made are ended first."""
    ran = subprocess.run([sys.executable, "-c", NO_THREADS], capture_output=True, timeout=60)
    assert (ran.returncode, b"200 threads" in ran.stdout) == (0, True), ran
