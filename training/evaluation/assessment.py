"""One file of documents, measured on a checkpoint: held-out text, and what the model itself writes.

Perplexity is of the references or texts of the file. What thresholds do is measured on the whole
model's greedy answers too, as served an exit is asked about text the model is writing. It knows
models and documents; services and what is shown are not its business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from shared.exits.calibration import Agreement
from training.evaluation.curves import Curve, Point, curves, point
from training.evaluation.perplexity import Score, read_passages, score
from training.evaluation.reading import Reader, Reading, join
from training.evaluation.trust import Trust, trust
from training.text.documents import Document, Prompt, fitting

# What is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]
# Prompts continued together: enough to fill a batch, few enough to show that it goes on.
_GROUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The whole model's own answer to a prompt: A ids, their text without special tokens, and what
    was said before each of them.
    """

    ids: list[int]
    text: str
    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What thresholds do to T tokens: the exits' own thresholds, and any one threshold."""

    tokens: int
    own_thresholds: Point
    curves: list[Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The figures of one file. None stands for what the file has no documents for.

    held_out: of references and texts. on_held_out: thresholds on the same tokens; on_answers: on
    the whole model's greedy answers. passed_over: prompts that were empty or too long. trust: of a
    calibration, on the answers or, without prompts, on what was held out. new_tokens: the most an
    answer could have.
    """

    documents: int
    new_tokens: int
    passed_over: int
    held_out: Score | None
    on_held_out: Swept | None
    on_answers: Swept | None
    trust: Trust | None
    prompts: list[Prompt]
    answers: list[Answer]


def assess(
    reader: Reader,
    documents: Sequence[Document],
    *,
    agreement: Agreement | None,
    longest: int,
    new_tokens: int,
    scored_tokens: int,
    progress: Progress,
) -> Assessment:
    """Measure documents: score what somebody wrote, let the model answer the prompts.

    agreement: a calibration to test, of the reader's exits. longest: tokens of a prompt;
    new_tokens: of an answer, an end included; scored_tokens: about how many of the file's own are
    scored at most. A prompt and its answer stay within what the model can read.

    Raises ValueError where the calibration is of other exits.
    """
    new_tokens = min(new_tokens, reader.max_positions - 1)
    longest = min(longest, reader.max_positions - new_tokens)
    prompts = list(fitting(documents, reader.ids, longest=longest))
    passages = read_passages(
        reader,
        documents,
        tokens=scored_tokens,
        progress=lambda done: progress("held-out tokens", done, scored_tokens),
    )
    if passages is not None:
        read = passages.reading.losses.shape[1]
        progress("held-out tokens", read, read)
    answers: list[Answer] = []
    for group in _groups(prompts):
        progress("the full model's answers", len(answers), len(prompts))
        answers += _answers(reader, group, new_tokens)
        progress("the full model's answers", len(answers), len(prompts))
    on_held_out = None if passages is None else passages.reading
    # What somebody wrote is read in windows that know no texts: there all of it is one.
    written = [] if on_held_out is None else [on_held_out]
    texts = [each.reading for each in answers] or written
    return Assessment(
        documents=len(documents),
        new_tokens=new_tokens,
        passed_over=sum(document.prompt is not None for document in documents) - len(prompts),
        held_out=None if passages is None else score(reader, passages),
        on_held_out=None if on_held_out is None else _sweep(reader, on_held_out),
        on_answers=_sweep(reader, join(texts)) if answers else None,
        trust=_trust(reader, texts, agreement) if texts and agreement is not None else None,
        prompts=prompts,
        answers=answers,
    )


def _groups(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    remaining = iter(prompts)
    return list(iter(lambda: list(islice(remaining, _GROUP)), []))


def _answers(reader: Reader, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
    found = []
    written = reader.continuations([prompt.ids for prompt in prompts], tokens)
    for prompt, ids in zip(prompts, written, strict=True):
        # The token at position n is chosen by what is said after position n - 1.
        start = len(prompt.ids) - 1
        reading = reader.read([*prompt.ids, *ids], start).at(0, len(ids))
        text = str(reader.tokenizer.decode(ids, skip_special_tokens=True))
        found.append(Answer(ids=ids, text=text, reading=reading))
    return found


def _trust(reader: Reader, texts: Sequence[Reading], agreement: Agreement) -> Trust:
    lengths = [text.choices.shape[-1] for text in texts]
    return trust(join(texts), reader.exits, agreement, lengths)


def _sweep(reader: Reader, reading: Reading) -> Swept:
    confidence, agrees = reading.confidence[:-1].numpy(), reading.agrees.numpy()
    return Swept(
        tokens=confidence.shape[1],
        own_thresholds=point(confidence, agrees, tuple(reader.thresholds.values())),
        curves=curves(confidence, agrees, reader.exits),
    )
