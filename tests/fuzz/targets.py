"""What reads bytes that others make, each as a function of bytes: it returns, or raises what it
says it raises. Anything else is a fault.

Frames are sealed here, under a right checksum, or none would get beyond it.
"""

import json
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import httpx
import torch
from pydantic import ValidationError
from starlette.requests import Request

from services.cloud.contexts import Context, VerifiedContext, log, sealing
from services.cloud.routes import _deadline
from services.cloud.welcome import Welcome
from services.edge.reply import LONGEST_HEAD, Reply
from services.edge.resuming import conversation_of
from services.edge.schemas import GenerateRequest
from shared import quantization
from shared.access import Doorkeeper
from shared.access.keys import read_keys
from shared.errors import MOST_NAMED, MOST_TOLD, Invalid, Malformed, TandemError, Unauthorized
from shared.model import LayerSpan
from shared.protocol.messages import Block, Codec, HiddenBlock, Opening
from shared.protocol.version import PROTOCOL_VERSION
from shared.protocol.wire import decode, decode_blocks, encode, pack, unpack
from shared.web.strict_json import parse
from tests.support.toy_cloud import FINGERPRINT
from tests.support.toy_model import DEPTH, VOCABULARY, WIDTH, ToyModel
from tests.unit.cloud.sessions import CLOUD_OPENING, OPENING, SESSION, TEXT, block, coded
from tests.unit.protocol.strategies import BLOCK, EXAMPLES

LIMIT = 1 << 20
_CODECS: tuple[Codec, ...] = ("fp32", "fp16", "int8")
_SHAPE = struct.Struct("<BHHH")
_SPAN = LayerSpan(0, DEPTH, DEPTH)
_WELCOME = Welcome(FINGERPRINT, _SPAN, ToyModel(_SPAN).shape)
_PLACE = sealing.place_of(SESSION, "log", 0)
_SEALS = (sealing.Checksum(), sealing.Encryption(bytes(32)))


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes; `seeds` are some it reads. Where `structured`, they are msgpack."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    structured: bool = False


def sealed(payload: bytes, kind: int = 1) -> bytes:
    """A frame of any payload under a right checksum."""
    framed = struct.pack("<2sBBI", b"TD", PROTOCOL_VERSION, kind, len(payload)) + payload
    return framed + struct.pack("<I", zlib.crc32(framed))


def _told(error: TandemError) -> None:
    assert len(error.message) <= MOST_TOLD
    assert len(error.field or "") <= MOST_NAMED
    assert error.status < 500, error


def _frame(data: bytes) -> None:
    try:
        message = decode(data, limit=LIMIT)
    except TandemError as error:
        return _told(error)
    assert decode(encode(message), limit=LIMIT) == message
    return None


def _payload(data: bytes) -> None:
    for kind in range(1, 5):
        _frame(sealed(data, kind))


def _blocks(data: bytes) -> None:
    try:
        assert decode_blocks(data, limit=LIMIT)
    except TandemError as error:
        _told(error)


def _context(data: bytes) -> None:
    """Payloads of blocks, each after its length, applied to a session one after the other."""
    contexts = [Context(SESSION, OPENING, hidden=WIDTH)]
    contexts.append(VerifiedContext(SESSION, replace(OPENING, mode="verified"), hidden=WIDTH))
    for context in contexts:
        for payload in _parts(data):
            try:
                message = decode(sealed(payload), limit=LIMIT)
                if isinstance(message, Block):
                    if message.opening is not None:
                        _WELCOME.check_opening(message.opening)
                    _WELCOME.check_block(message)
                    context.apply(message)
            except TandemError as error:
                _told(error)
            _require_sound(context)


def _require_sound(context: Context) -> None:
    assert len(context.digests) == len(context.tokens) + 1
    assert context.states.end <= context.through <= context.opening.max_positions
    assert context.confirmed <= context.through
    assert context.nbytes < 1 << 20


def _parts(data: bytes) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while at + 2 <= len(data) and len(parts) < 16:
        (size,) = struct.unpack_from("<H", data, at)
        parts.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return parts


def _states(data: bytes) -> None:
    """Codec, shape and length of the scales; then payload and scales, under a right checksum."""
    if len(data) < _SHAPE.size:
        return None
    codec, tokens, hidden, scaled = _SHAPE.unpack_from(data)
    body = data[_SHAPE.size :]
    scales, payload = body[:scaled], body[scaled:]
    coded_states = HiddenBlock(
        codec=_CODECS[codec % 3],
        shape=(tokens + 1, hidden + 1),
        payload=payload,
        scales=scales,
        checksum=zlib.crc32(scales, zlib.crc32(payload)),
    )
    try:
        quantization.validate(coded_states, hidden=hidden + 1)
    except Malformed as error:
        return _told(error)
    states = quantization.decode(coded_states, dtype=torch.float32, device="cpu")
    assert states.shape == coded_states.shape
    assert bool(torch.isfinite(states).all())
    return None


def _entries(data: bytes) -> None:
    """Stored entries, each after its length, and the same opened as they are and once closed."""

    def entries() -> Iterable[log.Entry]:
        for part in _parts(data):
            yield log.decode(part)

    stored, sound = log.read(entries(), session=SESSION, hidden=WIDTH, vocab=VOCABULARY)
    assert (stored is None) == (sound == 0)
    if stored is not None:
        assert len(stored.digests) == len(stored.tokens) + 1
        assert max(stored.tokens, default=0) < VOCABULARY


def _seals(data: bytes) -> None:
    for seal in _SEALS:
        with suppress(sealing.Damaged):
            seal.open(data, _PLACE)
        assert seal.open(seal.close(data, _PLACE), _PLACE) == data


def _reply(data: bytes) -> None:
    """An answer in pieces, of a size its first byte tells."""
    reply, size = Reply(), 1 + (data[0] if data else 0)
    try:
        for at in range(1, len(data), size):
            reply.feed(data[at : at + size])
            while reply.parts:
                reply.take()
            assert sum(len(name) + len(value) for name, value in reply.headers) <= LONGEST_HEAD
        reply.end()
    except httpx.RemoteProtocolError:
        return
    assert reply.unread == 0
    if reply.begun:
        headers = httpx.Headers(reply.headers)
        assert 200 <= httpx.Response(reply.status, headers=headers).status_code < 1000


def _generate(data: bytes) -> None:
    try:
        body = parse(data)
    except Malformed as error:
        return _told(error)
    with suppress(ValidationError):
        GenerateRequest.model_validate(body).model_dump_json()
    return None


def _headers(data: bytes) -> None:
    """Names and values of headers, a line each."""
    lines = [line.partition(b":") for line in data.split(b"\n")[:64]]
    headers = [(name.lower(), value) for name, _, value in lines]
    request = Request({"type": "http", "headers": headers})
    authorization = request.headers.get("authorization")
    for read in (
        lambda: Doorkeeper(strangers=frozenset({"generate"})).identify(authorization, None, "::1"),
        lambda: conversation_of(request.headers.get("x-session-id"), authorization),
        lambda: _deadline(request),
    ):
        try:
            read()
        except (Invalid, Unauthorized) as error:
            _told(error)


def _keys(data: bytes) -> None:
    try:
        read_keys(data.decode("utf-8", "surrogateescape"))
    except Invalid as error:
        _told(error)


def _joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


def _sessions() -> Iterable[bytes]:
    rows = [block(5), block(7, 5, opening=OPENING), block(10, 7)]
    yield _joined(pack(each) for each in rows)
    verified: Opening = replace(OPENING, mode="verified")
    yield _joined(pack(block(stop, opening=verified, binding=3)) for stop in (4, 6, 8))
    yield _joined([pack(block(4, opening=CLOUD_OPENING, states=None))])


def _coded() -> Iterable[bytes]:
    for codec, name in enumerate(_CODECS):
        made = quantization.encode(torch.ones(2, WIDTH), name)
        head = _SHAPE.pack(codec, 1, WIDTH - 1, len(made.scales))
        yield head + made.scales + made.payload


def _logs() -> Iterable[bytes]:
    first = log.Entry(start=0, tokens=TEXT[:5], states=coded(TEXT, 0, 5), opening=OPENING)
    second = log.Entry(start=5, tokens=TEXT[5:7], facts=log.Facts(sequence=3, confirmed=5))
    yield _joined(log.encode(entry) for entry in (first, second))


_ANSWERS = (
    b"\x40HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After: 1\r\n\r\nhello",
    b"\x05HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: x\r\n\r\n",
    b"\x01HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 No\r\nConnection: close\r\n\r\nrest",
    b"\xffHTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
)
_REQUEST = {
    "inputs": "Once\ud83d\ude00\0",
    "parameters": {"max_new_tokens": 5, "temperature": 0.5, "seed": 2**64 - 1, "stop": ["a\n"]},
    "stream": True,
}
_HEADERS = (
    b"authorization: Bearer tandem_x\nx-session-id: a/b\nx-tandem-timeout-ms: 999999999",
    b"x-request-id: 1\nX-Session-ID:" + b"x" * 128 + b"\nauthorization:Basic \xff",
)
_KEYS = (
    '[keys.alice]\nsha256 = "' + "0" * 64 + '"\nscopes = ["generate", "priority"]\n'
    "expires = 2027-01-01T00:00:00Z\nrequests_per_minute = 60\n"
    '[keys.edge-1]\ncertificate_sha256 = "' + "f" * 64 + '"\nscopes = []\nowner = "berlin"\n'
)

TARGETS: dict[str, Target] = {
    "frame": Target(_frame, lambda: map(encode, EXAMPLES)),
    "payload": Target(_payload, lambda: map(pack, EXAMPLES), structured=True),
    "blocks": Target(_blocks, lambda: [encode(BLOCK) * 2, encode(block(5)) + encode(block(6))]),
    "context": Target(_context, _sessions),
    "states": Target(_states, _coded),
    "entries": Target(_entries, _logs),
    "seals": Target(_seals, lambda: [seal.close(b"entry", _PLACE) for seal in _SEALS]),
    "reply": Target(_reply, lambda: _ANSWERS),
    "generate": Target(_generate, lambda: [json.dumps(_REQUEST).encode()]),
    "headers": Target(_headers, lambda: _HEADERS),
    "keys": Target(_keys, lambda: [_KEYS.encode()]),
}
assert tomllib.loads(_KEYS)
assert unpack(pack(BLOCK))
