"""The property of `repair` sees what is broken on purpose: in going back on either side, in what is
taken from an answer, and in what is given out.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given

from services.cloud.contexts.context import Context
from services.edge.chain import Chain
from services.edge.generation import Generation, Token
from services.edge.state import EdgeState
from shared.decoding.sequence import Sequence
from shared.errors import TandemError
from shared.protocol.messages import Report
from tests.contract.test_protocol_exactness import hunting
from tests.contract.test_repair_exactness import calm, check_calm
from tests.support.toy_model import VOCABULARY


def _keep_the_kv(self: EdgeState, length: int) -> None:
    rows = torch.cat(self.behind) if self.behind else torch.empty(0)
    kept = max(0, len(rows) - (self.cache.length(0) - length))
    self.behind[:] = [rows[:kept]] if kept else []


def _keep_the_states(self: Chain, end: int) -> None:
    del self.tokens[end:]
    del self.digests[end + 1 :]
    self.sent = min(self.sent, end)


def _keep_the_digests(self: Chain, end: int) -> None:
    del self.tokens[end:]
    self.states.truncate(end)
    self.sent = min(self.sent, end)


def _stay_sent(self: Chain, end: int) -> None:
    sent = self.sent
    _cut_chain(self, end)
    self.sent = sent


def _acknowledge_what_was_dropped(self: Chain, report: Report, token: int) -> tuple[int, int]:
    before = self.end + 1
    found = _settle(self, report, token)
    self.acknowledged = before
    return found


def _take_the_last_choice(self: Chain, report: Report, token: int) -> tuple[int, int]:
    return _settle(self, replace(report, disagreements=report.disagreements[-1:]), token)


def _believe_nothing(self: Chain, report: Report, token: int) -> tuple[int, int]:
    return _settle(self, replace(report, disagreements=()), token)


def _take_another_token(self: Chain, report: Report, token: int) -> tuple[int, int]:
    position, chosen = _settle(self, report, token)
    return position, chosen if chosen == token else (chosen + 1) % VOCABULARY


def _call_everything_final(self: Generation) -> None:
    assert self.uplink is not None
    self.uplink.chain.final = len(self.sequence.ids)


def _call_nothing_final(self: Generation) -> None:
    assert self.uplink is not None
    self.uplink.chain.final = self.sequence.prompt_tokens


def _give_some_twice(self: Generation, keep: int) -> Iterator[Token]:
    for token in _release(self, keep):
        yield token
        if self._held and keep == 0:
            yield token


def _give_what_was_replaced(self: Generation, position: int) -> None:
    dropped = list(self._held)[position - len(self.sequence.ids) :]
    _go_back(self, position)
    self._held.extend(dropped)


def _hold_one_more(self: Generation, newest: Token) -> int:
    waiting = _may_wait(self, newest)
    return waiting + 1 if waiting else 0


def _fold_on(self: Sequence, end: int) -> None:
    prefix = self.prefix
    _cut_sequence(self, end)
    self.prefix = prefix


def _rewind_nothing(self: Context, end: int) -> None:
    del self, end


def _rewind_without_kv(self: Context, end: int) -> None:
    cache, self.cache = self.cache, None
    _rewind(self, end)
    self.cache = cache


def _remember_disagreements(self: Context, end: int) -> None:
    before = self.disagreements
    _rewind(self, end)
    self.disagreements = before


_cut_chain, _settle, _cut_sequence, _rewind = (
    Chain.truncate,
    Chain.settle,
    Sequence.truncate,
    Context.truncate,
)
_release, _go_back, _may_wait = (
    Generation._release_held,
    Generation._go_back,
    Generation._may_wait,
)

Planted = tuple[Any, str, Callable[..., Any]]
FAULTS: dict[str, Planted] = {
    "the edge's KV stays": (EdgeState, "truncate", _keep_the_kv),
    "the chain's states stay": (Chain, "truncate", _keep_the_states),
    "the chain's digests stay": (Chain, "truncate", _keep_the_digests),
    "what was dropped counts as sent": (Chain, "truncate", _stay_sent),
    "what was dropped is acknowledged": (Chain, "settle", _acknowledge_what_was_dropped),
    "the last disagreement counts": (Chain, "settle", _take_the_last_choice),
    "no disagreement counts": (Chain, "settle", _believe_nothing),
    "another token than the cloud's": (Chain, "settle", _take_another_token),
    "tokens held are final": (Generation, "_finalise", _call_everything_final),
    "tokens given out are not final": (Generation, "_finalise", _call_nothing_final),
    "tokens are given out twice": (Generation, "_release_held", _give_some_twice),
    "what was replaced is given out": (Generation, "_go_back", _give_what_was_replaced),
    "one more is held": (Generation, "_may_wait", _hold_one_more),
    "the fold is not taken back": (Sequence, "truncate", _fold_on),
    "the cloud rewinds nothing": (Context, "truncate", _rewind_nothing),
    "the cloud's KV stays": (Context, "truncate", _rewind_without_kv),
    "the cloud remembers disagreements": (Context, "truncate", _remember_disagreements),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same property must fail on broken code, or it says nothing."""
    owner, name, planted = FAULTS[fault]
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises((AssertionError, ExceptionGroup, TandemError, IndexError)):
        hunting(given(case=calm)(check_calm))()
