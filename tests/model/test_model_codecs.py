"""The codecs: golden files, round trips, sizes, and the same bits whatever the threads and bands."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import contribution, sections, statehash
from model.compress import compress
from model.config import CODECS, PRESETS, CompressionConfig, compression_named
from model.contribution import HEADER_BYTES, Expected, Header
from model.errors import ContributionError
from model.layout import Layout
from model.outer import outer_step
from model.rules import RULES
from model.sparse import Sparse, dense
from model.transformer import parameter_layout

GOLDEN = Path(__file__).parent.parent / "golden"
HEADER = Header("01" * 32, 7, "23" * 32, "45" * 32)
EXPECTED = Expected(HEADER.run_id, HEADER.round, HEADER.base_state_hash, HEADER.hotkey)
# chunks of 16: two whole blocks, padded ones with 8 valid places, 4 and 2; a run of 16 + 3
SHAPES = (("w", (6, 5)), ("n", (19,)))
LAYOUTS = {codec: Layout.of(SHAPES, CompressionConfig(codec, chunk=16, kept_per_chunk=4)) for codec in CODECS}
BIG = (("a", (300, 500)), ("n", (5000,)), ("b", (64, 128)))
STATES = {
    "covenant": "bfde86658844bf2f007ea9a6c69bdbba424da1a30e5b13664dca30de7e9e0d09",
    "topk2": "bfde86658844bf2f007ea9a6c69bdbba424da1a30e5b13664dca30de7e9e0d09",
    "row1": "6bb8b72e5aed0fd6e92d04eae349e72ed56275f3cf3dc3fd92e387643e6c3030",
    "templar": "d84df6d2fd09685823f5fb9ed28e14b97433f8d70b3e688db13057d8e0d9719d",
}
codecs = pytest.mark.parametrize("codec", CODECS)


def made_up(parameters: int, seed: int = 0) -> torch.Tensor:
    """Values that are the same on every machine: exact in fp32, no generator involved."""
    numbers = (torch.arange(1, parameters + 1, dtype=torch.int64) + seed * 7919) * 2654435761 % 65521 - 32760
    return numbers.to(torch.float32) / 65536


def assert_equal(one: Sparse, other: Sparse) -> None:
    for field in ("scales", "indices", "codes"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


def test_every_codec_of_the_config_has_a_rule_and_an_id_of_its_own() -> None:
    assert set(CODECS) == set(RULES)
    assert sorted(rule.codec_id for rule in RULES.values()) == [1, 2, 3, 4]


@codecs
def test_the_golden_file(tmp_path: Path, codec: str) -> None:
    layout = LAYOUTS[codec]
    sparse = compress(layout, made_up(layout.parameters))
    contribution.write(str(tmp_path / "c"), layout, HEADER, sparse)
    golden = GOLDEN / f"contribution-{codec}.bin"
    assert (tmp_path / "c").read_bytes() == golden.read_bytes()
    assert_equal(contribution.read(str(golden), layout, EXPECTED), sparse)


@pytest.mark.parametrize(
    ("codec", "large", "nano"), [("row1", 287, 283), ("topk2", 215, 212.9), ("covenant", 144.9, 143)]
)
def test_the_ratio_of_whole_files(codec: str, large: float, nano: float) -> None:
    for preset, least in (("150m", large), ("nano", nano)):
        layout = Layout.of(parameter_layout(PRESETS[preset]), CompressionConfig(codec))
        assert 4 * layout.parameters / contribution.file_bytes(layout) > least


@pytest.mark.parametrize(("kept", "bytes_per_chunk"), [(128, 97), (64, 57), (32, 33), (16, 19)])
def test_bytes_of_a_chunk_for_each_row_length(kept: int, bytes_per_chunk: int) -> None:
    layout = Layout.of((("w", (640, 640)),), CompressionConfig("row1", kept_per_chunk=kept))
    assert contribution.body_bytes(layout) == 100 * bytes_per_chunk
    flat = made_up(layout.parameters)
    sparse = compress(layout, flat)
    body = contribution.encode_body(layout, sparse)
    assert_equal(contribution.decode_body(layout, body), sparse)


@pytest.mark.parametrize("codec", ["covenant", "topk2"])
def test_topk2_is_covenant_in_fewer_bytes(codec: str) -> None:
    layout = Layout.of(BIG, CompressionConfig(codec))
    sparse = compress(layout, made_up(layout.parameters))
    read = contribution.decode_body(layout, contribution.encode_body(layout, sparse))
    assert_equal(read, compress(Layout.of(BIG, CompressionConfig("covenant")), made_up(layout.parameters)))


shapes_lists = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=2).map(tuple), min_size=1, max_size=4).map(
    lambda found: tuple((f"t{number}", shape) for number, shape in enumerate(found))
)
numbers = st.floats(-20, 20, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 3e38, -3e38])


@codecs
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_anything_round_trips(codec: str, data: st.DataObject) -> None:
    shapes = data.draw(shapes_lists)
    layout = Layout.of(shapes, CompressionConfig(codec, chunk=16, kept_per_chunk=data.draw(st.sampled_from([2, 4, 8]))))
    values = data.draw(st.lists(numbers, min_size=layout.parameters, max_size=layout.parameters))
    sparse = compress(layout, torch.tensor(values))
    body = contribution.encode_body(layout, sparse)
    assert len(body) == contribution.body_bytes(layout)
    assert_equal(contribution.decode_body(layout, body), sparse)
    assert torch.isfinite(dense(layout, sparse)).all()


@codecs
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_canonical_or_refused(codec: str, data: st.DataObject) -> None:
    layout = LAYOUTS[codec]
    size = contribution.body_bytes(layout)
    body = data.draw(st.binary(min_size=size, max_size=size))
    try:
        sparse = contribution.decode_body(layout, body)
    except ContributionError:
        return
    assert contribution.encode_body(layout, sparse) == body
    assert torch.isfinite(dense(layout, sparse)).all()


def offsets(codec: str) -> tuple[int, int, int]:
    """Where the three sections begin in a file."""
    rule, layout = RULES[codec], LAYOUTS[codec]
    indices = HEADER_BYTES + rule.scales.size(layout)
    return HEADER_BYTES, indices, indices + rule.indices.size(layout)


@pytest.mark.parametrize(
    ("codec", "section", "at", "lie", "reason"),
    [
        ("row1", 0, 0, b"\xf1", "reserved scale"),
        ("row1", 0, 0, b"\xff", "reserved scale"),
        ("row1", 1, 3, b"\xff", "absent rows of w"),  # the third chunk has two rows
        ("row1", 1, 1, b"\xff", "padding of w is selected"),  # the second chunk is one column wide
        ("row1", 1, 5, b"\x03", "padding of 1-D run is selected"),
        ("row1", 1, 5, b"\x08", "absent rows of 1-D run"),
        ("row1", 2, 1, b"\xff", "absent rows of w"),
        ("topk2", 0, 0, b"\xf1", "reserved scale"),
        ("topk2", 1, 0, b"\x1c\x07", "beyond the last set"),  # 1820 = C(16, 4)
        ("topk2", 1, 0, b"\xff\xff", "beyond the last set"),
        ("topk2", 1, 2, b"\x01\x00", "padding of w is selected"),
        ("topk2", 1, 10, b"\x30\x02", "beyond the last set"),  # 560 = C(16, 3), of the run's last chunk
        ("templar", 0, 0, b"\x00\x00\xc0\x7f", "not finite"),
        ("templar", 0, 4, b"\x00\x00\x80\xff", "not finite"),
        ("templar", 0, 4, b"\x01\x00\x00\x42", "beyond ±32"),
        ("templar", 0, 4, b"\x00\x00\x7f\xff", "beyond ±32"),
        ("templar", 1, 0, b"\xff\xff\xff", "ascend"),
    ],
)
def test_a_lie_in_each_section(tmp_path: Path, codec: str, section: int, at: int, lie: bytes, reason: str) -> None:
    data = bytearray((GOLDEN / f"contribution-{codec}.bin").read_bytes())
    offset = offsets(codec)[section] + at
    data[offset : offset + len(lie)] = lie
    (tmp_path / "hostile").write_bytes(data)
    with pytest.raises(ContributionError, match=reason):
        contribution.read(str(tmp_path / "hostile"), LAYOUTS[codec], EXPECTED)


def test_signs_in_a_silent_chunk_are_refused() -> None:
    layout = LAYOUTS["row1"]
    sparse = compress(layout, torch.full((layout.parameters,), -1.0))
    sparse.scales[0] = 0
    with pytest.raises(ContributionError, match="scale zero"):
        contribution.decode_body(layout, contribution.encode_body(layout, sparse))


def test_a_file_of_another_codec_is_refused() -> None:
    for own in CODECS:
        for other in set(CODECS) - {own}:
            with pytest.raises(ContributionError, match="codec id|bytes"):
                contribution.read(str(GOLDEN / f"contribution-{other}.bin"), LAYOUTS[own], EXPECTED)


def final_hash(codec: str) -> str:
    layout = Layout.of(BIG, CompressionConfig(codec))
    theta = made_up(layout.parameters, 99)
    for round_ in range(2):
        roster = [compress(layout, made_up(layout.parameters, seed) * (1 + seed / 4)) for seed in range(3 + round_)]
        outer_step(layout, theta, roster, 0.7, out=theta)
    return statehash.state_hash(theta, 65536)


@codecs
def test_neither_threads_nor_bands_change_a_bit(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        for threads, band in ((1, 256), (3, 256), (4, 1), (2, 7)):
            torch.set_num_threads(threads)
            monkeypatch.setattr("model.sparse.BAND_CHUNKS", band)
            monkeypatch.setattr(sections, "_SPAN_CHUNKS", band)
            assert final_hash(codec) == STATES[codec]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weights", [None, [1.0, 0.25, 3.0]])
@pytest.mark.parametrize("combination", ["roster", "senders"])
@codecs
def test_it_equals_a_scalar_reckoning(codec: str, combination: str, weights: list[float] | None) -> None:
    """One fp32 operation at a time, on each coordinate; equal norms, so nothing is clipped."""
    layout = Layout.of(SHAPES, CompressionConfig(codec, chunk=16, kept_per_chunk=4, combination=combination))
    flat = made_up(layout.parameters)
    roster = [compress(layout, sign * flat) for sign in (1, -1, 1)]
    roster[2] = compress(layout, torch.where(torch.arange(layout.parameters) < 3, flat, 0.0))
    theta = made_up(layout.parameters, 3)
    result = outer_step(layout, theta, roster, 0.7, weights)
    shares = [weight / max(weights or [1.0]) for weight in weights or [1.0] * 3]
    if combination == "roster":
        shares = [share / math.fsum(shares) for share in shares]
    factors = [np.float32(share * float(np.float32(0.7))) for share in shares]
    for place in range(layout.parameters):
        total = senders = np.float32(0)
        for sparse, share, factor in zip(roster, shares, factors, strict=True):
            sent, value = sent_at(layout, sparse, place)
            total = np.float32(total + np.float32(value * factor))
            senders = np.float32(senders + (np.float32(share) if sent else np.float32(0)))
        step = total if combination == "roster" else np.float32(total / (senders or np.float32(1)))
        assert result.theta.numpy()[place] == np.float32(theta.numpy()[place] - step)
    assert result.clipped == 0


def sent_at(layout: Layout, sparse: Sparse, position: int) -> tuple[bool, np.float32]:
    """Whether a contribution sends a coordinate, and what."""
    marks = Sparse(sparse.scales, sparse.indices, torch.zeros_like(sparse.codes))
    if sparse.scales.dim() == 1:
        marks = Sparse((sparse.scales > 0) * torch.tensor(200, dtype=torch.uint8), sparse.indices, marks.codes)
    else:
        marks = Sparse(torch.ones_like(sparse.scales), sparse.indices, marks.codes)
    return bool(dense(layout, marks)[position] != 0), dense(layout, sparse).numpy()[position]


def test_weights_must_be_numbers_that_divide() -> None:
    layout = LAYOUTS["row1"]
    roster = [compress(layout, made_up(layout.parameters))] * 2
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="weight"):
            outer_step(layout, torch.zeros(layout.parameters), roster, 1.0, weights)


def test_weights_of_any_size_give_finite_numbers() -> None:
    for combination in ("roster", "senders"):
        layout = Layout.of(SHAPES, CompressionConfig("row1", chunk=16, kept_per_chunk=4, combination=combination))
        roster, theta = [compress(layout, made_up(layout.parameters))] * 2, made_up(layout.parameters, 3)
        even = outer_step(layout, theta, roster, 1.0).theta
        for weights in ([1e-46] * 2, [1e39] * 2, [1e308] * 2):  # none of them is a finite fp32 above zero
            assert torch.equal(outer_step(layout, theta, roster, 1.0, weights).theta, even)
        assert torch.isfinite(outer_step(layout, theta, roster, 1.0, [1e17, 1.0]).theta).all()
        with pytest.raises(ValueError, match=r"further apart.*1e\+39"):
            outer_step(layout, theta, roster, 1.0, [1e39, 1.0])


@codecs
def test_what_could_give_no_number_is_refused_before_theta_is_touched(codec: str) -> None:
    layout = LAYOUTS[codec]
    theta, roster = made_up(layout.parameters, 5), [compress(layout, made_up(layout.parameters))] * 2
    before = theta.clone()
    for alpha in (math.inf, math.nan, 1.1e9, -1e10):
        with pytest.raises(ValueError, match="α is"):
            outer_step(layout, theta, roster, alpha, out=theta)
    if codec == "templar":
        roster[1] = Sparse(roster[1].scales.clone(), roster[1].indices, roster[1].codes)
        for level in (math.inf, math.nan, 3e38, -33.0):
            roster[1].scales[1, 2] = level
            with pytest.raises(ValueError, match=r"contribution 1 of the roster has a level of 1-D run beyond ±32"):
                outer_step(layout, theta, roster, 1.0, out=theta)
    assert torch.equal(theta, before)
    largest = compress(layout, torch.full((layout.parameters,), 3e38))
    assert torch.isfinite(outer_step(layout, theta, [largest] * 3, 1e9).theta).all()


def test_in_place_is_the_same_step() -> None:
    layout = LAYOUTS["row1"]
    theta, roster = made_up(layout.parameters, 5), [compress(layout, made_up(layout.parameters))]
    fresh = outer_step(layout, theta, roster, 0.5).theta
    again = outer_step(layout, theta, roster, 0.5, out=theta)
    assert again.theta is theta
    assert torch.equal(theta, fresh)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("covenant", CompressionConfig("covenant", error_feedback_decay=0.95)),
        ("row1", CompressionConfig()),
        ("row1:32", CompressionConfig("row1", kept_per_chunk=128)),
        ("row1:256", CompressionConfig("row1", kept_per_chunk=16)),
    ],
)
def test_names_of_codecs(text: str, config: CompressionConfig) -> None:
    assert compression_named(text) == config
    Layout.of(SHAPES, config)


@pytest.mark.parametrize("text", ["", "row2", "row1:", "row1:8", "row1:63", "topk2:64"])
def test_names_that_are_no_codecs(text: str) -> None:
    with pytest.raises(ValueError, match="none of"):
        compression_named(text)
