"""What exits may say, for tests of policies."""

from hypothesis import strategies as st

from shared.exits.policy import Asked
from shared.exits.signals import Signals

LAYERS = (3, 6, 9)
shares = st.floats(0, 1)
thresholds = st.fixed_dictionaries(dict.fromkeys(LAYERS, shares))


def asked(
    layer: int = 3, *, token: int = 0, top: float = 0.5, chance: float | None = None
) -> Asked:
    """One exit's saying; what policies do not look at is made up."""
    return Asked(layer, token, Signals(top, 1.0, top / 2, 0.5), chance)


def positions(layers: tuple[int, ...] = LAYERS) -> st.SearchStrategy[list[Asked]]:
    """What every exit says at one position; tokens often agree."""
    return st.tuples(
        *(
            st.builds(
                lambda layer, token, top, chance: asked(layer, token=token, top=top, chance=chance),
                st.just(layer),
                st.integers(0, 2),
                shares,
                shares,
            )
            for layer in layers
        )
    ).map(list)


texts = st.lists(positions(), max_size=8)
