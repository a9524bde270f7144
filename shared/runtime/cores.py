"""How many CPUs this process may really use: what the scheduler allows it, and the quota of its
control group.

A container's quota is time, not cores: the process still sees every core of the host, and threads
that share a quota smaller than their number are halted together, in the middle of a step. Reads the
kernel's files and changes nothing; knows nothing of torch.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """CPUs that can be used at once, at least 1; a part of one does not count.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    quotas = (quota for quota in _quotas(root) if quota > 0)
    return max(1, int(min((*quotas, float(_allowed())))))


def model_threads(setting: int, *, cores: int) -> int:
    """Threads for a model's linear algebra: `setting`, or, where that is 0, all `cores` less one
    for the event loop.
    """
    return setting or max(1, cores - 1)


def _allowed() -> int:
    """CPUs the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in CPUs of this process's control group and of every group around it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            mount = root / "sys/fs/cgroup"
            for group in _upwards(mount, path):
                yield _quota(*_read(group / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for mount in (root / f"sys/fs/cgroup/{name}" for name in (controllers, "cpu")):
                for group in _upwards(mount, path):
                    yield _quota(
                        _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
                    )


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a group and those around it, up to the mount: inside a container the mount
    itself may be the container's group, and the path one of the host's.
    """
    group = mount / path.strip("/")
    if ".." in group.parts:
        group = mount
    yield group
    while group != mount:
        group = group.parent
        yield group


def _quota(*words: str) -> float:
    """A quota in CPUs; 0 where there is none ("max", -1, or no such file)."""
    try:
        quota, period = (float(word) for word in words)
        return quota / period
    except (ValueError, ZeroDivisionError):
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
