"""Argosy: LLM inference on the machine you have.

Names are loaded when first used (PEP 562), so that `import argosy` takes a moment only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argosy.bundle.trtllm import Builder as Builder
    from argosy.client.async_llm import AsyncLLM as AsyncLLM
    from argosy.client.llm import LLM as LLM
    from argosy.client.outputs import CompletionOutput as CompletionOutput
    from argosy.client.outputs import Logprob as Logprob
    from argosy.client.outputs import RequestOutput as RequestOutput
    from argosy.config import EngineConfig as EngineConfig
    from argosy.errors import ArgosyError as ArgosyError
    from argosy.errors import BundleError as BundleError
    from argosy.errors import CheckpointError as CheckpointError
    from argosy.errors import ConfigError as ConfigError
    from argosy.errors import ContextLengthExceeded as ContextLengthExceeded
    from argosy.errors import EngineDead as EngineDead
    from argosy.errors import InvalidPrompt as InvalidPrompt
    from argosy.errors import InvalidSampling as InvalidSampling
    from argosy.errors import ModelError as ModelError
    from argosy.errors import ModelNotFound as ModelNotFound
    from argosy.errors import OutOfMemory as OutOfMemory
    from argosy.errors import Overloaded as Overloaded
    from argosy.errors import RequestError as RequestError
    from argosy.errors import StepFailed as StepFailed
    from argosy.errors import TemplateError as TemplateError
    from argosy.errors import TokenizerError as TokenizerError
    from argosy.errors import UnsupportedParameter as UnsupportedParameter
    from argosy.types import Request as Request
    from argosy.types import RequestOutputKind as RequestOutputKind
    from argosy.types import SamplingParams as SamplingParams

__version__ = "0.1.0"

_MODULES = {
    "argosy.bundle.trtllm": ("Builder",),
    "argosy.client.async_llm": ("AsyncLLM",),
    "argosy.client.llm": ("LLM",),
    "argosy.client.outputs": ("CompletionOutput", "Logprob", "RequestOutput"),
    "argosy.config": ("EngineConfig",),
    "argosy.errors": (
        "ArgosyError",
        "BundleError",
        "CheckpointError",
        "ConfigError",
        "ContextLengthExceeded",
        "EngineDead",
        "InvalidPrompt",
        "InvalidSampling",
        "ModelError",
        "ModelNotFound",
        "OutOfMemory",
        "Overloaded",
        "RequestError",
        "StepFailed",
        "TemplateError",
        "TokenizerError",
        "UnsupportedParameter",
    ),
    "argosy.types": ("Request", "RequestOutputKind", "SamplingParams"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'argosy' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
