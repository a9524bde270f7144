"""Text for a drafter: what somebody wrote, and how the whole model goes on from its beginnings.

A drafter is asked about the whole model's own words, so half of what it learns from are those,
greedy and sampled in turn (on-policy, as in DistillSpec, arXiv 2310.08461). Which text makes which
window is a function of the seed. Knows text files and token ids.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.text.corpus import mixture_of, read_rows, text_files

Ids = Sequence[int]
Progress = Callable[[int, int], None]

_PASSAGE = 2000  # characters; a longer document becomes several passages
_ROWS = 64
_ANSWER = 64
_SHORTEST, _LONGEST = 8, 192  # tokens of a prompt


def read_passages(texts: Sequence[Path], characters: int) -> list[str]:
    """About `characters` characters of the files in `texts` (files or folders of them), shared out
    by the reference mixture where its sources are all there, otherwise by size.

    Raises FileNotFoundError when there is no .jsonl.xz and no .txt file, ValueError for a row
    without text.
    """
    paths = {path.name.split(".")[0]: path for text in texts for path in text_files(text)}
    if not paths:
        raise FileNotFoundError(f"no .jsonl.xz and no .txt file in {', '.join(map(str, texts))}")
    shares = mixture_of(paths)
    return [
        passage
        for source, share in shares.items()
        for passage in _passages(paths[source], int(characters * share))
    ]


def _passages(path: Path, left: int) -> Iterator[str]:
    for row in read_rows(path):
        if "text" not in row:
            raise ValueError(f"{path} has a row without a text")
        for start in range(0, len(row["text"]), _PASSAGE):
            if left <= 0:
                return
            passage = row["text"][start : start + _PASSAGE]
            yield passage
            left -= len(passage)


def write_answers(
    whole: Any, passages: Sequence[Ids], tokens: int, *, seed: int, progress: Progress
) -> list[list[int]]:
    """Beginnings of passages, each with up to 64 tokens of the whole model's, until about `tokens`
    tokens were written.

    `whole` is a transformers causal LM. Prompts of a group are equally long, so none is padded;
    their lengths are drawn evenly on a logarithmic scale.
    """
    draw = random.Random(seed)
    end = whole.config.eos_token_id
    longest = min(_LONGEST, whole.config.max_position_embeddings // 2)
    found: list[list[int]] = []
    written, group = 0, 0
    while written < tokens:
        length = int(_SHORTEST * (longest / _SHORTEST) ** draw.random())
        fitting = [ids[:length] for ids in passages if len(ids) > length]
        length = length if fitting else min(map(len, passages))
        fitting = fitting or [ids[:length] for ids in passages]
        prompts = torch.tensor(draw.sample(fitting, min(_ROWS, len(fitting))))
        torch.manual_seed(seed + group)
        rows = _generate(whole, prompts, sampled=group % 2 == 1)
        for row in rows:
            answer = row[length:]
            answer = answer[: answer.index(end) + 1] if end in answer else answer
            found.append([*row[:length], *answer])
            written += len(answer)
        group += 1
        progress(min(written, tokens), tokens)
    return found


def _generate(whole: Any, prompts: Tensor, *, sampled: bool) -> list[list[int]]:
    """Ids [rows, T], the prompts' first; padded after an end."""
    how: Mapping[str, Any] = {"do_sample": False}
    if sampled:
        how = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
    prompts = prompts.to(whole.device)
    room = whole.config.max_position_embeddings - prompts.shape[1]
    answers = whole.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=min(_ANSWER, room),
        pad_token_id=whole.config.eos_token_id,
        **how,
    )
    return [list(row) for row in answers.tolist()]


def cut_windows(streams: Sequence[Sequence[Ids]], length: int, *, seed: int) -> Tensor:
    """Windows [M, length] int64, as many of each stream of documents, in an order of the seed.

    Documents follow each other without gaps, as they did when the model was trained. A stream that
    is shorter than one window is repeated to fill it.
    """
    cut = []
    for documents in streams:
        ids = torch.tensor([token for document in documents for token in document])
        ids = ids.repeat(-(-length // len(ids))) if len(ids) < length else ids
        cut.append(ids[: len(ids) // length * length].view(-1, length))
    generator = torch.Generator().manual_seed(seed)
    fewest = min(map(len, cut))
    chosen = torch.cat([w[torch.randperm(len(w), generator=generator)[:fewest]] for w in cut])
    return chosen[torch.randperm(len(chosen), generator=generator)]
