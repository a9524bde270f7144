"""`python -m benchmarks.engine.accuracy`: what a format loses, against float32.

The shipped model in float32 answers the shipped prompts greedily; each format is run over those
very texts, as the cloud runs it. Measured are how often it would choose the same token, what it
takes the prompts to be (perplexity), and how far its chances are from float32's.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks import prompts
from benchmarks.engine.models import FORMATS, whole_model
from cli.partition import SHIPPED_MODEL
from shared.model import KVCache, Segment, SpanModel


def main(
    *,
    count: Annotated[int, typer.Option(min=1, help="Prompts.")] = 40,
    tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 48,
) -> None:
    """Print a table of formats."""
    texts = prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=count, longest=400)
    typer.echo("| format | same greedy token | perplexity of the prompts | KL from fp32, nats |")
    typer.echo("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="tandem-accuracy-") as name:
        exact = whole_model(SHIPPED_MODEL, Path(name), "fp32")
        answers = [(len(text.ids), answer(exact, text.ids, tokens)) for text in texts]
        expected = [chances(exact, ids) for _, ids in answers]
        for kind in FORMATS:
            model = whole_model(SHIPPED_MODEL, Path(name), kind)
            same, surprise, apart = [], [], []
            for (length, ids), reference in zip(answers, expected, strict=True):
                found = chances(model, ids)
                same.append((found.argmax(-1) == reference.argmax(-1))[length - 1 :])
                told = torch.tensor(ids[1:length])[:, None]
                surprise.append(-found[: length - 1].gather(1, told))
                apart.append((reference.exp() * (reference - found)).sum(-1))
            agreement = float(torch.cat(same).double().mean())
            perplexity = math.exp(float(torch.cat(surprise).mean()))
            distance = float(torch.cat(apart).mean())
            typer.echo(f"| {kind} | {agreement:.1%} | {perplexity:.2f} | {distance:.1e} |")


def answer(model: SpanModel, ids: Sequence[int], tokens: int) -> list[int]:
    """The text with so many greedy tokens more; nothing ends it."""
    text, fresh = list(ids), list(ids)
    with model.new_cache() as kv:
        for _ in range(tokens):
            position = len(text) - len(fresh)
            (states,) = model.forward([_segment(model, kv, position, fresh)])
            fresh = [int(model.logits(states[-1:]).argmax())]
            text += fresh
    return text


def chances(model: SpanModel, ids: Sequence[int]) -> Tensor:
    """Logarithms [T, V] of the chances of the token after each position."""
    with model.new_cache() as kv:
        (states,) = model.forward([_segment(model, kv, 0, ids)])
        return model.logits(states).double().log_softmax(-1)


def _segment(model: SpanModel, kv: KVCache, position: int, ids: Sequence[int]) -> Segment:
    return Segment(kv, 0, model.span.depth, position, torch.tensor(ids), None)


if __name__ == "__main__":
    typer.run(main)
