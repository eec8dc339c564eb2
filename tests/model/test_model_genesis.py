"""`python -m model.genesis` as a process, and the model it makes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import corpus, dataset, genesis, inner, tokenizer
from model.config import PRESETS, InnerConfig
from model.data import TokenPool, assigned_sequences
from model.evaluate import mean_loss
from model.transformer import build, flatten, unflatten_


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model.genesis", "--preset", "nano", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("genesis") / "new"
    done = run("--out", out, "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stderr.count("genesis: ") >= 3
    return out, json.loads(done.stdout.splitlines()[-1])


def test_everything_a_run_needs_is_there(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    assert summary["preset"] == "nano" and summary["model"] == asdict(PRESETS["nano"])
    assert summary["parameters"] == 918_656
    assert 0 < summary["inner_step_seconds"] < 60
    names = {"tokenizer.json", "train-000.tok", "heldout.tok", "theta.bin"}
    assert {path.name for path in out.iterdir()} == names
    assert summary["train_shards"] == ["train-000.tok"]
    assert (out / "train-000.tok").stat().st_size == 2 * summary["train_tokens"]
    assert (out / summary["heldout_shard"]).stat().st_size == 2 * summary["heldout_tokens"]
    assert 0.04 < summary["heldout_tokens"] / summary["train_tokens"] < 0.07


def test_files_hold_the_text_and_the_seeds_model(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    loaded = tokenizer.load((out / summary["tokenizer"]).read_bytes())
    assert loaded.vocabulary_size == 1024
    files = (*summary["train_shards"], summary["heldout_shard"])
    assert "".join(loaded.decode(np.fromfile(out / name, "<u2")) for name in files) == corpus.text()
    theta = np.fromfile(out / summary["theta"], "<f4")
    assert torch.equal(torch.from_numpy(theta), flatten(build(PRESETS["nano"], 7)))


def test_nano_learns(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    torch.set_num_threads(1)
    config, model = InnerConfig(), build(PRESETS["nano"], 0)
    unflatten_(model, torch.from_numpy(np.fromfile(out / summary["theta"], "<f4")))
    pool = TokenPool([out / "train-000.tok"], 128, vocabulary_size=1024)
    heldout = TokenPool([out / "heldout.tok"], 128, vocabulary_size=1024)
    optimizer = inner.make_optimizer(model, config)
    order = assigned_sequences("11" * 32, pool.sequences, 4 * 60)
    before = mean_loss(model, heldout, range(32), 8)
    for step in range(60):
        batch = pool.batch(order[4 * step : 4 * step + 4])
        inner.inner_step(model, optimizer, batch, inner.learning_rate(config, step), config.gradient_clip)
    assert before == pytest.approx(6.93, abs=0.1)
    assert mean_loss(model, heldout, range(32), 8) < before - 1.5


def test_same_input_same_files_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD_BYTES", 100_000)
    text = corpus.text()[:300_000]
    first, second = (genesis.make(tmp_path / name, "nano", 1, text, InnerConfig()) for name in "ab")
    assert len(first["train_shards"]) > 1
    for name in (*first["train_shards"], "heldout.tok", "theta.bin", "tokenizer.json"):
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert not name.endswith(".tok") or len(content) <= 100_000
    assert {**first, "inner_step_seconds": 0} == {**second, "inner_step_seconds": 0}


def test_tokens_made_before_are_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, data = corpus.text()[:100_000], tmp_path / "data"
    files = dataset.make(data, text, 1024)
    whole = genesis.make(tmp_path / "whole", "nano", 1, text, InnerConfig())
    taken = genesis.make(tmp_path / "taken", "nano", 1, data, InnerConfig())
    assert {**whole, "inner_step_seconds": 0} == {**taken, "inner_step_seconds": 0}
    for name in (*files.names, "theta.bin"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "taken" / name).read_bytes()
    (data / "heldout.tok").write_bytes((data / "heldout.tok").read_bytes()[:-2])
    _refused(data, "not as long as data.json says", capsys)
    (data / "data.json").write_text(json.dumps({**asdict(files), "heldout_shard": "../data/heldout.tok"}))
    _refused(data, "a name in it is a path", capsys)
    dataset.make(data, text, 1100)
    _refused(data, "a vocabulary of 1100, the model only one of 1024", capsys)
    (data / "data.json").write_text("{}")
    _refused(data, "is not what `covenantd data` writes", capsys)


def _refused(data: Path, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "out"
    assert genesis.main(["--preset", "nano", "--out", str(out), "--data", str(data)]) == 78
    assert says in capsys.readouterr().err and not out.exists()


def test_bad_text_is_one_line_and_78(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 1000)
    done = run("--out", tmp_path / "out", "--text", tmp_path / "binary")
    assert done.returncode == 78 and not done.stdout
    assert str(tmp_path / "binary") in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "no line end", "a few\n" * 40, "x\n" * 1000])
def test_short_text_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short").write_text(text)
    arguments = ["--preset", "nano", "--out", str(tmp_path / "out"), "--text", str(tmp_path / "short")]
    assert genesis.main(arguments) == 78
    captured = capsys.readouterr()
    assert "too short" in captured.err.splitlines()[-1] and not captured.out
    assert not (tmp_path / "out").exists()


def test_missing_text_and_unstorable_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert genesis.main(["--preset", "nano", "--text", str(tmp_path / "none"), *out]) == 78
    assert "none" in capsys.readouterr().err
    assert genesis.main(["--preset", "8b", *out]) == 78
    assert "65536 (tokens are uint16)" in capsys.readouterr().err


def test_unwritable_directory_is_75(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file, not a directory")
    (tmp_path / "text").write_text(corpus.text()[:100_000])
    arguments = ["--preset", "nano", "--out", str(tmp_path / "out"), "--text", str(tmp_path / "text")]
    assert genesis.main(arguments) == 75
    assert "cannot write" in capsys.readouterr().err


def test_bad_arguments_are_usage_errors() -> None:
    assert os.EX_OK != run("--out", "/nonexistent", "--threads", "0").returncode == 2
