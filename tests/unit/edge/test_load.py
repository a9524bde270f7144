"""How much an edge takes on: requests and tokens of a class, and what it tells those it turns
away.
"""

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from services.edge.load import Load
from services.edge.metrics import EdgeMetrics
from shared.errors import Overloaded


def test_requests_and_tokens_of_a_class_are_bounded_and_one_alone_may_have_any_number() -> None:
    load, metrics = Load(2, most_tokens=100), EdgeMetrics(CollectorRegistry())
    load.require_room("normal", 1000)
    with load.serving(metrics, "normal", 60):
        load.require_room("normal", 40)
        with pytest.raises(Overloaded, match="41 tokens beside 60"):
            load.require_room("normal", 41)
        load.require_room("emergency", 100)
        with load.serving(metrics, "normal", 40), pytest.raises(Overloaded, match="2 requests"):
            load.require_room("normal")
    load.require_room("normal", 100)
    assert not any((*load.running.values(), *load.tokens.values()))


def test_whoever_is_turned_away_is_told_what_an_answer_takes() -> None:
    load, metrics = Load(1), EdgeMetrics(CollectorRegistry())
    load._served.took(1, 8.0)
    with ExitStack() as stack:
        stack.enter_context(load.serving(metrics, "normal", 1))
        with pytest.raises(Overloaded) as refused:
            load.require_room("normal")
    assert 4 <= (refused.value.retry_after or 0) <= 12
