"""`argosy serve --dry-run`: the configuration with where each value came from, and the memory plan.

Reads headers only: no weights, and nothing is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from argosy.bundle.cache import EMBEDDED, program_of
from argosy.bundle.hub import locate
from argosy.bundle.manifest import is_bundle, read_manifest
from argosy.bundle.open import Bundle
from argosy.client.prepare import settled
from argosy.config import EngineConfig, ServerConfig
from argosy.engine.engine import choose_cache_dtype
from argosy.engine.machine import read_machine, served_machine
from argosy.engine.plan import max_model_len, plan_memory
from argosy.model.formats import AUTO_DTYPE, parse_dtype
from argosy.model.program import Program

FLAGS = {"quantization": "quantize", "num_threads": "threads", "api_keys": "api_key"}
"""Fields whose flag has another name."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Of a bundle what a plan needs; of a checkpoint what its bundle would be."""

    program: Program
    dtype: str
    limits: Mapping[str, int]


def report(
    engine: EngineConfig, server: ServerConfig, sources: Mapping[str, str], given: Sequence[str]
) -> str:
    """Lines of `name value source`, then the memory plan in one line.

    sources: of each flag: flag, file or default.  given: see `open_client`.
    Raises ModelError, ConfigError and OutOfMemory as serving would.
    """
    shown = look_at(engine)
    config = settled(engine, shown.limits, given)
    machine = served_machine(read_machine(), shown.program.weight_bytes)
    cache_dtype = choose_cache_dtype(cast(Bundle, shown), config)
    found: dict[str, tuple[Any, str]] = {
        name: (value, "model") for name, value in shown.limits.items() if name not in given
    }
    if config.max_model_len is None:
        found["max_model_len"] = (max_model_len(shown.program, config), "model")
    if config.num_threads is None:
        found["num_threads"] = (machine.cores, "machine")
    if config.kv_cache_dtype == "auto":
        found["kv_cache_dtype"] = (cache_dtype, "model")
    if not server.served_model_name:
        found["served_model_name"] = (config.model or "argosy", "model")
    if config.max_num_batched_tokens is None:
        found["max_num_batched_tokens"] = ("measured at start", "default")
    rows = [*_rows(config, sources, found), *_rows(server, sources, found)]
    memory = plan_memory(shown.program, config, machine, cache_dtype)
    return "\n".join([*_columns(rows), "", str(memory)])


def look_at(config: EngineConfig) -> Shown:
    """The model as it would be served. Raises ModelNotFound and what else reading it raises."""
    program = program_of(
        config.model,
        dtype=config.dtype,
        quantization=config.quantization,
        revision=config.revision,
    )
    source = EMBEDDED if config.model is None else locate(config.model, config.revision)
    if is_bundle(source):
        manifest = read_manifest(source)
        return Shown(program, manifest.dtype, manifest.limits)
    kinds = {str(m.format) for m in program.matrices.values() if not m.format.quantized}
    plain = next((kind for kind in kinds if kind in AUTO_DTYPE["cpu"]), "bf16")
    dtype = parse_dtype(config.dtype)
    return Shown(program, plain if dtype == "auto" else dtype, {})


def _rows(
    config: Any, sources: Mapping[str, str], found: Mapping[str, tuple[Any, str]]
) -> Iterator[tuple[str, str, str]]:
    """(name, value, source) of the fields that have a flag."""
    for one in fields(config):
        flag = FLAGS.get(one.name, one.name)
        if flag in sources:
            value, source = found.get(one.name, (getattr(config, one.name), sources[flag]))
            if one.name == "api_keys":
                count = len(value)
                value = f"{count} key{'s' * (count != 1)}" if count else "none asked for"
                source = "environment" if count and source == "default" else source
            yield one.name, _said(value), source


def _said(value: Any) -> str:
    if value is None or value == ():
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _columns(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return [f"{name:{wide[0]}}  {value:{wide[1]}}  {source}" for name, value, source in rows]
