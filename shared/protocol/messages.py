"""The messages edge and cloud exchange, as plain frozen values; `shared.protocol.wire` turns them
into bytes.

A *block* goes up and a *report* comes back. Reports are cumulative, monotone facts: any may be
lost, doubled or reordered. This module knows neither torch nor the web: hidden states are opaque
bytes here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from shared.protocol.digest import DIGEST_BYTES
from shared.protocol.version import (
    MAX_BLOCK_TOKENS,
    MAX_HIDDEN,
    MAX_SESSION_ID,
    MAX_VOCABULARY,
)
from shared.runtime.work import Priority

# Types are strict field by field: pydantic's strict mode for a whole dataclass would refuse the
# plain maps of the wire.
_FORBID_EXTRA = ConfigDict(extra="forbid")

SessionId = Annotated[
    str, Field(strict=True, min_length=1, max_length=MAX_SESSION_ID, pattern=r"^[A-Za-z0-9_-]+$")
]
Digest = Annotated[bytes, Field(strict=True, min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Revision = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Position = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=MAX_VOCABULARY)]
# The first wrong one is told: an account of each of 100,000 would take a second, and 100 MB.
Tokens = Annotated[tuple[TokenId, ...], Field(max_length=MAX_BLOCK_TOKENS, fail_fast=True)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True, max_length=4096)]
Codec = Literal["fp32", "fp16", "int8"]
# Which of its callers an edge asks for; it says nothing of them, and nothing to another edge.
ClientTag = Annotated[str, Field(strict=True, max_length=32, pattern=r"^[0-9a-f]*$")]
CloudMode = Literal["collaborative", "verified", "cloud", "split"]


class Want(StrEnum):
    """What the sender of a block expects of the cloud."""

    NOTHING = "nothing"  # keep the states; no pass is needed
    SOON = "soon"  # a pass when there is room
    NOW = "now"  # a pass at once, and `count` tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenBlock:
    """Coded hidden states of consecutive positions, `shape` = [tokens, hidden].

    `payload` and `scales` are row-major, so any run of rows is a slice of both. `checksum` is
    CRC-32 of payload then scales: it stays with the bytes in a stored log, where no frame protects
    them.
    """

    codec: Codec
    shape: tuple[
        Annotated[int, Field(strict=True, ge=1, le=MAX_BLOCK_TOKENS)],
        Annotated[int, Field(strict=True, ge=1, le=MAX_HIDDEN)],
    ]
    payload: Annotated[bytes, Field(strict=True)]
    scales: Annotated[bytes, Field(strict=True)]
    checksum: Annotated[int, Field(strict=True, ge=0, lt=2**32)]

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The sampling parameters of a session; with seed, index and position they make the choice
    of a token a pure function.
    """

    temperature: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = (
        0.0  # 0 is greedy
    )
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(strict=True, ge=0)] = 0  # 0 is off
    min_p: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0
    min_new_tokens: Annotated[int, Field(strict=True, ge=0)] = 0
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**64)] = 0
    index: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    eos_ids: Tokens = ()

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a session is opened with. The cloud refuses what it does not fit, naming the
    differences.
    """

    fingerprint: Annotated[str, Field(strict=True, max_length=128)]  # of the full source model
    trunk_format: Annotated[
        str, Field(strict=True, max_length=16)
    ]  # compute format of the layers below `split`
    sampler_version: Annotated[int, Field(strict=True, ge=0)]
    depth: Annotated[int, Field(strict=True, ge=1)]
    split: Annotated[int, Field(strict=True, ge=0)]
    mode: CloudMode
    codec: Codec
    prompt_tokens: Annotated[int, Field(strict=True, ge=1)]
    max_positions: Annotated[int, Field(strict=True, ge=1)]  # prompt and output together
    sampling: Sampling
    client: ClientTag = ""  # whom the cloud counts shares of its engine for
    priority: Priority = "normal"

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A run of nodes going up: `tokens[i]` stands at position `start + i` on the prefix named by
    `parent`.

    `states[i]` is the hidden state that token leaves at the split; a block without states carries
    tokens alone, for a cloud that holds the whole model. k states judge k following tokens. Tokens
    at positions below `binding` are final on the edge; those at or beyond it are drafts, or in
    `collaborative` tokens it kept and may yet take back. A tree is several blocks that name the
    same parent.
    """

    session: SessionId
    sequence: Annotated[int, Field(strict=True, ge=0)]  # orders the frames of a revision
    revision: Revision  # hand-overs of the session so far; a replica that knows of more refuses
    acknowledged: Position  # positions whose tokens the edge already holds
    parent: Digest
    start: Position
    tokens: Tokens
    binding: Position
    states: HiddenBlock | None = None
    want: Want = Want.NOTHING
    count: Annotated[int, Field(strict=True, ge=0)] = 0  # tokens wanted
    opening: Opening | None = (
        None  # on the first block, and again when the cloud has lost the session
    )

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """The full model would have put `token` at `position`, where the edge kept another."""

    position: Position
    token: TokenId

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How busy the cloud is: work items waiting, and how many further undecided nodes this
    session may send.
    """

    queued: Annotated[int, Field(strict=True, ge=0)]
    allowed_nodes: Annotated[int, Field(strict=True, ge=0)]

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the cloud knows of a session, cumulative: positions below `through` are decided and
    `digest` names that prefix.

    `tokens` stand at `[through - len(tokens), through)`: those the edge does not hold yet, by its
    acknowledgement and the block it sent. `need_from` asks for every node from that position on,
    with the opening. `seconds` is the cloud's own duration of this request.
    """

    session: SessionId
    revision: Revision
    sequence: Annotated[int, Field(strict=True, ge=0)]  # newest block applied
    through: Position
    digest: Digest
    tokens: Tokens = ()
    need_from: Position | None = None
    judged: Annotated[int, Field(strict=True, ge=0)] = (
        0  # kept tokens the full model has looked at, so far
    )
    disagreed: Annotated[int, Field(strict=True, ge=0)] = (
        0  # of these, how many it would have chosen otherwise
    )
    disagreements: tuple[Disagreement, ...] = ()  # at or beyond the edge's acknowledgement
    passes: Annotated[int, Field(strict=True, ge=0)] = 0  # cloud passes of this session, so far
    compute_seconds: Seconds = 0.0  # its share of these passes, so far
    seconds: Seconds = 0.0
    near_ties: Annotated[int, Field(strict=True, ge=0)] = 0  # choices closer than `tau`, so far
    leaving: Annotated[bool, Field(strict=True)] = False  # this replica ends soon: go to another
    pressure: Pressure

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The edge is done with a session; closing one that is not there, or that has gone on at a
    later revision, is no error and changes nothing.
    """

    session: SessionId
    revision: Revision

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A refusal, or the end of a stream that broke: the same code and message an HTTP error
    would have; with code `fenced`, the revision the session has reached.
    """

    code: Text
    message: Text
    retryable: Annotated[bool, Field(strict=True)] = False
    field: Text | None = None
    revision: Revision | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


Message = Block | Report | Close | Fault
