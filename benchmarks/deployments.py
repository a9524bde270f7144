"""Ways to serve a model from two places, by name: what the benchmark compares.

A deployment is an edge (by its cut) and the parameters requests are sent with. Later modes register
themselves here and are measured with the others. It knows no processes and no numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.paced.prices import OFFLOADED_SHARE
from benchmarks.rows import CLOUD_ONLY

Cut = Literal["quarter", "half"]
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
    """

    name: str
    parameters: Parameters = field(default_factory=dict)
    cut: Cut = "quarter"
    resend: bool = False
    matched: float | None = None

    @property
    def edge(self) -> str:
        """Name of the edge it runs on."""
        return f"{self.cut}-resend" if self.resend else self.cut

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
