"""The outer step and the state hash: golden bits, whatever the threads."""

import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from test_model_codecs import STATES

from model import aggregate, statehash
from model.compress import compress
from model.config import CompressionConfig
from model.errors import StateError
from model.groups import Group
from model.layout import Layout
from model.outer import outer_step
from model.sparse import Sparse, dense, total_norm

LAYOUT = Layout.of((("a", (300, 500)), ("n", (700,)), ("b", (64, 128))), CompressionConfig("covenant"))
GOLDEN_STATE = "72bc36e8b6ab36dd1470684d41cecb0286bfe465c0287f9cd4c0347e21472a77"


def made_up(parameters: int, seed: int) -> torch.Tensor:
    """Values that are the same on every machine: exact in fp32, no generator involved."""
    numbers = (torch.arange(1, parameters + 1, dtype=torch.int64) + seed * 7919) * 2654435761 % 65521 - 32760
    return numbers.to(torch.float32) / 65536


def roster(count: int) -> list[Sparse]:
    return [compress(LAYOUT, made_up(LAYOUT.parameters, seed) * (1 + seed / 4)) for seed in range(count)]


def positions_in(group: Group, sparse: Sparse) -> np.ndarray:
    """int64 [n], in θ, of the entries of a group."""
    rows = slice(group.first, group.stop)
    return group.in_theta(group.places(sparse.indices[rows].long())[LAYOUT.present[rows]]).numpy()


def final_hash(threads: int) -> str:
    torch.set_num_threads(threads)
    theta = made_up(LAYOUT.parameters, 99)
    for round_ in range(3):
        theta = outer_step(LAYOUT, theta, roster(4 + round_), 0.7).theta
    return statehash.state_hash(theta, 65536)


IN_A_PROCESS = """
import sys; sys.path.insert(0, {here!r})
import test_model_outer as outer, test_model_codecs as codecs
print(outer.final_hash({threads}), *(codecs.final_hash(codec) for codec in codecs.STATES))
"""


@pytest.mark.parametrize(
    ("threads", "capability", "disabled"),
    [(1, "default", "X86_V3 X86_V4 AVX2 FMA3 AVX512F"), (3, "avx2", "X86_V4 AVX512F")],
)
def test_golden_hashes_of_all_codecs_for_any_threads_and_vector_width(
    threads: int, capability: str, disabled: str
) -> None:
    command = IN_A_PROCESS.format(here=str(Path(__file__).parent), threads=threads)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ATEN_CPU_CAPABILITY": capability}
    environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(name for name in disabled.split() if _has(name))
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [GOLDEN_STATE, *STATES.values()]


def _has(feature: str) -> bool:
    """numpy refuses to start if told to do without what the machine, or its own build, has not."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # type: ignore[index]
    return feature in found


def test_it_equals_a_scalar_reckoning_in_numpy() -> None:
    """One fp32 operation at a time, from the paper's rule as written, on each coordinate."""
    sparses = roster(5)
    theta = made_up(LAYOUT.parameters, 99)
    expected = np.zeros(LAYOUT.parameters, np.float32)
    for group in LAYOUT.groups:
        values = [
            (positions := positions_in(group, sparse), dense(LAYOUT, sparse).numpy()[positions]) for sparse in sparses
        ]
        norms = [math.sqrt(math.fsum(float(v) ** 2 for v in found)) for _, found in values]
        median = sorted(norms)[2]
        for (positions, found), norm in zip(values, norms, strict=True):
            clip = median / norm if norm > median else 1.0
            factor = np.float32(clip * 0.2 * float(np.float32(0.7)))
            for position, value in zip(positions, found, strict=True):
                expected[position] = np.float32(expected[position] + np.float32(value * factor))
    step = expected
    result = outer_step(LAYOUT, theta, sparses, 0.7)
    assert np.array_equal(result.theta.numpy(), theta.numpy() - step)
    assert result.clipped == 2 * len(LAYOUT.groups)
    assert result.update_norm == pytest.approx(float(np.linalg.norm(step.astype(np.float64))))
    assert torch.equal(theta, made_up(LAYOUT.parameters, 99))  # not changed


def test_roster_order_is_part_of_the_step() -> None:
    theta = torch.zeros(LAYOUT.parameters)
    sparses = [compress(LAYOUT, made_up(LAYOUT.parameters, 0) * size) for size in (1.0, 1.2, 1.5, 2.3, 3.3)]
    forward = outer_step(LAYOUT, theta, sparses, 1.0).theta
    backward = outer_step(LAYOUT, theta, sparses[::-1], 1.0).theta
    assert not torch.equal(forward, backward)
    torch.testing.assert_close(forward, backward)


def test_a_void_round_leaves_theta() -> None:
    theta = made_up(LAYOUT.parameters, 99)
    result = outer_step(LAYOUT, theta, [], 0.7)
    assert result.theta is theta
    assert (result.update_norm, result.clipped) == (0.0, 0)


def test_the_median_is_the_lower_one_and_zero_norms_have_no_say() -> None:
    assert aggregate.clip_factors([1.0, 2.0, 3.0, 4.0]) == [None, None, 2.0 / 3.0, 0.5]
    assert aggregate.clip_factors([4.0]) == [None]
    assert aggregate.clip_factors([0.0, 0.0, 0.0, 5.0]) == [None] * 4
    assert aggregate.clip_factors([0.0, 5.0, 10.0]) == [None, None, 0.5]
    assert aggregate.clip_factors([0.0, 0.0]) == [None, None]


def test_a_contribution_of_zeros_only_divides() -> None:
    theta = torch.zeros(LAYOUT.parameters)
    one = roster(1)[0]
    nothing = compress(LAYOUT, torch.zeros(LAYOUT.parameters))
    assert total_norm(LAYOUT, nothing) == 0.0
    alone = outer_step(LAYOUT, theta, [one], 1.0).theta
    assert torch.equal(outer_step(LAYOUT, theta, [nothing, one], 1.0).theta, alone / 2)


def test_a_huge_contribution_is_clipped_to_the_others() -> None:
    theta = torch.zeros(LAYOUT.parameters)
    flat = made_up(LAYOUT.parameters, 0) / 64
    honest = [compress(LAYOUT, flat)] * 2
    huge = compress(LAYOUT, flat * -512)
    loud = outer_step(LAYOUT, theta, [*honest, huge], 1.0)
    fair = outer_step(LAYOUT, theta, [*honest, compress(LAYOUT, -flat)], 1.0)
    assert loud.clipped == len(LAYOUT.groups)
    torch.testing.assert_close(loud.theta, fair.theta, rtol=1e-5, atol=1e-8)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.integers(1, 50))
def test_the_state_hash_is_the_blob_id_as_documented(values: list[float], piece_bytes: int) -> None:
    theta = torch.tensor(values, dtype=torch.float32)
    data = struct.pack(f"<{len(values)}f", *values)
    pieces = b"".join(blake3(data[at : at + piece_bytes]).digest() for at in range(0, len(data), piece_bytes))
    head = b"covenantd blob 1\0" + len(data).to_bytes(8, "little") + piece_bytes.to_bytes(4, "little")
    assert statehash.state_hash(theta, piece_bytes) == blake3(head + pieces).hexdigest()


def test_one_bit_anywhere_changes_the_state_hash() -> None:
    theta = made_up(1000, 0)
    hashes = {statehash.state_hash(theta, 256)}
    for parameter, bit in ((0, 0), (63, 31), (64, 0), (999, 17)):
        flipped = theta.clone()
        flipped.numpy().view(np.uint32)[parameter] ^= np.uint32(1 << bit)
        hashes.add(statehash.state_hash(flipped, 256))
    assert len(hashes) == 5


def test_theta_files(tmp_path: Path) -> None:
    path, theta = tmp_path / "theta", made_up(1000, 0)
    statehash.write_theta(str(path), theta)
    assert path.read_bytes() == theta.numpy().tobytes()
    assert torch.equal(statehash.read_theta(str(path), 1000), theta)
    for parameters, reason in ((999, "4000 bytes"), (1001, "4000 bytes")):
        with pytest.raises(StateError, match=reason):
            statehash.read_theta(str(path), parameters)
    for bad in (math.nan, math.inf, -math.inf):
        statehash.write_theta(str(path), torch.tensor([1.0, bad]))
        with pytest.raises(StateError, match="not finite"):
            statehash.read_theta(str(path), 2)
    with pytest.raises(StateError, match="No such file"):
        statehash.read_theta(str(tmp_path / "absent"), 2)
