"""How a token is made, on one page.

New tokens go through the edge's layers; an exit that is sure answers; otherwise the cloud is asked,
which has been sent every state in the meantime; and where the cloud is lost, the edge's own token
stands in if the request allows it. What an exit kept may wait for the cloud's judgement, and is
replaced where that is another. Knows neither HTTP, text nor the maths of a layer.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial

from services.edge.audit import Auditing
from services.edge.engine import (
    EdgeResult,
    EdgeWork,
    Proposal,
    Proposing,
    Question,
)
from services.edge.past import Past
from services.edge.policy import Fallback, Keep, Offload, Rules, decide
from services.edge.state import EdgeState
from services.edge.uplink import Uplink
from services.edge.verified import Verified
from shared import quantization
from shared.decoding.sampling import SamplingParameters
from shared.decoding.sequence import Sequence
from shared.errors import CloudLost, TandemError
from shared.runtime.model_thread import ModelThread


@dataclass(frozen=True, slots=True)
class Token:
    """A token with where it came from: `exit:<layer>`, `draft`, `cloud` or `fallback`; confidence
    where an exit chose it: the calibrated chance that the full model agrees, or the top probability
    of an exit that is not calibrated (of a draft: the chance it was given to be right).
    """

    id: int
    source: str
    confidence: float | None


@dataclass(slots=True)
class Generation:
    """One request being answered. `uplink` is absent in `standalone`; `verified` makes the text of
    that mode; `auditing` counts a text whose disagreement is to be known.

    `degraded` turns true with the first token an edge exit had to stand in for; `edge_seconds` adds
    up its share of the steps; `repaired` counts kept tokens the cloud has replaced.

    Args:
        ends_in: whether these tokens, after those yielded, complete a stop string.
    """

    sequence: Sequence
    rules: Rules
    parameters: SamplingParameters
    seed: int
    state: EdgeState
    thread: ModelThread[EdgeWork, EdgeResult]
    uplink: Uplink | None
    verified: Verified | None = None
    auditing: Auditing | None = None
    ends_in: Callable[[Tokens[int]], bool] = lambda _: False
    degraded: bool = False
    edge_seconds: float = 0.0
    repaired: int = 0
    _unrun: list[int] = field(default_factory=list)
    _held: deque[Token] = field(default_factory=deque)
    _past: Past = field(init=False)

    def __post_init__(self) -> None:
        self._past = Past(self.rules.policy)

    @property
    def finished(self) -> bool:
        """Whether the last token was yielded."""
        return self.sequence.finished and not self._held

    async def tokens(self) -> AsyncGenerator[Token, None]:
        """Yield tokens until the sequence finishes; closing the generator releases both sides.

        Raises:
            CloudLost: the cloud is needed, lost, and the request allows no fallback.
            Unfit, Invalid: the cloud refuses the session.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._release)
            if self.uplink is not None:
                await stack.enter_async_context(self.uplink)
                stack.callback(self._tell_end, self.uplink)
            self._unrun = list(self.sequence.ids)
            if self.rules.mode in ("cloud", "verified"):
                made = self._from_cloud() if self.verified is None else self._decided(self.verified)
                async with aclosing(made) as tokens:
                    async for token in tokens:
                        yield token
            self._finalise()
            while not self.sequence.finished:
                try:
                    token = await self._next()
                except TandemError:
                    for held in self._release_held(0):
                        yield held
                    raise
                self._append(token)
                self._held.append(token)
                for due in self._release_held(self._may_wait(token)):
                    yield due

    async def _next(self) -> Token:
        if self.rules.mode == "split":
            return await self._offload(await self._run(None))
        proposal = await self._ask_exits()
        reachable = (
            self.uplink is not None and self.uplink.link.usable and self.rules.mode != "cloud"
        )
        history = self._past.before(len(self.sequence.ids))
        match decide(self.rules, proposal.asked, history, cloud_reachable=reachable):
            case Keep(layer=layer):
                last = proposal.asked[-1]
                return Token(last.token, f"exit:{layer}", last.confidence)
            case Offload():
                return await self._offload(proposal)
            case Fallback():
                return await self._fallback(proposal)

    async def _offload(self, proposal: Proposal) -> Token:
        assert self.uplink is not None
        try:
            position, token = await self.uplink.ask()
        except CloudLost:
            if self.rules.on_cloud_loss == "error":
                raise
            return await self._fallback(proposal)
        self._go_back(position)
        return Token(token, "cloud", None)

    async def _fallback(self, proposal: Proposal) -> Token:
        self.degraded = True
        if not proposal.asked:  # `split` has not asked the exits
            proposal = await self._ask_exits()
        last = proposal.asked[-1]
        return Token(last.token, "fallback", last.confidence)

    async def _from_cloud(self) -> AsyncGenerator[Token, None]:
        """The whole model in the cloud; where it is lost and the request allows it, the edge
        goes on alone.
        """
        assert self.uplink is not None
        self.uplink.extend(self.sequence.ids, None)
        try:
            async with aclosing(self.uplink.stream(self.sequence.tokens_left)) as stream:
                async for token_id in stream:
                    token = Token(token_id, "cloud", None)
                    self._append(token)
                    yield token
                    if self.sequence.finished:
                        return
            raise CloudLost("the cloud stopped before the text was finished", reason="broken")
        except CloudLost:
            if self.rules.on_cloud_loss == "error":
                raise

    async def _decided(self, verified: Verified) -> AsyncGenerator[Token, None]:
        """The edge's drafts, decided by the cloud."""
        async with aclosing(verified.tokens()) as decided:
            async for token, alone in decided:
                source = "fallback" if alone else "draft" if token.drafted else "cloud"
                self.degraded = self.degraded or alone
                self.edge_seconds = verified.edge_seconds
                self._append(Token(token.token, source, token.chance))
                yield Token(token.token, source, token.chance)
                if self.sequence.finished:
                    return

    async def _ask_exits(self) -> Proposal:
        """What the exits say follows the text so far; it becomes part of the history."""
        at = len(self.sequence.ids)
        history = self._past.before(at)
        proposal = await self._run(
            Question(
                sure=lambda asked: self.rules.policy.keeps(asked, history),
                prefix=self.sequence.prefix,
                parameters=self.parameters,
                seed=self.seed,
                index=0,
                chance=self.rules.chance,
            )
        )
        self._past.heard(at, proposal.asked)
        if self.auditing is not None:
            self.auditing.heard(at, proposal.asked)
        return proposal

    async def _run(self, question: Question | None) -> Proposal:
        """Run the tokens not run yet; their states start on their way to the cloud while the
        edge goes on.
        """
        completed = await self.thread.run(Proposing(self.state, self._unrun, question))
        proposal = completed.value
        assert isinstance(proposal, Proposal)
        self.edge_seconds += completed.compute_seconds
        if self.uplink is not None and self.rules.mode != "cloud" and self._unrun:
            codec = self.uplink.chain.opening.codec
            states = quantization.encode(proposal.states, codec)
            self.uplink.extend(self._unrun, states)
        self._unrun = []
        return proposal

    def _append(self, token: Token) -> None:
        self._unrun.append(token.id)
        self.sequence.append(token.id)
        if self.auditing is not None:
            self.auditing.add(token.id, token.source)
        # Before the user can know: whoever asks again at once is alone then.
        self.state.claim.live = not self.sequence.finished

    def _may_wait(self, newest: Token) -> int:
        """How many of the tokens held may wait for the cloud's next answer, `newest` being the
        last: none after such an answer, after a token that stood in for one, or at the end.
        """
        answered = newest.source in ("cloud", "fallback")
        if answered or self.rules.most_held == 0 or self.sequence.finished:
            return 0
        return 0 if self.ends_in([token.id for token in self._held]) else self.rules.most_held

    def _release_held(self, keep: int) -> Iterator[Token]:
        """Take the oldest tokens held, all but `keep`; from then on they are final."""
        while len(self._held) > keep:
            token = self._held.popleft()
            self._finalise()
            yield token

    def _finalise(self) -> None:
        if self.uplink is not None and self.rules.most_held:
            self.uplink.chain.final = len(self.sequence.ids) - len(self._held)

    def _go_back(self, position: int) -> None:
        """Drop what was kept from `position` on, where the cloud has chosen another token."""
        dropped = len(self.sequence.ids) - position
        if dropped == 0:
            return
        assert dropped <= len(self._held), (dropped, len(self._held))
        self.sequence.truncate(position)
        self._past.go_back(position)
        for _ in range(dropped):
            self._held.pop()
        self.thread.post(partial(self.state.truncate, position))
        self.repaired += 1

    def _tell_end(self, uplink: Uplink) -> None:
        uplink.finished = self.finished

    def _release(self) -> None:
        self.state.claim.live = False
        self.thread.post(self.state.cache.close)
