"""A layout by shards: joined, they are the whole to the bit."""

import pytest
import torch
from test_model_codecs import BIG, assert_equal, codecs, made_up

from model import kernels
from model.compress import compress
from model.config import CompressionConfig
from model.layout import Layout
from model.outer import outer_step
from model.sparse import joined

# a: 5 rows of 8 blocks, padded; b: 1 row of 2; the run: 2 chunks
SHARDINGS = ((0, 44), (0, 40, 42, 44), (0, 8, 44), (0, 8, 16, 24, 32, 40, 42, 43, 44), (0, 24, 43, 44))


def parts_of(cuts: tuple[int, ...]) -> list[range]:
    return [range(first, stop) for first, stop in zip(cuts, cuts[1:], strict=False)]


@pytest.mark.parametrize("least", [0, 1 << 40], ids=["compiled", "torch"])
@pytest.mark.parametrize("cuts", SHARDINGS)
@codecs
def test_shards_joined_are_the_whole(
    codec: str, cuts: tuple[int, ...], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LEAST_PARAMETERS", least)
    layout = Layout.of(BIG, CompressionConfig(codec))
    assert layout.chunks == 44
    flats = [made_up(layout.parameters, seed) * (1 + seed / 4) for seed in range(3)]
    roster = [compress(layout, flat) for flat in flats]
    if codec != "templar" or set(cuts) <= {0, 40, 42, 44}:
        for flat, whole in zip(flats, roster, strict=True):
            assert_equal(joined([compress(layout, flat, part) for part in parts_of(cuts)]), whole)
    else:
        with pytest.raises(ValueError, match="cut a tensor"):
            joined([compress(layout, flats[0], part) for part in parts_of(cuts)])
    theta = made_up(layout.parameters, 99)
    whole = outer_step(layout, theta, roster, 0.7).theta
    for part in reversed(parts_of(cuts)):
        outer_step(layout, theta, roster, 0.7, out=theta, part=part)
    assert torch.equal(theta, whole)


def test_a_shard_touches_nothing_else() -> None:
    layout = Layout.of(BIG, CompressionConfig())
    theta, roster = made_up(layout.parameters, 99), [compress(layout, made_up(layout.parameters))]
    stepped = outer_step(layout, theta, roster, 0.7, part=range(8, 16)).theta
    rows = slice(64 * 500, 128 * 500)  # the second row of blocks of a
    assert not torch.equal(stepped[rows], theta[rows])
    stepped[rows] = theta[rows]
    assert torch.equal(stepped, theta)


def test_a_cut_through_a_row_of_blocks_is_refused() -> None:
    layout = Layout.of(BIG, CompressionConfig())
    with pytest.raises(ValueError, match="no whole rows of 8 blocks"):
        compress(layout, made_up(layout.parameters), range(0, 3))
