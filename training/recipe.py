"""From a folder of text to a checkpoint folder: the order in which the parts are put to work.

`train` prepares tokenizer and tokens (once), trains or resumes, and exports. It shows nothing: a
caller that wants to watch passes `report`. Measuring the result and tuning its exits come after,
in `training.thresholds` and `training.evaluation`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from training.checkpoint import Position, load_checkpoint, save_checkpoint
from training.config import TrainingConfig
from training.corpus import Corpus, choose_mixture, prepare_corpus
from training.export import export
from training.loop import StepReport, Trainer
from training.model import EarlyExitLlama, llama_config
from training.schedule import Budget

WORK = Path(".train")
SAVE_EVERY_SECONDS = 120.0


def train(
    text: Path,
    out: Path,
    *,
    minutes: float | None = None,
    tokens: int | None = None,
    seed: int = 0,
    config: TrainingConfig | None = None,
    resume: bool = False,
    device: str = "cpu",
    work: Path = WORK,
    report: Callable[[StepReport], None] | None = None,
) -> None:
    """Train the reference model on the text files in `text` and write a checkpoint folder `out`.

    The budget is either `minutes` of training or `tokens`; the learning rate decays to nothing
    within it, whatever the machine's speed. `work` keeps tokenized text, and the checkpoint of the
    run that makes `out.name`: with `resume` a run continues from there, exactly as if it had not
    stopped; without, it starts afresh. `config` replaces the whole recipe, `seed` included.
    Raises FileNotFoundError when there is no text, ValueError when the budget is not one of the
    two or a resumed checkpoint was made under another recipe.
    """
    budget = Budget(minutes=minutes, tokens=tokens)
    config = config or TrainingConfig(seed=seed, mixture=choose_mixture(text))
    corpus, tokenizer = prepare_corpus(
        text, work / "corpus", config.mixture, vocabulary=config.size.vocabulary
    )
    torch.manual_seed(config.seed)
    model = _build(config, tokenizer)
    trainer = Trainer(model, corpus, config=config, budget=budget, device=device)
    _run(trainer, work / "runs" / f"{out.name}.pt", resume=resume, report=report)
    export(model, tokenizer, out, training=_provenance(trainer, corpus, config, device))


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
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.exists():
        load_checkpoint(checkpoint, trainer)
    trainer.run(
        report=report or (lambda _: None),
        save=lambda: save_checkpoint(checkpoint, trainer),
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
