"""`argosy` as a process: signals, pipes, exit codes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GENERATE = ("--raw", "--ignore-eos", "--runtime", "reference", "--max-tokens", "100", "--seed", "1")


@pytest.fixture
def argosy(tmp_path: Path, model: Path) -> list[str]:
    """The command, with a bundle of the random model in place of a checkpoint."""
    bundle = tmp_path / "bundle"
    command = [sys.executable, "-m", "argosy"]
    subprocess.run([*command, "build", model, "-o", bundle], check=True, capture_output=True)
    return [*command, "{verb}", str(bundle)]


def words(argosy: list[str], verb: str, *more: str) -> list[str]:
    return [word.format(verb=verb) for word in argosy] + list(more)


def test_ctrl_c_cuts_the_answer_and_exits_130(argosy: list[str]) -> None:
    [*command, bundle] = words(argosy, "generate")
    process = subprocess.Popen(
        [*command, "once", "--model", bundle, *GENERATE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (first + rest).endswith("\n")
    assert "Traceback" not in errors


def test_a_reader_that_leaves_ends_generate_quietly(argosy: list[str]) -> None:
    [*command, bundle] = words(argosy, "generate")
    process = subprocess.Popen(
        [*command, "once", "--model", bundle, *GENERATE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1
    assert "Traceback" not in errors and "Exception" not in errors


def test_chat_through_a_pipe(argosy: list[str]) -> None:
    done = subprocess.run(
        words(argosy, "chat", "--runtime", "reference", "--max-tokens", "3", "--temperature", "0"),
        input="hi\nhi\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hi" not in done.stdout and ">>>" not in done.stdout and "\x1b" not in done.stdout
    assert "memory: weights" in done.stderr


def test_closed_streams_are_no_crash(argosy: list[str]) -> None:
    command = " ".join(words(argosy, "chat", "--runtime", "reference"))
    done = subprocess.run(["sh", "-c", f"{command} <&- >&-"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_bytes_that_are_no_text_are_refused_by_name(argosy: list[str]) -> None:
    done = subprocess.run(
        words(argosy, "chat", "--runtime", "reference"), input=b"\xff\xfe\n", capture_output=True
    )
    assert done.returncode == 1
    assert b"lone surrogate" in done.stderr and b"Traceback" not in done.stderr


def test_chat_in_a_terminal(argosy: list[str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words(argosy, "chat", "--runtime", "reference", "--max-tokens", "2"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"NO_COLOR": "1"},
    )
    os.close(theirs)
    screen = read_until(ours, b">>> ")
    os.write(ours, b"hi\n")
    screen += read_until(ours, b">>> ")
    os.write(ours, b"/stats\n")
    screen += read_until(ours, b">>> ")
    os.write(ours, b"\x04")
    assert process.wait(timeout=30) == 0
    os.close(ours)
    assert b"/help lists the commands" in screen and b"figures after each answer: on" in screen


def read_until(terminal: int, mark: bytes, seconds: float = 30.0) -> bytes:
    """What a terminal shows up to `mark`."""
    shown, end = b"", time.monotonic() + seconds
    while mark not in shown and time.monotonic() < end:
        shown += os.read(terminal, 4096)
    assert mark in shown
    return shown
