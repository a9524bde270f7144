"""One answer in the making: tokens with their text as they come, and at the end the account of what
it cost.

Knows the public response types but not HTTP; `generation` makes the tokens.
"""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from services.edge.cloud_client import Traffic
from services.edge.generation import Generation, Token
from services.edge.load import Load
from services.edge.metrics import EdgeMetrics
from services.edge.schemas import Details, TokenView, Usage
from services.edge.spent import Spent
from services.edge.text import StreamDecoder
from services.edge.verified import Waits
from shared import tracing
from shared.access.limiter import Admission
from shared.errors import TandemError
from shared.tracing import Attribute, Span

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer: iterate `tokens`, then read `text` and `details`.

    `asked` are the tokens it may come to with its prompt; `admission` is told how many it did.
    """

    generation: Generation
    decoder: StreamDecoder
    metrics: EdgeMetrics
    load: Load
    compute_format: str
    asked: int
    admission: Admission | None
    # When the request came in, on `time.perf_counter`'s clock.
    began: float
    text: str = ""
    finished: bool = False
    views: list[TokenView] = field(default_factory=list)
    span: Span = field(default_factory=tracing.current)
    _last: float = 0.0

    async def tokens(self) -> AsyncGenerator[TokenView]:
        """Yield tokens with their text until the answer is finished, and keep the metrics of it."""
        failure = "cancelled"
        # Somebody who hangs up ends the request before what makes the answer has an end.
        self.span.hold()
        with self.load.serving(self.metrics, self.generation.state.claim.priority, self.asked):
            try:
                async with aclosing(self.generation.tokens()) as tokens:
                    async for token in tokens:
                        view = self._view(token)
                        self._observe(view)
                        yield view
                        if self.finished:
                            break
                        self.load.require_time()
            except TandemError as error:
                failure = error.code
                self.metrics.refused(error)
                raise
            except Exception:
                # A mistake of ours, or the device's: not a user who left.
                failure = "internal"
                raise
            finally:
                self._account(failure)
                self.span.end()

    def _view(self, token: Token) -> TokenView:
        """Give a token its text, and finish the sequence where a stop string was completed."""
        sequence = self.generation.sequence
        piece = self.decoder.push(token.id)
        if not self.decoder.stopped and self.generation.finished:
            piece += self.decoder.flush()
        if self.decoder.stopped:
            sequence.finish("stop_sequence")
        self.finished = self.decoder.stopped or self.generation.finished
        self.text += piece
        return TokenView(id=token.id, text=piece, source=token.source, confidence=token.confidence)

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
        if uplink is None or any(view.source not in ("cloud", "draft") for view in self.views):
            return False
        cloud_format = uplink.link.cloud_format
        whole = uplink.chain.opening.split == 0
        same = self.compute_format == cloud_format
        return whole or (uplink.chain.opening.codec == "fp32" and same)

    def _usage(self) -> Usage:
        uplink = self.generation.uplink
        spent, traffic = (uplink.spent, uplink.traffic) if uplink else (Spent(), Traffic())
        verified = self.generation.verified
        drafts, waits = (verified.drafts, verified.waits) if verified else (None, Waits())
        return Usage(
            prompt_tokens=self.generation.sequence.prompt_tokens,
            completion_tokens=len(self.views),
            cached_tokens=0,
            tokens_by_source=self._tokens_by_source(),
            cloud_requests=spent.requests,
            cloud_passes=spent.passes,
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            edge_compute_seconds=round(self.generation.edge_seconds, 6),
            cloud_compute_seconds=round(spent.compute_seconds, 6),
            network_seconds=round(spent.network_seconds, 6),
            drafted_tokens=drafts.drafted if drafts else 0,
            accepted_tokens=drafts.accepted if drafts else 0,
            near_ties=spent.near_ties,
            waiting_seconds=round(waits.seconds, 6),
            round_trips=waits.round_trips,
            repaired_tokens=self.generation.repaired,
        )

    def _tokens_by_source(self) -> dict[str, int]:
        sources = [view.source for view in self.views]
        return {source: sources.count(source) for source in sorted(set(sources))}

    def _observe(self, view: TokenView) -> None:
        metrics, mode, now = self.metrics, self.generation.rules.mode, time.perf_counter()
        metrics.tokens.labels(source=view.source, mode=mode).inc()
        if self.views:
            metrics.inter_token.labels(mode=mode).observe(now - self._last)
        else:
            metrics.first_token.labels(mode=mode).observe(now - self.began)
            self.span.event("first_token", now - self.began)
        self._last = now
        self.views.append(view)

    def _account(self, failure: str) -> None:
        metrics, generation = self.metrics, self.generation
        elapsed = time.perf_counter() - self.began
        if not self.finished:
            metrics.failures.labels(reason=failure).inc()
        else:
            metrics.success.labels(finished_reason=generation.sequence.finish_reason).inc()
            metrics.e2e.labels(mode=generation.rules.mode).observe(elapsed)
            metrics.generation_length.observe(len(self.views))
        if self.admission is not None:
            self.admission.used = generation.sequence.prompt_tokens + len(self.views)
        metrics.degraded.inc(generation.degraded)
        metrics.repaired.inc(generation.repaired)
        self._tell(failure, elapsed)
        if self.span.recording:
            self._trace("ok" if self.finished else failure)
        metrics.prompt_tokens.inc(generation.sequence.prompt_tokens)
        metrics.prompt_length.observe(generation.sequence.prompt_tokens)
        if generation.uplink is not None:
            opening = generation.uplink.chain.opening
            codec = opening.codec if opening.split else "ids"
            metrics.uplink.labels(codec=codec).inc(generation.uplink.traffic.bytes_up)
            metrics.downlink.inc(generation.uplink.traffic.bytes_down)

    def _trace(self, outcome: str) -> None:
        """What the request's span tells, by OpenTelemetry's conventions where there is a word."""
        generation, usage = self.generation, self._usage()
        told: dict[str, Attribute] = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "tandem",
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "tandem.mode": generation.rules.mode,
            "tandem.priority": generation.state.claim.priority,
            "tandem.outcome": outcome,
            "tandem.degraded": generation.degraded,
            "tandem.edge_compute_seconds": usage.edge_compute_seconds,
            "tandem.cloud_compute_seconds": usage.cloud_compute_seconds,
            "tandem.network_seconds": usage.network_seconds,
        }
        told |= {f"tandem.tokens.{k}": n for k, n in usage.tokens_by_source.items()}
        if self.finished:
            told["gen_ai.response.finish_reasons"] = [str(generation.sequence.finish_reason)]
        self.span.set(told)
        if outcome not in ("ok", "cancelled"):
            self.span.fail(outcome)

    def _tell(self, failure: str, seconds: float) -> None:
        """One line of log for the whole request; what was asked and answered is not in it."""
        generation = self.generation
        reason = generation.sequence.finish_reason if self.finished else failure
        _log.info(
            "request finished" if self.finished else "request broke off",
            extra={
                "mode": generation.rules.mode,
                "prompt_tokens": generation.sequence.prompt_tokens,
                "tokens": len(self.views),
                "tokens_by_source": self._tokens_by_source(),
                "seconds": round(seconds, 4),
                "reason": reason,
                "degraded": generation.degraded,
            },
        )
