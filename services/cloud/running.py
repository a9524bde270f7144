"""One pass of a session from its plan to its result: with what others' prompts have left for it
before, and left to them after.
"""

from services.cloud.contexts import Context, ContextStore
from services.cloud.engine import Choices, Pass
from services.cloud.passes import Observer
from shared import tracing
from shared.model import Loan
from shared.protocol.messages import HiddenBlock
from shared.runtime.model_thread import ModelThread
from shared.runtime.work import Completed


async def run(
    work: Pass,
    context: Context,
    store: ContextStore,
    thread: ModelThread[Pass, Choices],
    observer: Observer,
    coded: list[HiddenBlock] | None = None,
) -> Completed[Choices]:
    """Run a pass and charge the session for it. What it makes of states goes to `coded`, what it
    borrows of them too.

    Raises:
        Overloaded: the engine's queue is full.
        DeadlinePassed: the pass has waited for longer than whoever asked. Else whatever the engine
            failed it with.
    """
    first = work.position == 0
    found = store.prefixes.find(context, whole=work.start == 0) if first else None
    if found is not None:
        lender, rows = found
        looked_at = min((pick.row for pick in work.picks), default=work.rows - 1)
        if rows <= looked_at and (coded is None or rows <= lender.states.end):
            work.loan = Loan(lender.cache, rows)
    rows = work.rows
    completed = await thread.run(work, work.deadline)
    span = tracing.current()
    if span.recording:
        span.add("tandem.rows", rows - work.borrowed)
        span.add("tandem.queue_seconds", completed.queue_seconds)
        span.add("tandem.compute_seconds", completed.compute_seconds)
    if found is not None and work.borrowed and coded is not None:
        coded.insert(0, found[0].states.slice(0, work.borrowed))
    if first and not context.passes:
        observer.shared(asked=context.opening.prompt_tokens, found=work.borrowed)
    context.passes += 1
    context.compute_seconds += completed.compute_seconds
    return completed


def leave(work: Pass, context: Context, store: ContextStore) -> None:
    """Once a pass is settled: if it ran the session's prompt, others may begin with it."""
    if work.position == 0:
        store.prefixes.learn(context, whole=work.start == 0)
