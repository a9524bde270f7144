"""Who gives way to whom, and who is looked at when."""

import resource
from dataclasses import dataclass, field

import pytest

from shared.web import connections, refusals
from shared.web.connections import Connections, Limits, files_for


@dataclass(eq=False)
class One:
    """A connection that notes what is asked of it."""

    told: list[str] = field(default_factory=list)

    def late_head(self) -> None:
        self.told.append("late head")

    def look_at_body(self) -> None:
        self.told.append("look")

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def those(clock: Clock, *, most: int = 3, per_address: int = 0) -> tuple[Connections, list[str]]:
    made = Connections(Limits(most, per_address, 10, 20, 60), clock)
    counted: list[str] = []
    made.refused = counted.append
    return made, counted


def test_the_connection_idle_for_longest_gives_way() -> None:
    clock = Clock()
    all_, counted = those(clock)
    first, second, third, fourth, fifth, sixth, seventh = (One() for _ in range(7))
    for each in (first, second, third):
        assert all_.enter(each, "a") is None
    all_.idle.pop(first)  # it is answered
    assert all_.enter(fourth, "a") is None
    assert (first.told, second.told, third.told) == ([], ["abort"], [])
    all_.idle.clear()
    assert all_.enter(fifth, "a") is refusals.FULL
    all_.heads[third] = clock.now
    assert all_.enter(sixth, "a") is refusals.FULL, "a head may take a moment"
    clock.now += connections.PATIENCE_SECONDS
    assert all_.enter(seventh, "a") is None
    assert third.told == ["abort"]
    assert len(all_) == 3
    assert counted == ["evicted", "full", "full", "evicted"]


def test_an_address_has_so_many_and_gets_them_back() -> None:
    all_, counted = those(Clock(), most=10, per_address=2)
    first, second, third = One(), One(), One()
    assert all_.enter(first, "a") is None
    assert all_.enter(second, "a") is None
    assert all_.enter(third, "a") is refusals.ADDRESS_FULL
    assert all_.enter(One(), "b") is None
    all_.leave(first)
    all_.leave(first)
    successor = One()
    all_.succeed(second, successor)
    assert all_.enter(One(), "a") is None
    assert all_.enter(One(), "a") is refusals.ADDRESS_FULL
    assert len(all_) == 3
    assert counted == ["address", "address"]


def test_of_those_turned_away_only_so_many_are_answered() -> None:
    all_, _ = those(Clock(), most=1)
    all_.enter(One(), "a")
    all_.idle.clear()
    away = [One() for _ in range(connections.TURNED_AWAY + 1)]
    for each in away:
        assert all_.enter(each, "a") is refusals.FULL
    assert [each.told for each in away[:-1]] == [[]] * connections.TURNED_AWAY
    assert away[-1].told == ["abort"]
    assert len(all_) == 1


def test_each_is_looked_at_when_it_is_due_and_not_before() -> None:
    clock = Clock()
    all_, counted = those(clock, most=10)
    head, body, stalled, idle, ending = found = [One() for _ in range(5)]
    for each in found:
        all_.enter(each, "a")
        if each is not idle:
            all_.idle.pop(each)
    all_.heads[head] = all_.bodies[body] = all_.stalled[stalled] = 0.0
    all_.end_within(ending, 2)
    seen = {}
    for clock.now in (1.9, 2, 9.9, 10, 19.9, 20, 59.9, 60, 74.9, 75):
        all_.sweep()
        for each in found:
            if each.told:
                seen[found.index(each)] = (clock.now, *each.told)
                all_.leave(each)
                each.told.clear()
    assert seen == {
        0: (10, "late head"),
        1: (20, "look"),
        2: (60, "abort"),
        3: (75, "close"),
        4: (2, "abort"),
    }
    assert counted == ["unread"]
    assert len(all_) == 0


@pytest.mark.parametrize(
    ("hard", "asked", "most"),
    [(20_000, 4096, 4096), (4096, 4096, 3584), (1024, 4096, 512), (600, 4096, 300), (-1, 9, 9)],
)
def test_connections_leave_room_for_other_files(
    monkeypatch: pytest.MonkeyPatch, hard: int, asked: int, most: int
) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    assert files_for(asked) == most
    assert raised == [(hard, hard)]
