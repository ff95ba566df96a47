"""Progress bars on stderr, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from argosy.client.outputs import RequestOutput


@contextmanager
def answers_bar(total: int, wanted: bool) -> Iterator[Callable[[RequestOutput], None]]:
    """What to call with each finished request of `total`."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    tokens = TextColumn("{task.fields[tokens]} tokens")
    counts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), tokens)
    with Progress(TextColumn("answers"), *counts, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, tokens=0)
        generated = 0

        def advance(output: RequestOutput) -> None:
            nonlocal generated
            generated += sum(len(answer.token_ids) for answer in output.outputs)
            bar.update(task, advance=1, tokens=generated)

        yield advance


@contextmanager
def build_bar() -> Iterator[Callable[[int, int], None] | None]:
    """What to call with bytes done and bytes in all while a bundle is built."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("building"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
