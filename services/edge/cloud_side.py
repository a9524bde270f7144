"""The way to the cloud that all sessions of an edge share, and how one sets out on it."""

from dataclasses import dataclass

from services.edge.chain import Chain
from services.edge.cloud_client import CloudClient
from services.edge.draft_uplink import DraftUplink
from services.edge.drafts import Drafts
from services.edge.link import Link
from services.edge.replicas import Replicas
from services.edge.round_trips import Observer
from services.edge.route import RetryBudget, Route
from services.edge.uplink import Uplink
from shared.runtime.background import Background


@dataclass(frozen=True, slots=True)
class CloudSide:
    """The way to the cloud; absent on an edge that serves `standalone` only.

    Args:
        retry_seconds: the most a token may take to be had, all retries together.
    """

    client: CloudClient
    link: Link
    background: Background
    replicas: Replicas
    budget: RetryBudget
    retry_seconds: float

    def uplink(self, chain: Chain, key: str, observer: Observer) -> Uplink:
        """The uplink of a new session; those of one key begin at the same replica."""
        return Uplink(chain, self.client, self.link, observer, self.background, self._route(key))

    def draft_uplink(
        self, drafts: Drafts, key: str, observer: Observer, *, as_ids: bool
    ) -> DraftUplink:
        """The same for a session of mode `verified`; with `as_ids` the cloud can make the states of
        its prompt itself.
        """
        return DraftUplink(
            drafts,
            self.client,
            self.link,
            observer,
            self.background,
            self._route(key),
            as_ids=as_ids,
        )

    def _route(self, key: str) -> Route:
        return Route(self.replicas, key, self.budget, self.retry_seconds)
