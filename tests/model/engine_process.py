"""A real engine process over a real unix socket, for tests."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import messages as m
from model import statehash, transformer
from model.config import CompressionConfig, InnerConfig, ModelConfig, TrainingConfig

RUN_ID = "ab" * 32
HOTKEY = "cd" * 32
KEY = "0123456789abcdef" * 4
TINY = TrainingConfig(
    run_id=RUN_ID,
    model=ModelConfig(vocabulary_size=96, width=72, layers=1, heads=2, kv_heads=1, feedforward_width=80, head_width=16),
    inner=InnerConfig(batch_sequences=2, sequence_tokens=16, warmup_steps=2),
    compression=CompressionConfig(),
    piece_bytes=4096,
)


def write_run(directory: Path) -> None:
    """θ_0, a train shard and a held-out shard with a pattern that can be learnt."""
    statehash.write_theta(str(directory / "theta.bin"), transformer.flatten(transformer.build(TINY.model, seed=1)))
    for name, seed, tokens in (("train.tok", 2, 8000), ("heldout.tok", 3, 800)):
        steps = np.random.default_rng(seed).integers(1, 3, tokens)
        (np.cumsum(steps) % TINY.model.vocabulary_size).astype("<u2").tofile(directory / name)


def load_message(directory: Path, state: str = "state", theta: str = "theta.bin", **changes: object) -> m.Load:
    fields: dict[str, object] = {
        "training": TINY.as_dict(),
        "round": 0,
        "theta_path": str(directory / theta),
        "train_shards": (str(directory / "train.tok"),),
        "heldout_shard": str(directory / "heldout.tok"),
        "state_directory": str(directory / state),
        "threads": 1,
        "device": "cpu",
    }
    return m.Load(**{**fields, **changes})  # type: ignore[arg-type]


class EngineProcess:
    """Starts `python -m model.worker`; a context manager that always reaps it."""

    def __init__(self, directory: Path, *arguments: str, name: str = "engine.sock") -> None:
        path = directory / name
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            command = [sys.executable, "-m", "model.worker", "--socket", str(path), *arguments]
            self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
            assert self.process.stderr
            listener.settimeout(60)
            self.socket, _ = listener.accept()
        self.socket.settimeout(60)
        self.events: list[Any] = []

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def send(self, message: m.Message) -> None:
        self.socket.sendall(m.encode(message))

    def receive(self) -> m.Message:
        return m.decode(self._exactly(m.frame_length(self._exactly(4))))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def ask(self, message: m.Message) -> m.Message:
        """Send and wait for the reply; events are kept aside."""
        self.send(message)
        while isinstance(reply := self.receive(), m.Progress | m.Traced | m.Alive):
            self.events.append(reply)
        return reply

    def exit_code(self) -> int:
        return self.process.wait(timeout=60)

    def errors(self) -> bytes:
        """All of stderr, once it has ended."""
        return self.process.stderr.read()


def read_theta(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(path, dtype="<f4"))
