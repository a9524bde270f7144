"""From a request to an answer about to be made: text to ids, checked against model and deployment.

Knows the public request type but not HTTP; `answer` does the rest.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from services.edge.answer import Answer
from services.edge.audit import Auditor
from services.edge.chain import Chain
from services.edge.chances import RANKS, Chances
from services.edge.cloud_side import CloudSide
from services.edge.controller import Controller
from services.edge.draft_uplink import DraftUplink
from services.edge.drafting import Ranker
from services.edge.drafts import Drafts
from services.edge.engine import EdgeEngine, EdgeResult, EdgeWork
from services.edge.exit_rules import RuleBook
from services.edge.generation import Generation
from services.edge.load import Load
from services.edge.metrics import EdgeMetrics
from services.edge.policy import MOST_HELD, Mode, Rules, default_on_cloud_loss
from services.edge.resuming import Conversation, first_revision, named
from services.edge.schemas import GenerateRequest, Parameters
from services.edge.state import EdgeState
from services.edge.text import TextCodec
from services.edge.uplink import Uplink
from services.edge.verified import Verified
from services.edge.wishes import (
    on_the_wire,
    require_cloud,
    require_fitting,
    require_length,
    sampling_of,
)
from shared.access import Caller
from shared.access.limiter import Admission
from shared.decoding.sampling import SAMPLER_VERSION, SamplingParameters
from shared.decoding.sequence import Sequence
from shared.errors import Forbidden, Invalid, Overloaded, TandemError
from shared.protocol.messages import Codec, Opening, Sampling
from shared.runtime.model_thread import ModelThread
from shared.runtime.work import Claim

# How tokens are chosen, as exits are calibrated.
Kind = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that says nothing gets."""

    mode: Mode
    codec: Codec


@dataclass(frozen=True, slots=True)
class Identity:
    """What the edge announces of itself when a session opens."""

    fingerprint: str
    compute_format: str
    max_positions: int


@dataclass(slots=True)
class Answering:
    """Turns requests into answers. `chances` are what verified sessions learn from and draw on;
    `exits` say which policy decides where nothing is verified, and `auditor` what came of it.
    """

    text: TextCodec
    engine: EdgeEngine
    thread: ModelThread[EdgeWork, EdgeResult]
    cloud: CloudSide | None
    identity: Identity
    defaults: Defaults
    metrics: EdgeMetrics
    load: Load
    controller: Controller
    chances: Mapping[Kind, Mapping[int, Chances]]
    exits: RuleBook
    auditor: Auditor

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes this deployment can serve; `cloud` only where the cloud holds the whole model."""
        if self.cloud is None:
            return ("standalone",)
        if self.cloud.link.cloud_modes is None or "cloud" in self.cloud.link.cloud_modes:
            return ("standalone", "collaborative", "verified", "cloud", "split")
        return ("standalone", "collaborative", "verified", "split")

    @property
    def modes_now(self) -> tuple[Mode, ...]:
        """Those of them a request is served in as the link is; where the cloud is lost,
        `collaborative` goes on without it.
        """
        if self.cloud is None or self.cloud.link.state == "reachable":
            return self.modes
        fits = not self.cloud.link.misfit
        return ("standalone", "collaborative") if fits else ("standalone",)

    async def answer(
        self,
        request: GenerateRequest,
        caller: Caller,
        conversation: Conversation | None = None,
        admission: Admission | None = None,
    ) -> Answer:
        """Check a request against this deployment and get it ready; nothing runs before
        `Answer.tokens`. A request of a conversation goes on where the cloud has it.

        Raises:
            Forbidden: the caller may not ask for this priority.
            Invalid: a field is out of this model's or deployment's range.
            Limited: the caller has asked for as many tokens as it may.
            Overloaded: as many requests or tokens as allowed are being served.
            CloudLost, Unfit: the mode promises the full model's text and no cloud is there.
        """
        began = time.perf_counter()
        claim = Claim(caller.client, request.parameters.priority)
        try:
            if claim.urgent and not caller.may("priority"):
                raise Forbidden(
                    "parameters.priority is emergency: no key that may ask for it was sent "
                    "(`Authorization: Bearer`)",
                    field="parameters.priority",
                )
            self.load.require_room(claim.priority)
            # Tokenizing a body of the largest size takes seconds: the event loop goes on meanwhile.
            ids = await asyncio.to_thread(self.text.encode, request.inputs)
            require_length(ids, request, self.identity.max_positions)
            tokens = len(ids) + request.parameters.max_new_tokens
            if admission is not None:
                admission.charge(tokens)
            self.load.require_room(claim.priority, tokens)
            answer = self._prepare(request, ids, claim, conversation, began)
            answer.admission = admission
            return answer
        except TandemError as error:
            if admission is not None and isinstance(error, Overloaded):
                admission.withdraw()
            self.metrics.failed(error)
            raise

    def _prepare(
        self,
        request: GenerateRequest,
        ids: list[int],
        claim: Claim,
        conversation: Conversation | None,
        began: float,
    ) -> Answer:
        parameters = request.parameters
        rules = self._rules(parameters, conversation)
        seed = parameters.seed
        if seed is None:
            seed = conversation.seed(ids) if conversation else secrets.randbits(63)
        eos_ids = self.text.eos_ids
        sampling = sampling_of(parameters, eos_ids)
        sequence = Sequence(ids, max_new_tokens=parameters.max_new_tokens, eos_ids=eos_ids)
        opening = self._opening(rules, parameters, sequence, on_the_wire(sampling, seed), claim)
        if conversation is not None and opening is not None:
            opening = replace(opening, client=conversation.client)
        uplink = self._uplink(opening, rules, sequence, sampling, conversation)
        decoder = self.text.decoder(parameters.stop)
        state = self.engine.new_state(claim)
        generation = Generation(
            sequence=sequence,
            rules=rules,
            parameters=sampling,
            seed=seed,
            state=state,
            thread=self.thread,
            uplink=uplink,
            verified=self._verified(rules, uplink, state, sampling, seed),
            auditing=self.auditor.watch(uplink, rules),
            ends_in=decoder.stops_in,
        )
        return Answer(
            generation=generation,
            decoder=decoder,
            metrics=self.metrics,
            load=self.load,
            compute_format=self.identity.compute_format,
            asked=len(ids) + parameters.max_new_tokens,
            admission=None,
            began=began,
        )

    def _rules(self, parameters: Parameters, conversation: Conversation | None) -> Rules:
        mode = parameters.mode or self.defaults.mode
        if mode not in self.modes:
            raise Invalid(
                f"mode {mode} is not served here; allowed: {', '.join(self.modes)}",
                field="parameters.mode",
            )
        require_fitting(parameters, mode)
        wishes = parameters.model_dump(include={"threshold", "max_disagreement"})
        # A text that may be taken up again must come out the same.
        exits = self.exits.of(parameters.temperature or 0.0, parameters.repetition_penalty or 1.0)
        exits = exits if conversation is None else exits.unmoved
        rules = Rules(
            mode=mode,
            policy=exits.policy(**wishes),
            target=exits.wanted(**wishes),
            unmoved=conversation is not None,
            on_cloud_loss=parameters.on_cloud_loss or default_on_cloud_loss(mode),
            most_held=MOST_HELD if parameters.repair else 0,
            chances=exits.chances,
        )
        if self.cloud is not None:
            require_cloud(rules, self.cloud.link)
        return rules

    def _opening(
        self,
        rules: Rules,
        parameters: Parameters,
        sequence: Sequence,
        sampling: Sampling,
        claim: Claim,
    ) -> Opening | None:
        if rules.mode == "standalone":
            return None
        by_ids = rules.mode == "cloud" or parameters.verify == "ids"
        return Opening(
            fingerprint=self.identity.fingerprint,
            trunk_format=self.identity.compute_format,
            sampler_version=SAMPLER_VERSION,
            depth=self.engine.model.span.depth,
            split=0 if by_ids else self.engine.split,
            mode=rules.mode,
            codec=parameters.codec or self.defaults.codec,
            prompt_tokens=sequence.prompt_tokens,
            max_positions=sequence.prompt_tokens + parameters.max_new_tokens,
            sampling=sampling,
            client=claim.client,
            priority=claim.priority,
        )

    def _uplink(
        self,
        opening: Opening | None,
        rules: Rules,
        sequence: Sequence,
        sampling: SamplingParameters,
        conversation: Conversation | None,
    ) -> Uplink | None:
        if opening is None or self.cloud is None:
            return None
        session, key, resumable = named(conversation, opening, rules, sequence.ids)
        shape = self.engine.model.shape
        uplink: Uplink
        if opening.mode == "verified":
            drafts = Drafts(
                session,
                opening,
                hidden=shape.hidden,
                vocab=shape.vocab,
                prompt=sequence.ids,
                prefix=sequence.prefix,
                chances=self.chances["sampled" if sampling.temperature else "greedy"],
            )
            same = self.cloud.link.cloud_format == self.identity.compute_format
            uplink = self.cloud.draft_uplink(
                drafts, key, self.metrics, as_ids=same and "cloud" in self.modes
            )
        else:
            chain = Chain(session, opening, hidden=shape.hidden, vocab=shape.vocab)
            uplink = self.cloud.uplink(chain, key, self.metrics)
        uplink.resumable = resumable
        uplink.chain.revision = first_revision() if resumable else 0
        return uplink

    def _verified(
        self,
        rules: Rules,
        uplink: Uplink | None,
        state: EdgeState,
        sampling: SamplingParameters,
        seed: int,
    ) -> Verified | None:
        if not isinstance(uplink, DraftUplink):
            return None
        return Verified(
            drafts=uplink.drafts,
            uplink=uplink,
            state=state,
            thread=self.thread,
            ranker=Ranker(sampling, seed, RANKS),
            controller=self.controller,
            degrade=rules.on_cloud_loss == "degrade",
        )
