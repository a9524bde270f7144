"""A session's drafts beside a stand-in for its KV that knows which tokens each row follows.

What a node's row may hold is written down here from the definition: the tokens up to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from services.edge.chances import Chances
from services.edge.draft_tree import Node, Step
from services.edge.drafts import Drafts
from shared.decoding.sampling import PrefixState, Ranking
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import HiddenBlock, Opening, Pressure, Report, Sampling
from shared.protocol.wire import canonical
from shared.quantization import encode
from tests.support.toy_model import DEPTH, EDGE_DEPTH, SPLIT, VOCABULARY, WIDTH, states_of

PROMPT = (5, 6, 7)
END = 0  # ends a text
# Leads below 1 are worth little, others much.
SHARES = ((0.5, 0.25, 0.125, 0.0625), (0.9, 0.05, 0.02, 0.01))


def opening(split: int = SPLIT, **fields: Any) -> Opening:
    given: dict[str, Any] = {
        "fingerprint": "f00d",
        "trunk_format": "fp32",
        "sampler_version": 1,
        "depth": DEPTH,
        "split": split,
        "mode": "verified",
        "codec": "fp32",
        "prompt_tokens": len(PROMPT),
        "max_positions": 16,
        "sampling": Sampling(eos_ids=(END,)),
    }
    return Opening(**given | fields)


def coded(line: Sequence[int], start: int = 0) -> HiddenBlock:
    """The states of a line's tokens from `start` on."""
    rows = [list(below) for below, _ in states_of(line)[start:]]
    return encode(torch.tensor(rows, dtype=torch.float32), "fp32")


def new_drafts(given: Opening | None = None, chances: Chances | None = None) -> Drafts:
    """Drafts on `PROMPT`, of which nothing was run."""
    return Drafts(
        "s",
        given or opening(),
        hidden=WIDTH,
        vocab=VOCABULARY,
        prompt=PROMPT,
        prefix=PrefixState.start(PROMPT),
        chances={EDGE_DEPTH: chances or Chances((1.0,), SHARES)},
    )


def line_of(drafts: Drafts, node: Node) -> list[int]:
    """The tokens up to a node: decided ones, or those on its way from the root."""
    if node.decided:
        return drafts.tokens[: node.position + 1]
    assert node.parent is not None
    return [*line_of(drafts, node.parent), node.token]


def digest_of(given: Opening, line: Sequence[int]) -> bytes:
    root = root_digest(given.fingerprint, "s", canonical(given))
    return [root, *extend_all(root, line)][-1]


def report(given: Opening, line: Sequence[int], told: int, **fields: Any) -> Report:
    """A report of a cloud that has decided `line`, with its last `told` tokens."""
    return Report(
        session="s",
        revision=0,
        sequence=1,
        through=len(line),
        digest=fields.pop("digest", digest_of(given, line)),
        tokens=tuple(line[len(line) - told :]),
        pressure=Pressure(queued=0, allowed_nodes=9),
        **fields,
    )


@dataclass
class Bench:
    """Runs a session's steps: `rows` are the KV's, each the tokens it follows and its own."""

    drafts: Drafts = field(default_factory=new_drafts)
    rows: list[list[int]] = field(default_factory=list)

    def begin(self, *, width: int = 1, floor: float = 0.0, room: int = 64) -> Step | None:
        """Choose a step, shrink the KV and run the rows; who reads the outcome calls `end`."""
        step = self.drafts.next_step(width=width, floor=floor, room=room)
        if step is not None:
            self._shrink(step)
            for node in step.nodes:
                place = len(self.rows) - step.line
                assert node.slot == len(self.rows)
                parent = step.line + step.parents[place]
                self.rows.append([*(self.rows[parent] if parent >= 0 else ()), node.token])
            assert len(step.parents) == len(self.rows) - step.line
            self._check_parents(step)
        return step

    def end(self, step: Step, *rankings: Ranking | None) -> None:
        """Hand in what a step gave: its states, and a ranking per node (the last for the rest)."""
        found = [rankings[min(n, len(rankings) - 1)] for n in range(len(step.nodes))]
        lines = [self.rows[node.slot] for node in step.nodes if node.slot is not None]
        states = [list(states_of(line)[-1][0]) for line in lines]
        block = encode(torch.tensor(states, dtype=torch.float32), "fp32")
        self.drafts.ran(step, found, [EDGE_DEPTH] * len(found))
        self.drafts.coded(step, block if self.drafts.travels else None)

    def run(self, *rankings: Ranking | None, **limits: Any) -> Step:
        """A whole step, which there must be."""
        step = self.begin(**limits)
        assert step is not None
        self.end(step, *rankings)
        return step

    def drop(self, step: Step) -> None:
        """A step that shrank the KV and ended there."""
        del self.rows[len(self.rows) - len(step.nodes) :]
        self.drafts.dropped(step)

    def check(self) -> None:
        """Hold everything the drafts say of themselves against its definition."""
        drafts = self.drafts
        digests = [digest_of(drafts.opening, drafts.tokens[:end]) for end in range(drafts.end + 1)]
        assert drafts.digests == digests
        assert drafts.states.end <= drafts.end
        if drafts.states.end:
            logged = drafts.states.slice(0, drafts.states.end)
            assert logged == coded(drafts.tokens[: drafts.states.end])
        slots = []
        for node, chance in drafts.live:
            line = line_of(drafts, node)
            assert 0 <= chance <= 1
            assert (node.position, node.token) == (len(line) - 1, line[-1])
            assert node.digest == digest_of(drafts.opening, line)
            assert node.prefix is not None
            assert node.prefix.seen == set(line)
            assert node.prefix.generated == len(line) - len(PROMPT)
            assert all(child.parent is node for child in node.children.values())
            if node.slot is not None and not node.decided:
                slots.append(node.slot)
                assert self.rows[node.slot] == line
            if node.ready and not node.decided and drafts.travels:
                assert node.coded is not None
        assert len(set(slots)) == len(slots)

    def _shrink(self, step: Step) -> None:
        held = len(self.rows)
        assert step.base <= held
        assert all(one < other for one, other in pairwise([step.base - 1, *step.keep, held]))
        self.rows = [*self.rows[: step.base], *(self.rows[slot] for slot in step.keep)]
        decided = self.rows[: step.line]
        assert decided == [self.drafts.tokens[: n + 1] for n in range(len(decided))]

    def _check_parents(self, step: Step) -> None:
        for place, parent in enumerate(step.parents):
            assert -1 <= parent < place
            *before, _ = self.rows[step.line + place]
            on = step.line + parent
            assert before == (self.rows[on] if on >= 0 else [])
