"""TensorRT-LLM style build configs: a table of what each key does here, and `argosy.Builder`.

Every key has an effect, is accepted without one (said once in the log), or is refused by
name; a key that is not in the table is refused too, since a misspelt limit would go unnoticed.
docs/reference/trtllm-build-config.md shows the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from argosy.bundle.build import build_bundle
from argosy.bundle.checkpoint import read_config
from argosy.bundle.hub import locate
from argosy.bundle.manifest import is_bundle
from argosy.bundle.open import Progress
from argosy.errors import ConfigError
from argosy.model.architectures import ARCHITECTURES, program_from_config
from argosy.model.formats import parse_dtype
from argosy.model.passes.quantize import Rules
from argosy.types import PAGE_TOKENS

OUTPUT = "engine_outputs"
"""Where a bundle goes when nobody says; the default of trtllm-build."""

_log = logging.getLogger(__name__)


class Key(Struct, frozen=True):
    """What one key of a build config does.

    effect: in words, or why there is none.  check: refuses a value by raising ConfigError.
    silent: accepted without effect, which is said in the log.
    """

    effect: str
    check: Callable[[str, Any], None]
    silent: bool = False


def _count(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")


def _one(name: str, value: Any) -> None:
    _count(name, value)
    if value > 1:
        raise ConfigError(
            f"{name}={value}: sharding is not built yet; set {name}=1 (one process uses all cores)"
        )


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name}={value!r} must be a text")


def _dtype(name: str, value: Any) -> None:
    _text(name, value)
    parse_dtype(value)


def _architecture(name: str, value: Any) -> None:
    _text(name, value)
    if _kind(value) not in ARCHITECTURES:
        raise ConfigError(f"{name}={value!r} is not served; {', '.join(ARCHITECTURES)} are")


def _on(name: str, value: Any) -> None:
    if value not in (True, "enable", "auto"):
        raise ConfigError(f"{name}={value!r} is not served: it is always on; set it to true")


def _any_plugin(name: str, value: Any) -> None:
    if not (value is None or isinstance(value, bool | str)):
        raise ConfigError(f"{name}={value!r} must be a dtype's name, true, false or null")


def _page(name: str, value: Any) -> None:
    if value != PAGE_TOKENS:
        raise ConfigError(f"{name}={value!r} is not served; pages hold {PAGE_TOKENS} tokens")


def _kind(architecture: str) -> str:
    """`llama` for llama and for LlamaForCausalLM."""
    return architecture.lower().removesuffix("forcausallm")


KEYS: dict[str, Key] = {
    "architecture": Key("must be the checkpoint's; llama or LlamaForCausalLM", _architecture),
    "dtype": Key("weights and activations: float16, bfloat16, float32 or auto", _dtype),
    "tp_size": Key("1 only", _one),
    "pp_size": Key("1 only", _one),
    "max_batch_size": Key("limits: max_num_seqs", _count),
    "max_num_tokens": Key("limits: max_num_batched_tokens", _count),
    "max_seq_len": Key("limits: max_model_len; at most the model's own", _count),
    "max_input_len": Key(
        "where max_seq_len is absent it is max_input_len + max_output_len", _count
    ),
    "max_output_len": Key("as max_input_len; without effect beside max_seq_len or alone", _count),
    "checkpoint_dir": Key("the Hugging Face model, where Builder was given none", _text),
    "output_dir": Key("where the bundle goes, where Builder was given no place", _text),
}

LENGTHS = ("max_input_len", "max_output_len")

PLUGIN_KEYS: dict[str, Key] = {
    "use_paged_context_fmha": Key("attention over pages is always on; true only", _on, True),
    "use_flash_attention": Key("attention never stores its scores; true only", _on, True),
    "gemm_plugin": Key("kernels follow the weights' format", _any_plugin, True),
    "gpt_attention_plugin": Key("there is one attention", _any_plugin, True),
    "context_fmha": Key("attention never stores its scores; true only", _on, True),
    "paged_kv_cache": Key("the cache is always paged; true only", _on, True),
    "remove_input_padding": Key("batches are never padded; true only", _on, True),
    "tokens_per_block": Key(f"pages hold {PAGE_TOKENS} tokens; that only", _page, True),
}


class BuildSettings(Struct, frozen=True):
    """What a build config comes to. limits: entries of EngineConfig.  silent: keys of no effect."""

    architecture: str | None
    dtype: str
    limits: dict[str, int]
    model: str | None
    output: str | None
    silent: tuple[str, ...]


def read_build_config(config: Mapping[str, Any]) -> BuildSettings:
    """Check a build config against the table. Raises ConfigError naming the key and its value."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"a build config is a map of keys, not {type(config).__name__}")
    plain = {name: value for name, value in config.items() if name != "plugin_config"}
    plugins = config.get("plugin_config") or {}
    if not isinstance(plugins, Mapping):
        raise ConfigError(f"plugin_config={plugins!r} must be a map")
    silent = [*_checked("", plain, KEYS), *_checked("plugin_config.", plugins, PLUGIN_KEYS)]
    lengths = [name for name in LENGTHS if name in plain]
    if "max_seq_len" in plain or len(lengths) == 1:
        silent += lengths
    architecture = plain.get("architecture")
    return BuildSettings(
        architecture=None if architecture is None else _kind(architecture),
        dtype=plain.get("dtype", "auto"),
        limits=_limits(plain),
        model=plain.get("checkpoint_dir"),
        output=plain.get("output_dir"),
        silent=tuple(silent),
    )


def _checked(prefix: str, values: Mapping[str, Any], table: Mapping[str, Key]) -> list[str]:
    """Check every value; returns the keys that are accepted without effect."""
    for name, value in values.items():
        if name not in table:
            known = ", ".join(table)
            raise ConfigError(f"{prefix}{name}={value!r} is unknown; known are {known}")
        table[name].check(f"{prefix}{name}", value)
    return [f"{prefix}{name}" for name in values if table[name].silent]


def _limits(config: Mapping[str, Any]) -> dict[str, int]:
    longest = config.get("max_seq_len")
    parts = [config[name] for name in LENGTHS if name in config]
    if longest is None and len(parts) == 2:
        longest = sum(parts)
    for name in LENGTHS:
        if longest is not None and config.get(name, 0) > longest:
            raise ConfigError(f"{name}={config[name]} exceeds max_seq_len={longest}; lower it")
    limits = {
        "max_num_seqs": config.get("max_batch_size"),
        "max_num_batched_tokens": config.get("max_num_tokens"),
        "max_model_len": longest,
    }
    return {name: value for name, value in limits.items() if value is not None}


class Builder:
    """Builds bundles from TensorRT-LLM style build configs.

    model: a Hugging Face folder or org/model; output: a folder that does not exist yet. Either may
    come from the config instead, as checkpoint_dir and output_dir. quantization and rules: as for
    `argosy build`.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        output: Path | str | None = None,
        *,
        quantization: str | None = None,
        rules: Rules = (),
        revision: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._model = model
        self._output = output
        self._quantization = quantization
        self._rules = rules
        self._revision = revision
        self._progress = progress

    def build_engine(self, config: Mapping[str, Any]) -> Path:
        """Build a bundle as `config` says and return its folder; the table is KEYS, PLUGIN_KEYS.

        Raises ConfigError for what cannot be honoured, and what `build_bundle` raises.
        """
        settings = read_build_config(config)
        if settings.silent:
            _log.info("accepted without effect: %s", ", ".join(settings.silent))
        source = self._source(settings)
        _check_against(settings, read_config(source))
        return build_bundle(
            source,
            self._output or settings.output or OUTPUT,
            dtype=settings.dtype,
            quantization=self._quantization,
            rules=self._rules,
            limits=settings.limits,
            progress=self._progress,
        )

    def _source(self, settings: BuildSettings) -> Path:
        model = self._model or settings.model
        if model is None:
            raise ConfigError(
                "no model to build from: the embedded one is a bundle without its checkpoint; "
                "give Builder(model=...) or checkpoint_dir a Hugging Face folder or org/model"
            )
        source = locate(model, self._revision)
        if is_bundle(source):
            raise ConfigError(f"{source} is a bundle already; build from its checkpoint")
        return source


def _check_against(settings: BuildSettings, config: Mapping[str, Any]) -> None:
    program = program_from_config(config)
    if settings.architecture not in (None, program.architecture):
        raise ConfigError(
            f"architecture={settings.architecture!r}, but the checkpoint is a "
            f"{program.architecture!r}; correct it, or leave it out"
        )
    longest = settings.limits.get("max_model_len", 1)
    if longest > program.max_position:
        raise ConfigError(
            f"max_seq_len={longest} exceeds the model's context of {program.max_position}; lower it"
        )
