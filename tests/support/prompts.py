"""Prompts of an exact number of tokens, made of sentences written for this purpose.

A prompt is a short story drawn from a small grammar by seed, cut so that its text encodes to the
ids it was cut at: services take text, references take ids, and both must mean the same tokens.
"""

import random
from itertools import islice

from services.edge.text import TextCodec

_WHO = ("a young miller", "the old ferryman", "my sister Ada", "a tired clockmaker", "the baker")
_WHERE = ("by the river", "under the hill", "in a quiet town", "at the edge of the wood")
_THING = ("a silver key", "an empty basket", "three letters", "a map of the coast", "a red coat")
_WHEN = ("One morning", "Late in the year", "On the day of the fair", "Before the rain came")
_MOOD = ("glad", "puzzled", "not at all afraid", "very hungry", "almost asleep")
_SENTENCES = (
    "{when} {who} lived {where} and kept {thing}.",
    "{when}, {who} found {thing} {where}, and was {mood}.",
    '"Where did you get {thing}?" asked {who}.',
    '"I was {mood}," said {who}, "and I walked until I stood {where}."',
    "Nobody {where} had ever seen {thing} like that, and {who} was {mood}.",
    "The road was long, the bread was gone, and {who} sat down {where}.",
    "Then {who} gave {thing} away and went home {mood}.",
    "What should {who} do with {thing}? There are 3 answers, and none of them is easy.",
)


def passage(seed: int) -> str:
    """A story of a dozen sentences."""
    draw = random.Random(seed)
    return " ".join(
        draw.choice(_SENTENCES).format(
            who=draw.choice(_WHO),
            where=draw.choice(_WHERE),
            thing=draw.choice(_THING),
            when=draw.choice(_WHEN),
            mood=draw.choice(_MOOD),
        )
        for _ in range(12)
    )


def prompts(text: TextCodec, count: int, *, length: int = 64) -> list[str]:
    """`count` different prompts that `text` encodes to exactly `length` ids."""
    cuts = (_cut(text, passage(seed), length) for seed in range(20 * count))
    found = list(islice((cut for cut in cuts if cut is not None), count))
    assert len(found) == count, f"only {len(found)} prompts survive decoding and encoding"
    return found


def _cut(text: TextCodec, story: str, length: int) -> str | None:
    ids = text.encode(story)[:length]
    cut = text.decode(ids)
    return cut if len(ids) == length and text.encode(cut) == ids else None
