"""Every peer over the same prompts in one process, on one core at a time.

Peers take turns run by run, so that what disturbs the machine disturbs all of them. It chooses
cores and order; what an answer takes is measured by the peers themselves.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import llama_peer, transformers_peer
from benchmarks.peers.cores import stay_on
from benchmarks.peers.peer import Absent, Answered, Length, Peer
from cli.errors import CommandError


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        prompts: the token ids of each prompt.
        early_exit: the layer transformers' drafts leave at.
        core, edge_core: CPUs of the cloud's peers and of the edge's.
    """

    model: Path
    prompts: Sequence[Sequence[int]]
    length: Length
    repeats: int
    early_exit: int
    core: int
    edge_core: int


@dataclass(frozen=True, slots=True)
class Report:
    """One peer's runs, each the answers to all prompts; `absent` says why there are none."""

    peer: str
    absent: str | None
    repeats: list[list[Answered]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As printed. A run's seconds are those of its answers, without what lies between."""
        runs = [
            {"total_s": sum(each.total_s for each in run), "requests": [asdict(a) for a in run]}
            for run in self.repeats
        ]
        return {"peer": self.peer, "absent": self.absent, "repeats": runs}


def read_prompts(path: Path) -> list[list[int]]:
    """The ids of a JSON list of {"prompt", "ids"}.

    Raises:
        CommandError: it cannot be read, or is no such list.
    """
    try:
        told = json.loads(path.read_text())
        found = [[int(each) for each in entry["ids"]] for entry in told]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path} is no list of prompts with their ids: {error!r}") from error
    if not found or not all(found):
        raise CommandError(f"{path} has no prompt, or one without ids")
    return found


def run(plan: Plan) -> list[Report]:
    """Ask every peer everything.

    Raises:
        CommandError: a core is not there, or transformers cannot run the model.
    """
    stay_on(plan.core)
    torch.set_num_threads(1)
    with _peers(plan) as peers:
        present = [each for each in peers if not isinstance(each, Absent)]
        absent = [Report(each.name, each.reason) for each in peers if isinstance(each, Absent)]
        reports = [Report(each.name, None) for each in present]
        for each in present:  # code paths taken, memory touched
            _answers(each, plan.prompts[:1], plan.length)
        for _ in range(plan.repeats):
            for report, each in zip(reports, present, strict=True):
                report.repeats.append(_answers(each, plan.prompts, plan.length))
    return reports + absent


@contextmanager
def _peers(plan: Plan) -> Iterator[list[Peer | Absent]]:
    longest = max(len(ids) for ids in plan.prompts) + plan.length.new_tokens
    first = transformers_peer.load(plan.model, core=plan.core, early_exit=plan.early_exit)
    with llama_peer.load(
        plan.model, core=plan.core, edge_core=plan.edge_core, context=longest
    ) as second:
        yield [*first, *second]


def _answers(peer: Peer, prompts: Sequence[Sequence[int]], length: Length) -> list[Answered]:
    # Both engines compute in the thread that asks: one thread is no pool.
    stay_on(peer.core)
    return [peer.answer(ids, length) for ids in prompts]
