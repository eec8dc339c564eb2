"""The compiled loops against torch's: the same bits."""

import sys

import pytest
import torch
from test_model_codecs import BIG, STATES, codecs, final_hash, made_up

from model import kernels, rowmax
from model.config import CompressionConfig
from model.layout import Layout


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> kernels.Kernels:
    monkeypatch.setattr(kernels, "LEAST_PARAMETERS", 0)
    found = kernels.compiled()
    assert found is not None, "numba belongs to the extra `test`"
    return found


@codecs
@pytest.mark.usefixtures("compiled")
def test_the_same_state_as_torch(codec: str) -> None:
    """`STATES` are torch's, in test_model_codecs."""
    assert final_hash(codec) == STATES[codec]


def test_ties_extremes_and_either_sign(compiled: kernels.Kernels) -> None:
    rows = torch.tensor([[0.0, -0.0], [-1.0, 1.0], [1.0, -1.0], [1e-45, 0.0], [3e38, -3.4e38], [-1e-45, 2e-45]])
    rows = torch.cat([rows, made_up(20).view(-1, 2)])
    columns, values = compiled.largest(rows)
    wanted, found = rowmax.largest(rows)
    assert torch.equal(columns, wanted) and torch.equal(values.view(torch.int32), found.view(torch.int32))
    assert columns[:5].tolist() == [0, 0, 0, 0, 1]


def test_only_large_models_and_only_with_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.kernels_for(torch.zeros(Layout.of(BIG, CompressionConfig()).parameters)) is None
    monkeypatch.setattr(kernels, "LEAST_PARAMETERS", 0)
    assert kernels.kernels_for(torch.zeros(1)) is not None
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it is not installed, or does not fit this numpy
    kernels.compiled.cache_clear()
    assert kernels.kernels_for(torch.zeros(1)) is None
    kernels.compiled.cache_clear()
