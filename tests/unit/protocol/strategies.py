"""Every message of the protocol, as hypothesis strategies and as one fixed example of each kind.

The strategies cover each field's whole range but keep long fields short. Knows nothing of frames.
"""

import zlib

from hypothesis import strategies as st

from shared.protocol.messages import (
    Block,
    Close,
    Disagreement,
    Fault,
    HiddenBlock,
    Message,
    Opening,
    Pressure,
    Report,
    Sampling,
    Want,
)
from shared.protocol.version import MAX_VOCABULARY

naturals = st.integers(0, 2**63)
positions = st.integers(0, 2**31 - 1)
revisions = st.integers(0, 2**31 - 1)
token_ids = st.integers(0, MAX_VOCABULARY - 1)
tokens = st.lists(token_ids, max_size=5).map(tuple)
digests = st.binary(min_size=8, max_size=8)
seconds = st.floats(0, allow_infinity=False)
sessions = st.text("abcXYZ019_-", min_size=1, max_size=64)
texts = st.text(max_size=20)

samplings = st.builds(
    Sampling,
    temperature=seconds,
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=naturals,
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0, exclude_min=True, allow_infinity=False),
    min_new_tokens=naturals,
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**31 - 1),
    eos_ids=tokens,
)
openings = st.builds(
    Opening,
    fingerprint=texts,
    trunk_format=st.text(max_size=16),
    sampler_version=naturals,
    depth=st.integers(1, 2**40),
    split=naturals,
    mode=st.sampled_from(["collaborative", "verified", "cloud", "split"]),
    codec=st.sampled_from(["fp32", "fp16", "int8"]),
    prompt_tokens=st.integers(1, 2**40),
    max_positions=st.integers(1, 2**40),
    sampling=samplings,
    client=st.text("0123456789abcdef", max_size=32),
    priority=st.sampled_from(["normal", "emergency"]),
)
hidden_blocks = st.builds(
    HiddenBlock,
    codec=st.sampled_from(["fp32", "fp16", "int8"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    payload=st.binary(max_size=40),
    scales=st.binary(max_size=8),
    checksum=st.integers(0, 2**32 - 1),
)
blocks = st.builds(
    Block,
    session=sessions,
    sequence=naturals,
    revision=revisions,
    acknowledged=positions,
    parent=digests,
    start=positions,
    tokens=tokens,
    binding=positions,
    states=st.none() | hidden_blocks,
    want=st.sampled_from(Want),
    count=naturals,
    opening=st.none() | openings,
)
reports = st.builds(
    Report,
    session=sessions,
    revision=revisions,
    sequence=naturals,
    through=positions,
    digest=digests,
    tokens=tokens,
    need_from=st.none() | positions,
    judged=naturals,
    disagreed=naturals,
    disagreements=st.lists(
        st.builds(Disagreement, position=positions, token=token_ids), max_size=3
    ).map(tuple),
    passes=naturals,
    compute_seconds=seconds,
    seconds=seconds,
    pressure=st.builds(Pressure, queued=naturals, allowed_nodes=naturals),
)
closes = st.builds(Close, session=sessions, revision=revisions)
faults = st.builds(
    Fault,
    code=texts,
    message=texts,
    retryable=st.booleans(),
    field=st.none() | texts,
    revision=st.none() | revisions,
)
messages: st.SearchStrategy[Message] = blocks | reports | closes | faults

SAMPLING = Sampling(temperature=0.5, top_k=40, seed=2**64 - 1, eos_ids=(0, 2))
OPENING = Opening(
    fingerprint="f00d",
    trunk_format="fp32",
    sampler_version=1,
    depth=12,
    split=3,
    mode="collaborative",
    codec="int8",
    prompt_tokens=2,
    max_positions=9,
    sampling=SAMPLING,
    client="0badcafe",
    priority="emergency",
)
STATES = HiddenBlock(
    codec="int8",
    shape=(2, 3),
    payload=b"\x01\x02\x03\xff\xfe\x00",
    scales=b"\x00\x3c\x00\x40",
    checksum=zlib.crc32(b"\x01\x02\x03\xff\xfe\x00\x00\x3c\x00\x40"),
)
BLOCK = Block(
    session="session-1",
    sequence=1,
    revision=0,
    acknowledged=0,
    parent=bytes(range(8)),
    start=0,
    tokens=(7, 300),
    binding=2,
    states=STATES,
    want=Want.NOW,
    count=1,
    opening=OPENING,
)
REPORT = Report(
    session="session-1",
    revision=0,
    sequence=1,
    through=3,
    digest=bytes(range(8, 16)),
    tokens=(11,),
    need_from=None,
    judged=1,
    disagreed=1,
    disagreements=(Disagreement(position=2, token=5),),
    passes=1,
    compute_seconds=0.25,
    seconds=0.5,
    pressure=Pressure(queued=1, allowed_nodes=0),
)
CLOSE = Close(session="session-1", revision=0)
FAULT = Fault(code="invalid", message="no such mode", retryable=False, field="mode")
EXAMPLES: tuple[Message, ...] = (BLOCK, REPORT, CLOSE, FAULT)
