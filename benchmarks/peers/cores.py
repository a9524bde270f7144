"""Which CPU a peer computes on, and staying there. It loads nothing, so that it can come first."""

import os

from cli.errors import CommandError


def chosen(cloud: int | None, edge: int | None) -> tuple[int, int]:
    """The CPUs of the cloud's peers and of the edge's: those named, else the last one this process
    may use, and another (the same where there is no other).
    """
    usable = sorted(os.sched_getaffinity(0))
    of_cloud = usable[-1] if cloud is None else cloud
    others = [each for each in usable if each != of_cloud] or [of_cloud]
    return of_cloud, others[0] if edge is None else edge


def stay_on(core: int) -> None:
    """Keep this thread, and those it starts from now on, on a CPU.

    Raises:
        CommandError: there is none of that number.
    """
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        raise CommandError(f"there is no core {core} to run on: {error}") from error
