"""Selection, 2-bit values, and packing: exact, and the same for any number of threads."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import indexcodec, quantize, topk
from model.compress import compress
from model.config import CompressionConfig
from model.layout import Layout

few_values = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 1e-30]), min_size=9, max_size=9)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=100, deadline=None)
@given(few_values, st.lists(st.booleans(), min_size=9, max_size=9).filter(any), st.integers(1, 9))
def test_topk_is_a_stable_sort_cut_at_k(values: list[float], valid: list[bool], k: int) -> None:
    places = [place for place in range(9) if valid[place]]
    wanted = sorted(sorted(places, key=lambda place: (-abs(values[place]), place))[:k])
    kept = torch.tensor([len(wanted)])
    got = topk.select(torch.tensor([values]), torch.tensor([valid]), kept, k)
    assert got[0].tolist() == wanted + [0] * (k - len(wanted))


def test_topk_of_chunks_side_by_side() -> None:
    chunks = torch.randn(200, 256, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    got = topk.select(chunks, None, torch.full((200,), 16), 16)
    for row, indices in zip(chunks.tolist(), got.tolist(), strict=True):
        assert indices == sorted(sorted(range(256), key=lambda place: (-abs(row[place]), place))[:16])


def test_magnitudes_are_the_nearest_fp32_of_their_definition() -> None:
    for code in range(1, 241):
        octave, eighth = divmod(code - 1, 8)
        exact = np.float32(2 ** (eighth / 8)) * np.float32(2.0 ** (octave - 26))
        assert quantize.MAGNITUDES[code, 0] == exact
        assert quantize.MAGNITUDES[code, 1] == np.float32(exact * np.float32(1.25))
    assert not quantize.MAGNITUDES[0].any() and not quantize.MAGNITUDES[241:].any()


def test_the_error_on_a_gaussian_tail_is_that_of_the_docstring() -> None:
    values = torch.randn(500, 4096, generator=torch.Generator().manual_seed(0))
    indices = topk.select(values, None, torch.full((500,), 64), 64)
    kept = values.gather(1, indices.long())
    scales, codes = quantize.quantize(kept, torch.ones_like(kept, dtype=torch.bool))
    error = ((kept - quantize.dequantize(scales, codes)) ** 2).sum() / (kept**2).sum()
    assert 0.004 < error < 0.0046
    assert torch.bincount(codes.view(-1).long(), minlength=4).min() > 500 * 64 / 10  # all four codes earn their bits


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-14, 14, width=32), min_size=1, max_size=7))
def test_quantising_picks_the_nearer_level_and_the_sign(values: list[float]) -> None:
    row = torch.tensor([values])
    scales, codes = quantize.quantize(row, torch.ones_like(row, dtype=torch.bool))
    decoded = quantize.dequantize(scales, codes)[0].tolist()
    small, large = quantize.MAGNITUDES[int(scales[0])].tolist()
    for value, got in zip(values, decoded, strict=True):
        nearest = min((small, large), key=lambda magnitude: (abs(abs(value) - magnitude), magnitude))
        assert abs(got) == pytest.approx(nearest)
        assert got == 0 or value == 0 or math.copysign(1, got) == math.copysign(1, value)


def test_levels_of_the_table_come_back_exactly() -> None:
    for code in (1, 2, 100, 239, 240):
        small, large = quantize.MAGNITUDES[code]
        row = torch.stack([small, -large, large, -small]).unsqueeze(0)
        scales, codes = quantize.quantize(row, torch.ones_like(row, dtype=torch.bool))
        assert scales.item() == code
        assert torch.equal(quantize.dequantize(scales, codes), row)


def test_extremes() -> None:
    rows = torch.tensor([[0.0, -0.0], [1e-30, -1e-30], [3e38, -3e38], [2**-26, 2**-26]])
    scales, codes = quantize.quantize(rows, torch.ones_like(rows, dtype=torch.bool))
    assert scales.tolist()[:3] == [0, 0, 240]
    assert codes[:2].tolist() == [[0, 0], [0, 0]]
    assert torch.isfinite(quantize.dequantize(scales, codes)).all()


def test_absent_places_do_not_count() -> None:
    row = torch.tensor([[0.5, -0.625, 99.0]])
    scales, codes = quantize.quantize(row, torch.tensor([[True, True, False]]))
    assert quantize.dequantize(scales, codes)[0, :2].tolist() == [0.5, -0.625]
    assert codes[0, 2] == 0


@pytest.mark.usefixtures("threads")
def test_thread_counts_and_batches_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of((("w", (700, 1000)), ("n", (9000,))), CompressionConfig("covenant"))
    flat = torch.randn(layout.parameters, generator=torch.Generator().manual_seed(0))
    found = []
    for count, span in ((1, 1024), (4, 1024), (3, 7)):
        torch.set_num_threads(count)
        monkeypatch.setattr("model.sparse.BAND_CHUNKS", span)
        found.append(compress(layout, flat))
    for other in found[1:]:
        assert torch.equal(found[0].scales, other.scales)
        assert torch.equal(found[0].indices, other.indices)
        assert torch.equal(found[0].codes, other.codes)


def test_the_norm_is_exact_until_its_last_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.randint(0, 241, (300,), generator=generator, dtype=torch.uint8)
    codes = torch.randint(0, 4, (300, 8), generator=generator, dtype=torch.uint8)
    present = torch.rand(300, 8, generator=generator) < 0.9
    codes[~present] = 0
    values = quantize.dequantize(scales, codes)[present].tolist()
    exact = sum(Fraction(value) ** 2 for value in values)
    assert quantize.norm(scales, codes, present.sum(1)) == pytest.approx(math.sqrt(exact), rel=1e-15)
    order = torch.randperm(300, generator=generator)
    assert quantize.norm(scales[order], codes[order], present[order].sum(1)) == quantize.norm(
        scales, codes, present.sum(1)
    )


@given(st.lists(st.integers(0, 4095), max_size=50))
def test_pack12_round_trip(values: list[int]) -> None:
    packed = indexcodec.pack12(np.array(values, dtype=np.uint16))
    assert len(packed) == indexcodec.packed12_bytes(len(values)) == math.ceil(len(values) * 12 / 8)
    assert int.from_bytes(packed.tobytes(), "little") == sum(value << 12 * n for n, value in enumerate(values))
    assert indexcodec.unpack12(packed, len(values)).tolist() == values


@given(st.lists(st.integers(0, 3), max_size=50))
def test_pack2_round_trip(codes: list[int]) -> None:
    packed = indexcodec.pack2(np.array(codes, dtype=np.uint8))
    assert len(packed) == indexcodec.packed2_bytes(len(codes)) == math.ceil(len(codes) / 4)
    assert int.from_bytes(packed.tobytes(), "little") == sum(code << 2 * n for n, code in enumerate(codes))
    assert indexcodec.unpack2(packed, len(codes)).tolist() == codes


@given(st.binary(max_size=20), st.integers(0, 20))
def test_unpacking_anything_is_exact_or_refused(data: bytes, count: int) -> None:
    packed = np.frombuffer(data, dtype=np.uint8)
    for unpack, pack, width in (
        (indexcodec.unpack12, indexcodec.pack12, 12),
        (indexcodec.unpack2, indexcodec.pack2, 2),
    ):
        canonical = len(data) == math.ceil(count * width / 8)
        canonical = canonical and not int.from_bytes(data, "little") >> (count * width)
        if canonical:
            assert pack(unpack(packed, count)).tobytes() == data  # type: ignore[operator]
        else:
            with pytest.raises(ValueError, match=r"bytes|bits"):
                unpack(packed, count)
