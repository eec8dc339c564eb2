"""`covenantd export` on a state directory, and `covenantd data`: the daemon's side of both."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_fixture import SPEC

from covenantd import cli, data, export, runspec
from covenantd.chain.keys import Hotkey
from covenantd.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_TRY_AGAIN
from covenantd.journal import Journal, PastRound
from covenantd.runspec import RunSpec
from model import corpus, tokenizer
from model.config import ModelConfig
from model.transformer import parameter_count
from p2p.blobs import BlobStore, whole_file

MODEL = ModelConfig(256, 16, 1, 2, 1, 24, 8)


@dataclass(frozen=True)
class Peer:
    """A state directory that has come to round 2; the state that round 1 began with is gone."""

    directory: Path
    spec: RunSpec
    states: tuple[bytes, ...]  # of rounds 0, 1, 2

    @property
    def blobs(self) -> Path:
        return self.directory / "state" / "blobs"

    def export(self, *words: object) -> int:
        out = self.directory / "out"
        return cli.main(
            ["export", "--config", str(self.directory / "covenantd.toml"), "--out", str(out), *map(str, words)]
        )

    def exported(self) -> bytes:
        data = (self.directory / "out" / "model.safetensors").read_bytes()
        return data[8 + struct.unpack("<Q", data[:8])[0] :]


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    store = BlobStore(tmp_path / "state" / "blobs")

    def adopted(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return store.adopt(tmp_path / name, SPEC.piece_bytes)

    generator = np.random.default_rng(5)
    states = tuple(generator.standard_normal(parameter_count(MODEL), np.float32).tobytes() for _ in range(3))
    genesis, middle, newest = (adopted("theta", state) for state in states)
    whole_file(store.directory, middle).unlink()
    alice = Hotkey.from_uri("//Alice")
    words = adopted("words", tokenizer.train(corpus.text()[:20_000], 256))
    dataset = replace(SPEC.dataset, tokenizer=words)
    spec = replace(SPEC, model=MODEL, genesis_state=genesis, dataset=dataset, owner=alice.hotkey)
    runspec.write(tmp_path / "run.json", spec, alice)
    journal = Journal(tmp_path / "state" / "journal.json", spec.run_id, genesis)
    for round, state in enumerate((middle, newest)):
        journal.finish_round(PastRound(round, None, state, ()))
    (tmp_path / "covenantd.toml").write_text('[node]\nstate_directory = "state"\n[run]\nspec = "run.json"\n')
    return Peer(tmp_path, spec, states)


def test_the_newest_state_is_exported(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.export("--json") == EXIT_OK
    said = json.loads(capsys.readouterr().out)
    assert (said["run_id"], said["path"]) == (peer.spec.run_id, str(peer.directory / "out"))
    assert peer.exported() == peer.states[2]
    config = json.loads((peer.directory / "out" / "config.json").read_text())
    assert config["hidden_size"] == MODEL.width
    assert config["max_position_embeddings"] == peer.spec.inner.sequence_tokens
    assert peer.export() == EXIT_FAILED and "never overwritten" in capsys.readouterr().err


def test_an_older_one_as_far_as_it_is_here(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.export("--round", 1) == EXIT_FAILED
    assert "the state of round 1 is not in" in capsys.readouterr().err
    assert peer.export("--round", 9) == EXIT_FAILED
    assert "the newest is 2" in capsys.readouterr().err
    assert peer.export("--round", 0) == EXIT_OK and peer.exported() == peer.states[0]


def test_a_snapshot_that_was_saved(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    (peer.directory / "saved.bin").write_bytes(peer.states[1])
    assert peer.export("--snapshot", peer.directory / "none.bin") == EXIT_FAILED
    assert peer.export("--snapshot", peer.directory / "saved.bin") == EXIT_OK and peer.exported() == peer.states[1]


def test_a_snapshot_that_is_a_directory(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.export("--snapshot", peer.blobs) == EXIT_FAILED
    assert capsys.readouterr().err == f"covenantd: {peer.blobs} cannot be read: Is a directory\n"


def test_work_that_does_not_end_is_told(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (export, data):
        monkeypatch.setattr(module, "_SECONDS", 0.001)
    assert peer.export() == EXIT_TRY_AGAIN and "is the disk well?" in capsys.readouterr().err
    assert cli.main(["data", "--out", str(peer.directory / "data")]) == EXIT_TRY_AGAIN
    assert "it took longer than" in capsys.readouterr().err


def _flip(peer: Peer, path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_a_damaged_state_is_not_passed_on(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    state = Journal(peer.directory / "state" / "journal.json", peer.spec.run_id, "").memory.state_hash
    _flip(peer, whole_file(peer.blobs, state))
    assert peer.export() == EXIT_FAILED
    assert "is damaged" in capsys.readouterr().err and not (peer.directory / "out").exists()


# covenantd data


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    (tmp_path / "text").write_text(corpus.text()[:50_000])

    def say(*words: object) -> tuple[int, Any]:
        code = cli.main(["data", "--out", str(tmp_path / "data"), *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out or captured.err

    return say


def test_a_text_becomes_tokens_and_a_manifest(say: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    code, out = say("--text", tmp_path / "text", "--vocabulary", 300, "--json")
    said = json.loads(out)
    assert code == EXIT_OK and said["vocabulary_size"] == 300 and said["heldout_tokens"] > 100
    manifest = json.loads((tmp_path / "data" / "data.json").read_text())
    assert manifest == {name: value for name, value in said.items() if name not in ("schema", "path")}


def test_what_cannot_do_is_a_config_error(say: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    for words, says in (
        (("--text", tmp_path / "none"), "cannot read the text"),
        (("--vocabulary", 5000), "has room for 1024 tokens"),
    ):
        code, out = say(*words)
        assert code == EXIT_CONFIG and says in out
