"""The edge's public requests: shaped like text-generation-inference's, strict, and nothing
accepted that is not honoured.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.edge.policy import MOST_HELD, Mode, OnCloudLoss
from shared.protocol.messages import Codec
from shared.runtime.work import Priority

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)

REPAIR = (
    "Only in mode `collaborative`: kept tokens not yet emitted are replaced where the catch-up "
    f"pass disagrees. Up to {MOST_HELD} wait for the cloud's next answer, so the text comes that "
    "much later; older ones, and those at the end of the text, are emitted as they are."
)

DISAGREEMENT = (
    "The share of a text's tokens, on average over texts, that may differ from what the full model "
    "would have chosen after the same tokens. The exits' thresholds are those calibrated for the "
    "largest target not above it; below the smallest one nothing is kept. Only in mode "
    "`collaborative`, with a model whose exits are calibrated (for drawn tokens too, where "
    "`temperature` is above 0; for none above 1, nor with `repetition_penalty`), and without "
    "`threshold`. It is held on average over texts like those of the calibration, while the cloud "
    "can be reached (`degraded` tells)."
)

CONFIDENCE = (
    "Of a token an exit chose: where the model's exits are calibrated, the chance that the full "
    "model would have chosen the same; otherwise the exit's top probability. Of a draft: the "
    "chance it was given to be right. Null where the cloud chose."
)

PRIORITY = (
    "`emergency` overtakes on the edge and in the cloud: others wait for their next token, up to a "
    "bound, and go on where they were. Only with a key that may ask for it, sent as "
    "`Authorization: Bearer`; otherwise 403."
)

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Parameters(BaseModel):
    """How to generate. Greedy unless `temperature` is given and above 0."""

    model_config = _STRICT

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = 128
    min_new_tokens: Annotated[int, Field(ge=0, le=131_072)] = 0
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None  # drawn, and returned, when not given
    stop: Annotated[list[StopString], Field(max_length=16)] = []
    mode: Mode | None = None  # the deployment's default mode when not given
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # top probability, of both exits
    max_disagreement: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None, Field(description=DISAGREEMENT)
    ] = None
    codec: Codec | None = None
    repair: Annotated[bool, Field(description=REPAIR)] = False
    verify: Literal["states", "ids"] | None = None  # what of a draft goes up, in `verified`
    on_cloud_loss: OnCloudLoss | None = None  # the mode's own when not given
    priority: Annotated[Priority, Field(description=PRIORITY)] = "normal"
    details: bool = False


class GenerateRequest(BaseModel):
    """The body of `POST /generate`."""

    model_config = _STRICT

    inputs: Annotated[str, Field(min_length=1)]
    parameters: Parameters = Parameters()
    stream: bool = False


class TokenView(BaseModel):
    """One token of an answer."""

    id: int
    text: str
    source: str
    confidence: Annotated[float | None, Field(description=CONFIDENCE)]


class Usage(BaseModel):
    """What an answer cost. Seconds are each machine's own; the compute of a shared step is charged
    by rows.

    `cloud_requests` are those that asked for tokens; `bytes_up` and `bytes_down` are the bodies of
    every message of the session up to its last token, background uploads included. In `verified`:
    drafts run and those of them in the text, choices of the full model so close that another pass
    might have made them otherwise, seconds without an edge step under way, and how many of these
    waits the cloud ended. With `repair`: kept tokens the cloud replaced.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    tokens_by_source: dict[str, int]
    cloud_requests: int
    cloud_passes: int
    bytes_up: int
    bytes_down: int
    edge_compute_seconds: float
    cloud_compute_seconds: float
    network_seconds: float
    drafted_tokens: int
    accepted_tokens: int
    near_ties: int
    waiting_seconds: float
    round_trips: int
    repaired_tokens: int = 0


class Details(BaseModel):
    """Everything about an answer beyond its text."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int
    mode: Mode
    exact: bool
    degraded: bool
    tokens: list[TokenView]
    usage: Usage


class Event(BaseModel):
    """One event of a stream: a token; the last also has the text, and `details` if asked for."""

    token: TokenView
    generated_text: str | None
    details: Details | None


class Generated(BaseModel):
    """A whole answer; `details` where they were asked for."""

    generated_text: str
    details: Details | None = None
