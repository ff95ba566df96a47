"""What `import argosy` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

import argosy

HEAVY = {"torch", "transformers", "numpy", "tokenizers", "uvicorn", "starlette", "zmq"}


def python(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import argosy; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.3


def test_import_is_lean() -> None:
    code = "import sys, argosy, argosy.types, argosy.config; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in python(code).split()}
    assert not loaded & HEAVY


def test_every_public_name_exists() -> None:
    assert list(argosy.__all__) == sorted(argosy.__all__)
    for name in argosy.__all__:
        assert getattr(argosy, name) is not None
    assert set(argosy.__all__) <= set(dir(argosy))


def test_the_names_people_come_for() -> None:
    names = {"LLM", "AsyncLLM", "SamplingParams", "Request", "RequestOutput", "Builder"}
    assert names <= set(argosy.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        argosy.no_such_name  # noqa: B018


def test_version() -> None:
    try:
        assert version("argosy") == argosy.__version__
    except PackageNotFoundError:
        pytest.skip("argosy is not installed: it runs from its source folder")
