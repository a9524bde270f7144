"""Made-up calibrations of exits: what is fitted on text is another matter."""

from collections.abc import Sequence

from shared.exits.calibration import Agreement, ExitFit, Logistic, Target


def made_up(
    fingerprint: str, layers: Sequence[int], targets: dict[float, float] | None = None
) -> Agreement:
    """Exits whose chance rises with their top probability, a little otherwise at each; `targets`
    have one threshold for all exits.
    """
    fits = {
        layer: ExitFit(Logistic((5.0, -0.2, 0.5, -0.1), -1.5 - 0.1 * layer), 1000, 0.2, 0.01)
        for layer in layers
    }
    given = {0.02: 0.9, 0.1: 0.5} if targets is None else targets
    return Agreement(
        fingerprint,
        fits,
        tuple(Target(most, dict.fromkeys(layers, at), at) for most, at in given.items()),
    )
