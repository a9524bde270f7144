"""By which exit policy a request's tokens are decided: its own wish, or the deployment's default.

The one place where thresholds come from. What holds a target while traffic drifts puts itself in
as `thresholds_of`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath

from shared.errors import BadModel, Invalid
from shared.exits.calibration import (
    FILE,
    HOTTEST,
    TEXTS,
    Agreement,
    Logistic,
    Target,
    Text,
    file_of,
    read_agreement,
    text_of,
)
from shared.exits.path import Path, Point
from shared.exits.policies import build
from shared.exits.policy import Policy

PER_EXIT = "per_exit"
KEEP_NOTHING = {"threshold": 1.0}


def as_chosen(target: Target) -> Mapping[int, float]:
    """The thresholds a target was given when it was calibrated."""
    return target.thresholds


@dataclass(slots=True)
class ExitRules:
    """Which policy decides, for each request anew, where tokens are chosen in one way.

    Args:
        usual: where neither request nor deployment names a target.
        agreement: the exits' calibration, if the bundle has one.
        max_disagreement: the deployment's target, for requests that say nothing.
        thresholds_of: the thresholds by which a target is held now.
        where: which requests these are, for those that are refused.
    """

    usual: Policy
    agreement: Agreement | None = None
    max_disagreement: float | None = None
    thresholds_of: Callable[[Target], Mapping[int, float]] = as_chosen
    where: str = ""

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
            return path.held(target.max_disagreement, level(target.max_disagreement))

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
            raise _refused(
                f"cannot be promised{self.where}: this bundle's exits have no calibrated targets "
                "(`python -m training calibrate` makes some)"
            )
        return self.agreement.target(max_disagreement)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The rules of a deployment, by how a request's tokens are chosen; `beyond` are those where
    nothing was calibrated.
    """

    by_text: Mapping[Text, ExitRules]
    beyond: ExitRules

    def of(self, temperature: float, repetition_penalty: float = 1.0) -> ExitRules:
        """The rules of requests whose tokens are chosen so."""
        text = text_of(temperature, repetition_penalty)
        return self.beyond if text is None else self.by_text[text]

    @property
    def in_force(self) -> Mapping[int, float]:
        """See `ExitRules.in_force`, of greedy requests."""
        return self.by_text["greedy"].in_force

    def hold(self, level: Callable[[Text, float], float]) -> None:
        """See `ExitRules.hold`; each way of choosing has levels of its own."""
        for text, rules in self.by_text.items():
            rules.hold(partial(level, text))


def exit_rules(
    bundle: FilePath,
    fingerprint: str,
    thresholds: Mapping[int, float],
    *,
    policy: str,
    numbers: Mapping[str, object],
    max_disagreement: float | None,
) -> RuleBook:
    """The rules of a deployment. Where there is no calibration for drawn tokens, or none for how
    they are drawn, nothing of what was promised with one is kept: the cloud decides every token.

    Args:
        bundle: the edge's, which may hold calibrations.
        fingerprint: of its model.
        thresholds: those of its exits, by layer: `per_exit`'s unless `numbers` say otherwise.

    Raises:
        BadModel: the calibration is of another model or of other exits, or the bundle lacks what
            policy or target need.
    """
    found = {text: _agreement(bundle, text, fingerprint, sorted(thresholds)) for text in TEXTS}
    greedy = found["greedy"]
    given = numbers if numbers or policy != PER_EXIT else {"thresholds": thresholds}
    try:
        usual = build(policy, given)
        usual.require_layers(thresholds)
    except ValueError as error:
        raise BadModel(f"{bundle} cannot be served so: {error}") from error
    if usual.needs_chance and greedy is None:
        raise BadModel(f"exit policy {policy} needs calibrated exits: {bundle} has no {FILE}")
    if max_disagreement is not None and (greedy is None or not greedy.targets):
        raise BadModel(f"a target of disagreement needs calibrated ones: {bundle} has none")
    sampled = _rules(usual, found["sampled"], max_disagreement, " for tokens that are drawn")
    return RuleBook(
        {"greedy": ExitRules(usual, greedy, max_disagreement), "sampled": sampled},
        beyond=_rules(
            usual,
            None,
            max_disagreement,
            f" at temperatures over {HOTTEST:g} or with a repetition_penalty",
        ),
    )


def _rules(
    usual: Policy, agreement: Agreement | None, max_disagreement: float | None, where: str
) -> ExitRules:
    """Of requests that may lack a calibration, whatever the deployment asks for."""
    if agreement is not None and agreement.targets:
        return ExitRules(usual, agreement, max_disagreement, where=where)
    unmet = max_disagreement is not None or (usual.needs_chance and agreement is None)
    return ExitRules(build("single", KEEP_NOTHING) if unmet else usual, agreement, where=where)


def _agreement(
    bundle: FilePath, text: Text, fingerprint: str, layers: list[int]
) -> Agreement | None:
    """The calibration in a bundle for one way of choosing tokens."""
    path = bundle / file_of(text=text)
    agreement = read_agreement(path)
    if agreement is None:
        return None
    if agreement.model_fingerprint != fingerprint:
        raise BadModel(f"{path} was measured on another model than the bundle's")
    if agreement.layers != layers:
        raise BadModel(f"{path} is of the exits {agreement.layers}; the bundle's are {layers}")
    if agreement.text != text:
        raise BadModel(f"{path} was measured on {agreement.text} text")
    return agreement


def _refused(why: str) -> Invalid:
    return Invalid(f"parameters.max_disagreement {why}", field="parameters.max_disagreement")
