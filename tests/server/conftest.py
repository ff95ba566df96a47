"""Servers for tests: real processes on free ports, with the model that comes with Argosy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from serving import Server, start_server

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as they found it: `url`, `port`, `process.pid`."""
    with start_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`with start("--flag", ...) as server`: a server of a test's own."""

    def run(*args: str, **more: object) -> AbstractContextManager[Server]:
        return start_server(tmp_path, *args, **more)  # type: ignore[arg-type]

    return run
