"""Every decoder takes every input there is: in bounded time and memory, and with no error but those
it says it raises.
"""

import resource
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from tests.support.results import Figure
from tests.support.size import Size

CORPUS = Path(__file__).parent / "corpus"
INPUT_SECONDS = 0.5  # of this thread's own time; most take less than a thousandth of it
TRIES = 4
INPUT_BYTES = 16 << 20
GROWTH_KIB = 64 << 10
SAMPLED = 200  # of so many inputs one is watched for what it allocates


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_too_much(
    name: str, size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    target, random = TARGETS[name], Random(name)
    seeds = [*target.seeds(), *_corpus(name)]
    inputs = size.pick(short=400, long=20_000)
    slowest, peak, resident = 0.0, 0, 0
    for number in range(inputs):
        data = mutated(random.choice(seeds), random, structured=target.structured)
        if number % SAMPLED == SAMPLED - 1:
            peak = max(peak, _allocated(target.run, data))
        else:
            slowest = max(slowest, _seconds(target.run, data))
        if number == inputs // 4:
            resident = _resident_kib()
    record_figure("inputs", inputs)
    record_figure("slowest_seconds", round(slowest, 4))
    record_figure("largest_peak_bytes", peak)
    record_figure("growth_kib", _resident_kib() - resident)
    assert slowest < INPUT_SECONDS
    assert peak < INPUT_BYTES
    assert _resident_kib() - resident < GROWTH_KIB


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_read_again(name: str) -> None:
    target = TARGETS[name]
    for data in [*target.seeds(), *_corpus(name)]:
        target.run(data)


def test_the_corpus_is_small_and_each_file_is_a_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 300_000


def _corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def _seconds(run: Callable[[bytes], None], data: bytes) -> float:
    """This thread's own time; of some tries where it was long, as a host's stolen time counts."""
    tries: list[float] = []
    while len(tries) < TRIES and min(tries, default=INPUT_SECONDS) >= INPUT_SECONDS:
        began = time.thread_time()
        run(data)
        tries.append(time.thread_time() - began)
    return min(tries)


def _allocated(run: Callable[[bytes], None], data: bytes) -> int:
    tracemalloc.start()
    try:
        run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _resident_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
