"""Ways to serve a model from two places, by name: what the benchmark compares.

A deployment is an edge (by its cut) and the parameters requests are sent with. Later modes register
themselves here and are measured with the others. It knows no processes and no numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.paced.prices import OFFLOADED_SHARE
from benchmarks.rows import CLOUD_ONLY

Cut = Literal["quarter", "late", "half"]
Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One row of the table.

    Args:
        name: as printed.
        parameters: of `POST /generate`, beyond the prompt, lengths and `details`.
        cut: where the cloud takes over. `quarter` is the shipped model's own partition (exits at a
            quarter and half of the depth, states travel at the quarter); at `half` there is one
            exit, where states travel, and the cloud's pass is as deep as the paper's.
        resend: the whole prefix goes up for every token.
        matched: the share of tokens offloaded that the threshold is chosen for, instead of a given
            threshold.
        settings: of the edge, without their TANDEM_EDGE_, in lower case.
        in_cloud: the edge runs in the cloud, on the cloud's device, the network before it.
    """

    name: str
    parameters: Parameters = field(default_factory=dict)
    cut: Cut = "quarter"
    resend: bool = False
    matched: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    in_cloud: bool = False

    @property
    def edge(self) -> str:
        """Name of the edge it runs on: deployments alike in everything but parameters share one."""
        kinds = {"resend": self.resend, "in-cloud": self.in_cloud}
        marks = [name for name, is_one in kinds.items() if is_one]
        return "-".join([self.cut, *marks, *(f"{k}={v}" for k, v in sorted(self.settings.items()))])

    @property
    def mode(self) -> object:
        """The services' mode beneath it."""
        return self.parameters["mode"]

    def at(self, threshold: float) -> "Deployment":
        """This deployment with its threshold given."""
        return replace(self, parameters={**self.parameters, "threshold": threshold})


DEPLOYMENTS: dict[str, Deployment] = {}


def register(deployment: Deployment) -> Deployment:
    """Add a deployment to the benchmark.

    Raises:
        ValueError: the name is taken.
    """
    if deployment.name in DEPLOYMENTS:
        raise ValueError(f"there is a deployment called {deployment.name} already")
    DEPLOYMENTS[deployment.name] = deployment
    return deployment


def _ce_collm(threshold: float) -> Deployment:
    return Deployment(
        f"CE-CoLLM {threshold}",
        {"mode": "collaborative", "codec": "fp16", "threshold": threshold},
    )


register(Deployment(CLOUD_ONLY, {"mode": "cloud"}))
register(Deployment("naive split", {"mode": "split", "codec": "fp32"}, resend=True))
register(Deployment("fair split", {"mode": "split", "codec": "fp16"}))
register(Deployment("standalone", {"mode": "standalone"}))
for _threshold in (0.7, 0.8, 0.9, 1.0):
    register(_ce_collm(_threshold))
_MATCHED = {"mode": "collaborative", "codec": "fp16"}
register(Deployment("CE-CoLLM 49.6%", _MATCHED, matched=OFFLOADED_SHARE))
register(Deployment("CE-CoLLM 49.6%, half", _MATCHED, cut="half", matched=OFFLOADED_SHARE))
register(Deployment("collaborative", {"mode": "collaborative"}))
# The rival without an edge: one device in the cloud drafts with its own lower half and verifies
# with its upper one; the user pays one round trip a request. It never does both at once, so it
# drafts only what is likely to stand and then waits for the verdict (0.7 was the best of 0.3 to
# 0.85, by the price list).
_SERIAL = {"draft_floor": "0.7", "draft_doubt": "0.7", "draft_longest": "8", "draft_most": "8"}
register(
    Deployment(
        "self-speculation", {"mode": "verified"}, cut="half", settings=_SERIAL, in_cloud=True
    )
)
# One layer below the half: the cloud's pass is nearly as short as at the half, and that layer of
# the edge is free to be trained as a drafter.
_VERIFIED = {"mode": "verified"}
_BLOCKS = {"draft_plan": "draft", "draft_width": "1", "draft_doubt": "0.2"}
_BLOCKS |= {"draft_longest": "10", "draft_most": "10"}
_FASTEST = {"cloud_price": "0"}
register(Deployment("verified, blocks", _VERIFIED, cut="late", settings=_BLOCKS))
register(Deployment("verified", _VERIFIED, cut="late"))
register(Deployment("verified, quarter", _VERIFIED))
register(Deployment("verified, fastest", _VERIFIED, cut="late", settings=_FASTEST))
register(Deployment("verified, ids", {**_VERIFIED, "verify": "ids"}, cut="late"))
