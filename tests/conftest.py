"""Fixtures shared by all tests. The only place that knows where test data may lie."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("argosy", derandomize=True, deadline=None, database=None)
settings.load_profile("argosy")

# A shell has what it starts in the background ignore Ctrl-C, and programs under test would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _data_folder() -> Path | None:
    given = os.environ.get("ARGOSY_TEST_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "assets"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test data; the test is skipped where there is none."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("no test data: set ARGOSY_TEST_DATA to the folder that holds stories260K")
    return folder


@pytest.fixture(scope="session")
def stories(data: Path) -> Path:
    """stories260K, a small trained Llama in Hugging Face form, with golden files."""
    return data / "stories260K"
