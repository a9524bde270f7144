"""What a byte takes on its way up, told from answers alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.bandwidth import Bandwidth


def carried(pace: float, sizes: list[int], sent: list[float], *, every: float = 0.0) -> Bandwidth:
    """Bodies over a link that takes `pace` seconds a byte and `every` for each of them, one after
    the other.
    """
    bandwidth, free = Bandwidth(), 0.0
    for size, moment in zip(sizes, sent, strict=True):
        free = max(free, moment) + size * pace + every
        bandwidth.answered(size, moment, free)
    return bandwidth


def test_nothing_is_known_at_first() -> None:
    assert Bandwidth().seconds_per_byte == 0


@given(
    pace=st.floats(1e-8, 1e-5),
    every=st.floats(0, 0.01),
    sizes=st.lists(st.integers(100, 1_000_000), min_size=1, max_size=8),
    data=st.data(),
)
def test_waiting_for_each_other_is_not_taken_for_slowness_nor_what_each_body_takes(
    pace: float, every: float, sizes: list[int], data: st.DataObject
) -> None:
    sizes = [100, 1_000_000, *sizes]
    moments = st.lists(st.floats(0, 0.01), min_size=len(sizes), max_size=len(sizes))
    found = carried(pace, sizes, sorted(data.draw(moments)), every=every).seconds_per_byte
    assert found == pytest.approx(pace, rel=1e-3, abs=1e-12)


def test_a_link_that_got_slower_is_followed() -> None:
    bandwidth = carried(1e-7, [8192, 65536], [0.0, 0.1])
    for n in range(1, 1000):
        size = (1 + n % 8) * 8192
        bandwidth.answered(size, float(n), n + size * 1e-6)
    assert bandwidth.seconds_per_byte == pytest.approx(1e-6, rel=0.05)
