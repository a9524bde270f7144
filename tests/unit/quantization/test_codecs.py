"""Hidden states through each codec: how far a value may move, row by row, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ComputeError
from shared.protocol.messages import Codec
from shared.quantization import INT8_BLOCK, RowLayout, decode, encode, round_trip, validate

CODECS: tuple[Codec, ...] = ("fp32", "fp16", "int8")
WIDTHS = st.sampled_from([1, 7, 63, 64, 65, 128, 130])
TINY = torch.finfo(torch.float16).tiny


@st.composite
def states(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[T, H] of magnitudes from 1e-7 to 1e4, each row of its own, with exact zeros among them."""
    shape = (draw(st.integers(1, 5)), draw(WIDTHS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows *= 10 ** (torch.rand(shape[0], 1, generator=generator, dtype=torch.float64) * 11 - 7)
    rows[torch.rand(shape, generator=generator) < 0.1] = 0
    return rows.clamp(-60_000, 60_000).to(dtype)


@given(rows=states())
def test_fp32_is_exact(rows: torch.Tensor) -> None:
    assert torch.equal(round_trip(rows, "fp32"), rows)


@given(rows=states())
def test_fp16_is_off_by_half_a_unit_in_the_last_place_at_most(rows: torch.Tensor) -> None:
    """Of float32 states; from float64 torch rounds twice, by way of float32."""
    error = (round_trip(rows, "fp16").double() - rows.double()).abs()
    # Spacing of fp16 around x: 2^(exponent - 10), and 2^-24 among the subnormals.
    exponent = torch.frexp(rows)[1] - 1
    spacing = torch.exp2(exponent.clamp_min(-14).double() - 10)
    assert bool((error <= spacing / 2).all())


@given(rows=states(torch.float64))
def test_int8_is_off_by_half_a_step_of_its_block_at_most(rows: torch.Tensor) -> None:
    coded = round_trip(rows, "int8")
    for first in range(0, rows.shape[1], INT8_BLOCK):
        block = rows[:, first : first + INT8_BLOCK]
        step = (block.abs().amax(1, keepdim=True) / 127).clamp_min(TINY)
        error = (coded[:, first : first + INT8_BLOCK] - block).abs()
        # The scale travels as fp16, so the step itself is off by up to 2^-11.
        assert bool((error <= step * (0.5 + 2**-10)).all())


@given(rows=states(), codec=st.sampled_from(CODECS), data=st.data())
def test_a_row_is_coded_as_if_it_were_alone(
    rows: torch.Tensor, codec: Codec, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    layout = RowLayout.of(codec, rows.shape[1])
    whole, part = encode(rows, codec), encode(rows[start:stop], codec)
    assert part.payload == whole.payload[start * layout.payload : stop * layout.payload]
    assert part.scales == whole.scales[start * layout.scales : stop * layout.scales]
    assert part.shape == (stop - start, rows.shape[1])


@given(rows=states(), codec=st.sampled_from(CODECS))
def test_coding_what_was_decoded_changes_nothing_more(rows: torch.Tensor, codec: Codec) -> None:
    once = round_trip(rows, codec)
    torch.testing.assert_close(round_trip(once, codec), once, rtol=2**-10, atol=0)


@given(rows=states(), codec=st.sampled_from(CODECS))
def test_every_coded_block_validates(rows: torch.Tensor, codec: Codec) -> None:
    block = encode(rows, codec)
    validate(block, hidden=rows.shape[1])
    layout = RowLayout.of(codec, rows.shape[1])
    assert len(block.payload) == len(rows) * layout.payload
    assert len(block.scales) == len(rows) * layout.scales


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_states_of_any_layout_and_dtype_come_back_in_their_own(
    codec: Codec, dtype: torch.dtype
) -> None:
    rows = torch.arange(-60, 60, dtype=torch.float32).view(2, 60).to(dtype).T.contiguous().T
    assert not rows.is_contiguous()
    coded = round_trip(rows, codec)
    assert coded.dtype == dtype
    torch.testing.assert_close(coded.double(), rows.double(), rtol=0, atol=0.5)
    assert torch.equal(decode(encode(rows, codec), dtype=dtype, device="cpu"), coded)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_is_not_sent(codec: Codec, value: float) -> None:
    rows = torch.zeros(2, 65)
    rows[1, 64] = value
    with pytest.raises(ComputeError, match="not finite"):
        encode(rows, codec)


@pytest.mark.parametrize(
    ("codec", "largest", "beyond"),
    [("fp16", 65_504.0, 65_520.0), ("int8", 127 * 65_504.0, 127 * 65_520.0), ("fp32", 3e38, 4e38)],
)
def test_a_state_beyond_the_codecs_range_is_not_sent(
    codec: Codec, largest: float, beyond: float
) -> None:
    rows = torch.zeros(1, 64, dtype=torch.float64)
    rows[0, 3] = -largest
    torch.testing.assert_close(round_trip(rows, codec), rows, rtol=2**-10, atol=0)
    rows[0, 3] = -beyond
    with pytest.raises(ComputeError, match=f"beyond the range of codec {codec}"):
        encode(rows, codec)


def test_a_block_of_zeros_stays_zeros() -> None:
    for codec in CODECS:
        assert not round_trip(torch.zeros(2, 130), codec).any()
