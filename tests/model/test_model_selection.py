"""Selection, values and packing of the codecs beside the paper's: exact against the plainest reckoning."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import combinadic, indexcodec, quantize, rowmax, templar, topk
from model.compress import compress
from model.config import CompressionConfig
from model.layout import Layout
from model.sparse import dense

few_values = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 1e-30]), min_size=16, max_size=16)


@settings(max_examples=100, deadline=None)
@given(few_values, st.sampled_from([1, 2, 4, 8]))
def test_rowmax_is_the_first_largest_of_each_row(values: list[float], k: int) -> None:
    row = 16 // k
    got = rowmax.select(torch.tensor([values]), None, torch.tensor([k]), k)
    wanted = [max(range(at, at + row), key=lambda place: (abs(values[place]), -place)) for at in range(0, 16, row)]
    assert got[0].tolist() == wanted


def test_rows_of_padding_are_absent() -> None:
    layout = Layout.of((("w", (3, 5)),), CompressionConfig("row1", chunk=16, kept_per_chunk=4))
    sparse = compress(layout, -torch.arange(1.0, 16.0))
    assert layout.kept.tolist() == [3, 3]
    assert sparse.indices.tolist() == [[3, 7, 11, 0], [0, 4, 8, 0]]
    assert sparse.codes.tolist() == [[2, 2, 2, 0], [2, 2, 2, 0]]
    assert (dense(layout, sparse) < 0).tolist() == [*[False] * 3, True, True] * 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-14, 14, width=32), min_size=1, max_size=9))
def test_signs_have_the_scale_of_least_error(values: list[float]) -> None:
    row = torch.tensor([values])
    scales, codes = quantize.quantize_signs(row, None)
    mean = math.fsum(map(abs, values)) / len(values)
    table = quantize.MAGNITUDES[:241, 0].double()
    if scales[0]:
        best = float((table[1:] - mean).abs().min())
        assert abs(float(table[int(scales[0])]) - mean) <= best * (1 + 1e-5) + mean * 1e-6
        assert codes[0].tolist() == [2 if value < 0 else 0 for value in values]
    else:
        assert mean < 2**-26 * (1 + 1e-6)
        assert not codes.any()


def test_signs_of_extremes_and_of_absent_places() -> None:
    rows = torch.tensor([[0.0, -0.0], [3e38, -3e38], [1e-30, -1.0], [-0.5, -99.0]])
    present = torch.tensor([[True, True], [True, True], [True, False], [True, False]])
    scales, codes = quantize.quantize_signs(rows, present)
    assert scales.tolist() == [0, 240, 0, 1 + 8 * 25]
    assert codes.tolist() == [[0, 0], [0, 2], [0, 0], [2, 0]]


@pytest.mark.parametrize(("chunk", "k"), [(1, 1), (4, 1), (4, 4), (9, 3), (9, 7), (16, 4)])
def test_ranks_count_all_sets(chunk: int, k: int) -> None:
    for kept in range(k + 1):
        sets = sorted(combinations(range(chunk), kept), key=lambda one: one[::-1])  # colexicographic
        indices = np.zeros((len(sets), k), np.int16)
        indices[:, :kept] = np.array(sets).reshape(len(sets), kept)
        counts = np.full(len(sets), kept)
        packed = combinadic.encode(indices, counts, chunk)
        assert packed.shape[1] == combinadic.rank_bytes(chunk, k)
        assert [int.from_bytes(rank.tobytes(), "little") for rank in packed] == list(range(len(sets)))
        assert (combinadic.decode(packed, counts, chunk, k) == indices).all()
        size = packed.shape[1]
        if len(sets) < 256**size:
            beyond = np.frombuffer(len(sets).to_bytes(size, "little"), np.uint8).reshape(1, -1)
            with pytest.raises(ValueError, match="beyond"):
                combinadic.decode(beyond, counts[:1], chunk, k)


def test_64_of_4096_take_59_bytes() -> None:
    assert combinadic.rank_bytes(4096, 64) == 59
    kept = np.full(500, 64)
    generator = np.random.default_rng(0)
    indices = np.sort([generator.permutation(4096)[:64] for _ in range(500)]).astype(np.int16)
    indices[0], indices[1] = np.arange(64), np.arange(4032, 4096)
    indices[2] = [*range(32), *range(4064, 4096)]
    kept[3:200] = generator.integers(1, 65, 197)
    indices[np.arange(64) >= kept[:, None]] = 0
    packed = combinadic.encode(indices, kept, 4096)
    assert not packed[0].any()
    assert int.from_bytes(packed[1].tobytes(), "little") == math.comb(4096, 64) - 1
    assert (combinadic.decode(packed, kept, 4096, 64) == indices).all()


def test_ranks_next_to_a_binomial_where_floats_are_wrong() -> None:
    """C(i, 64) and its neighbours: the float is the same for all three."""
    numbers = [math.comb(i, 64) + nearby for i in (65, 70, 500, 4000, 4095) for nearby in (-1, 0, 1)]
    packed = np.frombuffer(b"".join(n.to_bytes(59, "little") for n in numbers), np.uint8).reshape(-1, 59)
    kept = np.full(len(numbers), 64)
    indices = combinadic.decode(packed, kept, 4096, 64)
    assert (np.diff(indices) > 0).all()
    assert [sum(math.comb(int(i), j + 1) for j, i in enumerate(row)) for row in indices] == numbers


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.data())
def test_packing_columns(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = indexcodec.pack(np.array(values, dtype=np.uint8), bits)
    assert int.from_bytes(packed.tobytes(), "little") == sum(value << bits * n for n, value in enumerate(values))
    assert indexcodec.unpack(packed, len(values), bits).tolist() == values


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20), st.integers(0, 25), st.integers(1, 8))
def test_unpacking_columns_is_exact_or_refused(data: bytes, count: int, bits: int) -> None:
    packed = np.frombuffer(data, dtype=np.uint8)
    if len(data) == math.ceil(count * bits / 8) and not int.from_bytes(data, "little") >> (count * bits):
        assert indexcodec.pack(indexcodec.unpack(packed, count, bits), bits).tobytes() == data
    else:
        with pytest.raises(ValueError, match=r"bytes|bits"):
            indexcodec.unpack(packed, count, bits)


def test_templars_quantiser_uses_two_of_its_four_levels() -> None:
    """Its error on the top 64 of 4096 Gaussian values, relative to their spread, is that of its description: 0.11."""
    values = torch.randn(300, 4096, generator=torch.Generator().manual_seed(0))
    kept = values.gather(1, topk.select(values, None, torch.full((300,), 64), 64).long())
    levels, codes = templar.quantize(kept, None)
    shares = torch.bincount(codes.view(-1).long(), minlength=4) / codes.numel()
    assert shares[1] + shares[3] > 0.95
    assert float(levels[1]) == pytest.approx(-float(levels[3]), rel=0.05)
    decoded = levels[codes.long()]
    assert templar.norm(levels, codes, torch.full((300,), 64)) == pytest.approx(
        float(torch.linalg.vector_norm(decoded)), rel=1e-5
    )
    for level in range(4):
        if shares[level]:
            assert float(levels[level]) == pytest.approx(float(kept[codes == level].mean()), rel=1e-5)


def test_templars_quantiser_at_its_edges() -> None:
    levels, codes = templar.quantize(torch.tensor([[2.0, 2.0]]), None)
    assert levels[codes.long()].tolist() == [[2.0, 2.0]]
    levels, codes = templar.quantize(torch.tensor([[2.0, 9.0], [-1.0, 9.0]] * 2), torch.tensor([[True, False]] * 4))
    assert levels[codes.long()][:, 0].tolist() == [2.0, -1.0] * 2
    assert codes[:, 1].tolist() == [0] * 4
    assert torch.isfinite(templar.quantize(torch.tensor([[3e38, -3e38, 3e38]]), None)[0]).all()
