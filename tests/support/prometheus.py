"""Questions to a Prometheus over its HTTP API, as a test asks them. It knows PromQL's answers, not
the metrics."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server at `url`, e.g. http://127.0.0.1:9090."""

    url: str

    def api(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of /api/v1/<path>."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False)
        answer.raise_for_status()
        return answer.json()["data"]

    def values(self, query: str, label: str) -> dict[str, float]:
        """The instant values of a query, by one label of theirs."""
        result = self.api("query", query=query)["result"]
        return {each["metric"].get(label, ""): float(each["value"][1]) for each in result}

    def targets_up(self) -> dict[str, bool]:
        """Whether each scraped address answered at the last scrape, by instance."""
        active = self.api("targets", state="active")["activeTargets"]
        return {each["labels"]["instance"]: each["health"] == "up" for each in active}


def eventually(look: Callable[[], T], right: Callable[[T], bool], *, seconds: float) -> T:
    """Look until what is seen is right; what was seen last goes into the error.

    Raises:
        TimeoutError: it was not right in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen: Any = look()
            if right(seen):
                return seen  # type: ignore[no-any-return]
        except httpx.HTTPError as error:
            seen = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not right after {seconds} s; last seen: {seen!r}")
        time.sleep(0.5)
