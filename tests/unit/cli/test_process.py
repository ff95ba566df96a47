"""`argosy` as a process: signals, pipes, exit codes."""

from __future__ import annotations

import contextlib
import os
import pty
import select
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


def press_until_gone(terminal: int, key: bytes) -> None:
    """Press `key` until the terminal is let go: readline shows its prompt before it listens."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            os.write(terminal, key)
            while select.select([terminal], [], [], 0.3)[0]:
                os.read(terminal, 4096)
        raise AssertionError("the chat did not end")


def test_ctrl_c_in_a_terminal(argosy: list[str]) -> None:
    slowly = (
        "import time; from argosy.cli.terminal import Screen\n"
        "Screen.show = lambda self, text: (print('#', flush=True), time.sleep(0.1))\n"
        "from argosy.cli.main import main; main()"
    )
    command = [sys.executable, "-c", slowly, *words(argosy, "chat", "--runtime", "reference")[3:]]
    pid, ours = pty.fork()
    if pid == 0:
        os.execve(command[0], [*command, "--ignore-eos"], os.environ | {"NO_COLOR": "1"})
    try:
        read_until(ours, b">>> ")
        os.write(ours, b"hi\n")
        read_until(ours, b"#")
        os.write(ours, b"\x03")
        assert b"[stopped]" in read_until(ours, b">>> ")
        press_until_gone(ours, b"\x03")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(ours)
    assert os.waitstatus_to_exitcode(status) == 130


def test_sigterm_leaves_no_half_made_bundle(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "here" / "out"
    code = (
        "import os, signal, argosy.cli.build as b\n"
        "b.ProgressLine = lambda _: lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from argosy.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "build", model, "-o", out])
    assert done.returncode == 143
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("flag", ["--version", "--help", "build --help"])
def test_a_full_stdout_is_one_line(flag: str) -> None:
    command = f"{sys.executable} -m argosy {flag} >/dev/full"
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=buffered)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("argosy: ") and "No space left" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code"), [("--version", 0), ("show nowhere/model", 1), ("--no-such", 2)]
)
def test_a_closed_stderr_keeps_stdout_and_code(flags: str, code: int) -> None:
    command = f"{sys.executable} -m argosy {flags}"
    closed = subprocess.run(["sh", "-c", f"{command} 2>&-"], capture_output=True, text=True)
    usual = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (closed.returncode, closed.stdout) == (code, usual.stdout)


def read_until(terminal: int, mark: bytes, seconds: float = 20.0) -> bytes:
    """What a terminal shows up to `mark`."""
    shown, end = b"", time.monotonic() + seconds
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    while mark not in shown and poll.poll(max(end - time.monotonic(), 0) * 1000):
        shown += os.read(terminal, 4096)
    assert mark in shown, shown
    return shown
