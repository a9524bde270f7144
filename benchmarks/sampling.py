"""How the tokens of a run are chosen: greedily, or sampled, and then alike in every deployment.

A token is a pure function of logits, prefix, seed and position, so a seed for each prompt, whoever
is asked, makes texts and times comparable. It asks nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

from cli.errors import CommandError
from shared.decoding.sampling import SamplingParameters

_SEED_BYTES = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """What every request of a run is sent with; a temperature of 0 is greedy and has no seed.

    Args:
        seed: of the run; each prompt has one made from it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @classmethod
    def asked(cls, temperature: float, top_p: float | None, seed: int | None) -> Self:
        """The sampling a command line asks for; None is what was not given.

        Raises:
            CommandError: a value is outside its range, or would have no effect.
        """
        if not temperature:
            if top_p is not None or seed is not None:
                raise CommandError("--top-p and --seed need a --temperature above 0")
            return cls()
        try:
            SamplingParameters(temperature=temperature, top_p=1.0 if top_p is None else top_p)
        except ValueError as error:
            raise CommandError(str(error)) from error
        return cls(temperature, 1.0 if top_p is None else top_p, seed or 0)

    def seed_of(self, number: int) -> int:
        """The seed of a run's prompt, counted from 0; 0 where it has no effect."""
        if self.seed is None:
            return 0
        mixed = blake2b(f"{self.seed}:{number}".encode(), digest_size=_SEED_BYTES).digest()
        return int.from_bytes(mixed)

    def of_request(self, number: int) -> dict[str, object]:
        """Parameters of `POST /generate` for a prompt."""
        if self.seed is None:
            return {}
        seed = self.seed_of(number)
        return {"temperature": self.temperature, "top_p": self.top_p, "seed": seed}

    def of_model(self, new_tokens: int, eos_ids: Sequence[int]) -> SamplingParameters:
        """The same for a model that is asked directly; the end of the text is held back, as it is
        in the requests.
        """
        return SamplingParameters(
            temperature=self.temperature,
            top_p=self.top_p,
            min_new_tokens=new_tokens,
            eos_ids=tuple(eos_ids),
        )
