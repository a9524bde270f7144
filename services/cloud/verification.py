"""From a verified session to a pass and back: which drafts are looked at together, what the full
model says after each, and how far they were right.

A pass runs every node that stands on the decided prefix, as a tree; the full model's own choices
lead along one way through it, and that way is decided, with one token more. Pure planning, as in
`passes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.cloud.contexts import Node, VerifiedContext
from services.cloud.engine import CloudEngine, Pass, Pick
from services.cloud.passes import draw_of
from shared import quantization
from shared.decoding.sampling import Choice
from shared.model import KVCache, Tap, is_line
from shared.protocol.messages import Codec, HiddenBlock


@dataclass(frozen=True, slots=True)
class Verification:
    """A pass over a verified session.

    Its first pick, if any, decides the position after the prefix, the others what follows each of
    `nodes`, whose parents are places in `nodes` (-1: the prefix). `coded` gets the states of
    positions the cloud runs by itself.
    """

    work: Pass
    nodes: Sequence[Node] = ()
    parents: Sequence[int] = ()
    base: int = 0
    coded: list[HiddenBlock] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pass decided: tokens in all, and of these drafts."""

    decided: int
    accepted: int


def can_verify(context: VerifiedContext) -> bool:
    """Whether a pass over the states at hand would decide a token."""
    return not context.ended and context.held == context.through > 0


def plan(context: VerifiedContext, engine: CloudEngine) -> Verification:
    """Plan a pass over every decided row the KV lacks and every node on the decided prefix."""
    cache = _cache(context, engine)
    end, first = context.held, cache.length(context.opening.split)
    if first >= end:  # rows that have run, and whose choice failed
        first = end - 1
        cache.truncate(first)
    found = list(context.connected())
    nodes, parents = [node for node, _ in found], [parent for _, parent in found]
    line = end - first
    rows = [row - 1 for row in range(line)] + [line + parent for parent in parents]
    work = Pass(
        cache=cache,
        start=context.opening.split,
        position=first,
        inputs=_inputs(context, engine, first, nodes),
        picks=_picks(context, line, nodes, parents),
        draw=draw_of(context.opening.sampling),
        parents=None if is_line(rows) else rows,
        claim=context.claim,
    )
    return Verification(work, nodes, parents, end)


def plan_alone(context: VerifiedContext, engine: CloudEngine) -> Verification:
    """Plan a pass by the whole model over decided tokens that came without states: their states
    are made here, coded as the edge would have, and read as they would have been.
    """
    cache = _cache(context, engine)
    split, end, first = context.opening.split, context.held, cache.length(context.opening.split)
    draw = draw_of(context.opening.sampling)
    if first < end:  # the KV of what came with states has to be there before
        rows = _inputs(context, engine, first, ())
        filling = Pass(cache, split, first, rows, (), draw, claim=context.claim)
        return Verification(filling, base=first)
    cache.truncate(end)  # what a pass that failed has left
    coded: list[HiddenBlock] = []
    ids = torch.tensor(context.tokens, dtype=torch.int64)
    last = context.through - 1
    work = Pass(
        cache=cache,
        start=0,
        position=end,
        inputs=ids[end:],
        picks=[Pick(last - end, last + 1, context.prefix_state(last + 1))],
        draw=draw,
        behind=ids[cache.length(0) : end],
        tap=Tap(split, _coder(context.opening.codec, coded)),
        claim=context.claim,
    )
    return Verification(work, base=end, coded=coded)


def settle(
    context: VerifiedContext, done: Verification, choices: Sequence[Choice], tau: float
) -> Verdict:
    """Write a finished pass into the context: decide along the full model's own choices, and drop
    what they passed by, from KV too.
    """
    for block in done.coded:
        context.states.append(block)
    before, path = context.through, [-1]
    right: dict[tuple[int, int], int] = {
        (parent, node.token): place
        for place, (node, parent) in enumerate(zip(done.nodes, done.parents, strict=True))
    }
    while choices and not context.ended:
        choice = choices[path[-1] + 1]
        context.append(choice.token)
        context.near_ties += choice.gap < tau
        place = right.get((path[-1], choice.token))
        if place is None:
            break
        path.append(place)
    if done.nodes:
        done.work.cache.keep(done.base, [done.base + place for place in path[1:]])
    context.prune()
    return Verdict(context.through - before, len(path) - 1)


def undo(failed: Verification) -> None:
    """Drop from KV what a failed pass may have written."""
    failed.work.cache.truncate(failed.base)


def bytes_needed(context: VerifiedContext, engine: CloudEngine, *, alone: bool) -> int:
    """Return the bytes of KV the next pass will add."""
    cache = _cache(context, engine)
    rows = context.through + len(context.nodes)
    first = 0 if alone else context.opening.split
    return cache.growth(range(first, engine.model.span.stop), rows)


def _cache(context: VerifiedContext, engine: CloudEngine) -> KVCache:
    context.cache = context.cache or engine.new_cache()
    return context.cache


def _picks(
    context: VerifiedContext, line: int, nodes: Sequence[Node], parents: Sequence[int]
) -> list[Pick]:
    folds = [context.prefix_state(context.through)]
    picks = [Pick(line - 1, context.through, folds[0])]
    for place, (node, parent) in enumerate(zip(nodes, parents, strict=True)):
        folds.append(folds[parent + 1].advance(node.token))
        picks.append(Pick(line + place, node.position + 1, folds[-1]))
    return picks


def _inputs(
    context: VerifiedContext, engine: CloudEngine, first: int, nodes: Sequence[Node]
) -> Tensor:
    """Ids [T] or states [T, H] of the decided rows from `first` on, then of the nodes."""
    if not context.carries_states:
        return torch.tensor(
            [*context.tokens[first:], *(node.token for node in nodes)], dtype=torch.int64
        )
    blocks = [context.states.slice(first, context.held)]
    rows = [(node.states, node.row) for node in nodes if node.states is not None]
    if rows:
        blocks.append(quantization.join(rows))
    dtype, device = engine.model.dtype, engine.model.device
    return torch.cat([quantization.decode(block, dtype=dtype, device=device) for block in blocks])


def _coder(codec: Codec, coded: list[HiddenBlock]) -> Callable[[Tensor], Tensor]:
    def take(states: Tensor) -> Tensor:
        coded.append(quantization.encode(states, codec))
        return quantization.decode(coded[-1], dtype=states.dtype, device=states.device)

    return take
