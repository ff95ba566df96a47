"""What this process may use of its machine: cores and memory, cgroups v1 and v2 respected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_NO_LIMIT = 2**60
"""cgroup v1 says "no limit" with a number near 2**63."""

SMALL_BYTES = 64 * 2**20
"""Weights of models that count as small."""


@dataclass(frozen=True, slots=True)
class Machine:
    """cores: at least 1.  memory: bytes; 0 if unknown.  memory_source: what set it, in words."""

    cores: int
    memory: int
    memory_source: str


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the machine; `root` holds proc/ and sys/, for tests a folder of files."""
    groups = tuple(_control_groups(root))
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quotas = [quota for group in groups for quota in _cpu_quota(group)]
    limits = [(limit, "the cgroup's limit") for group in groups for limit in _memory_limit(group)]
    limits += [(available, "available memory") for available in _available(root)]
    memory, source = min(limits, default=(0, "unknown memory"))
    return Machine(max(1, int(min([cores, *quotas]))), memory, source)


def served_machine(machine: Machine, weight_bytes: int) -> Machine:
    """The cores an engine takes for itself unless told: a small model's steps leave one for fronts.

    Such a step lasts no longer than the text and HTTP work its tokens make. Where both want all
    cores, the engine's threads wait for each other's time slices (bench/README.md).
    """
    if weight_bytes >= SMALL_BYTES:
        return machine
    return replace(machine, cores=max(1, machine.cores - 1))


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the cgroups this process is in, each with all its parents: any may limit it.

    In a container the path named is often not to be seen; then its parents that are count.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
            group = top if ".." in path else top / path.lstrip("/")
            yield group
            yield from (parent for parent in group.parents if parent.is_relative_to(top))


def _memory_limit(group: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        words = _read(group / name).split()
        if words and words[0].isdigit() and int(words[0]) < _NO_LIMIT:
            yield int(words[0])


def _cpu_quota(group: Path) -> Iterator[float]:
    """Cores' worth of time: cpu.max is "quota period" in microseconds, v1 has a file for each."""
    words = _read(group / "cpu.max").split()
    if not words:
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
        yield int(words[0]) / int(words[1])


def _available(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024
            return
    if root == Path("/") and "SC_PHYS_PAGES" in os.sysconf_names:  # not Linux
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
