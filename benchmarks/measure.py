"""Every deployment on one network, request by request in turn, and the figures that come of it.

Deployments take turns at every prompt, so that what disturbs the machine disturbs all of them.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import httpx
import numpy

from benchmarks.cells import Cell
from benchmarks.client import Answer, ask
from benchmarks.deployments import Deployment
from benchmarks.network.calibrate import Measured
from benchmarks.prompts import Prompt
from benchmarks.quality import Judged, Nearness, nearness
from benchmarks.rows import CLOUD_ONLY, Row
from benchmarks.sampling import Sampling
from benchmarks.stack import Stack
from cli.full_model import FullModel

REQUEST_SECONDS = 600.0
WARM_UP_TOKENS = 4
# Tokens nearer to each other are one burst: no reader tells them apart.
PAUSE_SECONDS = 0.001

_GREEDY = Sampling()
_OF_DRAFTS = ("cloud_passes", "drafted_tokens", "accepted_tokens", "round_trips", "near_ties")

# Per deployment and repeat, the answers to all prompts.
Answers = dict[str, list[list[Answer]]]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked: prompts, and tokens each (the end of the text is held back until then).

    Args:
        cuts: (split, edge depth) of each cut.
        sampling: how tokens are chosen, by every deployment alike.
    """

    prompts: Sequence[Prompt]
    new_tokens: int
    cuts: Mapping[str, tuple[int, int]]
    sampling: Sampling = _GREEDY

    def parameters(
        self, deployment: Deployment, number: int, tokens: int | None = None
    ) -> dict[str, object]:
        """The parameters of the request for a prompt, counted from 0."""
        length = tokens or self.new_tokens
        lengths = {"max_new_tokens": length, "min_new_tokens": length}
        return {**deployment.parameters, **lengths, **self.sampling.of_request(number)}


@dataclass(slots=True)
class Bench:
    """Measures on one stack.

    Args:
        tell: told what is being measured, for a person waiting.
        judged: nearness by deployment and the answers it was found for, over all cells: tokens
            hardly ever change with the network.
    """

    stack: Stack
    workload: Workload
    model: FullModel
    tell: Callable[[str], None]
    judged: dict[tuple[tuple[int, ...], ...], Nearness] = field(default_factory=dict)

    def warm_up(self, deployments: Sequence[Deployment]) -> None:
        """Ask everything once, shortly: connections opened, code paths taken."""
        with _client() as client:
            for each in deployments:
                parameters = self.workload.parameters(each, 0, WARM_UP_TOKENS)
                ask(self.stack, client, each.edge, self.workload.prompts[0].text, parameters)

    def cell(
        self, cell: Cell, deployments: Sequence[Deployment], *, repeats: int
    ) -> tuple[list[Row], Answers]:
        """Measure every deployment on the network of `cell`, `repeats` times."""
        measured = self.stack.network.emulate(cell.shape)
        answers: Answers = {each.name: [] for each in deployments}
        with _client() as client:
            for repeat in range(repeats):
                self.tell(f"{cell}: run {repeat + 1} of {repeats}")
                for each in deployments:
                    answers[each.name].append([])
                for number, prompt in enumerate(self.workload.prompts):
                    for each in deployments:
                        parameters = self.workload.parameters(each, number)
                        answer = ask(self.stack, client, each.edge, prompt.text, parameters)
                        answers[each.name][-1].append(answer)
        rows = [self._row(cell, measured, each, answers) for each in deployments]
        return rows, answers

    def offloaded(self, deployment: Deployment) -> float:
        """Share of tokens the cloud chooses, over all prompts, on the network as it is."""
        sources: list[str] = []
        with _client() as client:
            for number, prompt in enumerate(self.workload.prompts):
                parameters = self.workload.parameters(deployment, number)
                answer = ask(self.stack, client, deployment.edge, prompt.text, parameters)
                sources += answer.sources
        return sources.count("cloud") / len(sources)

    def _row(self, cell: Cell, measured: Measured, deployment: Deployment, answers: Answers) -> Row:
        runs = answers[deployment.name]
        near = self._nearness(runs[0], answers[CLOUD_ONLY][0])
        split, edge_depth = self.workload.cuts[deployment.cut]
        threshold, codec = (deployment.parameters.get(key) for key in ("threshold", "codec"))
        carries = deployment.mode in ("split", "collaborative", "verified")
        carries = carries and deployment.parameters.get("verify") != "ids"
        return Row(
            deployment=deployment.name,
            setup=cell.setup,
            rtt_ms=cell.rtt_ms,
            mbit=cell.mbit,
            rtt_steps=cell.rtt_steps,
            rtt_measured_ms=measured.rtt_ms,
            mbit_up_measured=measured.mbit_up,
            mbit_down_measured=measured.mbit_down,
            split=None if deployment.mode == "cloud" else split,
            edge_depth=None if deployment.mode == "cloud" else edge_depth,
            threshold=float(threshold) if isinstance(threshold, int | float) else None,
            codec=(str(codec) if codec else "fp16") if carries else None,
            peer=False,
            agreement=near.agreement,
            identical=near.identical,
            rouge_l=near.rouge_l,
            temperature=self.workload.sampling.temperature,
            top_p=self.workload.sampling.top_p,
            seed=self.workload.sampling.seed,
            **figures(runs),
            **paired(runs, answers[CLOUD_ONLY]),
        )

    def _nearness(self, answers: Sequence[Answer], whole: Sequence[Answer]) -> Nearness:
        prompts, sampling = self.workload.prompts, self.workload.sampling
        key = tuple(tuple(each.ids) for each in (*answers, *whole))
        if key not in self.judged:
            self.judged[key] = nearness(
                self.model, judged(prompts, answers, sampling), judged(prompts, whole, sampling)
            )
        return self.judged[key]


def judged(
    prompts: Sequence[Prompt], answers: Sequence[Answer], sampling: Sampling = _GREEDY
) -> list[Judged]:
    """The answers as they are judged."""
    pairs = zip(prompts, answers, strict=True)
    return [
        Judged(prompt.ids, answer.ids, answer.text, sampling.seed_of(number))
        for number, (prompt, answer) in enumerate(pairs)
    ]


def figures(runs: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """The figures of a row over its repeats: medians of a run's sums; times between tokens over all
    requests.
    """
    requests = [answer for run in runs for answer in run]
    sources = [source for answer in runs[0] for source in answer.sources]
    totals = _sums(runs, lambda each: each.total_s)
    return {
        "prompts": len(runs[0]),
        "tokens": len(sources),
        "repeats": len(runs),
        "total_s": statistics.median(totals),
        "total_s_low": min(totals),
        "total_s_high": max(totals),
        "edge_s": statistics.median(_sums(runs, lambda each: each.edge_s)),
        "cloud_s": statistics.median(_sums(runs, lambda each: each.cloud_s)),
        "network_s": statistics.median(_sums(runs, lambda each: each.network_s)),
        "ttft_s": statistics.median(each.ttft_s for each in requests),
        **between_tokens([gap for each in requests for gap in each.gaps_s]),
        "cloud_requests": round(statistics.median(_sums(runs, lambda each: each.cloud_requests))),
        "bytes_up": round(statistics.median(_sums(runs, lambda each: each.bytes_up))),
        "bytes_down": round(statistics.median(_sums(runs, lambda each: each.bytes_down))),
        "wire_up": round(statistics.median(_sums(runs, lambda each: each.wire_up))),
        "wire_down": round(statistics.median(_sums(runs, lambda each: each.wire_down))),
        "offloaded": sources.count("cloud") / len(sources),
        "waiting_s": statistics.median(_sums(runs, lambda each: each.waiting_s)),
        **{key: round(statistics.median(_sums(runs, attrgetter(key)))) for key in _OF_DRAFTS},
    }


def paired(runs: Sequence[Sequence[Answer]], whole: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """The times of `runs` over those of `whole`, cloud-only's, prompt by prompt and repeat by
    repeat: their median, smallest and largest. Both were asked one soon after the other, so a
    machine that is slow for a while is slow for both.
    """
    ratios = [
        answer.total_s / base.total_s
        for run, other in zip(runs, whole, strict=True)
        for answer, base in zip(run, other, strict=True)
    ]
    return {
        "ratio_paired": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def between_tokens(gaps_s: Sequence[float]) -> dict[str, float | None]:
    """What a reader sees between tokens: all gaps, and the pauses among them; what comes in a burst
    comes at once.
    """
    gaps = numpy.array(gaps_s)
    pauses = gaps[gaps > PAUSE_SECONDS]
    return {
        "itl_p50_s": float(numpy.percentile(gaps, 50)),
        "itl_p95_s": float(numpy.percentile(gaps, 95)),
        "pause_p50_s": float(numpy.percentile(pauses, 50)) if len(pauses) else None,
        "pause_p95_s": float(numpy.percentile(pauses, 95)) if len(pauses) else None,
    }


def _sums(runs: Sequence[Sequence[Answer]], of: Callable[[Answer], float]) -> list[float]:
    return [sum(of(answer) for answer in run) for run in runs]


def _client() -> httpx.Client:
    return httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)
