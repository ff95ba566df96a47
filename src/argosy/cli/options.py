"""Flags shared by verbs, each written once, and how they become configurations.

A group of flags is a dataclass whose fields are typer options. `takes(Group, ...)` gives a verb
those flags: typer sees one flat signature, the verb receives the groups.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from argosy.client.options import parse_bytes
from argosy.config import EngineConfig
from argosy.errors import ConfigError
from argosy.types import SamplingParams

_MODEL_HELP = (
    "A bundle, a Hugging Face folder, or org/model from the local Hugging Face cache or online. "
    "Without it, the model that comes with Argosy."
)
Model = Annotated[str | None, typer.Argument(metavar="MODEL", help=_MODEL_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help=_MODEL_HELP)]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        "--quantization",
        "-q",
        metavar="FORMAT",
        help="Weight format: w4, w8, w4g64z (group, zero points), bf16.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of an org/model.")
]

LIMITS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
"""Flags whose values a bundle may bring."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20}


def parse_count(text: str | int) -> int:
    """A whole number, `k` and `m` for 1024 and 1024**2: 32k is 32768. Typer gives defaults as int.

    Raises typer.BadParameter (exit code 2) for anything else.
    """
    match = re.fullmatch(r"(\d{1,12})([km]?)", str(text).strip().lower())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a count; write it as 4096 or 32k")
    return int(match[1]) * _UNITS[match[2]]


def _memory(text: str) -> int | None:
    try:
        return parse_bytes(text)
    except ConfigError as exc:
        raise typer.BadParameter(str(exc)) from exc


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """How the engine runs; the names are vLLM's where it has one."""

    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Weights and activations: auto, float32, float16, bfloat16."
        ),
    ] = "auto"
    quantize: Quantize = None
    max_model_len: Annotated[
        int | None,
        typer.Option(
            parser=parse_count, metavar="N", help="Longest prompt plus answer: 4096, 32k."
        ),
    ] = None
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="Sequences running at once.",
            show_default=str(EngineConfig.max_num_seqs),
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="Tokens computed in one step.",
            show_default="measured at start",
        ),
    ] = None
    kv_cache_dtype: Annotated[
        str, typer.Option(metavar="NAME", help="Cached keys and values: auto, fp32, bf16, int8.")
    ] = "auto"
    memory: Annotated[
        int | None,
        typer.Option(parser=_memory, metavar="SIZE", help="Use at most this much, as in 4G."),
    ] = None
    gpu_memory_utilization: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the memory limit to use, on a CPU too.")
    ] = EngineConfig.gpu_memory_utilization
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "--num-threads",
            metavar="N",
            help="Threads; default: what affinity and cgroup allow.",
        ),
    ] = None
    runtime: Annotated[
        str,
        typer.Option(metavar="NAME", help="native (C++), or reference (NumPy: slow and obvious)."),
    ] = EngineConfig.runtime
    enable_prefix_caching: Annotated[
        bool, typer.Option(help="Reuse the pages of prompts that begin alike.")
    ] = True
    seed: Annotated[int | None, typer.Option(metavar="N", help="Makes draws repeatable.")] = None
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="A tokenizer.json, folder or org/model instead."),
    ] = None
    chat_template: Annotated[
        str | None, typer.Option(metavar="FILE", help="Chat template instead: a file, or Jinja.")
    ] = None
    revision: Revision = None

    @property
    def given(self) -> list[str]:
        """The limits that were given, even with their default values: a bundle's own yield."""
        return [name for name in LIMITS if getattr(self, name) is not None]

    def config(self, model: str | None) -> EngineConfig:
        """The configuration asked for. Raises ConfigError for a value that cannot be honoured."""
        return EngineConfig(
            model=model,
            tokenizer=self.tokenizer,
            revision=self.revision,
            dtype=self.dtype,
            quantization=self.quantize,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs or EngineConfig.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens
            or EngineConfig.max_num_batched_tokens,
            enable_prefix_caching=self.enable_prefix_caching,
            kv_cache_dtype=self.kv_cache_dtype,
            seed=self.seed,
            gpu_memory_utilization=self.gpu_memory_utilization,
            memory=self.memory,
            runtime=self.runtime,
            num_threads=self.threads,
        )


def _parse_bias(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d{1,9})=([+-]?\d{1,3}(?:\.\d+)?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not ID=BIAS, as in 42=-5")
    return int(match[1]), float(match[2])


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How tokens are drawn, by the names of vLLM's SamplingParams; None: the model's default."""

    temperature: Annotated[
        float | None, typer.Option(metavar="X", help="0 takes the best token; up to 2.")
    ] = None
    top_p: Annotated[
        float | None, typer.Option(metavar="X", help="Draw from the best that hold this share.")
    ] = None
    top_k: Annotated[
        int | None, typer.Option(metavar="N", help="Draw from this many best; 0 is off.")
    ] = None
    min_p: Annotated[
        float | None, typer.Option(metavar="X", help="Drop what is below this share of the best.")
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Taken off tokens generated before.")
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Likewise, for each time.")
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Likewise by a factor, the prompt's too.")
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Longest answer.")
    ] = None
    min_tokens: Annotated[int | None, typer.Option(metavar="N", help="Shortest answer.")] = None
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ends the answer; may be repeated.")
    ] = None
    stop_token_ids: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Likewise, by token id.")
    ] = None
    ignore_eos: Annotated[
        bool | None, typer.Option("--ignore-eos", help="Go on after end-of-sequence.")
    ] = None
    include_stop_str_in_output: Annotated[
        bool | None, typer.Option("--include-stop-str-in-output", help="Keep the stop string.")
    ] = None
    skip_special_tokens: Annotated[
        bool | None, typer.Option(help="Hide special tokens, or show them.")
    ] = None
    bad_words: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Never generated; may be repeated.")
    ] = None
    logit_bias: Annotated[
        list[Any] | None,
        typer.Option(parser=_parse_bias, metavar="ID=BIAS", help="Added to a token's logit."),
    ] = None
    allowed_token_ids: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Only these are drawn.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The parameters that were given, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if values["logit_bias"]:
            values["logit_bias"] = dict(values["logit_bias"])
        return {name: value for name, value in values.items() if value not in (None, [])}


def sampling_settings(
    sampling: SamplingFlags, engine: EngineFlags, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The sampling parameters given. Raises InvalidSampling, before any model is loaded."""
    seed = {} if engine.seed is None else {"seed": engine.seed}
    values: dict[str, Any] = seed | sampling.given() | dict(more or {})
    unbounded: dict[str, Any] = {"max_tokens": None}
    SamplingParams(**unbounded | values)
    return values


def takes(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the flags of `groups`; it receives each group whole, by the name given here."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name not in groups]
        shared = {name: _parameters(group) for name, group in groups.items()}

        @functools.wraps(verb)
        def call(**values: Any) -> None:
            built = {
                name: groups[name](**{p.name: values.pop(p.name) for p in parameters})
                for name, parameters in shared.items()
            }
            verb(**values, **built)

        everything = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        everything += [p for parameters in shared.values() for p in parameters]
        call.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in everything}
        return call

    return decorate


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(f.name, kind, default=f.default, annotation=hints[f.name])
        for f in fields(group)
    ]
