"""The architectures served: a Hugging Face model_type to a function from config to program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from argosy.errors import CheckpointError
from argosy.model.architectures.llama import llama
from argosy.model.architectures.mistral import mistral
from argosy.model.architectures.qwen2 import qwen2
from argosy.model.architectures.qwen3 import qwen3
from argosy.model.program import Program
from argosy.model.settings import Settings

ARCHITECTURES: dict[str, Callable[[Settings], Program]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
}


def program_from_config(config: Mapping[str, Any]) -> Program:
    """The logical program of a Hugging Face config, all matrices fp32 until `quantize`.

    Raises CheckpointError for an architecture that is not served (with the list of those that
    are), for one that would need remote code, and for any value that is absurd, by name.
    """
    settings = Settings(config)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise _unknown(config, kind)
    _check_kind(settings)
    return ARCHITECTURES[kind](settings)


def _unknown(config: Mapping[str, Any], kind: object) -> CheckpointError:
    served = ", ".join(ARCHITECTURES)
    if config.get("auto_map"):
        return CheckpointError(
            f"model_type={kind!r} comes with Python code of its own (auto_map), and no remote code "
            f"is ever executed; served are {served}"
        )
    return CheckpointError(f"model_type={kind!r} is not supported; served are {served}")


def _check_kind(settings: Settings) -> None:
    quantization = settings.raw("quantization_config")
    if quantization:
        known = isinstance(quantization, dict) and quantization.get("quant_method")
        raise CheckpointError(
            f"config.json: quantization_config of {known or quantization!r}: quantized checkpoints "
            "are not read yet; use the unquantized one and --quantize w4 or w8"
        )
    classes = settings.raw("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise settings.refuse("architectures", "must be a list of names")
    if classes and not any(name.endswith(("ForCausalLM", "Model")) for name in classes):
        raise settings.refuse("architectures", "is no causal language model")
