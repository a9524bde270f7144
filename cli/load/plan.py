"""What is asked of the edges: which session goes where, in which mode, with which prompts, when.

Everything follows from the seed and a session's number, so that the same load can be put on another
deployment and no slow answer changes what is asked next. It does no input or output but reading the
prompts.
"""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandError

PROMPTS = Path(__file__).with_name("prompts.jsonl")
MODES = ("collaborative", "verified", "standalone", "cloud", "split")


@dataclass(frozen=True, slots=True)
class Session:
    """Requests that follow one another on one edge, each continuing the text so far.

    `edge` counts the edges from 0; `prompts` has one text a turn; `seeds` one number a turn.
    """

    number: int
    edge: int
    mode: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The sessions of a load, by number."""

    prompts: Sequence[str]
    modes: Mapping[str, float]
    edges: int
    turns: int
    seed: int

    def session(self, number: int, edge: int) -> Session:
        """Session `number` on edge `edge`."""
        chance = random.Random(f"{self.seed}/{number}")
        mode = chance.choices(list(self.modes), list(self.modes.values()))[0]
        prompts = tuple(chance.choice(self.prompts) for _ in range(self.turns))
        seeds = tuple(chance.getrandbits(32) for _ in range(self.turns))
        return Session(number, edge % self.edges, mode, prompts, seeds)


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start at which requests arrive: a Poisson process of `rate` a second."""
    chance = random.Random(f"{seed}/arrivals")
    return itertools.accumulate(chance.expovariate(rate) for _ in itertools.count())


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file of JSON lines, each with a "prompt".

    Raises:
        CommandError: it cannot be read, has a line that is no prompt (named), or none at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    prompts = [_prompt(path, at, line) for at, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise CommandError(f"{path} holds no prompt")
    return prompts


def _prompt(path: Path, at: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f'{path}, line {at}: not a JSON object with a "prompt"') from error
    if not isinstance(prompt, str) or not prompt or not _can_be_sent(prompt):
        raise CommandError(f'{path}, line {at}: its "prompt" is no text')
    return prompt


def _can_be_sent(prompt: str) -> bool:
    try:
        prompt.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True


def read_modes(given: Sequence[str]) -> dict[str, float]:
    """Weights by mode, from `MODE[=WEIGHT]` arguments.

    Raises:
        CommandError: a mode does not exist, comes twice, or its weight is no positive number.
    """
    weights: dict[str, float] = {}
    for argument in given:
        mode, _, weight = argument.partition("=")
        if mode not in MODES:
            raise CommandError(f"--mode {argument}: the modes are {', '.join(MODES)}")
        if mode in weights:
            raise CommandError(f"--mode {mode} is given twice")
        try:
            weights[mode] = float(weight or 1)
        except ValueError as error:
            raise CommandError(f"--mode {argument}: {weight} is no number") from error
        if not 0 < weights[mode] < float("inf"):
            raise CommandError(f"--mode {argument}: a weight is more than 0")
    return weights
