"""Hostile frames over HTTP: each is refused with a status and a code, and the session it names goes
on as if it had never come.
"""

import struct
import zlib
from dataclasses import asdict, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.messages import Close, Sampling, Want
from shared.protocol.version import PATH_BLOCKS, PATH_CLOSE, PATH_STREAM, PROTOCOL_VERSION
from shared.protocol.wire import encode
from tests.support.toy_model import VOCABULARY, full_choice
from tests.unit.cloud.served import LIMIT, served
from tests.unit.cloud.sessions import (
    CLOUD_OPENING,
    OPENING,
    TEXT,
    ask,
    block,
    coded,
    snapshot,
)

HELD = 5
GOOD = encode(replace(ask(7, HELD), opening=None))
STATES = coded(TEXT, HELD, 7)


def sealed(fields: dict[str, Any]) -> bytes:
    payload: bytes = msgpack.packb(fields)
    framed = struct.pack("<2sBBI", b"TD", PROTOCOL_VERSION, 1, len(payload)) + payload
    return framed + struct.pack("<I", zlib.crc32(framed))


def resealed(frame: bytes) -> bytes:
    """A changed frame under a right checksum."""
    return frame[:-4] + struct.pack("<I", zlib.crc32(frame[:-4]))


def altered(**changes: object) -> bytes:
    return sealed(msgpack.unpackb(GOOD[8:-4]) | changes)


def with_states(payload: bytes, *, codec: str = "fp16", scales: bytes = b"") -> bytes:
    """The good block with other states under a right checksum."""
    states = {
        "codec": codec,
        "shape": (2, 8),
        "payload": payload,
        "scales": scales,
        "checksum": zlib.crc32(scales, zlib.crc32(payload)),
    }
    return altered(states=states)


def opened(**changes: Any) -> bytes:
    """The good block with an opening that differs from the session's."""
    return encode(replace(ask(7, HELD), opening=replace(OPENING, **changes)))


NAN = struct.pack("<e", float("nan"))
CASES = {
    "nothing": (b"", 400, "truncated"),
    "cut in the header": (GOOD[:5], 400, "truncated"),
    "cut in the payload": (GOOD[:-9], 400, "truncated"),
    "another magic": (b"XX" + GOOD[2:], 400, "malformed"),
    "another version": (resealed(GOOD[:2] + b"\x09" + GOOD[3:]), 400, "protocol_version"),
    "a flipped bit in the version": (GOOD[:2] + b"\x04" + GOOD[3:], 400, "checksum"),
    "a flipped bit in the kind": (GOOD[:3] + b"\x03" + GOOD[4:], 400, "checksum"),
    "a flipped bit": (GOOD[:60] + bytes([GOOD[60] ^ 4]) + GOOD[61:], 400, "checksum"),
    "two frames": (GOOD * 2, 400, "malformed"),
    "a close for a block": (encode(Close(session="session-1", revision=0)), 400, "malformed"),
    "over the limit": (altered(padding=bytes(LIMIT)), 413, "too_large"),
    "an unknown field": (altered(padding=b""), 400, "field"),
    "a session of another shape": (altered(session="../etc"), 400, "field"),
    "an unknown mode": (altered(opening={"mode": "psychic"}), 400, "field"),
    "a token beyond the vocabulary": (altered(tokens=(3, VOCABULARY)), 400, "token"),
    "fewer states than tokens": (altered(tokens=TEXT[HELD:8], binding=8), 400, "shape"),
    "no states": (altered(states=None), 400, "shape"),
    "states of another width": (
        altered(states=asdict(replace(STATES, shape=(1, 16)))),
        400,
        "shape",
    ),
    "states with another checksum": (
        altered(states=asdict(replace(STATES, checksum=0))),
        400,
        "checksum",
    ),
    "states cut short": (with_states(STATES.payload[:-2]), 400, "shape"),
    "a state that is not a number": (with_states(STATES.payload[:-2] + NAN), 400, "values"),
    "a scale that is not a number": (
        with_states(bytes(16), codec="int8", scales=NAN * 2),
        400,
        "scales",
    ),
    "another codec than agreed": (
        with_states(bytes(16), codec="int8", scales=bytes(4)),
        400,
        "codec",
    ),
    "drafts": (altered(binding=6), 400, "drafts"),
    "a position beyond those agreed": (
        encode(ask(26, 3, text=TEXT * 3)),
        400,
        "position",
    ),
    "a confirmed token changed": (
        encode(ask(7, 3, text=(*TEXT[:3], 6, 6, 6, 6))),
        400,
        "conflict",
    ),
    "want without count": (altered(count=0), 422, "invalid"),
    "count without want": (altered(want=Want.NOTHING), 422, "invalid"),
    "another opening of the session": (opened(max_positions=20), 409, "mismatch"),
    "another model": (opened(fingerprint="other"), 409, "mismatch"),
    "another mode": (opened(mode="verified"), 409, "mismatch"),
    "a split above the model": (opened(split=4), 409, "mismatch"),
    "more positions than the model has": (opened(max_positions=1000), 422, "invalid"),
}


@pytest.mark.parametrize("path", [PATH_BLOCKS, PATH_STREAM])
@pytest.mark.parametrize(("frame", "status", "code"), CASES.values(), ids=CASES)
async def test_a_hostile_frame_is_refused_and_its_session_untouched(
    frame: bytes, status: int, code: str, path: str
) -> None:
    async with served() as cloud:
        first = await cloud.report(ask(HELD))
        context = cloud.store._contexts["session-1"]
        before = snapshot(context)
        refused, fault = await cloud.fault(frame, path)
        if path == PATH_STREAM:  # which takes no session with states, and may say so first
            assert 400 <= refused < 500
        else:
            assert (refused, fault.code) == (status, code)
        assert fault.message
        assert not fault.retryable
        assert snapshot(context) | {"last_used": 0} == before | {"last_used": 0}
        assert len(cloud.store) == 1
        again = await cloud.report(ask(7, HELD, sequence=9))
        assert again.tokens[-1] == full_choice(TEXT[:7])
        assert first.tokens[-1] == full_choice(TEXT[:HELD])


@pytest.mark.parametrize(("frame", "status", "code"), CASES.values(), ids=CASES)
async def test_a_hostile_frame_opens_no_session(frame: bytes, status: int, code: str) -> None:
    del status, code
    async with served() as cloud:
        await cloud.send(frame)
        held = len(cloud.store)
        assert held == 0, "something is kept for a peer that was refused"


OPENINGS = {
    "fingerprint": ("model fingerprint", {"fingerprint": "other"}),
    "depth": ("depth", {"depth": 5}),
    "sampler": ("sampler version", {"sampler_version": 99}),
    "split": ("split", {"split": 0}),
}


@pytest.mark.parametrize(("named", "change"), OPENINGS.values(), ids=OPENINGS)
async def test_a_misfit_is_refused_naming_the_difference(
    named: str, change: dict[str, Any]
) -> None:
    async with served() as cloud:
        status, fault = await cloud.fault(block(3, opening=replace(OPENING, **change)))
        assert (status, fault.code) == (409, "mismatch")
        assert f"{named}: edge has" in fault.message
        assert len(cloud.store) == 0


async def test_every_difference_of_a_misfit_is_named() -> None:
    async with served() as cloud:
        worst = replace(OPENING, fingerprint="other", depth=7, sampler_version=99, split=4)
        _, fault = await cloud.fault(block(3, opening=worst))
        for named, _ in OPENINGS.values():
            assert f"{named}: edge has" in fault.message


async def test_a_partial_cloud_refuses_what_needs_the_lower_layers() -> None:
    async with served(start=2) as cloud:
        status, fault = await cloud.fault(block(3))
        assert (status, fault.code) == (409, "mismatch")
        assert "split: edge has 1, cloud has layers that take splits 2 to 3" in fault.message
        status, fault = await cloud.fault(block(3, opening=CLOUD_OPENING))
        assert (status, fault.code, fault.field) == (422, "invalid", "mode")
        assert "collaborative, verified, split" in fault.message


async def test_a_message_that_is_no_close_is_refused_by_close() -> None:
    async with served() as cloud:
        status, fault = await cloud.fault(GOOD, PATH_CLOSE)
        assert (status, fault.code) == (400, "malformed")
        assert (
            await cloud.send(encode(Close(session="s", revision=0)), PATH_CLOSE)
        ).status_code == 204


EXTREMES = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 5e-324, 1e-300, 1.0, 1e308]),
    top_p=st.sampled_from([5e-324, 0.5, 1.0]),
    top_k=st.sampled_from([0, 1, 2**63]),
    min_p=st.sampled_from([0.0, 1.0]),
    repetition_penalty=st.sampled_from([1e-6, 1.0, 100.0]),
    min_new_tokens=st.sampled_from([0, 2**63]),
    seed=st.sampled_from([0, 2**64 - 1]),
    index=st.sampled_from([0, 2**31 - 1]),
    eos_ids=st.sampled_from([(), (0,), (1_999_999,), tuple(range(VOCABULARY))]),
)


@given(sampling=EXTREMES)
async def test_extreme_sampling_parameters_are_served_or_refused(sampling: Sampling) -> None:
    async with served() as cloud:
        opening = replace(OPENING, sampling=sampling)
        answer = await cloud.send(ask(5, opening=opening))
        refused = b"compute" in answer.content or b"sampling.eos_ids" in answer.content
        assert answer.status_code == 200 or refused
