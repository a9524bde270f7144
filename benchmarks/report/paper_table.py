"""CE-CoLLM's published cost table (arXiv 2411.02829, Alpaca), to stand beside ours.

The figures are second-hand: quoted by a public re-implementation, not read off the paper. They
agree with the paper's abstract (13.81 % less time than the cloud alone) and with each other (parts
add up to totals; the traffic is that of 100 tokens a response at 4096 values a state). The paper
names neither its hardware nor its link. Nothing here is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PROMPTS = 100
TOKENS = 10_000
# Bytes of the paper's KB: one state of 4096 values in fp16 is 8 of them.
KB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A line of the table: seconds for 100 prompts of 100 tokens, KB sent for each response, cloud
    requests a token. None where no figure is known. `ours` are our deployments to set beside it.
    """

    name: str
    ours: Sequence[str]
    total_s: float
    cloud_s: float
    edge_s: float
    network_s: float
    kb_per_response: float | None
    request_rate: float


CLOUD = Published(
    name="Cloud LLM",
    ours=("cloud-only",),
    total_s=370.17,
    cloud_s=369.80,
    edge_s=0.0,
    network_s=0.37,
    # Quoted as 367 KB, without saying whether for one response or for all hundred.
    kb_per_response=None,
    request_rate=1.0,
)
PUBLISHED: Sequence[Published] = (
    CLOUD,
    Published(
        name="Naive cloud-edge",
        ours=("naive split",),
        total_s=3371.76,
        cloud_s=253.36,
        edge_s=241.43,
        network_s=2876.98,
        kb_per_response=112_128.0,
        request_rate=1.0,
    ),
    Published(
        name="CE-CoLLM standalone",
        ours=("standalone",),
        total_s=201.57,
        cloud_s=0.0,
        edge_s=201.57,
        network_s=0.0,
        kb_per_response=0.0,
        request_rate=0.0,
    ),
    Published(
        name="CE-CoLLM collaborative, 0.8",
        ours=("CE-CoLLM 0.8", "CE-CoLLM 49.6%", "CE-CoLLM 49.6%, half"),
        total_s=319.06,
        cloud_s=112.72,
        edge_s=192.20,
        network_s=14.13,
        kb_per_response=956.62,
        request_rate=0.4958,
    ),
)
