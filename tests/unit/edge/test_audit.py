"""Which requests an audit looks at, what becomes of what it learns, and when it gives way."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.edge.audit import MOST_QUEUED, Auditing, Auditor
from services.edge.recording import Recorder, Recording
from shared.errors import CloudLost
from shared.exits.audit import Audited
from shared.protocol.messages import Disagreement
from shared.runtime.lifecycle import Lifecycle
from tests.unit.edge.audited import TEXT, Cloud, Told, rules, told_by, uplink_of


def watched(
    uplink: Any,
    told: Told,
    *,
    draw: float = 0.0,
    lifecycle: Lifecycle | None = None,
    recording: Recording | None = None,
) -> Auditing:
    auditor = Auditor(0.02, lifecycle or Lifecycle(grace_seconds=9), told, draw=lambda: draw)
    auditing = auditor.watch(uplink, rules(target=0.02))
    assert auditing is not None
    auditing.recording = recording
    for token, source in TEXT:
        auditing.add(token, source)
    return auditing


@pytest.mark.parametrize(("choice", "wrong"), [(4, 1), (9, 2)])
async def test_the_tail_is_judged_to_its_last_token(choice: int, wrong: int) -> None:
    told, cloud = Told(), Cloud(told_by(judged=2, disagreed=2), choices=(choice,))
    await watched(uplink_of(cloud), told).end()
    assert told.requests == [
        Audited(tokens=4, judged=1, wrong=1, tail=2, tail_wrong=wrong, share=0.02)
    ]
    assert told.outcomes == ["judged"]


@pytest.mark.parametrize(("choice", "wrong"), [(4, 1), (9, 2)])
async def test_a_recording_ends_with_the_full_models_choice(choice: int, wrong: int) -> None:
    """Judged before the tail: the first token; in it: the third; at its end: what was chosen."""
    early, late = Disagreement(position=7, token=11), Disagreement(position=9, token=13)
    cloud = Cloud(told_by(judged=2, disagreed=2, disagreements=(late,)), choices=(choice,))
    uplink, recorded = uplink_of(cloud), list[tuple[dict[int, int], int]]()
    uplink.spent.others[early.position] = early.token

    async def keep(text: Recording, wrong: int) -> None:
        recorded.append((text.others, wrong))

    auditing = watched(uplink, Told(), recording=Recording("greedy", "a text", start=7))
    auditing.auditor.recorder = cast(Recorder, SimpleNamespace(keep=keep))
    await auditing.end()
    found = {early.position: early.token, late.position: late.token}
    assert recorded == [(found | ({10: choice} if choice != 4 else {}), 1 + wrong)]


@pytest.mark.parametrize(("draw", "recorded"), [(0.0, True), (0.5, False)])
def test_texts_that_are_chosen_are_recorded_under_their_conversation(
    draw: float, *, recorded: bool
) -> None:
    auditor = Auditor(0.02, Lifecycle(grace_seconds=9), Told(), draw=lambda: draw)
    auditor.recorder = cast(Recorder, SimpleNamespace())
    uplink = uplink_of(Cloud())
    uplink.route.key = "a conversation"
    auditing = auditor.watch(uplink, rules())
    assert auditing is not None
    assert auditing.recording == (Recording("greedy", "a conversation") if recorded else None)


async def test_a_request_not_chosen_costs_nothing_and_counts() -> None:
    told, cloud = Told(), Cloud()
    await watched(uplink_of(cloud), told, draw=0.02).end()
    assert told.requests == [Audited(tokens=4, judged=1, wrong=1, tail=2, share=0.02)]
    assert told.outcomes == []


async def test_a_text_that_ends_with_the_cloud_needs_no_judgement() -> None:
    told, cloud = Told(), Cloud()
    auditing = watched(uplink_of(cloud), told)
    auditing.add(5, "cloud")
    auditing.uplink.spent.take(told_by(judged=3, disagreed=2))
    await auditing.end()
    assert told.requests == [Audited(tokens=5, judged=3, wrong=2, tail=0, tail_wrong=0, share=0.02)]


async def test_what_the_cloud_lost_it_is_sent_once_more() -> None:
    told = Told()
    cloud = Cloud(told_by(judged=0, disagreed=0, need_from=0), told_by(judged=2, disagreed=1))
    await watched(uplink_of(cloud), told).end()
    assert cloud.unsent == [0]
    assert told.requests[0].tail_wrong == 0


@pytest.mark.parametrize(
    "cloud",
    [
        Cloud(CloudLost("gone", reason="broken")),
        Cloud(told_by(judged=2, disagreed=2), choices=()),
        Cloud(told_by(judged=1, disagreed=2)),
        Cloud(told_by(judged=2, disagreed=0)),
    ],
    ids=["lost", "no choice", "too few judged", "fewer wrong than before"],
)
async def test_an_answer_that_does_not_fit_tells_nothing(cloud: Cloud) -> None:
    told = Told()
    await watched(uplink_of(cloud), told).end()
    assert told.outcomes == ["failed"]
    assert [each.tail_wrong for each in told.requests] == [None]


@pytest.mark.parametrize("why", ["lost", "pressed", "draining", "better elsewhere"])
async def test_an_audit_gives_way(why: str) -> None:
    told, lifecycle = Told(), Lifecycle(grace_seconds=9)
    uplink = uplink_of(Cloud(), usable=why != "lost", queued=MOST_QUEUED if why == "pressed" else 0)
    uplink.route.better_elsewhere = why == "better elsewhere"
    if why == "draining":
        lifecycle.leave()
    await watched(uplink, told, lifecycle=lifecycle).end()
    assert told.outcomes == ["dropped"]
    assert [each.tail_wrong for each in told.requests] == [None]


async def test_there_is_one_at_a_time() -> None:
    told, cloud = Told(), Cloud(told_by(judged=2, disagreed=2))
    cloud.go_on.clear()
    first = watched(uplink_of(cloud), told)
    second = Auditing(first.auditor, uplink_of(Cloud()), chosen=True, target=None)
    for token, source in TEXT:
        second.add(token, source)
    running = asyncio.create_task(first.end())
    await asyncio.sleep(0)
    await second.end()
    assert told.outcomes == ["dropped"]
    cloud.go_on.set()
    await running
    assert told.outcomes == ["dropped", "judged"]


async def test_a_cloud_that_takes_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.edge.audit.LONGEST_SECONDS", 0.01)
    told, cloud = Told(), Cloud()
    cloud.go_on.clear()
    await watched(uplink_of(cloud), told).end()
    assert told.outcomes == ["late"]


async def test_texts_that_tell_nothing_are_left_out() -> None:
    told = Told()
    degraded = watched(uplink_of(Cloud()), told)
    degraded.add(7, "fallback")
    unknown = watched(uplink_of(Cloud()), told)
    unknown.uplink.spent.judged = 0
    for each in (degraded, unknown):
        await each.end()
    assert told.requests == []


@pytest.mark.parametrize("mode", ["standalone", "verified", "cloud", "split"])
def test_only_what_exits_keep_is_looked_at(mode: str) -> None:
    auditor = Auditor(1.0, Lifecycle(), Told())
    assert auditor.watch(uplink_of(Cloud()), rules(mode)) is None
    assert auditor.watch(uplink_of(Cloud()), rules(most_held=8)) is None
    assert auditor.watch(None, rules()) is None
    urgent = uplink_of(Cloud())
    urgent.chain.opening.priority = "emergency"
    assert auditor.watch(urgent, rules()) is None


async def test_only_requests_for_a_target_move_it() -> None:
    auditor = Auditor(0.02, Lifecycle(), Told(), draw=lambda: 0.5)
    wrong = Audited(tokens=10, judged=9, wrong=9, tail=0)
    auditor.take(wrong, None, "greedy")
    auditor.take(wrong, 0.02, None)
    auditor.take(wrong, 0.02, "greedy", unmoved=True)
    assert auditor.level("greedy", 0.02) == 0.02
    auditor.take(wrong, 0.02, "greedy")
    assert auditor.level("greedy", 0.02) < 0.02
    assert auditor.level("sampled", 0.02) == 0.02
    assert auditor.level("greedy", 0.05) == 0.05, "easy traffic at one says nothing of another's"
    held = auditor.level("greedy", 0.02)
    auditor.take(wrong, 0.02, "sampled")
    assert auditor.level("sampled", 0.02) < 0.02
    assert auditor.level("greedy", 0.02) == held
    assert auditor.bound("value") == pytest.approx(0.9)


async def test_each_target_is_judged_by_its_own_requests() -> None:
    told = Told()
    auditor = Auditor(0.02, Lifecycle(), told, draw=lambda: 0.5)
    wrong, right = (Audited(tokens=10, judged=9, wrong=n, tail=0) for n in (9, 0))
    auditor.take(wrong, None, "greedy")
    assert told.estimates == {}
    auditor.take(right, 0.02, "greedy")
    auditor.take(wrong, 0.02, "sampled")
    auditor.take(wrong, 0.05, "greedy", unmoved=True)  # what was promised is the same
    assert told.estimates["greedy", 0.02]("value") == 0
    assert told.estimates["sampled", 0.02]("value") == pytest.approx(0.9)
    assert told.estimates["greedy", 0.05]("value") == pytest.approx(0.9)
    assert auditor.bound("value") == pytest.approx(0.675, rel=1e-3)
    auditor.take(right, 0.05, "greedy")
    assert told.estimates["greedy", 0.05]("value") == pytest.approx(0.45, rel=1e-3)
    assert told.served_tokens == 40


@pytest.mark.parametrize("unmoved", [True, False])
async def test_thresholds_that_do_not_move_learn_nothing(*, unmoved: bool) -> None:
    told = Told()
    auditor = Auditor(0.02, Lifecycle(grace_seconds=9), told, draw=lambda: 0.5)
    for _ in range(20):
        auditing = auditor.watch(uplink_of(Cloud()), rules(target=0.02, unmoved=unmoved))
        assert auditing is not None
        for token, source in TEXT[:2]:
            auditing.add(token, source)
        await auditing.end()
    assert told.estimates["greedy", 0.02]("value") == pytest.approx(0.5)
    assert (auditor.level("greedy", 0.02) < 0.02) is not unmoved
