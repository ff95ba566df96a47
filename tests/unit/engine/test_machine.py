"""What a machine says it has, from files like those of /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from argosy.engine.machine import SMALL_BYTES, Machine, read_machine, served_machine

GIB = 2**30
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def root(folder: Path, cgroup: str = "0::/a/b\n", **files: str) -> Path:
    """A root with these files, 8 GiB available."""
    given = {
        "proc/self/cgroup": cgroup,
        "proc/meminfo": "MemTotal: 64 kB\nMemAvailable: 8388608 kB\n",
    }
    for name, text in (given | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_without_cgroups_it_is_what_is_available(tmp_path: Path) -> None:
    machine = read_machine(root(tmp_path, cgroup=""))
    assert (machine.cores, machine.memory) == (CORES, 8 * GIB)
    assert machine.memory_source == "available memory"


def test_nothing_to_read_at_all(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.cores, machine.memory) == (CORES, 0)


@pytest.mark.parametrize("place", ["a/b/", "a/", ""])
def test_v2_limits_hold_wherever_in_the_tree_they_stand(tmp_path: Path, place: str) -> None:
    base = f"sys/fs/cgroup/{place}"
    files = {f"{base}memory.max": f"{2 * GIB}\n", f"{base}cpu.max": "100000 100000\n"}
    machine = read_machine(root(tmp_path, **files))
    assert (machine.cores, machine.memory) == (1, 2 * GIB)
    assert machine.memory_source == "the cgroup's limit"


def test_the_least_of_several_limits_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/memory.max": str(3 * GIB),
        "sys/fs/cgroup/a/b/memory.max": str(5 * GIB),
    }
    assert read_machine(root(tmp_path, **files)).memory == 3 * GIB


def test_max_means_no_limit(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/a/b/"
    machine = read_machine(
        root(tmp_path, **{f"{base}memory.max": "max\n", f"{base}cpu.max": "max 100000\n"})
    )
    assert (machine.cores, machine.memory) == (CORES, 8 * GIB)


def test_half_a_core_is_one_thread(tmp_path: Path) -> None:
    machine = read_machine(root(tmp_path, **{"sys/fs/cgroup/a/b/cpu.max": "50000 100000"}))
    assert machine.cores == 1


def test_v1(tmp_path: Path) -> None:
    machine = read_machine(
        root(
            tmp_path,
            "5:cpu,cpuacct:/x\n3:memory:/x\n",
            **{
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(GIB),
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
        )
    )
    assert (machine.cores, machine.memory) == (1, GIB)


def test_v1_without_limits(tmp_path: Path) -> None:
    machine = read_machine(
        root(
            tmp_path,
            "5:cpu,cpuacct:/\n3:memory:/\n",
            **{
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
        )
    )
    assert (machine.cores, machine.memory) == (CORES, 8 * GIB)


@pytest.mark.parametrize("path", ["/not/visible/here", "/../../elsewhere"])
def test_in_a_container_the_top_counts(tmp_path: Path, path: str) -> None:
    files = {"sys/fs/cgroup/memory.max": str(GIB)}
    assert read_machine(root(tmp_path, f"0::{path}\n", **files)).memory == GIB


def test_this_machine_has_something() -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.memory > 0


@pytest.mark.parametrize(
    ("cores", "weight_bytes", "threads"),
    [(2, SMALL_BYTES, 2), (2, SMALL_BYTES - 1, 1), (16, 10**6, 15), (1, 10**6, 1), (1, 10**9, 1)],
)
def test_a_small_model_leaves_a_core_to_the_fronts(
    cores: int, weight_bytes: int, threads: int
) -> None:
    machine = Machine(cores=cores, memory=10**9, memory_source="here")
    assert served_machine(machine, weight_bytes).cores == threads
