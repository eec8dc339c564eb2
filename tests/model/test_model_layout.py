"""How θ is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import PRESETS, CompressionConfig
from model.groups import all_positions
from model.layout import Layout, Shapes
from model.transformer import parameter_layout

dimensions = st.lists(st.integers(1, 30), min_size=1, max_size=2).map(tuple)
shapes_lists = st.lists(dimensions, min_size=1, max_size=6).map(
    lambda found: tuple((f"t{number}", shape) for number, shape in enumerate(found))
)
SMALL = CompressionConfig("covenant", chunk=64, kept_per_chunk=5)


@settings(max_examples=60, deadline=None)
@given(shapes_lists)
def test_every_parameter_is_in_exactly_one_place(shapes: Shapes) -> None:
    layout = Layout.of(shapes, SMALL)
    positions = torch.cat([all_positions(group, layout.chunk) for group in layout.groups])
    assert sorted(positions[positions >= 0].tolist()) == list(range(layout.parameters))
    assert positions.shape == (layout.chunks, layout.chunk)
    assert layout.kept.tolist() == [min(5, count) for count in (positions >= 0).sum(1).tolist()]
    assert all(group.padded == bool((all_positions(group, 64) < 0).any()) for group in layout.groups)


@settings(max_examples=60, deadline=None)
@given(shapes_lists)
def test_chunks_and_back_is_exact_and_padding_is_zero(shapes: Shapes) -> None:
    layout = Layout.of(shapes, SMALL)
    flat = torch.arange(1, layout.parameters + 1, dtype=torch.float32)
    chunks = layout.to_chunks(flat)
    positions = torch.cat([all_positions(group, layout.chunk) for group in layout.groups])
    assert torch.equal(chunks, torch.where(positions >= 0, flat[positions.clamp(min=0)], 0.0))
    assert torch.equal(layout.from_chunks(chunks), flat)


def test_a_chunk_is_a_square_block() -> None:
    layout = Layout.of((("w", (128, 192)),), CompressionConfig("covenant"))
    flat = torch.arange(128.0 * 192)
    block = flat.view(128, 192)[64:128, 128:192]  # second row of blocks, third column
    assert torch.equal(layout.to_chunks(flat)[5], block.reshape(-1))


def test_vectors_are_joined_into_one_run_after_the_matrices() -> None:
    layout = Layout.of((("a", (5,)), ("w", (8, 8)), ("b", (3,))), SMALL)
    flat = torch.arange(72.0)
    assert [group.name for group in layout.groups] == ["w", "1-D run"]
    assert layout.to_chunks(flat)[1, :9].tolist() == [0, 1, 2, 3, 4, 69, 70, 71, 0]
    assert layout.kept.tolist() == [5, 5]


def test_nano_wastes_only_the_end_of_the_run() -> None:
    layout = Layout.of(parameter_layout(PRESETS["nano"]), CompressionConfig("covenant"))
    assert (layout.parameters, layout.chunks, layout.entries) == (918_656, 225, 14_400)


def test_the_hash_depends_on_everything_and_is_fixed() -> None:
    shapes: Shapes = (("a", (5,)), ("w", (8, 8)))
    same = Layout.of(shapes, SMALL).hash
    assert same == "1baab6baf7f8329eb0188bdf87450053aa10891f296c0d38c1148696b5ef846e"
    others = [
        Layout.of((("a", (5,)), ("v", (8, 8))), SMALL).hash,
        Layout.of((("a", (5,)), ("w", (8, 9))), SMALL).hash,
        Layout.of(shapes[::-1], SMALL).hash,
        Layout.of(shapes, CompressionConfig("covenant", chunk=64, kept_per_chunk=6)).hash,
        Layout.of(shapes, CompressionConfig("covenant", chunk=49, kept_per_chunk=5)).hash,
    ]
    assert len({same, *others}) == 6


@pytest.mark.parametrize(
    ("shapes", "compression"),
    [
        ((), SMALL),
        ((("a", (2, 2, 2)),), SMALL),
        ((("a", ()),), SMALL),
        ((("a", (0, 4)),), SMALL),
        ((("a\nb", (4,)),), SMALL),
        ((("a", (4,)),), CompressionConfig(codec="row2")),
        ((("a", (4,)),), CompressionConfig(combination="median")),
        ((("a", (4,)),), CompressionConfig(codec="row1", kept_per_chunk=8)),  # rows of 512
        ((("a", (4,)),), CompressionConfig(codec="row1", kept_per_chunk=63)),
        ((("a", (4,)),), CompressionConfig(codec="row1", kept_per_chunk=4096)),
        ((("a", (4,)),), CompressionConfig(codec="row1", chunk=36, kept_per_chunk=6)),
        ((("a", (4,)),), CompressionConfig(codec="topk2", kept_per_chunk=65)),
        ((("a", (4,)),), CompressionConfig("covenant", chunk=4097)),
        ((("a", (4,)),), CompressionConfig("covenant", chunk=128 * 128)),
        ((("a", (4,)),), CompressionConfig("covenant", chunk=64, kept_per_chunk=65)),
        ((("a", (4,)),), CompressionConfig("covenant", kept_per_chunk=0)),
    ],
)
def test_what_cannot_be_cut_is_refused(shapes: Shapes, compression: CompressionConfig) -> None:
    with pytest.raises(ValueError, match=r"cannot|codec|at least|combination"):
        Layout.of(shapes, compression)
