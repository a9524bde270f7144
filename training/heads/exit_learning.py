"""From a checkpoint without exits to exits beside it: the order in which the parts are put to work.

Text is gathered and split by document, each exit is taught what the end says, thresholds are chosen
as for any exits, and all of it is put in its place at the end. The checkpoint itself is only read.
It shows nothing: a caller that wants to watch passes `report`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.model import LayerSpan, SpanModel, load_span
from shared.model.checkpoint import read_checkpoint
from shared.model.exits import UNTUNED_THRESHOLD, WEIGHTS, read_exits
from shared.model.families import read_source
from shared.model.fingerprint import fingerprint
from shared.model.network import FINAL_NORM, TranslatorShape
from training.backbone import schedule
from training.evaluation.tuning import Prompts, held_out_prompts, tune_thresholds
from training.exits import ExitPoint, write_exits
from training.heads.curve import draw_curve
from training.heads.lessons import cut_windows
from training.heads.own_text import write_own
from training.heads.places import has_exits, publish, view
from training.heads.translating import WINDOW, Lessons, Pace, Taught, teach
from training.heads.translators import Likeness, States, Translators, named
from training.text.exit_text import Ids, read_documents, split_documents, without
from training.text.tokenizer import read_tokenizer

# Tokens the curve is measured on; each document gives its first WINDOW.
JUDGED = 8192
_JUDGED_ROWS = 8
# Where no prompts are held out, beginnings of held-out documents are.
_PROMPT = 48

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitPlan:
    """What to teach and on how much.

    exits: the layers. minutes or steps: the budget of the teaching proper, whichever is given; of
    both, whichever ends first. `own`: whether the model writes text to learn from, `own_tokens` of
    it; `text_tokens` of given text are read. `prompts` of each held-out file, continued by
    `answer` tokens, choose and test the thresholds for `target` agreement.
    """

    exits: tuple[int, ...]
    translator: TranslatorShape = field(default_factory=lambda: TranslatorShape(affine=True))
    minutes: float | None = 5.0
    steps: int | None = None
    own: bool = False
    text_tokens: int = 500_000
    own_tokens: int = 40_000
    target: float = 0.95
    prompts: int = 64
    answer: int = 96
    seed: int = 0
    pace: Pace = field(default_factory=Pace)

    def spent(self, steps: int, seconds: float) -> float:
        """Share of the budget that is spent."""
        return schedule.spent(steps, seconds, most_steps=self.steps, minutes=self.minutes)


def learn_exits(
    folder: Path,
    plan: ExitPlan,
    *,
    texts: Sequence[Path] = (),
    held_out: Path | None = None,
    out: Path | None = None,
    replace: bool = False,
    copy: bool = False,
    device: str = "cpu",
    report: Report = lambda _what, _share: None,
) -> dict[str, Any]:
    """Teach exits of the checkpoint `folder` and write them into `out` (by default beside the
    checkpoint), with their thresholds and the curve; returns what `translators.json` says.

    They are taught on `texts` (files or folders of them) and, if the plan says so, on the model's
    own. Without a folder `held_out`, documents of the text are set aside to judge on. `replace`
    allows to replace exits, `copy` puts the checkpoint's files into `out` too. Until the end
    nothing is written there.

    Raises BadModel for a checkpoint that is not supported, ValueError for what cannot be done,
    FileNotFoundError where there is no text.
    """
    target = folder if out is None else out
    _refuse(folder, target, plan, texts, replace=replace, copy=copy)
    workshop = _Workshop.open(folder, plan, device)
    learned, judged, prompts = workshop.gather(texts, held_out, report)
    taught, beside = workshop.teach(learned, judged, report)
    with view(folder) as work:
        save_file(workshop.translators.tensors(workshop.stored), work / WEIGHTS)
        untuned = [ExitPoint(n, UNTUNED_THRESHOLD, None) for n in workshop.translators.layers]
        write_exits(work, untuned)
        tune_thresholds(
            work,
            prompts,
            target=plan.target,
            tokens=plan.answer,
            device=device,
            progress=lambda what, done, total: report(f"thresholds: {what}", done / total),
        )
        content = workshop.describe(plan, texts, taught, beside, judged=judged)
        (work / "translators.json").write_text(json.dumps(content, indent=2) + "\n")
        draw_curve(content, work / "translators.png")
        publish(work, target, copied=folder if copy else None)
    return content


def _refuse(
    folder: Path, target: Path, plan: ExitPlan, texts: Sequence[Path], *, replace: bool, copy: bool
) -> None:
    depth = int(read_source(folder).config.num_hidden_layers)
    wrong = [layer for layer in plan.exits if not 0 < layer < depth]
    if wrong or not plan.exits:
        named = wrong[0] if wrong else "none"
        raise ValueError(
            f"an exit lies in front of a layer from 1 to {depth - 1}: {named} does not"
        )
    if not texts and not plan.own:
        raise ValueError("exits learn from text that is given or from text the model writes itself")
    if has_exits(target) and not replace:
        raise ValueError(f"{target} has exits; they are replaced only where that is asked for")
    if copy and target.resolve() == folder.resolve():
        raise ValueError("a checkpoint is copied into another folder only")


@dataclass(frozen=True, slots=True)
class _Workshop:
    """The frozen model of one run, and the exits it is given."""

    folder: Path
    plan: ExitPlan
    tokenizer: Any
    translators: Translators
    stored: torch.dtype
    fingerprint: str

    @classmethod
    def open(cls, folder: Path, plan: ExitPlan, device: str) -> "_Workshop":
        depth = int(read_source(folder).config.num_hidden_layers)
        beside = [layer for layer in read_exits(folder).infos if layer in plan.exits]
        model = load_span(
            folder,
            LayerSpan(0, depth, depth),
            dtype=torch.float32,
            device=device,
            embedding=True,
            head=True,
            exits=beside,
        )
        tensors = read_checkpoint(folder)
        full = tensors[FINAL_NORM].dtype in (torch.float32, torch.float64)
        return cls(
            folder,
            plan,
            read_tokenizer(folder),
            Translators(model, plan.exits, plan.translator, seed=plan.seed),
            torch.float32 if full else torch.bfloat16,
            fingerprint(folder, tensors),
        )

    @property
    def model(self) -> SpanModel:
        return self.translators.model

    def encode(self, text: str) -> Ids:
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def document(self, text: str) -> Ids:
        """With its end, as documents follow each other in what models are trained on."""
        end = self.tokenizer.eos_token_id
        return self.encode(text) + ([] if end is None else [end])

    def gather(
        self, texts: Sequence[Path], held_out: Path | None, report: Report
    ) -> tuple[list[list[Ids]], list[Ids], Prompts]:
        """Streams of documents to learn from, documents to judge on, prompts for thresholds."""
        plan = self.plan
        report("reading the text", 0.0)
        streams = []
        if texts:
            streams.append(read_documents(texts, self.document, tokens=plan.text_tokens))
        if plan.own:
            streams.append(
                write_own(
                    self.model,
                    plan.own_tokens,
                    begin=self._begin,
                    end=self.tokenizer.eos_token_id,
                    seed=plan.seed,
                    progress=lambda done, total: report("the model writes text", done / total),
                )
            )
        if held_out is not None:
            judged = read_documents([held_out], self.document, tokens=16 * JUDGED)
        else:
            judged = [document for stream in streams for document in split_documents(stream)[1]]
        learned = [without(stream, judged) for stream in streams]
        if not all(learned):
            raise ValueError("all of the text is held out: nothing is left to learn from")
        return learned, judged, self._prompts(held_out, judged)

    @property
    def _begin(self) -> int | None:
        begin: int | None = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    def _prompts(self, held_out: Path | None, judged: Sequence[Ids]) -> Prompts:
        room = self.model.shape.max_positions // 2
        if held_out is not None and any(held_out.glob("*.jsonl.xz")):
            return held_out_prompts(held_out, self.encode, most=self.plan.prompts, longest=room)
        beginnings = [ids[: min(_PROMPT, room, len(ids) - 1)] for ids in judged]
        return {"held_out": beginnings[: 4 * self.plan.prompts]}

    def teach(
        self, learned: Sequence[Sequence[Ids]], judged: Sequence[Ids], report: Report
    ) -> tuple[Taught, dict[int, Likeness]]:
        """The run, and how near the exits beside the checkpoint are on the same text, if any."""
        plan, model = self.plan, self.model
        report("reading held-out text", 0.0)
        states = self._judged_states(judged)
        own = {layer: model.network.exits[str(layer)] for layer in model.exits}
        windows = cut_windows(learned, min(WINDOW, model.shape.max_positions), seed=plan.seed)

        def show(step: int, share: float, found: dict[int, float]) -> None:
            nats = ", ".join(f"exit {layer} {loss:.3f}" for layer, loss in found.items())
            report(f"step {step}, divergence {nats}", share)

        taught = teach(
            self.translators,
            Lessons(self.translators, windows),
            states,
            pace=plan.pace,
            budget=plan.spent,
            dtype=self.stored,
            seed=plan.seed,
            report=show,
        )
        return taught, self.translators.measure(states, own)

    def _judged_states(self, judged: Sequence[Ids]) -> list[States]:
        texts: list[Tensor] = []
        for ids in judged:
            if sum(map(len, texts)) >= JUDGED:
                break
            longest = min(WINDOW, self.model.shape.max_positions)
            texts.append(torch.tensor(ids[:longest], device=self.model.device))
        groups = [texts[n : n + _JUDGED_ROWS] for n in range(0, len(texts), _JUDGED_ROWS)]
        return [self.translators.read(group) for group in groups]

    def describe(
        self,
        plan: ExitPlan,
        texts: Sequence[Path],
        taught: Taught,
        beside: Mapping[int, Likeness],
        *,
        judged: Sequence[Ids],
    ) -> dict[str, Any]:
        """What `translators.json` says."""
        kinds = [*(["given"] if texts else []), *(["own"] if plan.own else [])]
        longest = min(WINDOW, self.model.shape.max_positions)
        measured = 0
        for ids in judged:
            measured += min(len(ids), longest) if measured < JUDGED else 0
        content = {
            "format": 1,
            "model": self.folder.resolve().name,
            "model_fingerprint": self.fingerprint,
            "exits": list(self.translators.layers),
            "translator": named(plan.translator),
            "parameters": sum(p.numel() for p in self.translators.parameters()),
            "text": " and ".join(kinds),
            "held_out_documents": len(judged),
            "held_out_tokens": measured,
            "learned_tokens": taught.tokens,
            "steps": taught.steps,
            "seconds": taught.seconds,
            "own_exits": {layer: asdict(found) for layer, found in beside.items()},
            "curve": [asdict(point) for point in taught.curve],
            "plan": asdict(plan),
            "torch": torch.__version__,
        }
        # Layers become strings, as they are in the file.
        described: dict[str, Any] = json.loads(json.dumps(content))
        return described
