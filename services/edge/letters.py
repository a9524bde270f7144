"""Blocks cut from a session's prefix and drafts: what the cloud has not been sent yet.

A branch is a run of nodes each on the one before; the branches of a tree travel as several blocks
of one body. Sans I/O.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.edge.draft_tree import Node
from services.edge.drafts import Drafts
from shared import quantization
from shared.protocol.messages import Block, HiddenBlock, Want


def cut(
    drafts: Drafts,
    *,
    as_ids: bool,
    want: Want,
    count: int = 0,
    announce: bool = False,
    least: float = 0.0,
) -> list[Block]:
    """Return blocks of everything not sent, and count it as sent; the last says what is wanted.
    Drafts less likely than `least` stay, but for the likeliest path.

    With `as_ids` the decided prefix of a session that opens goes without states, which the cloud
    then makes itself. With `announce` it is told which drafts are being run.
    """
    branches = _branches(drafts.unsent(least))
    start = drafts.sent
    end = drafts.end if not drafts.travels or (as_ids and start == 0) else drafts.states.end
    blocks = []
    if start < end or not branches:
        blocks.append(
            _decided(drafts, start, max(start, end), with_states=end <= drafts.states.end)
        )
    blocks += [_drafted(drafts, branch) for branch in branches]
    for branch in branches:
        for node in branch:
            node.sent = True
    if announce and drafts.travels:
        blocks += [_drafted(drafts, [node]) for node in drafts.running()]
    drafts.sent = max(start, end)
    drafts.offered = True
    if want is Want.NOW:
        for node, _ in drafts.live:
            node.asked = node.sent or (node.decided and node.position < drafts.sent)
    if not drafts.opened:
        blocks[0] = replace(blocks[0], opening=drafts.opening)
    blocks[-1] = replace(blocks[-1], want=want, count=count)
    return blocks


def _branches(nodes: Sequence[Node]) -> list[list[Node]]:
    """Part nodes, parents first, into runs of one following the other."""
    branches: list[list[Node]] = []
    ends: dict[int, list[Node]] = {}
    for node in nodes:
        branch = ends.pop(id(node.parent), None)
        if branch is None:
            branch = []
            branches.append(branch)
        branch.append(node)
        ends[id(node)] = branch
    return branches


def _decided(drafts: Drafts, start: int, end: int, *, with_states: bool) -> Block:
    states = drafts.states.slice(start, end) if start < end and with_states else None
    return _block(drafts, start, drafts.digests[start], drafts.tokens[start:end], states)


def _drafted(drafts: Drafts, branch: Sequence[Node]) -> Block:
    first = branch[0]
    assert first.parent is not None, "a draft stands on another node"
    rows = [node.coded for node in branch if node.coded is not None]
    states = quantization.join(rows) if rows else None
    tokens = [node.token for node in branch]
    return _block(drafts, first.position, first.parent.digest, tokens, states)


def _block(
    drafts: Drafts, start: int, parent: bytes, tokens: Sequence[int], states: HiddenBlock | None
) -> Block:
    return Block(
        session=drafts.session,
        sequence=drafts.next_sequence(),
        revision=drafts.revision,
        acknowledged=drafts.end,
        parent=parent,
        start=start,
        tokens=tuple(tokens),
        binding=drafts.end,
        states=states,
    )
