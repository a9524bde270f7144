"""How a context takes over what a stored log says: another replica has gone on with the session, or
this one has lost it.
"""

from typing import Any

from services.cloud.contexts.context import Context
from services.cloud.contexts.log import Stored
from services.cloud.contexts.verified import VerifiedContext
from shared.quantization import CodedRows


def take_over(context: Context, stored: Stored, revision: int, *, cut: bool) -> bool:
    """Bring a context to what the log says at `revision`, keeping its KV as far as both agree; true
    if it was changed. What it holds beyond the whole log stays, unless `cut`.
    """
    assert context.opening == stored.opening, context.session
    agreed = _agreeing(context.digests, stored.digests)
    through = len(stored.tokens)
    changed = agreed < through or (cut and context.through > through)
    if changed and agreed < context.through:
        context.truncate(agreed)
    context.tokens += stored.tokens[agreed:] if changed else ()
    context.digests += stored.digests[agreed + 1 :] if changed else ()
    _take_states(context, stored.states)
    if context.revision != revision:
        context.claim_for(revision)
    context.taken_over = True
    _take_facts(context, stored, changed=changed)
    context.stored_to = through
    if isinstance(context, VerifiedContext):
        context.follow()
    context.claim.live = context.claim.live and not context.ended
    return changed


def _agreeing(mine: list[bytes], theirs: list[bytes]) -> int:
    """The last position both have the same digest for: where one agrees all before it do."""
    low, high = 0, min(len(mine), len(theirs)) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if mine[middle] == theirs[middle] else (low, middle - 1)
    return low


def _take_states(context: Context, states: CodedRows) -> None:
    """The log's states are the session's: KV made of others is dropped."""
    same = context.states.agreeing(states)
    if same < min(context.states.end, states.end):
        context.states.truncate(same)
        context.lender = None
        if context.cache is not None:
            context.cache.truncate(same)
    if context.states.end < states.end:
        context.states.append(states.slice(context.states.end, states.end))


def _take_facts(context: Context, stored: Stored, *, changed: bool) -> None:
    facts = stored.facts
    sequence = facts.sequence if facts.revision == context.revision else 0
    as_ids = facts.as_ids
    if changed or facts.judged > context.judged:
        told: dict[str, Any] = {"confirmed": facts.confirmed, "judged": facts.judged}
        told |= {"judgements": facts.judgements, "near_ties": facts.near_ties}
        told |= {"passes": facts.passes, "compute_seconds": facts.compute_seconds}
        for name, value in told.items():
            setattr(context, name, value)
        context.disagreements = list(stored.disagreements)
        context.sequence = sequence
    else:
        context.confirmed = max(context.confirmed, facts.confirmed)
        context.sequence = max(context.sequence, sequence)
    if isinstance(context, VerifiedContext):
        context.as_ids = max(context.as_ids, as_ids) if not changed else as_ids
