"""vLLM's flags that are accepted and change nothing here; what would need an effect is refused.

Those that `LLM` takes too are in argosy.config; SERVER_NO_EFFECT has the rest. A kind is the type
of the flag's value: bool is a switch, dict is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from argosy.client.options import LLMOptions
from argosy.config import NO_EFFECT_ON_CPU, ONLY_VALUES, check_accepted

HONOURED = ("max_logprobs", "served_model_name", "disable_log_requests")
"""Without effect for an `LLM`, but not for a server."""

SERVER_NO_EFFECT: dict[str, tuple[type, str]] = {
    "data_parallel_size": (int, "there is one engine process"),
    "enable_expert_parallel": (bool, "there is one engine process"),
    "async_scheduling": (bool, "a step is planned while answers are written anyway"),
    "stream_interval": (int, "every token is sent as it comes"),
    "logprobs_mode": (str, "log probabilities are those before penalties and filters"),
    "model_impl": (str, "there is one implementation of each architecture"),
    "generation_config": (str, "defaults come from the model's generation_config.json"),
    "override_generation_config": (dict, "defaults come from the model's generation_config.json"),
    "hf_overrides": (dict, "a model's config.json is taken as it is"),
    "default_chat_template_kwargs": (dict, "templates get messages, and what a request gives"),
    "chat_template_content_format": (str, "content is text"),
    "response_role": (str, "answers come from the assistant"),
    "enable_auto_tool_choice": (bool, "tool calls are not built yet"),
    "tool_call_parser": (str, "tool calls are not built yet"),
    "reasoning_parser": (str, "reasoning is not told apart yet"),
    "speculative_config": (dict, "speculative decoding is not built yet"),
    "lora_modules": (str, "adapters are not built yet"),
    "enable_prompt_tokens_details": (bool, "cached tokens are always told"),
    "enable_server_load_tracking": (bool, "/load always tells"),
    "enable_request_id_headers": (bool, "X-Request-Id is always sent"),
    "enable_log_outputs": (bool, "text is never logged"),
    "disable_fastapi_docs": (bool, "there is /openapi.json, and no page around it"),
    "disable_uvicorn_access_log": (bool, "a request is logged in one line of our own"),
    "uvicorn_log_level": (str, "ARGOSY_LOG sets the level"),
    "headless": (bool, "a server without a front would serve nobody"),
    "middleware": (str, "no code is taken from flags"),
    "root_path": (str, "paths begin at /"),
}
"""Arguments of `vllm serve` alone: their kind, and why they change nothing."""

SERVER_ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "data_parallel_size": (1,),
    "enable_expert_parallel": (False,),
    "stream_interval": (1,),
    "logprobs_mode": ("raw_logprobs",),
    "model_impl": ("auto",),
    "generation_config": ("auto",),
    "override_generation_config": ({},),
    "hf_overrides": ({},),
    "default_chat_template_kwargs": ({},),
    "chat_template_content_format": ("auto", "string"),
    "response_role": ("assistant",),
    "enable_auto_tool_choice": (False,),
    "tool_call_parser": (None,),
    "reasoning_parser": (None,),
    "speculative_config": (None, {}),
    "lora_modules": (None,),
    "enable_log_outputs": (False,),
    "headless": (False,),
    "middleware": (None,),
    "root_path": ("", "/"),
}
"""Of some of these, the only values that are true here; others are refused by name."""

WHY: Mapping[str, str] = {
    **{name: why for name, why in NO_EFFECT_ON_CPU.items() if name not in HONOURED},
    **{name: why for name, (_, why) in SERVER_NO_EFFECT.items()},
}
"""Every flag `argosy serve` accepts without effect, and why it has none."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    **{name: values for name, values in ONLY_VALUES.items() if name in WHY},
    **SERVER_ONLY_VALUES,
}


def parse_json(text: str) -> Any:
    """A JSON value; text that is none stays text, to be refused by name."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _kinds() -> dict[str, type]:
    hints = get_type_hints(LLMOptions)
    kinds = {name: _kind(hints[name]) for name in NO_EFFECT_ON_CPU if name in WHY}
    return kinds | {name: kind for name, (kind, _) in SERVER_NO_EFFECT.items()}


def _kind(hint: Any) -> type:
    """The type of a flag for an argument of `LLM`; Any and mappings are JSON."""
    names = (hint, *get_args(hint))
    return next((kind for kind in (str, float, int, bool) if kind in names), dict)


def _option(kind: type) -> Any:
    if kind is dict:
        return Annotated[Any, typer.Option(parser=parse_json, metavar="JSON", hidden=True)]
    return Annotated[kind | None, typer.Option(hidden=True)]


AcceptedFlags: type[Any] = make_dataclass(
    "AcceptedFlags",
    [(name, _option(kind), None) for name, kind in _kinds().items()],
    frozen=True,
    kw_only=True,
)
"""One field for each; None where it was not given."""


def without_effect(flags: Any) -> list[str]:
    """What was given of AcceptedFlags, each with why it changes nothing, as in "x (because)".

    Raises ConfigError for a value that would need an effect.
    """
    given = {f.name: getattr(flags, f.name) for f in fields(flags)}
    said = []
    for name, value in given.items():
        if value is not None:
            check_accepted(name, value, WHY, ONLY)
            said.append(f"{name} ({WHY[name]})")
    return said
