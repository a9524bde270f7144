"""One device for two processes: never both at once, in turn, and every second accounted for."""

import fcntl
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.paced.device import Device
from benchmarks.paced.model import PacedModel, Ran
from benchmarks.paced.prices import Prices
from shared.errors import OutOfMemory
from shared.model import Segment, SpanModel
from tests.support.reference import bundles, loaded

SECONDS = 0.02
LONGEST_SECONDS = 60.0
PRICES = Prices(step=20.0, layer=1.0, head=10.0, row=0.0, depth=12)


class Watched(Device):
    """A device that notes between which times it was held."""

    def __init__(self, path: Path, held: list[tuple[float, float]]) -> None:
        super().__init__(path)
        self._held = held

    @contextmanager
    def turn(self, *, begins: bool) -> Iterator[bool]:
        with super().turn(begins=begins) as waited:
            began = time.perf_counter()
            yield waited
            self._held.append((began, time.perf_counter()))


def test_two_never_hold_it_at_once(tmp_path: Path) -> None:
    held: list[tuple[float, float]] = []

    def use(device: Device) -> None:
        for number in range(6):
            with device.turn(begins=number % 2 == 0):
                began = time.perf_counter()
                time.sleep(SECONDS / 4)
                held.append((began, time.perf_counter()))

    _together(tmp_path, use, use)
    held.sort()
    assert len(held) == 12
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(held))


def test_who_waits_comes_before_who_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    first, other = Device(tmp_path / "device"), Device(tmp_path / "device")
    waits, flock = threading.Event(), fcntl.flock

    def watched(file: int, how: int) -> None:
        try:
            flock(file, how)
        except BlockingIOError:
            waits.set()
            raise

    monkeypatch.setattr(fcntl, "flock", watched)

    def wait() -> None:
        with other.turn(begins=True) as waited:
            turns.append(f"other, {waited}")

    thread = threading.Thread(target=wait, daemon=True)
    with first.turn(begins=True) as waited:
        turns.append(f"first, {waited}")
        thread.start()
        assert waits.wait(LONGEST_SECONDS)
        with (tmp_path / "device.queue").open() as queue, pytest.raises(BlockingIOError):
            flock(queue.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    # At once, and yet not before the one that waits.
    with first.turn(begins=True):
        turns.append("first again")
    thread.join(LONGEST_SECONDS)
    assert turns == ["first, False", "other, True", "first again"]


def test_its_seconds_are_those_of_all_processes(tmp_path: Path) -> None:
    devices = [Device(tmp_path / "device") for _ in range(3)]
    assert devices[2].seconds == 0.0
    least = most = 0.0
    for device in devices[:2]:
        asked = time.perf_counter()
        with device.turn(begins=True):
            began = time.perf_counter()
            time.sleep(SECONDS)
            least += time.perf_counter() - began
        most += time.perf_counter() - asked
    assert 2 * SECONDS <= least <= devices[2].seconds <= most


def test_models_on_one_device_take_the_sum_of_their_steps(tmp_path: Path) -> None:
    noted: list[Ran] = []
    held: list[tuple[float, float]] = []
    edge = _paced(bundles().edge, Watched(tmp_path / "device", held), noted.append)
    cloud = _paced(bundles().cloud, Watched(tmp_path / "device", held), noted.append)

    def steps(model: SpanModel, stop: int) -> Callable[[Device], None]:
        def run(_: Device) -> None:
            with model.new_cache() as cache:
                (states,) = model.forward([_segment(cache, stop)])
            if stop == 12:
                model.logits(states[-1:])
            else:
                model.exit_logits(stop, states[-1:])

        return run

    took = _together(tmp_path, steps(edge, 6), steps(cloud, 12))
    # A head counts from its forward's end: where its thread stood still meanwhile, it is for free.
    assert took >= 1e-3 * (20 + 6 + 20 + 12 + 10)
    held.sort()
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(held))
    spans = sum(ended - began for began, ended in held)
    assert spans <= Device(tmp_path / "device").seconds <= took
    noted.sort(key=lambda ran: ran.ended)
    for ran, (began, ended) in zip(noted, held, strict=True):
        assert began <= ran.ended <= ended
        assert began <= ran.began or not ran.begins
    assert {(ran.first, ran.last, ran.begins) for ran in noted} == {
        (0, 6, True), (6, 6, False), (0, 12, True), (12, 12, False),
    }  # fmt: skip
    assert {ran.rows for ran in noted if ran.begins} == {4}


def test_a_step_that_fails_gives_the_device_back(tmp_path: Path) -> None:
    model = _paced(bundles().edge, Device(tmp_path / "device"), lambda _: None)
    model.kv_budget_bytes = 1
    with model.new_cache() as cache, pytest.raises(OutOfMemory):
        model.forward([_segment(cache, 6)])
    with Device(tmp_path / "device").turn(begins=True) as waited:
        assert not waited


def _together(tmp_path: Path, *uses: Callable[[Device], None]) -> float:
    """Run each with the device, opened for itself, on a thread; seconds it took."""
    devices = [Device(tmp_path / "device") for _ in uses]
    threads = [
        threading.Thread(target=use, args=(device,), daemon=True)
        for use, device in zip(uses, devices, strict=True)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_SECONDS)
        assert not thread.is_alive(), "it waits for ever"
    return time.perf_counter() - began


def _paced(bundle: Path, device: Device, note: Callable[[Ran], None]) -> SpanModel:
    return cast(SpanModel, PacedModel(loaded(bundle), PRICES, hidden=512, device=device, note=note))


def _segment(cache: object, stop: int) -> Segment:
    ids = torch.arange(5, 9)
    return Segment(cache=cache, start=0, stop=stop, position=0, ids=ids, states=None)  # type: ignore[arg-type]
