"""From a request to an answer: text to ids, a generation within the deployment's limits, ids back
to text, and the account.

Knows the public request and response types but not HTTP; `generation` makes the tokens.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from services.edge.chain import Chain
from services.edge.cloud_client import CloudClient, Traffic
from services.edge.engine import EdgeEngine, Proposal, Proposing
from services.edge.generation import Generation
from services.edge.link import Link
from services.edge.metrics import EdgeMetrics
from services.edge.policy import Mode, Rules, default_on_cloud_loss
from services.edge.schemas import Details, GenerateRequest, Parameters, TokenView, Usage
from services.edge.text import StreamDecoder, TextCodec
from services.edge.uplink import Spent, Uplink
from shared.decoding.sampling import SAMPLER_VERSION, SamplingParameters
from shared.decoding.sequence import Sequence
from shared.errors import CloudLost, Invalid, Overloaded, TandemError, Unfit
from shared.protocol.messages import Codec, Opening, Sampling
from shared.runtime.background import Background
from shared.runtime.model_thread import ModelThread


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that says nothing gets, and the most this edge takes on."""

    mode: Mode
    codec: Codec
    thresholds: Mapping[int, float]
    max_requests: int


@dataclass(frozen=True, slots=True)
class CloudSide:
    """The way to the cloud; absent on an edge that serves `standalone` only."""

    client: CloudClient
    link: Link
    background: Background


@dataclass(frozen=True, slots=True)
class Identity:
    """What the edge announces of itself when a session opens."""

    fingerprint: str
    compute_format: str
    max_positions: int


@dataclass(slots=True)
class Answering:
    """Turns requests into answers; one per service."""

    text: TextCodec
    engine: EdgeEngine
    thread: ModelThread[Proposing, Proposal]
    cloud: CloudSide | None
    identity: Identity
    defaults: Defaults
    metrics: EdgeMetrics
    running: int = 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes this deployment can serve."""
        return ("standalone", "collaborative", "cloud", "split") if self.cloud else ("standalone",)

    def answer(self, request: GenerateRequest) -> "Answer":
        """Check a request against this deployment and get it ready; nothing runs before
        `Answer.tokens`.

        Raises:
            Invalid: a field is out of this model's or deployment's range.
            Overloaded: as many requests as allowed are running.
            CloudLost, Unfit: the mode promises the full model's text and no cloud is there.
        """
        try:
            if self.running >= self.defaults.max_requests:
                raise Overloaded(f"{self.running} requests are being served, the most allowed")
            return self._prepare(request)
        except TandemError as error:
            self.metrics.failures.labels(reason=error.code).inc()
            raise

    def _prepare(self, request: GenerateRequest) -> "Answer":
        parameters = request.parameters
        rules = self._rules(parameters)
        ids = self._ids(request)
        seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
        sampling = _sampling(parameters, self.text.eos_ids)
        generation = Generation(
            sequence=Sequence(
                ids, max_new_tokens=parameters.max_new_tokens, eos_ids=self.text.eos_ids
            ),
            rules=rules,
            parameters=sampling,
            seed=seed,
            state=self.engine.new_state(),
            thread=self.thread,
            uplink=self._uplink(rules, parameters, ids, sampling, seed),
        )
        return Answer(self, generation, self.text.decoder(parameters.stop), time.perf_counter())

    def _rules(self, parameters: Parameters) -> Rules:
        mode = parameters.mode or self.defaults.mode
        if mode not in self.modes:
            raise Invalid(
                f"mode {mode} cannot be served here; allowed: {', '.join(self.modes)}",
                field="parameters.mode",
            )
        on_loss = parameters.on_cloud_loss or default_on_cloud_loss(mode)
        given = parameters.threshold
        thresholds = {
            layer: default if given is None else given
            for layer, default in self.defaults.thresholds.items()
        }
        rules = Rules(mode=mode, thresholds=thresholds, on_cloud_loss=on_loss)
        self._require_cloud(rules)
        return rules

    def _require_cloud(self, rules: Rules) -> None:
        if rules.mode == "standalone" or self.cloud is None:
            return
        link = self.cloud.link
        if link.unfit is not None:
            raise Unfit(link.unfit)
        if not link.usable and rules.on_cloud_loss == "error":
            raise CloudLost(
                f"mode {rules.mode} needs the cloud, which is lost ({link.last_failure})",
                reason="link",
                retry_after=max(1.0, link.seconds_to_retry),
            )

    def _ids(self, request: GenerateRequest) -> list[int]:
        ids = self.text.encode(request.inputs)
        if not ids:
            raise Invalid("inputs: the prompt has no tokens", field="inputs")
        longest = self.identity.max_positions
        if len(ids) >= longest:
            raise Invalid(
                f"inputs: the prompt has {len(ids)} tokens; allowed: 1 to {longest - 1}",
                field="inputs",
            )
        wanted = request.parameters.max_new_tokens
        if len(ids) + wanted > longest:
            raise Invalid(
                f"parameters.max_new_tokens: {wanted} after a prompt of {len(ids)} tokens is "
                f"beyond the context of {longest}; allowed: 1 to {longest - len(ids)}",
                field="parameters.max_new_tokens",
            )
        return ids

    def _uplink(
        self,
        rules: Rules,
        parameters: Parameters,
        ids: list[int],
        sampling: SamplingParameters,
        seed: int,
    ) -> Uplink | None:
        if rules.mode == "standalone" or self.cloud is None:
            return None
        opening = Opening(
            fingerprint=self.identity.fingerprint,
            trunk_format=self.identity.compute_format,
            sampler_version=SAMPLER_VERSION,
            depth=self.engine.model.span.depth,
            split=0 if rules.mode == "cloud" else self.engine.split,
            mode=rules.mode,
            codec=parameters.codec or self.defaults.codec,
            prompt_tokens=len(ids),
            max_positions=len(ids) + parameters.max_new_tokens,
            sampling=_on_the_wire(sampling, seed),
        )
        chain = Chain(secrets.token_hex(16), opening, hidden=self.engine.model.shape.hidden)
        cloud = self.cloud
        return Uplink(chain, cloud.client, cloud.link, self.metrics, cloud.background)


@dataclass(slots=True)
class Answer:
    """One answer in the making: iterate `tokens`, then read `text` and `details`."""

    answering: Answering
    generation: Generation
    decoder: StreamDecoder
    began: float
    text: str = ""
    finished: bool = False
    views: list[TokenView] = field(default_factory=list)
    _last: float = 0.0

    async def tokens(self) -> AsyncGenerator[TokenView]:
        """Yield tokens with their text until the answer is finished, and keep the metrics of it."""
        service, sequence = self.answering, self.generation.sequence
        reason = "cancelled"
        service.running += 1
        service.metrics.running.inc()
        try:
            async with aclosing(self.generation.tokens()) as tokens:
                async for token in tokens:
                    piece = self.decoder.push(token.id)
                    if self.decoder.stopped:
                        sequence.finish("stop_sequence")
                    self.finished = sequence.finished
                    if self.finished:
                        piece += self.decoder.flush()
                    self.text += piece
                    view = TokenView(
                        id=token.id, text=piece, source=token.source, confidence=token.confidence
                    )
                    self._observe(view)
                    yield view
                    if self.finished:
                        break
            reason = ""
        except TandemError as error:
            reason = error.code
            raise
        finally:
            service.running -= 1
            service.metrics.running.dec()
            self._account(reason)

    def details(self) -> Details:
        """The account of a finished answer."""
        generation, sequence = self.generation, self.generation.sequence
        assert sequence.finish_reason is not None, "details are read when the answer is finished"
        return Details(
            finish_reason=sequence.finish_reason,
            generated_tokens=len(self.views),
            seed=generation.seed,
            mode=generation.rules.mode,
            exact=self._exact(),
            degraded=generation.degraded,
            tokens=self.views,
            usage=self._usage(),
        )

    def _exact(self) -> bool:
        """Whether every token is the full model's own choice, from states that were not rounded
        on the way.
        """
        uplink = self.generation.uplink
        if uplink is None or any(view.source != "cloud" for view in self.views):
            return False
        cloud_format = uplink.link.cloud_format
        whole = self.generation.rules.mode == "cloud"
        same = self.answering.identity.compute_format == cloud_format
        return whole or (uplink.chain.opening.codec == "fp32" and same)

    def _usage(self) -> Usage:
        uplink, sources = self.generation.uplink, [view.source for view in self.views]
        spent, traffic = (uplink.spent, uplink.traffic) if uplink else (Spent(), Traffic())
        return Usage(
            prompt_tokens=self.generation.sequence.prompt_tokens,
            completion_tokens=len(self.views),
            cached_tokens=0,
            tokens_by_source={source: sources.count(source) for source in sorted(set(sources))},
            cloud_requests=spent.requests,
            cloud_passes=spent.passes,
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            edge_compute_seconds=round(self.generation.edge_seconds, 6),
            cloud_compute_seconds=round(spent.compute_seconds, 6),
            network_seconds=round(spent.network_seconds, 6),
        )

    def _observe(self, view: TokenView) -> None:
        metrics, mode, now = self.answering.metrics, self.generation.rules.mode, time.perf_counter()
        metrics.tokens.labels(source=view.source, mode=mode).inc()
        if self.views:
            metrics.inter_token.labels(mode=mode).observe(now - self._last)
        else:
            metrics.first_token.labels(mode=mode).observe(now - self.began)
        self._last = now
        self.views.append(view)

    def _account(self, failure: str) -> None:
        metrics, generation = self.answering.metrics, self.generation
        if failure and not self.finished:
            metrics.failures.labels(reason=failure).inc()
        else:
            metrics.success.labels(finished_reason=generation.sequence.finish_reason).inc()
            elapsed = time.perf_counter() - self.began
            metrics.e2e.labels(mode=generation.rules.mode).observe(elapsed)
        metrics.prompt_tokens.inc(generation.sequence.prompt_tokens)
        if generation.uplink is not None:
            codec = generation.uplink.chain.opening.codec
            metrics.uplink.labels(codec=codec).inc(generation.uplink.traffic.bytes_up)
            metrics.downlink.inc(generation.uplink.traffic.bytes_down)


def _sampling(parameters: Parameters, eos_ids: tuple[int, ...]) -> SamplingParameters:
    return SamplingParameters(
        temperature=parameters.temperature or 0.0,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=parameters.top_k or 0,
        min_p=parameters.min_p or 0.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        min_new_tokens=parameters.min_new_tokens,
        eos_ids=eos_ids,
    )


def _on_the_wire(sampling: SamplingParameters, seed: int) -> Sampling:
    return Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        min_new_tokens=sampling.min_new_tokens,
        seed=seed,
        eos_ids=sampling.eos_ids,
    )
