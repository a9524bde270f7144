"""What each setting of a running pair makes of the prompts: sources, cost, nearness to the model.

Every answer's tokens are held against the full model run over that very text, and its text
against the full model's own and against the reference. It times nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from cli.edge import connect
from cli.errors import CommandError
from cli.evaluate.settings import Setting
from cli.processes import Plan, free_ports, running, wait_ready

if TYPE_CHECKING:
    from cli.full_model import FullModel
    from training.evaluation.assessment import Answer, Assessment
    from training.text.documents import Prompt


# What is being done, how much of it is done, and of how much.
Told = Callable[[str, int, int], None]


@dataclass(slots=True)
class Row:
    """Sums over all prompts in one setting, and means of ROUGE-L, 0 to 1.

    agreeing: tokens that the full model chooses after the same text; identical: answers with
    exactly the full model's tokens. to_reference: None where no prompt has one.
    """

    name: str
    sources: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    bytes_up: int = 0
    agreeing: int = 0
    identical: int = 0
    prompts: int = 0
    to_full: float | None = None
    to_reference: float | None = None

    @property
    def tokens(self) -> int:
        """All that were generated, ends included."""
        return sum(self.sources.values())

    def content(self) -> dict[str, object]:
        """The row as it stands in the JSON file."""
        return {
            "setting": self.name,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "tokens_by_source": dict(self.sources),
            "cloud_requests": self.requests,
            "bytes_up": self.bytes_up,
            "agreement": self.agreeing / self.tokens,
            "identical": self.identical,
            "rouge_l_full": self.to_full,
            "rouge_l_reference": self.to_reference,
        }


def ask_services(
    model: Path,
    bundles: Path,
    settings: Sequence[Setting],
    found: "Assessment",
    told: Told,
) -> list[Row]:
    """Start a pair of services on `bundles`, and ask every prompt in every setting.

    Raises:
        CommandError: a service does not come up, or does not answer.
    """
    from cli.full_model import FullModel  # seconds that --help should not cost

    cloud_port, edge_port = free_ports(2)
    plan = Plan(bundles / "edge", bundles / "cloud", edge_port=edge_port, cloud_port=cloud_port)
    with running(plan, logs=bundles) as (cloud, edge), connect(plan.edge_url) as client:
        told("starting the services", 0, 2)
        judge = FullModel(model)
        wait_ready(cloud, plan.cloud_url)
        told("starting the services", 1, 2)
        wait_ready(edge, plan.edge_url, cloud="reachable")
        told("starting the services", 2, 2)
        asker = Asker(client, judge, found.prompts, found.answers, tokens=found.new_tokens)
        return [asker.row(setting, told) for setting in settings]


class Asker:
    """Asks a running edge every prompt in one setting after the other.

    Args:
        whole: the full model's own answer to each prompt.
        tokens: asked for at most, an end included.
    """

    def __init__(
        self,
        client: httpx.Client,
        judge: "FullModel",
        prompts: "Sequence[Prompt]",
        whole: "Sequence[Answer]",
        *,
        tokens: int,
    ) -> None:
        self._client = client
        self._judge = judge
        self._pairs = list(zip(prompts, whole, strict=True))
        self._tokens = tokens

    def row(self, setting: Setting, told: Told) -> Row:
        """Ask every prompt.

        Raises:
            CommandError: the edge refuses, or breaks off.
        """
        from training.evaluation.similarity import (
            mean_rouge_l,  # a second that --help should not cost
        )

        row, texts = Row(setting.name), []
        for prompt, full in self._pairs:
            answer = self._ask(setting, prompt.text)
            ids = [token["id"] for token in answer["details"]["tokens"]]
            usage = answer["details"]["usage"]
            row.sources.update(usage["tokens_by_source"])
            row.requests += usage["cloud_requests"]
            row.bytes_up += usage["bytes_up"]
            row.agreeing += self._judge.agreeing(prompt.ids, ids)
            row.identical += ids == full.ids
            row.prompts += 1
            texts.append(answer["generated_text"])
            told(f"asking: {setting.name}", row.prompts, len(self._pairs))
        pairs = list(zip(self._pairs, texts, strict=True))
        row.to_full = mean_rouge_l((full.text, text) for (_, full), text in pairs)
        row.to_reference = mean_rouge_l(
            (prompt.reference, text) for (prompt, _), text in pairs if prompt.reference is not None
        )
        return row

    def _ask(self, setting: Setting, text: str) -> dict[str, Any]:
        parameters = {"max_new_tokens": self._tokens, **setting.parameters, "details": True}
        body = {"inputs": text, "parameters": parameters}
        try:
            response = self._client.post("/generate", json=body)
        except httpx.HTTPError as error:
            raise CommandError(f"{setting.name}: the edge gave no answer: {error!r}") from error
        if not response.is_success:
            raise CommandError(
                f"{setting.name}: the edge answered {response.status_code}: {response.text}"
            )
        answer: dict[str, Any] = response.json()
        return answer
