"""What a miner's engine makes of its device: inner steps beside the device's own speed, and what a round costs around
them. On a GPU, training as we do it (matrix products in bf16) against the same in fp32.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from model import messages
from model.config import PRESETS, CompressionConfig, InnerConfig, ModelConfig, TrainingConfig

if TYPE_CHECKING:
    import torch

HELP = "inner steps of one engine beside its device's own speed, fp32 beside what we do, and the rest of a round"
KEY, HOTKEY, RUN_ID = "01" * 32, "cd" * 32, "ab" * 32
SIDE = 8192  # of the matrices whose product says what a GPU can do
CPU_SIDE = 1024
ROSTER = 8
SCORED_SEQUENCES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER (auto)")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="model preset (150m on a GPU, else nano)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="inner steps that are timed (20)")
    parser.add_argument("--batch-sequences", type=int, default=8, metavar="N", help="sequences a step (8)")
    parser.add_argument("--sequence-tokens", type=int, default=1024, metavar="N", help="tokens a sequence (1024)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if args.device == "auto" else args.device)
    on_gpu = device.type == "cuda"
    preset = args.preset or ("150m" if on_gpu else "nano")
    inner = InnerConfig(batch_sequences=args.batch_sequences, sequence_tokens=args.sequence_tokens)
    training = TrainingConfig(RUN_ID, PRESETS[preset], inner, CompressionConfig(), piece_bytes=4 << 20)
    with tempfile.TemporaryDirectory(prefix="engine-") as directory:
        measured = _Rounds(Path(directory), device, args.steps)
        loaded = measured.answer(_load(training, Path(directory), args))
        as_we_do = measured.training()
        rest = measured.rest(loaded.state_hash)
        with patch("model.inner.training_precision", lambda _: nullcontext()):
            fp32 = measured.training()
    share = as_we_do.tokens_per_second * flops_per_token(training.model, inner.sequence_tokens) / _peak_flops(device)
    gain = as_we_do.tokens_per_second / fp32.tokens_per_second
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "parameters": loaded.parameters,
        "training": [{"as": "we do", **vars(as_we_do)}, {"as": "fp32", **vars(fp32)}],
        "over_fp32": gain,
        "share_of_matrix_speed": share,
        "rest_of_a_round": rest,
        "kept": on_gpu,
        "bounds": [{"what": "over fp32, at least", "value": gain, "bound": 2.0, "met": gain >= 2.0}] if on_gpu else [],
    }


def _load(training: TrainingConfig, directory: Path, args: argparse.Namespace) -> messages.Load:
    import numpy as np

    from model import statehash, transformer

    statehash.write_theta(str(directory / "theta"), transformer.flatten(transformer.build(training.model, seed=1)))
    span = min(training.model.vocabulary_size, 1 << 16)
    for name, tokens in (("train", 4 << 20), ("heldout", 1 << 18)):
        steps = np.random.default_rng(tokens).integers(1, 3, tokens)
        (np.cumsum(steps) % span).astype("<u2").tofile(directory / name)
    return messages.Load(
        training=training.as_dict(),
        round=0,
        theta_path=str(directory / "theta"),
        train_shards=(str(directory / "train"),),
        heldout_shard=str(directory / "heldout"),
        state_directory=str(directory / "state"),
        threads=args.threads,
        device=args.device,
    )


@dataclass(frozen=True)
class Training:
    tokens_per_second: float
    loss: float
    gpu_memory_mb: float


class _Rounds:
    """Of one engine, in this process."""

    def __init__(self, directory: Path, device: "torch.device", steps: int) -> None:
        from model.engine import Engine

        self._path, self._theta = str(directory / "contribution"), str(directory / "theta-1")
        self._device, self._steps, self._round = device, steps, 0
        self._events: list[Any] = []
        self._engine = Engine(allow_faults=False, emit=self._events.append, should_stop=lambda: False)

    def answer(self, request: Any) -> Any:
        """No failure."""
        reply = self._engine.answer(request)
        assert not isinstance(reply, messages.Failed), reply
        return reply

    def training(self) -> Training:
        """After as many steps that are not counted as a kernel needs to be chosen."""
        _reset_peak(self._device)
        self.answer(messages.Train(self._round, KEY, 3))
        trained = self.answer(messages.Train(self._round, KEY, self._steps))
        last = [event for event in self._events if isinstance(event, messages.Progress)][-1]
        return Training(trained.tokens / trained.seconds, trained.loss, last.gpu_memory_bytes / 1e6)

    def rest(self, base: str) -> dict[str, float]:
        """Seconds of what comes after the training of a round."""
        path, round, hotkeys = self._path, self._round, (HOTKEY,) * ROSTER
        requests = {
            "seal": messages.Seal(round, base, HOTKEY, path),
            "score one contribution": messages.Score(
                round, (path,), (KEY,), (self._steps,), KEY, 1.0, SCORED_SEQUENCES
            ),
            f"advance by {ROSTER}": messages.Advance(round, (path,) * ROSTER, hotkeys, base, 1.0, True, self._theta),
        }
        self._round += 1
        return {name: _timed(lambda request=request: self.answer(request)) for name, request in requests.items()}


def flops_per_token(model: ModelConfig, sequence_tokens: int) -> float:
    """Of training: 6 for each weight of a matrix product, and attention's two products with half of the tokens."""
    from model.transformer import parameter_layout

    matrices = sum(shape[0] * shape[1] for _, shape in parameter_layout(model) if len(shape) == 2)
    if not model.tied_embeddings:
        matrices -= model.vocabulary_size * model.width  # looked up, not multiplied
    return 6.0 * matrices + 6.0 * model.layers * sequence_tokens * model.heads * model.head_width


def _peak_flops(device: "torch.device") -> float:
    """Of one large matrix product, in bf16 on a GPU and fp32 on a CPU."""
    import torch

    gpu = device.type == "cuda"
    side = SIDE if gpu else CPU_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32) for _ in range(2))

    def products(count: int = 10) -> None:
        for _ in range(count):
            a @ b
        if gpu:
            torch.cuda.synchronize(device)

    products()
    return 2.0 * side**3 * 10 / _timed(products)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _reset_peak(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
