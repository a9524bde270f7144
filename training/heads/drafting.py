"""From a checkpoint to a drafter beside it: the order in which the parts are put to work.

Text is gathered, the edge's own part is taught, and what it is worth is measured on prompts it has
not seen: acceptance before and after, thresholds for both exits of the cut, and how sure a gap
makes it. The checkpoint itself is only read. It shows nothing: a caller that wants to watch passes
`report`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.model import LayerSpan, SpanModel, load_span
from shared.model.checkpoint import read_checkpoint, read_header
from shared.model.exits import FORMAT, drafter_files
from shared.model.exits import Drafter as StoredDrafter
from shared.model.fingerprint import fingerprint
from training.backbone import schedule
from training.calibration.acceptance import Drafts, Text, as_texts, calibrate, read_drafts
from training.calibration.thresholds import apply_thresholds, choose_thresholds
from training.evaluation.tuning import held_out_prompts
from training.evaluation.writing import KINDS, write_on
from training.exits import ExitPoint
from training.heads.distillation import WINDOW, Lessons, Recipe, Step, teach
from training.heads.drafter import Drafter
from training.heads.lessons import cut_windows, read_passages, write_answers

# Of every so many passages one is set aside where no held-out prompts are given.
_ASIDE = 20
_ASIDE_PROMPT = 48

Report = Callable[[str, float], None]
Measured = Mapping[str, Mapping[int, Drafts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterPlan:
    """What to train and on how much.

    split, edge_depth: the cut. minutes or steps: the budget of the training proper, whichever is
    given; of both, whichever ends first. characters of text and `own_tokens` written by the whole
    model are learned from; `prompts` of each held-out file, continued by `tokens`, measure.
    """

    split: int
    edge_depth: int
    minutes: float | None = 5.0
    steps: int | None = None
    characters: int = 1_500_000
    own_tokens: int = 100_000
    prompts: int = 40
    tokens: int = 64
    target: float = 0.95
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)

    def spent(self, steps: int, seconds: float) -> float:
        """Share of the budget that is spent."""
        return schedule.spent(steps, seconds, most_steps=self.steps, minutes=self.minutes)


def train_drafter(
    folder: Path,
    texts: Sequence[Path],
    plan: DrafterPlan,
    *,
    out: Path | None = None,
    held_out: Path | None = None,
    report: Report = lambda _what, _share: None,
) -> dict[str, Any]:
    """Train the drafter of one cut of the checkpoint `folder` and write it into `out` (by default
    beside the checkpoint); returns what its JSON says.

    Without a folder of `held_out` prompts, passages of the text are set aside to measure on.
    Raises BadModel for a checkpoint that is not supported, ValueError for a cut it does not allow,
    FileNotFoundError where there is no text.
    """
    workshop = _Workshop.open(folder, plan)
    passages = [workshop.encode(text) for text in read_passages(texts, plan.characters)]
    passages = [ids for ids in passages if len(ids) > 1]
    if held_out is None:
        aside = [ids[:_ASIDE_PROMPT] for ids in passages[::_ASIDE]]
        prompts = aside[: 4 * plan.prompts]
        passages = [ids for place, ids in enumerate(passages) if place % _ASIDE] or passages
    else:
        room = workshop.longest - plan.tokens
        found = held_out_prompts(held_out, workshop.encode, most=plan.prompts, longest=room)
        prompts = [prompt for source in found.values() for prompt in source]
    answers = workshop.answer(prompts, report)
    before = workshop.measure(workshop.edge(None), answers)
    drafter, training = workshop.train(passages, report)
    index, weights = drafter_files(out or folder, plan.split, plan.edge_depth)
    weights.parent.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)  # whoever finds one file without the other refuses both
    save_file(drafter.tensors(), weights)
    weights.chmod(0o644)
    report("measuring the drafter", 0.0)
    after = workshop.measure(workshop.edge(weights), answers)
    content = _describe(plan, workshop.fingerprint, before, after, prompts=len(prompts))
    content["training"] = training
    index.write_text(json.dumps(content, indent=2) + "\n")
    return content


@dataclass(frozen=True, slots=True)
class _Workshop:
    """The models of one run: the whole one as it is trained against and as it is served."""

    folder: Path
    plan: DrafterPlan
    fingerprint: str
    tokenizer: Any
    whole: Any
    served: SpanModel

    @classmethod
    def open(cls, folder: Path, plan: DrafterPlan) -> "_Workshop":
        whole: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        whole.requires_grad_(False).eval()
        depth = whole.config.num_hidden_layers
        if not 1 <= plan.split <= plan.edge_depth < depth:
            raise ValueError(
                f"1 <= {plan.split} <= {plan.edge_depth} < {depth} does not hold: no such cut"
            )
        span = LayerSpan(0, depth, depth)
        served = load_span(folder, span, dtype=torch.float32, embedding=True, head=True)
        identity = fingerprint(folder, read_checkpoint(folder))
        return cls(folder, plan, identity, AutoTokenizer.from_pretrained(folder), whole, served)

    @property
    def exits(self) -> tuple[int, ...]:
        return tuple(sorted({self.plan.split, self.plan.edge_depth}))

    @property
    def longest(self) -> int:
        return self.served.shape.max_positions

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def edge(self, weights: Path | None) -> SpanModel:
        """The edge's span, with the drafter of a file if one is given."""
        plan, stored = self.plan, None
        if weights is not None:
            tensors = read_header(weights)
            stored = StoredDrafter(
                plan.split, plan.edge_depth, self.fingerprint, {}, {}, tensors=tensors
            )
        return load_span(
            self.folder,
            LayerSpan(0, plan.edge_depth, self.served.span.depth),
            dtype=torch.float32,
            embedding=True,
            head=False,
            exits=self.exits,
            drafter=stored,
        )

    def answer(self, prompts: list[list[int]], report: Report) -> dict[str, list[Text]]:
        """What the served whole model writes after held-out prompts, by how it chooses."""
        texts = {}
        for share, (kind, parameters) in enumerate(KINDS.items()):
            report(f"continuing held-out prompts, {kind}", share / len(KINDS))
            answers = write_on(
                self.served,
                prompts,
                self.plan.tokens,
                end=self.tokenizer.eos_token_id,
                parameters=parameters,
            )
            texts[kind] = as_texts(prompts, answers)
        return texts

    def measure(self, edge: SpanModel, answers: Mapping[str, list[Text]]) -> Measured:
        return {
            kind: read_drafts(edge, self.exits, answers[kind], parameters)
            for kind, parameters in KINDS.items()
        }

    def train(self, passages: list[list[int]], report: Report) -> tuple[Drafter, dict[str, Any]]:
        """Gather lessons and teach; returns the drafter and how it came about."""
        plan = self.plan
        own = write_answers(
            self.whole,
            passages,
            min(plan.own_tokens, sum(map(len, passages))),
            seed=plan.seed,
            progress=lambda done, total: report("the whole model writes", done / total),
        )
        windows = cut_windows([passages, own], min(WINDOW, self.longest), seed=plan.seed)
        torch.manual_seed(plan.seed)
        drafter = Drafter(self.whole, self.edge(None), plan.split, plan.recipe.translator)
        lessons = Lessons(self.whole, plan.split, windows, plan.recipe.precision)
        last: list[Step] = []

        def show(step: Step) -> None:
            last[:] = [step]
            words = f"step {step.number}, loss {step.loss:.3f}, agreement {step.agreement:.1%}"
            report(words, step.progress)

        steps = teach(
            drafter, lessons, recipe=plan.recipe, budget=plan.spent, seed=plan.seed, report=show
        )
        made = {
            "steps": steps,
            "window_tokens": windows.numel(),
            "passages": len(passages),
            "own_texts": len(own),
            "plan": asdict(plan),
            "parameters": sum(p.numel() for p in drafter.parameters()),
            "torch": torch.__version__,
        }
        return drafter, made


def _describe(
    plan: DrafterPlan, identity: str, before: Measured, after: Measured, *, prompts: int
) -> dict[str, Any]:
    """The drafter's JSON, but for how it was trained."""
    points = _points(plan, after)
    last = plan.edge_depth
    return {
        "format": FORMAT,
        "model_fingerprint": identity,
        "split": plan.split,
        "edge_depth": last,
        "exits": [asdict(point) for point in points],
        "acceptance": {
            "prompts": prompts,
            "tokens": {kind: len(found[last].ranks) for kind, found in after.items()},
            "before": {kind: found[last].acceptance for kind, found in before.items()},
            "after": {kind: found[last].acceptance for kind, found in after.items()},
            "best_of": {
                kind: [found[last].coverage(count) for count in (1, 2, 3, 4)]
                for kind, found in after.items()
            },
        },
    }


def _points(plan: DrafterPlan, after: Measured) -> list[ExitPoint]:
    """Both exits with the drafter: thresholds chosen together on every second greedy text, what
    they are worth on the others, and how sure a gap makes either.
    """
    greedy = after["greedy"]
    layers = sorted(greedy)
    confidence = np.stack([greedy[layer].confidence for layer in layers])
    agrees = np.stack([greedy[layer].agrees for layer in layers])
    choosing = greedy[layers[0]].starts.cumsum() % 2 == 1
    thresholds = choose_thresholds(confidence[:, choosing], agrees[:, choosing], plan.target)
    testing = choosing if choosing.all() else ~choosing
    tested = apply_thresholds(confidence[:, testing], agrees[:, testing], thresholds)
    return [
        ExitPoint(
            layer,
            threshold,
            agreement,
            {kind: calibrate(found[layer]) for kind, found in after.items()},
        )
        for layer, threshold, agreement in zip(layers, thresholds, tested.agreements, strict=True)
    ]
