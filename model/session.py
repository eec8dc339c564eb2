"""What the engine has in memory once a state is loaded, and how it is loaded."""

import string
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model import inner, optimizerfile, statehash, transformer
from model.adamw import AdamW
from model.config import TrainingConfig
from model.data import TokenPool
from model.errorfeedback import ErrorFeedback
from model.errors import InputError
from model.kernels import kernels_for
from model.layout import Layout
from model.messages import Load
from model.pulse import Beat

FEEDBACK_FILE = "ef.bin"
OPTIMIZER_FILE = "optimizer.bin"
BEHAVIORS = ("honest", "noise")


@dataclass(frozen=True, eq=False)
class Delta:
    """A trained round's pseudo-gradient θ - θ_end, fp32 [P], not yet in the error feedback."""

    round: int
    values: Tensor


@dataclass(eq=False)
class Session:
    """One run's state. θ is the shared state, always; the model is scratch, filled before each use."""

    config: TrainingConfig
    layout: Layout
    round: int
    theta: Tensor  # fp32 [P], CPU
    model: nn.Module
    device: torch.device
    optimizer: AdamW
    optimizer_steps: int  # inner steps of the run so far; the schedule's clock
    optimizer_saved: bool
    feedback: ErrorFeedback
    train_pool: TokenPool
    heldout_pool: TokenPool
    state_directory: Path
    behavior: str
    beat: Beat
    delta: Delta | None = None

    def state_hash(self) -> str:
        return statehash.state_hash(self.theta, self.config.piece_bytes)

    def fill_model(self, theta: Tensor) -> nn.Module:
        """The model with these parameters, fp32 [P]."""
        transformer.unflatten_(self.model, theta)
        return self.model

    def save_feedback(self) -> None:
        """Raises OSError."""
        self.feedback.save(self.state_directory / FEEDBACK_FILE)

    def save_optimizer(self) -> None:
        """Raises OSError."""
        if not self.optimizer_saved:
            path = self.state_directory / OPTIMIZER_FILE
            optimizerfile.save_optimizer(path, self.config.run_id, self.optimizer_steps, self.optimizer)
            self.optimizer_saved = True


def check_hex32(name: str, value: str) -> None:
    """Raises InputError unless `value` is 64 lower-case hex digits."""
    if len(value) != 64 or not set(value) <= set(string.hexdigits.lower()):
        raise InputError(f"{name} is not 64 hex digits: {value!r:.100}")


def open_session(load: Load, beat: Beat) -> Session:
    """Everything `load` names; a `beat` after each part. Raises InputError or OSError on bad fields and files."""
    config, layout = _configured(load)
    if load.behavior not in BEHAVIORS or load.threads < 1 or load.round < 0:
        raise InputError(f"bad load: behavior {load.behavior!r}, {load.threads} threads, round {load.round}")
    torch.set_num_threads(load.threads)
    theta = statehash.read_theta(load.theta_path, layout.parameters)
    beat()
    kernels_for(theta)  # compiled now, not in the middle of a round
    device = _device(load.device)
    model = transformer.Transformer(config.model).to(device)
    beat()
    optimizer = inner.make_optimizer(model, config.inner)
    directory = Path(load.state_directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    steps = _restore_optimizer(directory / OPTIMIZER_FILE, config.run_id, optimizer)
    beat()
    feedback = _feedback(directory / FEEDBACK_FILE, config, layout)
    beat()
    return Session(
        config=config,
        layout=layout,
        round=load.round,
        theta=theta,
        model=model,
        device=device,
        optimizer=optimizer,
        optimizer_steps=steps,
        optimizer_saved=True,
        feedback=feedback,
        train_pool=_pool(load.train_shards, config),
        heldout_pool=_pool((load.heldout_shard,), config),
        state_directory=directory,
        behavior=load.behavior,
        beat=beat,
    )


def _configured(load: Load) -> tuple[TrainingConfig, Layout]:
    try:
        config = TrainingConfig.from_dict(load.training)
        layout = Layout.of(transformer.parameter_layout(config.model), config.compression)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"bad training config: {error}") from error
    check_hex32("run id", config.run_id)
    if config.piece_bytes < 1:
        raise InputError(f"bad training config: pieces of {config.piece_bytes} bytes")
    return config, layout


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch's answers to an unknown or absent device
        raise InputError(f"device {name!r} cannot be used: {error}") from error


def _restore_optimizer(path: Path, run_id: str, optimizer: AdamW) -> int:
    return optimizerfile.load_optimizer(path, run_id, optimizer) if path.exists() else 0


def _feedback(path: Path, config: TrainingConfig, layout: Layout) -> ErrorFeedback:
    decay = config.compression.error_feedback_decay
    if path.exists():
        return ErrorFeedback.load(path, config.run_id, layout, decay)
    return ErrorFeedback(config.run_id, layout, decay)


def _pool(paths: tuple[str, ...], config: TrainingConfig) -> TokenPool:
    return TokenPool(paths, config.inner.sequence_tokens, vocabulary_size=config.model.vocabulary_size)
