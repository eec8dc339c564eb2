"""The state hash, computed by the engine, is the id under which peers exchange the state: two packages that never
import each other must agree to the bit."""

from pathlib import Path

import pytest
import torch

from model.statehash import state_hash, write_theta
from p2p.blobs import BlobStore


@pytest.mark.parametrize("parameters", [1, 1023, 1024, 1025, 70_000])
def test_a_state_is_addressed_by_its_hash(tmp_path: Path, parameters: int) -> None:
    theta = torch.randn(parameters, generator=torch.Generator().manual_seed(parameters))
    path = tmp_path / "theta.bin"
    write_theta(path, theta)
    assert BlobStore(tmp_path / "blobs").adopt(path, 4096) == state_hash(theta, 4096)
