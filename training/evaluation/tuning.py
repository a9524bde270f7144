"""Tuning a checkpoint's exits on what the whole model itself would write.

Served, an exit is asked about text the model is writing, not about text somebody wrote; so the
thresholds are chosen on greedy continuations of held-out prompts. Half the prompts choose, the
other half says what the choice is worth. Knows files and models; how thresholds are chosen from
arrays is `training.calibration.thresholds`' business.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from shared.model.exits import GapTable
from training.calibration.acceptance import Text, as_texts, calibrate, read_drafts
from training.calibration.thresholds import Bools, Floats, Kept, apply_thresholds, choose_thresholds
from training.evaluation.reading import Reader, Reading, join
from training.evaluation.writing import KINDS, SAMPLED
from training.exits import ExitPoint, write_exits
from training.text.corpus import read_rows

# What is being done, how many prompts it is done for, and of how many.
Progress = Callable[[str, int, int], None]
# The ids of prompts, by where they come from.
Prompts = Mapping[str, Sequence[Sequence[int]]]
# Prompts that share a run of so many tokens are about one passage.
_RUN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Thresholds with what they achieve on the prompts that chose them and on the others, None
    where there are no others.
    """

    target: float
    exits: tuple[int, ...]
    thresholds: tuple[float, ...]
    chosen_on: Kept
    tested_on: Kept | None
    tested_by_source: dict[str, Kept]
    gaps: dict[int, dict[str, GapTable]]
    """By exit and how tokens were chosen, on all prompts: how often its drafts are right."""


def tune_thresholds(
    folder: Path,
    held_out: Path | Prompts,
    *,
    target: float = 0.95,
    prompts: int = 64,
    tokens: int = 96,
    device: str = "cpu",
    progress: Progress = lambda _what, _done, _total: None,
) -> Calibration:
    """Choose the thresholds of the checkpoint in `folder`, and write them beside it.

    Every file of the folder `held_out` that has prompts gives up to `prompts` of them, less those
    that quote an earlier one at length, each continued by up to `tokens` tokens (at most half of
    what the model can read). `target` is the agreement with the end that the kept tokens must
    reach. Writes `exits.json` (agreements are those of the testing half) and `calibration.json`.
    Raises FileNotFoundError when `held_out` has no prompts, BadModel when `folder` has no exits.
    """
    reader = Reader(folder, device=device)
    tokens = min(tokens, reader.max_positions // 2)
    room = reader.max_positions - tokens
    if isinstance(held_out, Path):
        found = held_out_prompts(held_out, reader.ids, most=prompts, longest=room)
        # Every second prompt tests what the others chose: not by a question about the same passage.
        sources: Prompts = {name: [ids for _, ids in independent(of)] for name, of in found.items()}
    else:
        sources = {name: [ids[:room] for ids in given] for name, given in held_out.items()}
    answers = _answers(reader, sources, tokens, progress)
    read = _read_continuations(reader, sources, answers, progress)
    choosing = join([reading for texts in read.values() for reading in texts[0::2]])
    testing = {source: join(texts[1::2]) for source, texts in read.items() if len(texts) > 1}
    thresholds = choose_thresholds(*_arrays(choosing), target)
    calibration = Calibration(
        target=target,
        exits=reader.exits,
        thresholds=thresholds,
        chosen_on=_kept(choosing, thresholds),
        tested_on=_kept(join(list(testing.values())), thresholds) if testing else None,
        tested_by_source={source: _kept(texts, thresholds) for source, texts in testing.items()},
        gaps=_gaps(reader, sources, answers, tokens, progress),
    )
    write_calibration(folder, calibration)
    return calibration


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write thresholds to `exits.json` and how they were found to `calibration.json`."""
    exits, tested = calibration.exits, calibration.tested_on
    agreements = tested.agreements if tested else (None,) * len(exits)
    points = zip(exits, calibration.thresholds, agreements, strict=True)
    write_exits(folder, [ExitPoint(*point, calibration.gaps[point[0]]) for point in points])
    content = {"format": 1, **asdict(calibration)}
    (folder / "calibration.json").write_text(json.dumps(content, indent=2) + "\n")


def held_out_prompts(
    held_out: Path, encode: Callable[[str], list[int]], *, most: int, longest: int
) -> dict[str, list[list[int]]]:
    """By file, the ids of the first `most` prompts of at most `longest` tokens.

    Raises FileNotFoundError when no file of `held_out` has prompts.
    """
    sources = {
        path.name.split(".")[0]: texts
        for path in sorted(held_out.glob("*.jsonl.xz"))
        if (texts := list(_prompts(path, encode, most, longest)))
    }
    if not sources:
        raise FileNotFoundError(f"{held_out} holds no .jsonl.xz file with prompts")
    return sources


def independent(prompts: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    """The prompts, by number, without those that share a run of 40 tokens with one before them.

    Two questions about one passage are answered alike; documents are counted and split as if they
    had nothing to do with each other.
    """
    seen: set[int] = set()
    chosen = []
    for number, ids in enumerate(prompts):
        # By their hashes, of 64 bits: the runs themselves would be a hundred times the text.
        runs = {hash(tuple(ids[place : place + _RUN])) for place in range(len(ids) - _RUN + 1)}
        if seen.isdisjoint(runs):
            chosen.append((number, ids))
            seen |= runs
    return chosen


def _prompts(
    path: Path, encode: Callable[[str], list[int]], most: int, longest: int
) -> Iterator[list[int]]:
    found = 0
    for row in read_rows(path):
        if "prompt" not in row or found == most:
            return
        ids = encode(row["prompt"])
        if 0 < len(ids) <= longest:
            found += 1
            yield ids


def _answers(
    reader: Reader, sources: Prompts, tokens: int, progress: Progress
) -> dict[str, list[list[int]]]:
    """By source, each prompt's greedy continuation."""
    prompts = [prompt for texts in sources.values() for prompt in texts]
    written = iter(
        reader.continuations(
            prompts, tokens, progress=lambda done: progress("greedy answers", done, len(prompts))
        )
    )
    return {source: list(islice(written, len(texts))) for source, texts in sources.items()}


def _read_continuations(
    reader: Reader,
    sources: Prompts,
    answers: Mapping[str, list[list[int]]],
    progress: Progress,
) -> dict[str, list[Reading]]:
    """By source, what the exits say about every token of each prompt's continuation."""
    total = sum(map(len, sources.values()))
    read: dict[str, list[Reading]] = {}
    done = 0
    for source, prompts in sources.items():
        read[source] = []
        for prompt, answer in zip(prompts, answers[source], strict=True):
            # The token at position n is chosen by what is said after position n - 1.
            start = len(prompt) - 1
            reading = reader.read([*prompt, *answer], start)
            read[source].append(reading.at(0, len(answer)))
            done += 1
            progress("what exits say", done, total)
    return read


def _gaps(
    reader: Reader,
    sources: Prompts,
    greedy: Mapping[str, list[list[int]]],
    tokens: int,
    progress: Progress,
) -> dict[int, dict[str, GapTable]]:
    prompts = [prompt for texts in sources.values() for prompt in texts]
    answers = {
        "greedy": [answer for texts in greedy.values() for answer in texts],
        "sampled": reader.continuations(
            prompts,
            tokens,
            SAMPLED,
            progress=lambda done: progress("sampled answers", done, len(prompts)),
        ),
    }
    found: dict[int, dict[str, GapTable]] = {layer: {} for layer in reader.exits}
    for kind, parameters in KINDS.items():
        texts = _told(as_texts(prompts, answers[kind]), f"{kind} drafts", progress)
        for layer, drafts in read_drafts(reader.model, reader.exits, texts, parameters).items():
            found[layer][kind] = calibrate(drafts)
    return found


def _told(texts: Sequence[Text], what: str, progress: Progress) -> Iterator[Text]:
    for done, text in enumerate(texts, 1):
        yield text
        progress(what, done, len(texts))


def _arrays(reading: Reading) -> tuple[Floats, Bools]:
    return reading.confidence[:-1].numpy(), reading.agrees.numpy()


def _kept(reading: Reading, thresholds: Sequence[float]) -> Kept:
    return apply_thresholds(*_arrays(reading), thresholds)
