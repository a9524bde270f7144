"""CE-CoLLM's published figures (arXiv 2411.02829, its Alpaca table), to stand beside ours.

Seconds are sums over 100 prompts of 100 tokens each. The paper names neither its hardware nor its
link; bytes a response and the share of requests are as published.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Published:
    """One deployment of the paper's table; None where it gives no figure."""

    total_s: float
    cloud_s: float
    edge_s: float
    network_s: float
    bytes_per_response: float | None
    requests_per_token: float


# By the name of the deployment of ours that it stands beside.
PUBLISHED: Mapping[str, Published] = {
    # Its 100 % stands for every token being the cloud's; a streamed answer is one request.
    "cloud-only": Published(370.17, 369.80, 0.0, 0.37, None, 1.0),
    "naive split": Published(3371.76, 253.36, 241.43, 2876.98, 112_128 * 1024, 1.0),
    "standalone": Published(201.57, 0.0, 201.57, 0.0, 0.0, 0.0),
    "CE-CoLLM 49.6%": Published(319.06, 112.72, 192.20, 14.13, 956.62 * 1024, 0.4958),
    "CE-CoLLM 49.6%, half": Published(319.06, 112.72, 192.20, 14.13, 956.62 * 1024, 0.4958),
}
