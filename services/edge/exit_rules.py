"""By which exit policy a request's tokens are decided: its own wish, or the deployment's default.

The one place where thresholds come from. What holds a target while traffic drifts puts itself in
as `thresholds_of`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from shared.errors import BadModel, Invalid
from shared.exits.calibration import FILE, Agreement, Logistic, Target, read_agreement
from shared.exits.path import Path, Point
from shared.exits.policies import build
from shared.exits.policy import Policy

PER_EXIT = "per_exit"


def as_chosen(target: Target) -> Mapping[int, float]:
    """The thresholds a target was given when it was calibrated."""
    return target.thresholds


@dataclass(slots=True)
class ExitRules:
    """Which policy decides, for each request anew.

    Args:
        usual: where neither request nor deployment names a target.
        agreement: the exits' calibration, if the bundle has one.
        max_disagreement: the deployment's target, for requests that say nothing.
        thresholds_of: the thresholds by which a target is held now.
    """

    usual: Policy
    agreement: Agreement | None = None
    max_disagreement: float | None = None
    thresholds_of: Callable[[Target], Mapping[int, float]] = as_chosen

    @property
    def chances(self) -> Mapping[int, Logistic]:
        """The calibrations of the exits, by layer."""
        fits = self.agreement.exits if self.agreement is not None else {}
        return {layer: fit.logistic for layer, fit in fits.items()}

    @property
    def in_force(self) -> Mapping[int, float]:
        """The thresholds, by layer, of requests that say nothing; empty where their policy has none
        for each exit.
        """
        policy = self.policy(threshold=None, max_disagreement=None)
        thresholds: Mapping[int, float] = getattr(policy, "thresholds", {})
        return thresholds

    def hold(self, level: Callable[[float], float]) -> None:
        """Go by the thresholds of the level that holds a target on this traffic, in place of those
        it was given when it was calibrated.
        """
        targets = self.agreement.targets if self.agreement is not None else ()
        points = [
            Point(t.max_disagreement, t.thresholds) for t in targets if t.max_disagreement < 1
        ]
        if not points:
            return
        path = Path(points)

        def held(target: Target) -> Mapping[int, float]:
            # What is below or beyond all that was calibrated keeps nothing, or everything.
            if not points[0].level <= target.max_disagreement < 1:
                return target.thresholds
            return path.at(level(target.max_disagreement))

        self.thresholds_of = held

    def wanted(self, *, threshold: float | None, max_disagreement: float | None) -> float | None:
        """The calibrated target a request with these wishes is served for, if it is for one."""
        wanted = self.max_disagreement if max_disagreement is None else max_disagreement
        if threshold is not None or wanted is None:
            return None
        target = self.target(wanted)
        return target.max_disagreement if target.offloaded < 1 else None

    @property
    def unmoved(self) -> "ExitRules":
        """The same rules without what holds targets: the same thresholds at all times."""
        return replace(self, thresholds_of=as_chosen)

    def policy(self, *, threshold: float | None, max_disagreement: float | None) -> Policy:
        """The policy for a request with these wishes.

        Raises:
            Invalid: it has both, or a target where none is calibrated.
        """
        if threshold is not None:
            if max_disagreement is not None:
                raise _refused("goes without parameters.threshold, which it would replace")
            return build("single", {"threshold": threshold})
        wanted = self.max_disagreement if max_disagreement is None else max_disagreement
        if wanted is None:
            return self.usual
        return build("chance", {"thresholds": self.thresholds_of(self.target(wanted))})

    def target(self, max_disagreement: float) -> Target:
        """The calibrated target by which a wish is met.

        Raises:
            Invalid: there is none.
        """
        if self.agreement is None or not self.agreement.targets:
            raise _refused("cannot be promised: this model's exits have no calibrated targets")
        return self.agreement.target(max_disagreement)


def exit_rules(
    bundle: FilePath,
    fingerprint: str,
    thresholds: Mapping[int, float],
    *,
    policy: str,
    numbers: Mapping[str, object],
    max_disagreement: float | None,
) -> ExitRules:
    """The rules of a deployment.

    Args:
        bundle: the edge's, which may hold a calibration.
        fingerprint: of its model.
        thresholds: those of its exits, by layer: `per_exit`'s unless `numbers` say otherwise.

    Raises:
        BadModel: the calibration is of another model or of other exits, or the bundle lacks what
            policy or target need.
    """
    agreement = read_agreement(bundle / FILE)
    if agreement is not None and agreement.model_fingerprint != fingerprint:
        raise BadModel(f"{bundle / FILE} was measured on another model than the bundle's")
    if agreement is not None and agreement.layers != sorted(thresholds):
        raise BadModel(
            f"{bundle / FILE} is of the exits {agreement.layers}; the bundle's are "
            f"{sorted(thresholds)}"
        )
    given = numbers if numbers or policy != PER_EXIT else {"thresholds": thresholds}
    try:
        usual = build(policy, given)
        usual.require_layers(thresholds)
    except ValueError as error:
        raise BadModel(f"{bundle} cannot be served so: {error}") from error
    if usual.needs_chance and agreement is None:
        raise BadModel(f"exit policy {policy} needs calibrated exits: {bundle} has no {FILE}")
    rules = ExitRules(usual, agreement, max_disagreement)
    if max_disagreement is not None and (agreement is None or not agreement.targets):
        raise BadModel(f"a target of disagreement needs calibrated ones: {bundle} has none")
    return rules


def _refused(why: str) -> Invalid:
    return Invalid(f"parameters.max_disagreement {why}", field="parameters.max_disagreement")
