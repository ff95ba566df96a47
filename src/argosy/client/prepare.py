"""From a configuration to a model found and settled: enough to start an engine process with.

Nothing of the model is loaded yet, nor the tokenizer's library imported, so that an engine process
starts up while its front does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from argosy.bundle.cache import resolve_model
from argosy.bundle.open import Bundle, Progress, open_bundle
from argosy.config import EngineConfig
from argosy.engine.plan import max_model_len
from argosy.engine.spec import EngineSpec
from argosy.errors import CheckpointError, InvalidSampling
from argosy.types import SamplingParams

_SAMPLING_DEFAULTS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Entries of generation_config.json that are sampling parameters, and their names there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model ready to be opened, by an engine and by fronts.

    config: nothing left open that the bundle settles.  chat_template: Jinja text, the caller's or
    the model's; None: there is none.  max_model_len: tokens of prompt and answer.
    sampling_defaults: what the model asks for, by SamplingParams' names.
    """

    bundle: Bundle
    config: EngineConfig
    chat_template: str | None
    max_model_len: int
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, *, opener: str | None = None, python_path: Sequence[str] = ()) -> EngineSpec:
        """What an engine process of this model is told; a supervisor fills in the rest.

        opener, python_path: as in EngineSpec.
        """
        return EngineSpec(
            bundle=str(self.bundle.path.resolve()),
            config=asdict(self.config),
            listener=-1,
            board=-1,
            lifeline=-1,
            epoch=0,
            opener=opener,
            python_path=[str(Path(folder).resolve()) for folder in python_path],
        )


def prepare(
    config: EngineConfig,
    *,
    cache_dir: Path | str | None = None,
    chat_template: str | None = None,
    progress: Progress | None = None,
    given: Iterable[str] | None = None,
) -> Prepared:
    """Find the model of `config`, building its bundle on first use.

    cache_dir: where bundles are built, ~/.cache/argosy by default; `progress` hears of it.
    chat_template: Jinja text, in place of the model's.
    given: the fields of `config` the caller chose, which the bundle's limits leave alone; None:
    those that differ from their defaults.
    Raises ConfigError and ModelError.
    """
    path = resolve_model(
        config.model,
        cache_dir=Path("~/.cache/argosy" if cache_dir is None else cache_dir).expanduser(),
        dtype=config.dtype,
        quantization=config.quantization,
        revision=config.revision,
        progress=progress,
    )
    return prepare_bundle(path, config, chat_template=chat_template, given=given)


def prepare_bundle(
    path: Path | str,
    config: EngineConfig,
    *,
    chat_template: str | None = None,
    given: Iterable[str] | None = None,
) -> Prepared:
    """`prepare` for a bundle that is there; a front process does it again with the same values."""
    bundle = open_bundle(Path(path))
    config = settled(config, bundle.limits, given)
    return Prepared(
        bundle=bundle,
        config=config,
        chat_template=chat_template or bundle.chat_template,
        max_model_len=max_model_len(bundle.program, config),
        sampling_defaults=sampling_defaults(bundle.generation_config),
    )


def settled(
    config: EngineConfig, limits: Mapping[str, int], given: Iterable[str] | None = None
) -> EngineConfig:
    """`config` with what the caller left open taken from the bundle's limits; see `prepare`."""
    known = {f.name: f.default for f in fields(config)}
    if given is None:
        given = [name for name, default in known.items() if getattr(config, name) != default]
    left_open = known.keys() - set(given)
    values: dict[str, Any] = {name: limits[name] for name in limits if name in left_open}
    return replace(config, **values)


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters a model asks for, by SamplingParams' names.

    "do_sample": false without a temperature means temperature 0, the best token.
    Raises CheckpointError for values that no request could have.
    """
    found = {
        name: generation_config[entry]
        for entry, name in _SAMPLING_DEFAULTS.items()
        if generation_config.get(entry) is not None
    }
    if generation_config.get("do_sample") is False:
        found.setdefault("temperature", 0.0)
    try:
        SamplingParams(**found)
    except InvalidSampling as exc:
        raise CheckpointError(f"generation_config.json: {exc}; correct it there") from exc
    return found
