"""The metrics both services have: what they count, and that they begin where rates see them."""

import pytest
from prometheus_client import CollectorRegistry, Counter

from shared.errors import Invalid, OutOfMemory, Overloaded, TandemError
from shared.web.metrics import Gauges, ServiceMetrics, expect


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (Overloaded("full"), "overloaded"),
        (OutOfMemory("full"), "out_of_memory"),
        (Invalid("?"), ""),
    ],
)
def test_a_refusal_is_counted_only_where_room_is_what_was_missing(
    error: TandemError, counted: str
) -> None:
    registry = CollectorRegistry()
    ServiceMetrics(registry).refused(error)
    for reason in ("overloaded", "out_of_memory"):
        name = "tandem_admission_rejections_total"
        assert value(registry, name, reason=reason) == float(reason == counted)


def test_gauges_are_read_when_asked_for() -> None:
    registry = CollectorRegistry()
    held = {"waiting": 0, "normal": 0, "emergency": 0, "bytes": 0}
    ServiceMetrics(registry).read_from(
        Gauges(
            lambda: held["waiting"],
            lambda priority: held[priority],
            lambda: held["bytes"],
            kv_budget_bytes=400,
        )
    )
    held.update(waiting=3, normal=2, emergency=1, bytes=100)
    assert value(registry, "tandem_num_requests_waiting") == 3
    by_priority = "tandem_num_requests_waiting_by_priority"
    assert value(registry, by_priority, priority="normal") == 2
    assert value(registry, by_priority, priority="emergency") == 1
    assert value(registry, "tandem_kv_cache_bytes") == 100
    assert value(registry, "tandem_kv_cache_usage_ratio") == 0.25


def test_a_budget_without_end_is_never_in_use() -> None:
    registry = CollectorRegistry()
    ServiceMetrics(registry).read_from(
        Gauges(lambda: 0, lambda _: 0, lambda: 10, kv_budget_bytes=None)
    )
    assert value(registry, "tandem_kv_cache_usage_ratio") == 0


def test_every_combination_begins_at_zero() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "c", ["a", "b"], registry=registry)
    expect(counter, ("x", "y"), ("1",))
    assert value(registry, "c_total", a="x", b="1") == value(registry, "c_total", a="y", b="1") == 0
    assert value(registry, "c_total", a="x", b="2") is None
