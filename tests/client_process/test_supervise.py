"""The supervisor: what it does of engines that do not start, stop or behave, and what it leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from argosy.client.attachment import State
from argosy.client.supervise import Patience, Supervisor
from argosy.engine.board import Board
from argosy.errors import EngineDead, OutOfMemory
from argosy.types import SamplingParams
from client_process.engines import QUICK, connected, embedded, is_alive, kill, supervised, until


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def folders() -> set[str]:
    return {p for p in os.listdir(tempfile.gettempdir()) if p.startswith("argosy-")}


def test_what_kept_the_engine_from_starting_is_raised() -> None:
    with supervised(embedded(), opener="refusing") as supervisor:
        with pytest.raises(OutOfMemory, match="set memory=1G"):
            supervisor.wait_ready(60)
        status = supervisor.status()
        assert (status.state, status.epoch, status.restarts) == (State.FAILED, 1, 0)
        assert status.last_exit == "exited with status 1"


@pytest.mark.parametrize(
    ("opener", "said"), [("breaking", "ZeroDivisionError: no such"), ("exiting", "status 3")]
)
def test_what_is_not_argosys_error_is_told_too(opener: str, said: str) -> None:
    with (
        supervised(embedded(), opener=opener) as supervisor,
        pytest.raises(EngineDead, match=said),
    ):
        supervisor.wait_ready(60)


def test_starts_that_fail_one_after_the_other_are_the_end() -> None:
    with supervised(embedded(), opener="dying") as supervisor:
        with pytest.raises(EngineDead, match=r"3 starts in a row failed, .*SIGKILL"):
            supervisor.wait_ready(60)
        assert supervisor.status().epoch == 3
        until(lambda: not os.path.exists(supervisor.socket_path))


def test_an_engine_that_does_not_come_back_ends_the_streams(tmp_path: Path) -> None:
    prepared = embedded()
    prepared = replace(prepared, config=replace(prepared.config, revision=str(tmp_path / "been")))

    async def act(supervisor: Supervisor) -> None:
        async with connected(supervisor, prepared) as client:
            params = SamplingParams(max_tokens=1900, ignore_eos=True, output_kind="delta")
            stream = client.submit(client.intake.accept("Hello", params))
            outputs = []
            async for output in stream:
                if not outputs:
                    kill(supervisor)
                outputs.append(output)
            answer = outputs[-1].outputs[0]
            assert answer.finish_reason == "error"
            assert "did not come back" in str(answer.stop_reason)
            with pytest.raises(EngineDead):
                client.submit(client.intake.accept("Hello", params))

    with supervised(prepared, opener="once") as supervisor:
        supervisor.wait_ready(60)
        asyncio.run(asyncio.wait_for(act(supervisor), 60))
        assert supervisor.status().state is State.FAILED
        assert supervisor.status().epoch == 1 + QUICK.max_failures
        assert isinstance(supervisor.failure, EngineDead)


def test_an_engine_that_hangs_while_it_starts_is_killed() -> None:
    patience = replace(QUICK, boot_s=0.5, stall_s=0.5, max_failures=2)
    with supervised(embedded(), opener="hanging", patience=patience) as supervisor:
        with pytest.raises(EngineDead, match=r"its heartbeat stood still for 0\.5 s"):
            supervisor.wait_ready(60)
        assert supervisor.status().pid == 0


def test_waiting_has_an_end() -> None:
    with supervised(embedded(), opener="hanging") as supervisor:
        with pytest.raises(TimeoutError):
            supervisor.wait_ready(0.05)
        supervisor.stop()
        with pytest.raises(EngineDead, match="was stopped"):
            supervisor.wait_ready(1)


def test_nothing_is_left() -> None:
    prepared = embedded()
    before = fds(), folders()
    with supervised(prepared) as supervisor:
        supervisor.wait_ready(60)
        first = kill(supervisor)
        until(lambda: supervisor.status().pid not in (0, first))
        second = supervisor.status().pid
        until(lambda: supervisor.status().state is State.READY)
        assert not is_alive(first), "it was reaped before the next one started"
        assert (supervisor.status().epoch, supervisor.status().restarts) == (2, 1)
        folder = Path(supervisor.socket_path).parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not is_alive(second) and not folder.exists()
    assert (fds(), folders()) == before
    supervisor.stop()


def test_an_engine_that_ignores_the_end_is_killed() -> None:
    patience = replace(QUICK, stop_s=0.2)
    with supervised(embedded(), patience=patience) as supervisor:
        supervisor.wait_ready(60)
        pid = kill(supervisor, signal.SIGSTOP)
        supervisor.stop()
        assert not is_alive(pid)
        assert supervisor.status().state is State.STOPPED


def test_a_supervisor_nobody_holds_ends_its_engine() -> None:
    board = Board.create()
    supervisor = Supervisor(embedded().spec(), board, patience=QUICK)
    supervisor.start()
    supervisor.wait_ready(60)
    pid, folder = supervisor.status().pid, Path(supervisor.socket_path).parent
    del supervisor
    gc.collect()
    assert not is_alive(pid) and not folder.exists()
    board.close()


def test_one_that_was_never_started_leaves_nothing() -> None:
    before, board = fds(), Board.create()
    supervisor = Supervisor(embedded().spec(), board)
    supervisor.stop()
    board.close()
    assert fds() == before and not os.path.exists(supervisor.socket_path)


SCRIPT = """
import os, sys
from argosy.client.prepare import prepare
from argosy.client.supervise import Supervisor
from argosy.config import EngineConfig
from argosy.engine.board import Board
board = Board.create()
supervisor = Supervisor(prepare(EngineConfig(num_threads=1, kv_pages=100)).spec(), board)
if sys.argv[1] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[1] == "fork":
    os.wait()
    assert os.path.exists(supervisor.socket_path)
supervisor.start()
supervisor.wait_ready(60)
print(supervisor.status().pid, supervisor.socket_path, flush=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[1] == "fork":
    os.wait()
    os.kill(supervisor.status().pid, 0)
if sys.argv[1] == "raise":
    raise KeyboardInterrupt
if sys.argv[1] == "die":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["return", "raise", "fork", "die"])
def test_a_program_that_ends_leaves_no_engine(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60, check=False
    )
    pid, path = done.stdout.split()
    until(lambda: not is_alive(int(pid)))
    assert os.path.exists(path) == (how == "die")
    if how == "die":
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
    assert done.returncode == {"return": 0, "fork": 0, "die": -9}.get(how, done.returncode)
    assert ("Traceback" in done.stderr) == (how == "raise"), done.stderr


def test_a_long_folder_for_temporary_files_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    board = Board.create()
    with Supervisor(embedded().spec(), board, patience=Patience()) as supervisor:
        assert supervisor.socket_path.startswith("/tmp/argosy-")
    board.close()
    assert not list(long.iterdir())
