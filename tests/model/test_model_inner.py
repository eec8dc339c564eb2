"""The schedule, the optimiser against torch's, its file, and the loss of a model."""

import errno
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import adamw, atomicfile
from model.config import InnerConfig, ModelConfig
from model.data import TokenPool
from model.errors import StateError
from model.evaluate import mean_loss
from model.inner import (
    inner_step,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
    save_optimizer,
)
from model.transformer import Transformer, build, flatten

TINY = ModelConfig(61, 24, 2, 4, 2, 40, 8)
INNER = InnerConfig()
RUN = "ab" * 32


def batch(seed: int) -> Tensor:
    return torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(seed))


def trained(steps: int) -> tuple[Transformer, adamw.AdamW]:
    model = build(TINY, 0)
    optimizer = make_optimizer(model, INNER)
    for step in range(steps):
        inner_step(model, optimizer, batch(step), 1e-2, 1.0)
    return model, optimizer


def test_schedule_rises_falls_and_stays() -> None:
    config = replace(INNER, peak_learning_rate=2.0, warmup_steps=4, decay_steps=100, final_learning_rate_ratio=0.1)
    rates = [learning_rate(config, step) for step in range(300)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[54] == pytest.approx(2.0 * 0.55)  # half of the way down
    assert all(a > b for a, b in zip(rates[4:104], rates[5:105], strict=True))
    assert rates[104:] == pytest.approx([0.2] * 196)


def test_schedule_without_warmup_or_decay() -> None:
    config = replace(INNER, peak_learning_rate=1.0, warmup_steps=0, decay_steps=0)
    assert [learning_rate(config, step) for step in (0, 1, 50)] == pytest.approx([1.0, 0.1, 0.1])


def test_steps_are_torchs_adamw_to_the_bit() -> None:
    ours, reference = build(TINY, 0), build(TINY, 0)
    optimizer = make_optimizer(ours, INNER)
    parameters = list(reference.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": INNER.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    torchs = torch.optim.AdamW(groups, betas=(INNER.beta1, INNER.beta2), fused=True)
    for step in range(5):
        rate = 1e-2 / (step + 1)
        result = inner_step(ours, optimizer, batch(step), rate, 0.5)
        loss = reference.loss(batch(step))
        torchs.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        for group in torchs.param_groups:
            group["lr"] = rate
        torchs.step()
        assert result == (float(loss.detach()), float(norm))
        assert result.finite and result.gradient_norm > 0.5  # clipping was at work
        assert torch.equal(flatten(ours), flatten(reference))


def test_repeated_batch_is_learned() -> None:
    model = build(TINY, 0)
    optimizer = make_optimizer(model, INNER)
    losses = [inner_step(model, optimizer, batch(0), 1e-2, 1.0).loss for _ in range(40)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_reported(poison: float) -> None:
    model, optimizer = trained(2)
    before = optimizer_state(optimizer)
    with torch.no_grad():
        healthy = model.norm.weight[3].item()
        model.norm.weight[3] = poison
    theta = flatten(model)
    result = inner_step(model, optimizer, batch(7), 1e-2, 1.0)
    assert not result.finite
    assert torch.equal(flatten(model).nan_to_num(), theta.nan_to_num())
    assert all(torch.equal(before[name], now) for name, now in optimizer_state(optimizer).items())
    with torch.no_grad():
        model.norm.weight[3] = healthy
    assert inner_step(model, optimizer, batch(7), 1e-2, 1.0).finite


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_skipped() -> None:
    model, optimizer = trained(2)
    theta = flatten(model)
    model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    result = inner_step(model, optimizer, batch(7), 1e-2, 1.0)
    assert math.isfinite(result.loss) and not result.finite
    assert torch.equal(flatten(model), theta)


def test_state_goes_round_and_training_continues_to_the_bit() -> None:
    model, optimizer = trained(3)
    copy = build(TINY, 1)
    copy.load_state_dict(model.state_dict())
    resumed = make_optimizer(copy, INNER)
    restore_optimizer(resumed, optimizer_state(optimizer))
    for m, o in ((model, optimizer), (copy, resumed)):
        inner_step(m, o, batch(9), 1e-2, 1.0)
    assert torch.equal(flatten(model), flatten(copy))


def test_moments_lie_in_layout_order() -> None:
    model, optimizer = trained(1)
    gradients = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(optimizer_state(optimizer)["exp_avg"], 0.1 * gradients)


def test_state_of_another_size_is_refused() -> None:
    _, optimizer = trained(1)
    small = {"exp_avg": torch.zeros(5), "exp_avg_sq": torch.zeros(5), "step": torch.tensor(1.0)}
    with pytest.raises(StateError, match="want moments of"):
        restore_optimizer(optimizer, small)


def test_file_goes_round(tmp_path: Path) -> None:
    _, optimizer = trained(3)
    save_optimizer(tmp_path / "o", RUN, 17, optimizer)
    _, other = trained(0)
    assert load_optimizer(tmp_path / "o", RUN, other) == 17
    for name, value in optimizer_state(optimizer).items():
        assert torch.equal(value, optimizer_state(other)[name])
    assert [p.name for p in tmp_path.iterdir()] == ["o"]


def damaged(content: bytes) -> list[bytes]:
    flipped = [bytes(b ^ (i == at) for i, b in enumerate(content)) for at in (0, 9, 41, 60, 5000, len(content) - 1)]
    return [b"", content[:50], content[:-1], content + b"\0", *flipped]


def test_torn_damaged_and_foreign_files_are_refused_and_change_nothing(tmp_path: Path) -> None:
    _, optimizer = trained(2)
    save_optimizer(tmp_path / "o", RUN, 1, optimizer)
    before = optimizer_state(optimizer)
    for content in damaged((tmp_path / "o").read_bytes()):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(StateError, match="bad"):
            load_optimizer(tmp_path / "bad", RUN, optimizer)
    with pytest.raises(StateError, match="another run"):
        load_optimizer(tmp_path / "o", "cd" * 32, optimizer)
    with pytest.raises(StateError, match="bytes, want"):
        load_optimizer(tmp_path / "o", RUN, make_optimizer(build(replace(TINY, layers=1), 0), INNER))
    with pytest.raises(StateError, match="missing"):
        load_optimizer(tmp_path / "missing", RUN, optimizer)
    assert all(torch.equal(before[name], now) for name, now in optimizer_state(optimizer).items())


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer = trained(1)
    save_optimizer(tmp_path / "o", RUN, 1, optimizer)
    old = (tmp_path / "o").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomicfile.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_optimizer(tmp_path / "o", RUN, 2, optimizer)
    assert (tmp_path / "o").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["o"]


def test_mean_loss_weighs_every_sequence_alike(tmp_path: Path) -> None:
    tokens = torch.randint(0, 61, (16 * 9 + 1,), generator=torch.Generator().manual_seed(2))
    tokens.numpy().astype("<u2").tofile(tmp_path / "s")
    pool, model = TokenPool([tmp_path / "s"], 16), build(TINY, 0)
    indices = [0, 3, 8, 5, 1]
    each = [float(model.loss(pool.batch([i])).detach()) for i in indices]
    for batch_sequences in (1, 2, 3, 8):
        assert mean_loss(model, pool, indices, batch_sequences) == pytest.approx(sum(each) / 5, rel=1e-6)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="nothing to evaluate"):
        mean_loss(model, pool, [], 4)
