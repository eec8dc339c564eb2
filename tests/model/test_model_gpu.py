"""The engine on a GPU, beside the same on a CPU: run where there is one, `python -m pytest tests/model`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_process import HOTKEY, KEY, TINY, EngineProcess, load_message, read_theta, write_run

from model import inner, transformer
from model import messages as m
from model.config import PRESETS, InnerConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that torch can use")
STEPS = 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


@pytest.fixture
def gpu(directory: Path) -> Iterator[EngineProcess]:
    with EngineProcess(directory, name="gpu.sock") as engine:
        yield engine


@pytest.fixture
def cpu(directory: Path) -> Iterator[EngineProcess]:
    with EngineProcess(directory, name="cpu.sock") as engine:
        yield engine


def load(engine: EngineProcess, directory: Path, device: str, **changes: object) -> m.Loaded:
    state = str(changes.pop("state", f"state-{device}"))
    loaded = engine.ask(load_message(directory, state=state, device=device, **changes))
    assert isinstance(loaded, m.Loaded), loaded
    return loaded


def ask(engine: EngineProcess, request: m.Message) -> m.Message:
    reply = engine.ask(request)
    assert not isinstance(reply, m.Failed), reply
    return reply


def last_progress(engine: EngineProcess) -> m.Progress:
    return [event for event in engine.events if isinstance(event, m.Progress)][-1]


def train_and_seal(engine: EngineProcess, base: str, path: Path) -> m.Trained:
    trained = ask(engine, m.Train(0, KEY, STEPS))
    assert isinstance(trained, m.Trained)
    ask(engine, m.Seal(0, base, HOTKEY, str(path)))
    return trained


def advance(engine: EngineProcess, base: str, contributions: list[Path], theta: Path) -> m.Advanced:
    paths = tuple(map(str, contributions))
    advanced = ask(engine, m.Advance(0, paths, (HOTKEY,) * len(paths), base, 1.0, True, str(theta)))
    assert isinstance(advanced, m.Advanced)
    return advanced


def test_on_a_gpu_and_on_a_cpu_they_hold_the_same_bits(directory: Path, gpu: EngineProcess, cpu: EngineProcess) -> None:
    base = {load(gpu, directory, "cuda").state_hash, load(cpu, directory, "cpu").state_hash}
    (base_hash,) = base
    paths = [directory / "gpu", directory / "cpu"]
    on_gpu, on_cpu = (train_and_seal(engine, base_hash, path) for engine, path in zip((gpu, cpu), paths, strict=True))
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=0.02)  # one trains in bf16
    assert (on_gpu.nonfinite_steps, on_gpu.inner_steps) == (0, STEPS)
    assert last_progress(gpu).gpu_memory_bytes > 0 == last_progress(cpu).gpu_memory_bytes
    assert paths[0].read_bytes() != paths[1].read_bytes()
    thetas = [directory / "theta-gpu", directory / "theta-cpu"]
    first, second = (advance(e, base_hash, paths, t) for e, t in zip((gpu, cpu), thetas, strict=True))
    assert first.state_hash == second.state_hash != base_hash
    assert thetas[0].read_bytes() == thetas[1].read_bytes()
    losses = [ask(engine, m.Evaluate(16)).loss for engine in (gpu, cpu)]  # type: ignore[attr-defined]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_validator_scores_alike_on_both(directory: Path, gpu: EngineProcess, cpu: EngineProcess) -> None:
    base = load(gpu, directory, "cuda").state_hash
    train_and_seal(gpu, base, directory / "c")
    load(cpu, directory, "cpu")
    request = m.Score(0, (str(directory / "c"),), (KEY,), (STEPS,), "77" * 32, 1.0, 16)
    on_gpu, on_cpu = _gains(ask(gpu, request)), _gains(ask(cpu, request))
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2) and min(on_gpu) > 0


def _gains(scored: m.Message) -> tuple[float, float]:
    assert isinstance(scored, m.Scored)
    return scored.random_before - scored.random_after[0], scored.assigned_before[0] - scored.assigned_after[0]


def test_a_miner_moves_from_one_device_to_the_other(directory: Path, gpu: EngineProcess, cpu: EngineProcess) -> None:
    """Error feedback and moments are the state's, not the device's."""
    base = load(cpu, directory, "cpu", state="moved").state_hash
    train_and_seal(cpu, base, directory / "c")
    for engine, device in ((gpu, "cuda"), (cpu, "cpu")):
        loaded = load(engine, directory, device, state="moved")
        assert (loaded.trained_round, loaded.pending_rounds) == (0, (0,))
    load(gpu, directory, "cuda", state="moved")
    trained = ask(gpu, m.Train(1, KEY, 2))
    assert isinstance(trained, m.Trained) and trained.nonfinite_steps == 0
    assert last_progress(gpu).learning_rate < TINY.inner.peak_learning_rate  # past the warm-up: the steps were counted


def test_a_trace_shows_the_gpus_kernels(directory: Path, gpu: EngineProcess) -> None:
    load(gpu, directory, "cuda")
    gpu.send(m.Profile(2, str(directory / "trace.json")))
    ask(gpu, m.Train(0, KEY, 5))
    assert m.Traced(str(directory / "trace.json"), 2) in gpu.events
    events = json.loads((directory / "trace.json").read_text())["traceEvents"]
    assert any(one.get("cat") == "kernel" for one in events)


def test_an_absent_gpu_is_named(directory: Path, gpu: EngineProcess) -> None:
    failed = gpu.ask(load_message(directory, device="cuda:99"))
    assert isinstance(failed, m.Failed) and failed.kind == "input" and "cuda:99" in failed.message


def test_products_are_in_bf16_and_what_is_kept_in_fp32() -> None:
    model = transformer.build(PRESETS["nano"], seed=1).to("cuda")
    seen = []
    model.layers[0].mlp.gate_proj.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    inner.inner_step(model, inner.make_optimizer(model, InnerConfig()), torch.ones(2, 9).long().to("cuda"), 1e-3, 1.0)
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in model.parameters()} | {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_bf16_learns_what_fp32_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_losses(exact: bool) -> float:
        if exact:
            monkeypatch.setattr(inner, "training_precision", lambda _: torch.autocast("cuda", enabled=False))
        config = PRESETS["nano"]
        model = transformer.build(config, seed=1).to("cuda")
        optimizer = inner.make_optimizer(model, InnerConfig())
        torch.manual_seed(1)
        tokens = (torch.randint(1, 3, (400, 8, 129)).cumsum(-1) % config.vocabulary_size).to("cuda")
        rates = [inner.learning_rate(InnerConfig(), step) for step in range(len(tokens))]
        steps = [inner.inner_step(model, optimizer, b, lr, 1.0) for b, lr in zip(tokens, rates, strict=True)]
        return sum(step.loss for step in steps[-50:]) / 50

    bf16, fp32 = last_losses(exact=False), last_losses(exact=True)
    assert bf16 == pytest.approx(fp32, rel=0.02)


def test_theta_is_read_as_written(directory: Path, gpu: EngineProcess) -> None:
    """Into the GPU and back, unchanged: a round of no steps has a pseudo-gradient of zero."""
    load(gpu, directory, "cuda")
    ask(gpu, m.Train(0, KEY, 0))
    sealed = ask(gpu, m.Seal(0, "ab" * 32, HOTKEY, None))
    assert isinstance(sealed, m.Sealed) and sealed.error_feedback_norm == 0
    assert read_theta(directory / "theta.bin").any()
