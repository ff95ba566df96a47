"""From a configuration to a client that answers: model, tokenizer, engine."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from argosy.bundle.cache import resolve_model
from argosy.bundle.hub import locate
from argosy.bundle.open import Bundle, Progress, open_bundle
from argosy.bundle.texts import TOKENIZER, TOKENIZER_CONFIG, read_json
from argosy.client.intake import Intake
from argosy.client.local import LocalClient
from argosy.config import EngineConfig
from argosy.engine.engine import open_engine
from argosy.engine.plan import max_model_len
from argosy.errors import CheckpointError, InvalidSampling, TokenizerError
from argosy.text.tokenizer import Tokenizer, special_tokens
from argosy.types import SamplingParams

LOG = logging.getLogger("argosy")

_SAMPLING_DEFAULTS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Entries of generation_config.json that are sampling parameters, and their names there."""


def open_client(
    config: EngineConfig,
    *,
    cache_dir: Path | str | None = None,
    chat_template: str | None = None,
    progress: Progress | None = None,
    given: Iterable[str] | None = None,
) -> LocalClient:
    """Open the model of `config` with an engine of its own.

    cache_dir: where a bundle is built on first use, ~/.cache/argosy by default; `progress` hears
    of it.  chat_template: Jinja text, in place of the model's.
    given: the fields of `config` the caller chose, which the bundle's limits leave alone; None:
    those that differ from their defaults.
    Raises ConfigError, ModelError and OutOfMemory.
    """
    path = resolve_model(
        config.model,
        cache_dir=Path("~/.cache/argosy" if cache_dir is None else cache_dir).expanduser(),
        dtype=config.dtype,
        quantization=config.quantization,
        revision=config.revision,
        progress=progress,
    )
    bundle = open_bundle(path)
    config = settled(config, bundle.limits, given)
    intake = Intake(
        open_tokenizer(bundle, config.tokenizer),
        chat_template or bundle.chat_template,
        vocab_size=bundle.program.vocab_size,
        max_model_len=max_model_len(bundle.program, config),
        eos_token_ids=bundle.eos_token_ids,
        seed=config.seed,
    )
    defaults = sampling_defaults(bundle.generation_config)
    engine = open_engine(bundle, config)
    memory_line = str(engine.memory or "")
    LOG.info("%s", memory_line)
    return LocalClient(engine, intake, sampling_defaults=defaults, memory_line=memory_line)


def settled(
    config: EngineConfig, limits: Mapping[str, int], given: Iterable[str] | None = None
) -> EngineConfig:
    """`config` with what the caller left open taken from the bundle's limits; see open_client."""
    known = {f.name: f.default for f in fields(config)}
    if given is None:
        given = [name for name, default in known.items() if getattr(config, name) != default]
    left_open = known.keys() - set(given)
    values: dict[str, Any] = {name: limits[name] for name in limits if name in left_open}
    return replace(config, **values)


def open_tokenizer(bundle: Bundle, source: str | None = None) -> Tokenizer:
    """The bundle's tokenizer, or that of `source`: a tokenizer.json, a model's folder or org/model.

    Raises TokenizerError where there is none, or it is larger than the embedding.
    """
    if source is None:
        file, settings = bundle.tokenizer_file, bundle.tokenizer_config
    else:
        path = Path(source)
        file = path if path.is_file() else locate(source) / TOKENIZER
        beside = file.with_name(TOKENIZER_CONFIG)
        settings = read_json(beside) if beside.is_file() else bundle.tokenizer_config
    if file is None:
        raise TokenizerError(
            "this model has no tokenizer.json; pass tokenizer=FOLDER of one that fits"
        )
    return Tokenizer.from_file(file, special_tokens(settings), bundle.program.vocab_size)


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
