"""Text a model writes with nothing given: what it learns from where there is no text.

Every text begins as the model's documents do and is sampled from all of its distribution for a
while, which makes texts differ; then it goes on as it would when served, greedily or sampled more
narrowly, in turn (data-free distillation as in LLM-QAT, arXiv 2305.17888, section 3.1). Knows ids
only.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from shared.model import Segment, SpanModel

Progress = Callable[[int, int], None]

_ROWS = 64
_ANSWER = 64
_SHORTEST, _LONGEST = 8, 192  # tokens of an opening
_NARROW = 0.8  # temperature


def write_own(
    model: SpanModel,
    tokens: int,
    *,
    begin: int | None,
    end: int | None,
    seed: int,
    progress: Progress = lambda _done, _all: None,
) -> list[list[int]]:
    """Texts of the whole model's, until about `tokens` tokens were written.

    begin: what its documents begin with; where there is none, each text begins with any token. A
    text ends with `end`. Lengths of openings are drawn evenly on a logarithmic scale.
    """
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    longest = min(_LONGEST, model.shape.max_positions // 2)
    texts: list[list[int]] = []
    written = 0
    while written < tokens:
        opening = int(_SHORTEST * (longest / _SHORTEST) ** draw.random())
        length = min(opening + _ANSWER, model.shape.max_positions)
        first = [draw.randrange(model.shape.vocab) if begin is None else begin] * _ROWS
        if begin is None:
            first = [draw.randrange(model.shape.vocab) for _ in first]
        group = _write(model, first, opening, length, end=end, generator=generator)
        texts += [text for text in group if len(text) > 1]
        written += sum(map(len, group))
        progress(min(written, tokens), tokens)
    return texts


@torch.inference_mode()
def _write(
    model: SpanModel,
    first: Sequence[int],
    opening: int,
    length: int,
    *,
    end: int | None,
    generator: torch.Generator,
) -> list[list[int]]:
    texts = [[token] for token in first]
    with ExitStack() as stack:
        caches = [stack.enter_context(model.new_cache()) for _ in texts]
        going = list(range(len(texts)))
        for position in range(length - 1):
            segments = [
                Segment(caches[n], 0, model.span.stop, position, _last(model, texts[n]), None)
                for n in going
            ]
            logits = model.logits(torch.cat(model.forward(segments))).cpu()
            narrow = [position >= opening and n % 2 == 1 for n in going]
            greedy = [position >= opening and n % 2 == 0 for n in going]
            for n, token in zip(going, _choose(logits, narrow, greedy, generator), strict=True):
                texts[n].append(token)
            going = [n for n in going if texts[n][-1] != end]
            if not going:
                break
    return texts


def _last(model: SpanModel, text: Sequence[int]) -> Tensor:
    return torch.tensor(text[-1:], device=model.device)


def _choose(
    logits: Tensor,
    narrow: Sequence[bool],
    greedy: Sequence[bool],
    generator: torch.Generator,
) -> list[int]:
    """One token for each row of logits [R, V]."""
    heat = torch.where(torch.tensor(narrow), _NARROW, 1.0).unsqueeze(1)
    shares = (logits / heat).softmax(dim=-1)
    drawn = torch.multinomial(shares, 1, generator=generator)[:, 0]
    return list(torch.where(torch.tensor(greedy), logits.argmax(dim=-1), drawn).tolist())
