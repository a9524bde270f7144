"""The CPUs a process may use, told from the files a kernel would show it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.runtime.cores import model_threads, usable_cores

V2 = {"proc/self/cgroup": "0::/\n"}
V1 = {"proc/self/cgroup": "9:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/\n"}
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture(autouse=True)
def _machine_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def kernel(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 0\n"}, 8),
    ],
)
def test_a_quota_of_version_2_counts_in_whole_cpus(
    files: Mapping[str, str], cores: int, tmp_path: Path
) -> None:
    assert usable_cores(kernel(tmp_path, files)) == cores


@pytest.mark.parametrize(("inner", "outer", "cores"), [("max", 300000, 3), (200000, "max", 2)])
def test_the_tightest_of_the_groups_around_a_process_counts(
    inner: object, outer: object, cores: int, tmp_path: Path
) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
        "sys/fs/cgroup/kubepods/cpu.max": f"{outer} 100000",
        "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": f"{inner} 100000",
    }
    assert usable_cores(kernel(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("group", "quota", "cores"),
    [(f"{CPU}/docker/ab", 400000, 4), (CPU, 300000, 3), (CPU, -1, 8), ("sys/fs/cgroup/cpu", 1, 1)],
)
def test_a_quota_of_version_1_counts_wherever_the_container_shows_it(
    group: str, quota: int, cores: int, tmp_path: Path
) -> None:
    files = {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(kernel(tmp_path, V1 | files)) == cores


def test_a_group_outside_the_mount_is_not_looked_for_there(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "100000 100000"}
    assert usable_cores(kernel(tmp_path, files)) == 1


def test_what_the_scheduler_forbids_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    files = V2 | {"sys/fs/cgroup/cpu.max": "400000 100000"}
    assert usable_cores(kernel(tmp_path, files)) == 2


@pytest.mark.parametrize(
    ("setting", "cores", "threads"), [(0, 1, 1), (0, 2, 1), (0, 8, 7), (3, 1, 3), (1, 8, 1)]
)
def test_no_setting_leaves_a_core_to_the_event_loop_where_there_are_several(
    setting: int, cores: int, threads: int
) -> None:
    assert model_threads(setting, cores=cores) == threads
