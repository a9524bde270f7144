"""A prompt that begins as another did: its KV is not computed again, in every mode that uses the
cloud, and its text is the same.
"""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.apps import PATIENCE, ask
from tests.support.prompts import prompts
from tests.support.reference import text
from tests.support.services import Service, Services

MODES: dict[str, dict[str, Any]] = {
    "cloud": {"mode": "cloud"},
    "split": {"mode": "split"},
    "collaborative": {"mode": "collaborative", "threshold": 1.0},
    "verified by states": {"mode": "verified", "verify": "states"},
    "verified by ids": {"mode": "verified", "verify": "ids"},
}
HITS = "tandem_prefix_cache_hits_total"
QUERIES = "tandem_prefix_cache_queries_total"


def sample(cloud: Service, name: str) -> float:
    """A metric without labels."""
    return next(
        each.value
        for family in text_string_to_metric_families(cloud.metrics())
        for each in family.samples
        if each.name == name
    )


@pytest.mark.parametrize("name", MODES)
async def test_a_prompt_that_begins_alike_is_not_computed_again(
    services: Services, name: str
) -> None:
    number = list(MODES).index(name)
    first, second = prompts(text(), 2 * len(MODES), length=150)[2 * number : 2 * number + 2]
    alike = f"{first} {second[:40]}"
    found = []
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as client:
        answers = []
        for prompt in (first, first, alike, second):
            before = sample(services.cloud, HITS)
            answers.append(await ask(client, prompt, max_new_tokens=8, **MODES[name]))
            found.append(sample(services.cloud, HITS) - before)
    assert answers[0]["generated_text"] == answers[1]["generated_text"]
    assert found == [0, 128, 128, 0]
    assert sample(services.cloud, "tandem_prefix_cache_bytes") > 0
