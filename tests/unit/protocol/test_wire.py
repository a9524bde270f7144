"""The wire as bytes: one frame of each kind, written down, and what comes back from it.

A change of the wire changes these literals, and with them `PROTOCOL_VERSION`: peers of the old
version must refuse the new frames rather than misread them.
"""

import pytest
from hypothesis import given

from shared.protocol.messages import Block, Close, Fault, Message, Opening, Report
from shared.protocol.version import PROTOCOL_VERSION
from shared.protocol.wire import OVERHEAD_BYTES, canonical, decode, encode, frame_length
from tests.unit.protocol.strategies import EXAMPLES, OPENING, messages, openings

LIMIT = 1 << 16

GOLDEN: dict[type, str] = {
    Block: (
        "54440501f30100008ca773657373696f6ea973657373696f6e2d31a873657175656e636501a872657669"
        "73696f6e00ac61636b6e6f776c656467656400a6706172656e74c4080001020304050607a57374617274"
        "00a6746f6b656e739207cd012ca762696e64696e6702a673746174657385a5636f646563a4696e7438a5"
        "7368617065920203a77061796c6f6164c406010203fffe00a67363616c6573c404003c0040a863686563"
        "6b73756dce4a324310a477616e74a36e6f77a5636f756e7401a76f70656e696e678cab66696e67657270"
        "72696e74a466303064ac7472756e6b5f666f726d6174a466703332af73616d706c65725f76657273696f"
        "6e01a564657074680ca573706c697403a46d6f6465ad636f6c6c61626f726174697665a5636f646563a4"
        "696e7438ad70726f6d70745f746f6b656e7302ad6d61785f706f736974696f6e7309a873616d706c696e"
        "6789ab74656d7065726174757265cb3fe0000000000000a5746f705f70cb3ff0000000000000a5746f70"
        "5f6b28a56d696e5f70cb0000000000000000b272657065746974696f6e5f70656e616c7479cb3ff00000"
        "00000000ae6d696e5f6e65775f746f6b656e7300a473656564cfffffffffffffffffa5696e64657800a7"
        "656f735f696473920002a6636c69656e74a83062616463616665a87072696f72697479a9656d65726765"
        "6e63796ea92050"
    ),
    Report: (
        "54440502f2000000de0010a773657373696f6ea973657373696f6e2d31a87265766973696f6e00a87365"
        "7175656e636501a77468726f75676803a6646967657374c40808090a0b0c0d0e0fa6746f6b656e73910b"
        "a96e6565645f66726f6dc0a66a756467656401a964697361677265656401ad64697361677265656d656e"
        "74739182a8706f736974696f6e02a5746f6b656e05a670617373657301af636f6d707574655f7365636f"
        "6e6473cb3fd0000000000000a77365636f6e6473cb3fe0000000000000a96e6561725f7469657300a76c"
        "656176696e67c2a8707265737375726582a671756575656401ad616c6c6f7765645f6e6f6465730086ac"
        "0a3f"
    ),
    Close: ("544405031d00000082a773657373696f6ea973657373696f6e2d31a87265766973696f6e00e81c1366"),
    Fault: (
        "544405044300000085a4636f6465a7696e76616c6964a76d657373616765ac6e6f2073756368206d6f64"
        "65a9726574727961626c65c2a56669656c64a46d6f6465a87265766973696f6ec0eb1aded6"
    ),
}
GOLDEN_OPENING = (
    "8cab66696e6765727072696e74a466303064ac7472756e6b5f666f726d6174a466703332af73616d706c6572"
    "5f76657273696f6e01a564657074680ca573706c697403a46d6f6465ad636f6c6c61626f726174697665a563"
    "6f646563a4696e7438ad70726f6d70745f746f6b656e7302ad6d61785f706f736974696f6e7309a873616d70"
    "6c696e6789ab74656d7065726174757265cb3fe0000000000000a5746f705f70cb3ff0000000000000a5746f"
    "705f6b28a56d696e5f70cb0000000000000000b272657065746974696f6e5f70656e616c7479cb3ff0000000"
    "000000ae6d696e5f6e65775f746f6b656e7300a473656564cfffffffffffffffffa5696e64657800a7656f73"
    "5f696473920002a6636c69656e74a83062616463616665a87072696f72697479a9656d657267656e6379"
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_frame_is_byte_for_byte_what_version_5_says(message: Message) -> None:
    assert PROTOCOL_VERSION == 5
    assert encode(message).hex() == GOLDEN[type(message)]


def test_an_opening_is_hashed_as_the_same_bytes_on_both_sides() -> None:
    assert canonical(OPENING).hex() == GOLDEN_OPENING


@given(opening=openings)
def test_an_opening_hashes_alike_before_and_after_the_wire(opening: Opening) -> None:
    block = Block(
        session="s",
        sequence=0,
        revision=0,
        acknowledged=0,
        parent=bytes(8),
        start=0,
        tokens=(),
        binding=0,
        opening=opening,
    )
    received = decode(encode(block), limit=LIMIT)
    assert isinstance(received, Block)
    assert received.opening is not None
    assert canonical(received.opening) == canonical(opening)


@given(message=messages)
def test_every_message_comes_back_as_it_was_sent(message: Message) -> None:
    received = decode(encode(message), limit=LIMIT)
    assert received == message
    assert type(received) is type(message)
    assert encode(received) == encode(message)


@given(message=messages)
def test_a_frames_first_eight_bytes_tell_its_whole_length(message: Message) -> None:
    frame = encode(message)
    assert frame_length(frame[:8], limit=LIMIT) == len(frame) == len(frame[8:-4]) + OVERHEAD_BYTES
