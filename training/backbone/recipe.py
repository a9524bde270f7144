"""From a folder of text to a checkpoint folder: the order in which the parts are put to work.

`train` prepares tokenizer and tokens (once), trains or resumes, and exports. It shows nothing: a
caller that wants to watch passes `report`. Measuring the result and tuning its exits come after,
in `training.calibration.thresholds` and `training.evaluation.perplexity`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from training.backbone.checkpoint import Position, load_checkpoint, save_checkpoint
from training.backbone.compiling import can_compile
from training.backbone.continuation import continuation
from training.backbone.export import export
from training.backbone.loop import StepReport, Trainer
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.schedule import Budget
from training.backbone.start import Start
from training.backbone.workers import Workers, join_workers
from training.config import TrainingConfig
from training.text.corpus import Corpus, choose_mixture, prepare_corpus
from training.text.tokenizer import load_tokenizer

WORK = Path(".train")
SAVE_EVERY_SECONDS = 120.0


def train(
    text: Path,
    out: Path,
    *,
    budget: Budget,
    seed: int = 0,
    config: TrainingConfig | None = None,
    resume: bool = False,
    device: str = "cpu",
    start: Path | None = None,
    work: Path = WORK,
    report: Callable[[StepReport], None] | None = None,
) -> None:
    """Train the reference model on the text files in `text` and write a checkpoint folder `out`.

    The learning rate decays to nothing within the budget, whatever the machine's speed. `work`
    keeps tokenized text, and the checkpoint of the run that makes `out.name`: with `resume` a run
    continues from there, exactly as if it had not stopped; without, it starts afresh. With `start`,
    an exported checkpoint, the model begins with its weights and keeps its tokenizer, under the
    recipe for training further. `config` replaces the whole recipe, `seed` included.
    Raises FileNotFoundError when there is no text, ValueError when a resumed checkpoint was made
    under another recipe or from another start, or batches cannot be shared out among the processes.
    """
    workers = join_workers()
    begun = None if start is None else Start.read(start)
    config = config or _recipe(text, begun, seed)
    workers.require_fair(stage.rows for stage in config.stages)
    with workers.leader_first():
        corpus, tokenizer = prepare_corpus(
            text,
            work / "corpus",
            config.mixture,
            vocabulary=config.size.vocabulary,
            tokenizer=None if begun is None else load_tokenizer(begun.folder),
        )
    torch.manual_seed(config.seed)
    model = _build(config, tokenizer)
    if begun is not None:
        begun.load_into(model)
    trainer = Trainer(
        model,
        corpus,
        config=config,
        budget=budget,
        device=device,
        started_from=None if begun is None else begun.fingerprint,
        workers=workers,
    )
    checkpoint = work / "runs" / f"{out.name}.pt"
    _run(trainer, checkpoint, resume=resume, report=report, workers=workers)
    if workers.leads:
        provenance = {
            **_provenance(trainer, corpus, config, device),
            "budget": {"tokens": budget.tokens} if budget.tokens else {"minutes": budget.minutes},
            "processes": workers.count,
            "started_from": None if begun is None else begun.provenance(),
        }
        export(model, tokenizer, out, training=provenance)


def _recipe(text: Path, start: Start | None, seed: int) -> TrainingConfig:
    mixture = choose_mixture(text)
    if start is None:
        return TrainingConfig(seed=seed, mixture=mixture)
    return continuation(start.size, mixture, seed=seed, compiled=can_compile())


def _build(config: TrainingConfig, tokenizer: PreTrainedTokenizerFast) -> EarlyExitLlama:
    shape = llama_config(
        config.size,
        begin=tokenizer.bos_token_id,
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
    )
    return EarlyExitLlama(shape, config.size.exits)


def _run(
    trainer: Trainer,
    checkpoint: Path,
    *,
    resume: bool,
    report: Callable[[StepReport], None] | None,
    workers: Workers,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.exists():
        load_checkpoint(checkpoint, trainer)

    def save() -> None:
        if workers.leads:
            save_checkpoint(checkpoint, trainer)

    trainer.run(
        report=report if report and workers.leads else lambda _: None,
        save=save,
        save_every=SAVE_EVERY_SECONDS,
    )


def _provenance(
    trainer: Trainer, corpus: Corpus, config: TrainingConfig, device: str
) -> dict[str, object]:
    position: Position = trainer.position
    return {
        "format": 1,
        "config": config.as_dict(),
        "corpus_sha256": corpus.fingerprint,
        "steps": position.step,
        "tokens": position.tokens,
        "seconds": round(position.seconds, 1),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
