"""A step over a tree of drafts as work for the edge's engine."""

from services.edge.draft_tree import Step
from services.edge.drafting import Ask, Drafting, Ranker
from services.edge.drafts import Drafts
from services.edge.state import EdgeState


def work_of(step: Step, drafts: Drafts, state: EdgeState, ranker: Ranker, sure: float) -> Drafting:
    """The rows of `step`; what may follow is asked of those whose following token is open: first of
    the exit at the split, which is enough where it is surer than `sure` of the likeliest.
    """
    last = drafts.opening.max_positions - 1
    root = drafts.root
    asks = [
        Ask(node.position + 1, node.prefix)
        if node.prefix is not None and node.position < last and (node is root or not node.decided)
        else None
        for node in step.nodes
    ]
    return Drafting(
        state=state,
        ids=[node.token for node in step.nodes],
        base=step.base,
        keep=step.keep,
        line=step.line,
        parents=step.parents,
        asks=asks,
        ranker=ranker,
        sure=drafts.lead_for(sure),
    )
