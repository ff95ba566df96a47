"""A server as the harness sees it: a command, its readiness, and the CPU of all its processes.

Linux only: /proc is read.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

START_S = 300.0
STOP_S = 30.0


@dataclass(frozen=True)
class Command:
    """How to start one server. `{port}` stands in `argv` where the port goes.

    name: the server's.  precision: of weights, as tables tell it.  ready: path that answers 200.
    engine: a word in the command line of the process that computes, where it is not the only one.
    environment: put over ours.
    """

    name: str
    precision: str
    argv: tuple[str, ...]
    ready: str = "/health"
    engine: str = ""
    environment: dict[str, str] = field(default_factory=dict)


class Server:
    """One started server, ended with the block."""

    def __init__(self, command: Command, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.command, self._log = command, log
        self.url = f"http://127.0.0.1:{self.port}"
        self.start_s = 0.0

    def __enter__(self) -> Server:
        argv = [part.replace("{port}", str(self.port)) for part in self.command.argv]
        began = time.monotonic()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | self.command.environment,
            )  # fmt: skip
        try:
            self._wait(began + START_S)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        family = self.processes()
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in family:
            if pid != self._process.pid and alive(pid):
                os.kill(pid, signal.SIGKILL)

    def _wait(self, until: float) -> None:
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"{self.command.name} did not start; see {self._log}")
            try:
                with urllib.request.urlopen(self.url + self.command.ready, timeout=5):
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise SystemExit(f"{self.command.name} is not ready after {START_S:g} s")
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """Its processes: the one started, and all that descend from it."""
        parents = {pid: parent(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
        family = {self._process.pid}
        while more := {pid for pid, its in parents.items() if its in family} - family:
            family |= more
        return sorted(family)

    def cpu(self) -> Cpu:
        """What its processes have used so far; nothing is taken off."""
        engine = rest = 0.0
        for pid in self.processes():
            if self.command.engine and self.command.engine in words(pid):
                engine += cpu_s(pid)
            else:
                rest += cpu_s(pid)
        return Cpu(engine, rest)

    def memory_mib(self) -> float:
        """Resident memory of its processes; pages that two share count twice."""
        return sum(resident_mib(pid) for pid in self.processes())


@dataclass(frozen=True)
class Cpu:
    """CPU seconds: of the engine's process where it has one of its own, and of the rest."""

    engine: float
    rest: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(self.engine - earlier.engine, self.rest - earlier.rest)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads: the clock that clock_getcpuclockid(3) names."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def parent(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def words(pid: int) -> str:
    """The command line and the name of a process."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        return line + Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def alive(pid: int) -> bool:
    """Whether a process is there."""
    return Path(f"/proc/{pid}").exists()
