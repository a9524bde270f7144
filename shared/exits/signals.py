"""What an exit's distribution says of how sure it is: four numbers, in plain floats.

They are what JEI-DNN's gates look at (arXiv 2310.09163, the uncertainty features of its learnable
gates). How they come from logits is `shared.decoding.certainty`'s business.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """Of p, the softmax of an exit's raw logits at temperature 1 in float32.

    Attributes:
        top: the highest probability, in (0, 1].
        entropy: of p, in nats: 0 where one token has all of it, ln V where all are alike.
        margin: the highest probability less the second highest.
        sharp: the entropy of p^2 / sum(p^2), in nats: the same, deaf to the tail.
    """

    top: float
    entropy: float
    margin: float
    sharp: float

    @property
    def values(self) -> tuple[float, float, float, float]:
        """In the order of `FEATURES`."""
        return self.top, self.entropy, self.margin, self.sharp


FEATURES = ("top", "entropy", "margin", "sharp")
