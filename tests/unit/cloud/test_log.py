"""A log says what its context held when it was saved; and no bit of it can change unseen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud.contexts import Context, VerifiedContext, log, seal_of
from services.cloud.contexts.handover import take_over
from services.cloud.contexts.log import Entry, Facts, Mark, Stored
from services.cloud.contexts.sealing import Seal, place_of
from shared.errors import Malformed
from tests.support.toy_model import VOCABULARY, WIDTH
from tests.unit.cloud.sessions import OPENING, SESSION, TEXT, block, coded

KEY = "0f" * 32
SEALS = {"checksum": seal_of(""), "encrypted": seal_of(KEY)}
LONG = replace(OPENING, max_positions=200)


@dataclass
class Saved:
    """A context and the log of it."""

    context: Context = field(default_factory=lambda: Context(SESSION, LONG, hidden=WIDTH))
    mark: Mark | None = None
    entries: list[Entry] = field(default_factory=list)

    def save(self) -> int:
        """Add what the log lacks, as a store does; returns how many entries."""
        added = log.changes(self.context, self.mark)
        self.entries += added
        self.mark, self.context.stored_to = log.mark_of(self.context), self.context.through
        return len(added)

    def read(self) -> Stored:
        """What the log says, through bytes."""
        again = [log.decode(log.encode(entry)) for entry in self.entries]
        stored, sound = log.read(again, session=SESSION, hidden=WIDTH, vocab=VOCABULARY)
        assert sound == len(again)
        assert stored is not None
        return stored


def held(context: Context) -> dict[str, object]:
    """What a log tells of a context."""
    return {
        "tokens": context.tokens,
        "digests": context.digests,
        "states": context.states,
        "disagreements": context.disagreements,
        "facts": Facts.of(context),
    }


def told(stored: Stored) -> dict[str, object]:
    """The same, of a log."""
    return {name: getattr(stored, name) for name in held(Context(SESSION, LONG, hidden=WIDTH))}


def _extend(context: Context, count: int) -> None:
    tokens = [*context.tokens, *(TEXT * 2)[:count]]
    for token in tokens[context.through :]:
        context.append(token)
    if context.through > context.states.end:
        context.states.append(coded(tokens, context.states.end, context.through))


def _choose(context: Context, token: int) -> None:
    if context.through == context.states.end >= LONG.prompt_tokens:
        context.append(token)


def _cut(context: Context, count: int) -> None:
    context.truncate(max(context.confirmed, context.through - count))


def _confirm(context: Context, back: int) -> None:
    context.confirmed = max(context.confirmed, context.through - back)
    context.sequence += 1


ACTIONS: dict[str, Callable[[Context, int], None]] = {
    "extend": _extend,
    "choose": _choose,
    "cut": _cut,
    "confirm": _confirm,
}
actions = st.lists(st.tuples(st.sampled_from([*ACTIONS, "save"]), st.integers(0, 9)), max_size=40)


@given(actions=actions)
def test_a_log_says_what_its_context_held(actions: Sequence[tuple[str, int]]) -> None:
    saved = Saved()
    for action, value in [("extend", 4), *actions, ("save", 0)]:
        if action == "save":
            saved.save()
            assert told(saved.read()) | {"facts": None} == held(saved.context) | {"facts": None}
            facts = Facts.of(saved.context)
            assert saved.read().facts.binding == facts.binding
        elif saved.context.through < 180:
            ACTIONS[action](saved.context, value)
    assert saved.save() == 0, "there was nothing left to save"


def test_what_was_judged_is_told_once_and_taken_back_with_its_tokens() -> None:
    saved = Saved()
    _extend(saved.context, 9)
    saved.context.judged = 3
    for position, chosen in ((3, 11), (4, TEXT[4]), (5, 11)):
        saved.context.judge(position, chosen)
    saved.save()
    saved.context.judge(6, 10)
    saved.save()
    assert [len(entry.disagreements) for entry in saved.entries] == [2, 1]
    assert told(saved.read()) == held(saved.context)
    saved.context.truncate(5)
    _extend(saved.context, 2)
    saved.context.judged = 5
    saved.context.judge(5, 10)
    saved.save()
    assert [d.position for d in saved.context.disagreements] == [3, 5]
    assert told(saved.read()) == held(saved.context)


def test_a_frame_that_changes_nothing_is_not_written() -> None:
    saved = Saved()
    saved.context.apply(block(4))
    assert saved.save() == 1
    saved.context.apply(block(4, sequence=9))
    assert saved.save() == 0


def test_a_large_log_is_several_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_STATE_BYTES", 3 * 2 * WIDTH)
    monkeypatch.setattr(log, "MAX_TOKENS", 4)
    saved = Saved()
    _extend(saved.context, 10)
    saved.context.confirmed = 10
    assert saved.save() == 4
    assert [entry.facts is None for entry in saved.entries] == [True, True, True, False]
    assert told(saved.read()) == held(saved.context)


def _sealed(seal: Seal) -> tuple[Saved, list[bytes]]:
    saved = Saved()
    for stop in (4, 6, 7):
        saved.context.apply(block(stop, saved.context.through, opening=LONG))
        saved.context.append(2)
        saved.save()
    sealed = [
        seal.close(log.encode(entry), place_of(SESSION, "log", index))
        for index, entry in enumerate(saved.entries)
    ]
    return saved, sealed


def _opened(seal: Seal, sealed: Sequence[bytes], session: str = SESSION) -> Iterator[Entry]:
    for index, each in enumerate(sealed):
        yield log.decode(seal.open(each, place_of(session, "log", index)))


def _read(seal: Seal, sealed: Sequence[bytes], session: str = SESSION) -> tuple[Stored | None, int]:
    entries = _opened(seal, sealed, session)
    return log.read(entries, session=session, hidden=WIDTH, vocab=VOCABULARY)


@pytest.mark.parametrize("name", SEALS)
def test_one_bit_flipped_anywhere_ends_the_log_there(name: str) -> None:
    seal = SEALS[name]
    saved, sealed = _sealed(seal)
    whole, sound = _read(seal, sealed)
    assert sound == 3
    assert whole is not None
    assert whole.tokens == saved.context.tokens
    for index, entry in enumerate(sealed):
        for place in range(len(entry)):
            bit = 1 << (place + index) % 8
            flipped = entry[:place] + bytes([entry[place] ^ bit]) + entry[place + 1 :]
            stored, sound = _read(seal, [*sealed[:index], flipped, *sealed[index + 1 :]])
            assert sound == index, (index, place)
            if stored is not None:
                assert stored.digests[-1] in saved_digests(saved, index)
            else:
                assert index == 0


def saved_digests(saved: Saved, count: int) -> set[bytes]:
    """The digest of the first `count` entries' prefix."""
    part = Saved(entries=saved.entries[:count])
    return {part.read().digests[-1]}


@pytest.mark.parametrize("name", SEALS)
def test_entries_moved_doubled_cut_or_anothers_are_damage(name: str) -> None:
    seal = SEALS[name]
    _, sealed = _sealed(seal)
    first, second, third = sealed
    for wrong, sound in (
        ([second, first, third], 0),
        ([first, first, second], 1),
        ([first, third], 1),
        ([first, second[:-1], third], 1),
        ([first, b"", third], 1),
    ):
        assert _read(seal, wrong)[1] == sound
    assert _read(seal, sealed, session="another")[1] == 0


def test_another_key_opens_nothing_and_a_key_takes_no_entry_without() -> None:
    _, encrypted = _sealed(SEALS["encrypted"])
    _, checked = _sealed(SEALS["checksum"])
    assert _read(seal_of("f0" * 32), encrypted) == (None, 0)
    assert _read(SEALS["encrypted"], checked) == (None, 0)
    assert _read(SEALS["checksum"], encrypted) == (None, 0)
    assert KEY not in repr(SEALS["encrypted"])
    assert not any(b"toy" in entry for entry in encrypted)
    assert any(b"toy" in entry for entry in checked)


def test_an_entry_that_cannot_follow_is_not_used() -> None:
    saved, _ = _sealed(SEALS["checksum"])
    good = saved.entries[1]
    assert good.facts is not None
    for wrong in (
        replace(good, start=20),
        replace(good, opening=LONG),
        replace(good, tokens=(VOCABULARY,)),
        replace(good, tokens=(1,) * 300),
        replace(good, states=coded(TEXT, 0, 9)),
        replace(good, facts=replace(good.facts, confirmed=100)),
        replace(good, facts=replace(good.facts, judged=100)),
    ):
        entries = [saved.entries[0], wrong]
        _, sound = log.read(entries, session=SESSION, hidden=WIDTH, vocab=VOCABULARY)
        assert sound == 1, wrong
    with pytest.raises(Malformed):
        log.decode(b"\x80")


def test_a_context_that_takes_a_log_over_goes_on_where_it_was() -> None:
    saved, _ = _sealed(SEALS["checksum"])
    fresh = Context(SESSION, LONG, hidden=WIDTH)
    assert take_over(fresh, saved.read(), 0, cut=True)
    assert held(fresh) == held(saved.context)
    assert fresh.taken_over
    assert not take_over(fresh, saved.read(), 0, cut=True), "it says so already"
    take_over(fresh, saved.read(), 4, cut=True)
    assert (fresh.revision, fresh.sequence) == (4, 0)


def test_what_is_held_beyond_a_log_stays_or_is_cut_and_what_differs_goes() -> None:
    saved, _ = _sealed(SEALS["checksum"])
    stored, context = saved.read(), saved.context
    _extend(context, 3)
    assert not take_over(context, stored, 0, cut=False)
    assert context.through == len(stored.tokens) + 3
    assert take_over(context, stored, 0, cut=True)
    assert context.tokens == stored.tokens
    context.truncate(6)
    _extend(context, 4)
    assert context.tokens != stored.tokens
    assert take_over(context, stored, 0, cut=False)
    assert context.tokens == stored.tokens
    assert context.states.agreeing(stored.states) == stored.states.end


def test_a_verified_context_keeps_the_drafts_that_may_follow() -> None:
    opening = replace(LONG, mode="verified")
    mine = VerifiedContext(SESSION, opening, hidden=WIDTH)
    other = Saved(VerifiedContext(SESSION, opening, hidden=WIDTH))
    for context in (mine, other.context):
        context.apply(block(4, opening=opening))
    mine.apply(block(7, 4, opening=opening, binding=4))
    other.context.append(TEXT[4])
    other.save()
    assert take_over(mine, other.read(), 0, cut=False)
    assert (mine.through, mine.held) == (5, 5)
    assert [node.position for node, _ in mine.connected()] == [5, 6]
