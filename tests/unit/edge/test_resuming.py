"""A conversation's name makes sessions and seeds that only the same question has."""

from dataclasses import replace

import pytest

from services.edge import resuming
from services.edge.policy import Rules
from services.edge.resuming import Conversation, conversation_of
from shared.errors import Invalid
from shared.exits.calibration import Logistic
from shared.exits.policies import build
from shared.protocol.messages import Sampling
from tests.unit.protocol.strategies import OPENING

POLICY = build("per_exit", {"thresholds": {3: 0.8, 6: 0.8}})
RULES = Rules(mode="collaborative", policy=POLICY, on_cloud_loss="degrade")
PROMPT = (7, 300)
TALK = Conversation("talk-1", "Bearer key")


def session(talk: Conversation = TALK, **changed: object) -> str:
    rules = replace(RULES, **changed.pop("rules", {}))  # type: ignore[arg-type]
    prompt = changed.pop("prompt", PROMPT)
    opening = replace(OPENING, **changed)  # type: ignore[arg-type]
    return talk.session(opening, rules, prompt)  # type: ignore[arg-type]


def test_the_same_question_is_the_same_session_wherever_it_is_asked() -> None:
    assert session() == session(Conversation("talk-1", "Bearer key"))
    assert len(session()) == 32


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": (7, 301)},
        {"prompt": (7, 300, 1)},
        {"sampling": Sampling(seed=1)},
        {"max_positions": 10},
        {"fingerprint": "beef"},
        {"rules": {"policy": build("per_exit", {"thresholds": {3: 0.8, 6: 0.7}})}},
        {"rules": {"policy": build("chance", {"thresholds": {3: 0.8, 6: 0.8}})}},
        {"rules": {"policy": build("patience", {"exits": 2})}},
        {"rules": {"chances": {3: Logistic((1.0, 0.0, 0.0, 0.0), 0.0)}}},
        {"rules": {"most_held": 8}},
        {"rules": {"on_cloud_loss": "error"}},
        {"talk": Conversation("talk-2", "Bearer key")},
        {"talk": Conversation("talk-1", "Bearer other")},
        {"talk": Conversation("talk-1")},
    ],
    ids=str,
)
def test_another_question_is_another_session(changed: dict[str, object]) -> None:
    assert session(**changed) != session()  # type: ignore[arg-type]


def test_the_same_numbers_are_the_same_policy() -> None:
    again = build("per_exit", {"thresholds": {"6": 0.8, "3": 0.8}})
    assert session(rules={"policy": again}) == session()


def test_a_seed_nobody_named_follows_from_the_question() -> None:
    assert TALK.seed(PROMPT) == TALK.seed(list(PROMPT))
    others = [TALK.seed((7,)), Conversation("talk-2").seed(PROMPT)]
    assert TALK.seed(PROMPT) not in others
    assert 0 <= TALK.seed(PROMPT) < 2**63


def test_a_name_and_a_key_do_not_run_into_each_other() -> None:
    assert Conversation("ab", "c").client != Conversation("a", "bc").client


def test_no_header_is_no_conversation() -> None:
    assert conversation_of(None, "Bearer key") is None
    assert conversation_of("talk-1", None) == Conversation("talk-1", "")


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 129, "caf\xe9", "a\n"])
def test_a_name_that_cannot_be_one_is_named(name: str) -> None:
    with pytest.raises(Invalid, match="X-Session-ID") as refused:
        conversation_of(name, None)
    assert refused.value.field == "X-Session-ID"


def test_a_later_life_begins_beyond_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("services.edge.resuming.time.time", lambda: now)
    first = resuming.first_revision()
    now += 1
    assert 0 < first < resuming.first_revision() < 2**31
    now = 0.0
    assert resuming.first_revision() == 0
