"""What a byte takes on its way up, told from answers alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.bandwidth import Bandwidth


def carried(pace: float, sizes: list[int], sent: list[float]) -> Bandwidth:
    """Bodies over a link that takes `pace` seconds a byte, one after the other."""
    bandwidth, free = Bandwidth(), 0.0
    for size, moment in zip(sizes, sent, strict=True):
        free = max(free, moment) + size * pace
        bandwidth.answered(size, moment, free)
    return bandwidth


def test_nothing_is_known_at_first() -> None:
    assert Bandwidth().seconds_per_byte == 0


@given(
    pace=st.floats(1e-8, 1e-5),
    sizes=st.lists(st.integers(4096, 1_000_000), min_size=1, max_size=8),
    data=st.data(),
)
def test_bodies_that_wait_for_each_other_are_not_taken_for_slow_ones(
    pace: float, sizes: list[int], data: st.DataObject
) -> None:
    moments = st.lists(st.floats(0, 0.01), min_size=len(sizes), max_size=len(sizes))
    found = carried(pace, sizes, sorted(data.draw(moments))).seconds_per_byte
    assert found == pytest.approx(pace, rel=1e-3, abs=1e-12)


def test_a_small_body_says_nothing_of_the_bandwidth() -> None:
    bandwidth = carried(1e-6, [65536], [0.0])
    bandwidth.answered(200, 1.0, 1.5)
    assert bandwidth.seconds_per_byte == pytest.approx(1e-6)


def test_a_link_that_got_slower_is_followed() -> None:
    bandwidth = carried(1e-7, [65536], [0.0])
    for n in range(1, 20):
        bandwidth.answered(65536, float(n), n + 65536e-6)
    assert bandwidth.seconds_per_byte == pytest.approx(1e-6, rel=0.05)
