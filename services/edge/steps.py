"""A step over a tree of drafts as work for the edge's engine."""

from services.edge.draft_tree import Step
from services.edge.drafting import Ask, Drafting, Ranker
from services.edge.drafts import Drafts
from shared.model import KVCache


def work_of(step: Step, drafts: Drafts, cache: KVCache, ranker: Ranker) -> Drafting:
    """The rows of `step`; what may follow is asked of those whose following token is open."""
    last = drafts.opening.max_positions - 1
    root = drafts.root
    asks = [
        Ask(node.position + 1, node.prefix)
        if node.prefix is not None and node.position < last and (node is root or not node.decided)
        else None
        for node in step.nodes
    ]
    return Drafting(
        cache=cache,
        ids=[node.token for node in step.nodes],
        base=step.base,
        keep=step.keep,
        line=step.line,
        parents=step.parents,
        asks=asks,
        ranker=ranker,
    )
