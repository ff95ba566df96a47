"""From what the user calls a model to a bundle on disk, built once and kept.

A Hugging Face folder is built into the cache on first use. The key holds everything the bytes
depend on: the source's files (path, sizes, times), dtype, formats and the version of the bundle
format. One lock file per key makes a second process wait for the first one's result. What a killed
builder left behind, `build_bundle` removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy.bundle.build import build_bundle
from argosy.bundle.checkpoint import open_checkpoint, read_config, weight_files
from argosy.bundle.hub import locate
from argosy.bundle.manifest import FORMAT_VERSION, Manifest, is_bundle, read_manifest
from argosy.bundle.open import Progress
from argosy.errors import BundleError, ConfigError, ModelNotFound
from argosy.model.formats import Kind, parse_dtype, parse_format
from argosy.model.passes.quantize import Rules, choose_numbers, quantize
from argosy.model.program import Program

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
"""The bundle that ships inside the package."""

_log = logging.getLogger(__name__)


def resolve_model(
    model: Path | str | None,
    *,
    cache_dir: Path,
    dtype: str = "auto",
    quantization: str | None = None,
    rules: Rules = (),
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The bundle of a model: None is the embedded one, else a bundle, a folder or org/model.

    A Hugging Face model is built into `cache_dir` unless its bundle is there already.
    Raises ModelNotFound, what `build_bundle` raises, and ConfigError for a ready bundle that holds
    another dtype or quantization than asked for.
    """
    source = _embedded() if model is None else locate(model, revision)
    if is_bundle(source):
        check_holds(read_manifest(source), dtype, quantization, rules)
        return source
    read_config(source)
    target = cache_dir / _name(source, _key(source, dtype, quantization, rules))
    if _usable(target):
        return target
    with _locked(target):
        if not _usable(target):  # nobody built it while this process waited
            shutil.rmtree(target, ignore_errors=True)  # a damaged entry
            build_bundle(
                source,
                target,
                dtype=dtype,
                quantization=quantization,
                rules=rules,
                progress=progress,
            )
    return target


def program_of(
    model: Path | str | None,
    *,
    dtype: str = "auto",
    quantization: str | None = None,
    rules: Rules = (),
    revision: str | None = None,
) -> Program:
    """The program a model would be served with, building nothing; raises as `resolve_model`."""
    source = _embedded() if model is None else locate(model, revision)
    if is_bundle(source):
        manifest = read_manifest(source)
        check_holds(manifest, dtype, quantization, rules)
        return manifest.program
    checkpoint = open_checkpoint(source)
    numbers = choose_numbers(checkpoint.dtype, dtype, quantization, rules)
    return quantize(checkpoint.program, numbers, rules)


def check_holds(manifest: Manifest, dtype: str, quantization: str | None, rules: Rules) -> None:
    """Raise ConfigError where a ready bundle is not what was asked for: none is converted."""
    asked, holds = parse_dtype(dtype), parse_format(manifest.quantization)
    only_fp32 = all(m.format.kind is Kind.FP32 for m in manifest.program.matrices.values())
    if asked == "fp32" and not only_fp32:
        raise _differs("dtype=float32", manifest, "float32 means weights in fp32 too")
    if asked not in ("auto", manifest.dtype) and not holds.quantized:
        raise _differs(f"dtype={dtype}", manifest, f"its dtype is {manifest.dtype}")
    if quantization is not None and parse_format(quantization) != holds:
        raise _differs(f"quantization={quantization}", manifest, "a bundle is never converted")
    if rules and tuple((glob, text) for glob, text in rules) != manifest.rules:
        raise _differs(f"rules={list(rules)}", manifest, "a bundle is never converted")


def _differs(asked: str, manifest: Manifest, why: str) -> ConfigError:
    return ConfigError(
        f"{asked}, but this bundle of {manifest.source} holds {manifest.quantization} weights: "
        f"{why}; leave it out, or `argosy build` one from the checkpoint"
    )


def _embedded() -> Path:
    if not is_bundle(EMBEDDED):
        raise ModelNotFound(f"this installation has no embedded model in {EMBEDDED}; name a model")
    return EMBEDDED


def _key(source: Path, dtype: str, quantization: str | None, rules: Rules) -> str:
    files = [*weight_files(source), *source.glob("*.json"), *source.glob("*.jinja")]
    stats = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    weights = None if quantization is None else str(parse_format(quantization))
    facts = [FORMAT_VERSION, str(source.resolve()), stats, parse_dtype(dtype), weights, list(rules)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _name(source: Path, key: str) -> str:
    """A folder name a person can recognise: the model's own and the key's beginning."""
    parts = source.resolve().parts
    repository = next((p for p in reversed(parts) if p.startswith("models--")), parts[-1])
    readable = re.sub(r"[^\w.-]+", "-", repository.removeprefix("models--"))[-60:].lstrip(".-")
    return f"{readable}-{key[:24]}"


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of one cache entry; waits while another process builds it."""
    path = target.with_name(f"{target.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as exc:
        raise BundleError(
            f"the bundle cache {target.parent} cannot be written: {exc.strerror}; make it writable "
            "or choose another, or use `argosy build MODEL -o DIR` and then DIR"
        ) from exc
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, or the process dies
        yield


def _usable(target: Path) -> bool:
    """Whether a whole bundle is there; it appeared by renaming, so no lock is needed to look."""
    try:
        return is_bundle(target) and bool(read_manifest(target))
    except BundleError as exc:
        _log.info("%s has to be built again: %s", target.name, exc)
        return False
