"""A file measured on a tiny model: as transformers would, and on what the model itself writes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.exits.calibration import Agreement, ExitFit, Logistic, Target
from shared.exits.signals import Signals
from tests.unit.training.conftest import documents
from training.evaluation.assessment import Assessment, assess
from training.evaluation.reading import Reader, Reading, join
from training.evaluation.trust import trust
from training.text.documents import Document

SIZES = {"longest": 64, "new_tokens": 12, "scored_tokens": 10_000}
TEXTS = documents(6, offset=5)
ROWS = [
    *(
        Document(line=n, prompt=f"{t[:30]}\n", reference=t[30:60].strip())
        for n, t in enumerate(TEXTS)
    ),
    Document(line=9, text=" ".join(TEXTS[:2])),
]


def assessed(
    reader: Reader, rows: list[Document], agreement: Agreement | None = None
) -> Assessment:
    return assess(reader, rows, agreement=agreement, progress=lambda *_: None, **SIZES)


def transformers_losses(folder: Path, rows: list[Document]) -> list[float]:
    """Nats of every scored token, by the model as transformers loads and runs it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses: list[float] = []
    for row in rows:
        whole = row.text if row.prompt is None else f"{row.prompt}{row.reference}"
        ids = tokenizer(whole)["input_ids"]
        # Nothing of a prompt is scored; of a text all but its first token.
        start = 1 if row.prompt is None else len(tokenizer(row.prompt)["input_ids"])
        labels = torch.tensor([[-100] * start + ids[start:]])
        with torch.inference_mode():
            loss = model(torch.tensor([ids]), labels=labels).loss
        losses += [float(loss)] * (len(ids) - start)
    return losses


def test_the_ends_perplexity_is_that_of_transformers(trained: Path) -> None:
    found = assessed(Reader(trained), ROWS).held_out
    assert found is not None
    losses = transformers_losses(trained, ROWS)
    assert found.tokens == len(losses)
    assert found.perplexity[4] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert found.perplexity[1] != pytest.approx(found.perplexity[4], rel=1e-3)
    size = sum(len((row.text or row.reference or "").encode()) for row in ROWS)
    # The first token of a text is not scored, and a tokenizer's mark of a gap is no byte.
    assert found.bits_per_byte == pytest.approx(sum(losses) / size / math.log(2), rel=0.05)


def test_the_error_of_a_perplexity_is_that_of_the_mean_loss(trained: Path) -> None:
    reader = Reader(trained)
    found = assessed(reader, ROWS[6:]).held_out
    assert found is not None
    losses = reader.read(reader.ids(ROWS[6].text or "")).losses[:, :-1].double().numpy()
    error = losses[-1].std(ddof=1) / math.sqrt(losses.shape[1])
    assert found.perplexity_error[4] == pytest.approx(error * found.perplexity[4], rel=1e-4)


def test_thresholds_are_swept_on_what_the_model_writes(trained: Path) -> None:
    reader = Reader(trained)
    found = assessed(reader, ROWS)
    assert [prompt.line for prompt in found.prompts] == list(range(6))
    for prompt, answer in zip(found.prompts, found.answers, strict=True):
        # What the end says before each token is the token: these are its own greedy texts.
        assert answer.reading.choices[-1].tolist() == answer.ids
        assert [answer.ids] == reader.continuations([prompt.ids], 12)
    assert found.on_answers is not None
    tokens = sum(len(answer.ids) for answer in found.answers)
    whole = join([answer.reading for answer in found.answers])
    assert found.on_answers.tokens == tokens
    everything = found.on_answers.curves[1].points[0]
    assert everything.kept == 1.0
    assert everything.disagreement == pytest.approx(1 - float(whole.agrees[1].float().mean()))


def test_text_alone_is_read_and_prompts_alone_are_asked(trained: Path) -> None:
    reader = Reader(trained)
    read = assessed(reader, ROWS[6:])
    assert not read.prompts
    assert not read.answers
    assert read.on_answers is None
    assert read.on_held_out is not None
    asked = assessed(
        reader, [Document(line=1, prompt="the king"), Document(line=2, prompt="a " * 90)]
    )
    assert asked.held_out is None
    assert asked.on_held_out is None
    assert len(asked.answers) == asked.passed_over == 1


def calibrated(logistic: Logistic, thresholds: dict[int, float]) -> Agreement:
    fits = {layer: ExitFit(logistic, 1, 0.0, 0.0) for layer in thresholds}
    return Agreement("any", fits, (Target(0.1, thresholds, 0.5),))


def test_a_calibration_is_held_against_the_answers(trained: Path) -> None:
    reader = Reader(trained)
    logistic = Logistic((1.5, -0.2, 0.3, 0.1), 0.4)
    agreement = calibrated(logistic, {1: 0.7, 2: 0.6})
    found = assessed(reader, ROWS, agreement)
    assert found.trust is not None
    reading = join([answer.reading for answer in found.answers])
    chances = np.array(
        [
            [logistic.chance(Signals(*place)) for place in reading.signals[:, row].T.tolist()]
            for row in (0, 1)
        ]
    )
    agrees = reading.agrees.numpy()
    kept = (chances[0] > 0.7) | (chances[1] > 0.6)
    wrong = np.where(chances[0] > 0.7, ~agrees[0], kept & ~agrees[1])
    (promised,) = found.trust.targets
    assert promised.here.kept == pytest.approx(kept.mean())
    assert promised.here.disagreement == pytest.approx(wrong.mean())
    assert sum(each.count for each in found.trust.exits[1].after) == len(kept)
    with pytest.raises(ValueError, match=r"exits \[3, 6\], not of \[1, 2\]"):
        assessed(
            reader, ROWS, Agreement("any", {n: ExitFit(logistic, 1, 0, 0) for n in (3, 6)}, ())
        )


def test_what_was_promised_is_judged_by_texts_and_by_tokens() -> None:
    random = torch.Generator().manual_seed(3)
    reading = Reading(
        torch.randint(0, 2, (3, 40), generator=random),
        torch.rand((4, 3, 40), generator=random),
        torch.zeros((3, 40)),
    )
    agreement = calibrated(Logistic((4.0, 0.0, 0.0, 0.0), -2.0), {1: 0.5, 2: 0.5})
    (promised,) = trust(reading, (1, 2), agreement, [30, 6, 4]).targets
    top, agrees = reading.confidence.numpy(), reading.agrees.numpy()
    wrong = np.where(top[0] > 0.5, ~agrees[0], (top[1] > 0.5) & ~agrees[1])
    assert promised.here.disagreement == pytest.approx(wrong.mean())
    texts = [part.mean() for part in np.split(wrong, [30, 36])]
    assert promised.by_text == pytest.approx(np.mean(texts))
    assert promised.by_text != pytest.approx(wrong.mean(), abs=0.01)


def test_prompt_and_answer_stay_within_what_the_model_can_read(trained: Path) -> None:
    reader = Reader(trained)
    room = reader.max_positions
    prompt = TEXTS[0][:30]
    length = len(reader.ids(prompt))
    for tokens, asked in ((room - length, 1), (room - length + 1, 0), (room + 5, 0)):
        found = assess(
            reader,
            [Document(line=1, prompt=prompt)],
            agreement=None,
            progress=lambda *_: None,
            **{**SIZES, "new_tokens": tokens},
        )
        assert found.new_tokens == min(tokens, room - 1)
        assert (len(found.prompts), found.passed_over) == (asked, 1 - asked)
