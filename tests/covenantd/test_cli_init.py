"""`covenantd` as a program: init, check-config, help, errors and exit codes."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from covenantd import cli, runspec
from covenantd.chain.keys import Hotkey, load_hotkey
from covenantd.config import load_config
from covenantd.ctl import socket_path
from covenantd.errors import ChainError, ConfigError, CovenantError, PermissionRefused
from covenantd.init import SYSTEM_STOP_SECONDS
from covenantd.timing import Timing
from model.config import PRESETS, CompressionConfig, InnerConfig
from p2p.errors import IdentityError, PortInUse
from p2p.identity import peer_id_of

BOOTSTRAP = "/ip4/192.0.2.1/tcp/31330/p2p/12D3KooWJ7DzJuTtTbP4YgvCa2YLvBd3JwHLo5oXgkJEJpAN7ZPp"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("COVENANTD_"):
            monkeypatch.delenv(name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def snapshot(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_init_writes_a_config_that_loads_and_keys_of_mode_0600(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "peer"
    words = ["--role", "validator", "--bootstrap", BOOTSTRAP, "--chain", "tcp://127.0.0.1:5", "--set", "http.listen="]
    assert cli.main(["init", "--dir", str(where), *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    config = load_config(where / "covenantd.toml", environ={})
    assert config.node.role == "validator" and config.network.bootstrap == (BOOTSTRAP,)
    assert config.chain.endpoint == "tcp://127.0.0.1:5" and config.http.listen == ""
    assert config.node.state_directory == where / "state"
    assert config.control_socket == where / "run" / "control.sock"
    assert mode(config.identity.hotkey) == mode(config.p2p_identity) == 0o600 and mode(where) == 0o700
    assert load_hotkey(config.identity.hotkey).hotkey == said["hotkey"]
    assert peer_id_of(config.p2p_identity) == said["peer_id"]
    assert said["schema"] == 1 and said["kept"] == [] and len(said["created"]) == 3
    assert "# what this peer does" in (where / "covenantd.toml").read_text()


@pytest.mark.parametrize("words", [["--system"], ["--dir", "/etc/covenantd"]])
def test_for_the_service_the_config_says_what_the_unit_does(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """State and sockets where systemd puts them: so doctor and covenantctl look where the service is."""
    system = tmp_path / "etc" / "covenantd"
    monkeypatch.setattr("covenantd.init.SYSTEM_DIRECTORY", system)
    old = os.umask(0o077)
    try:
        assert cli.main(["init", *(str(system) if word.startswith("/") else word for word in words), "--json"]) == 0
    finally:
        os.umask(old)
    said = json.loads(capsys.readouterr().out)
    config = load_config(system / "covenantd.toml", environ={})
    assert config.node.state_directory == Path("/var/lib/covenantd")
    assert config.control_socket == socket_path(None, str(system), {}) == socket_path(None, None, {})
    assert config.node.stop_seconds == SYSTEM_STOP_SECONDS
    assert config.identity.hotkey == system / "hotkey.json" and config.run.spec == system / "run.json"
    assert (mode(system), mode(system / "covenantd.toml"), mode(config.identity.hotkey)) == (0o755, 0o644, 0o600)
    assert sorted(one.name for one in system.iterdir()) == ["covenantd.toml", "hotkey.json"]
    assert said["peer_id"] == "" and not any("covenantd run" in step for step in said["next"])
    assert said["next"][-1].endswith("covenantctl identity"), "where the peer id is to be had"


def test_the_service_stops_as_the_operator_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covenantd.init.SYSTEM_DIRECTORY", tmp_path)
    assert cli.main(["init", "--system", "--set", "node.stop_seconds=1800"]) == 0
    assert load_config(tmp_path / "covenantd.toml", environ={}).node.stop_seconds == 1800


def test_init_for_people_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--dir", str(tmp_path / "a b")]) == 0
    out = capsys.readouterr().out
    assert f"covenantd run --config '{tmp_path}/a b/covenantd.toml'" in out
    assert "run.json" in out and "registered" in out and "bootstrap" in out


def test_what_was_given_is_not_asked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even if it is the default."""
    assert cli.main(["init", "--dir", str(tmp_path / "a")]) == 0
    assert "endpoint under [chain]" in capsys.readouterr().out
    assert cli.main(["init", "--dir", str(tmp_path / "b"), "--chain", "tcp://127.0.0.1:9945"]) == 0
    assert "endpoint under [chain]" not in capsys.readouterr().out


def test_init_again_overwrites_nothing_and_makes_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "--dir", str(tmp_path)]) == 0
    before = snapshot(tmp_path)
    assert cli.main(["init", "--dir", str(tmp_path), "--role", "validator"]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert snapshot(tmp_path) == before
    (tmp_path / "hotkey.json").unlink()
    assert cli.main(["init", "--dir", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["created"] == [f"{tmp_path}/hotkey.json"] and len(said["kept"]) == 2
    after = snapshot(tmp_path)
    assert after.pop(tmp_path / "hotkey.json") != before.pop(tmp_path / "hotkey.json") and after == before


def test_init_keeps_keys_that_were_there_before_the_config(tmp_path: Path) -> None:
    assert cli.main(["init", "--dir", str(tmp_path)]) == 0
    key = (tmp_path / "hotkey.json").read_bytes()
    (tmp_path / "covenantd.toml").unlink()
    assert cli.main(["init", "--dir", str(tmp_path)]) == 0
    assert (tmp_path / "hotkey.json").read_bytes() == key


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--role", "king"], "node.role must be one of"),
        (["--bootstrap", "10.0.0.1"], "network.bootstrap '10.0.0.1' is not a multiaddr"),
        (["--chain", "http://x"], "chain.endpoint 'http://x' is neither"),
        (["--set", "node.rool=x"], "did you mean node.role?"),
        (["--run-spec", "/nonexistent"], "/nonexistent"),
    ],
)
def test_init_with_a_mistake_writes_nothing(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "--dir", str(tmp_path / "new"), *words]) == 78
    assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_init_refuses_a_run_spec_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text("{}")
    assert cli.main(["init", "--dir", str(tmp_path / "new"), "--run-spec", str(tmp_path / "spec.json")]) == 78
    assert "spec.json" in capsys.readouterr().err and not (tmp_path / "new").exists()


def write_spec(path: Path) -> runspec.RunSpec:
    spec = runspec.RunSpec(
        name="demo",
        model=PRESETS["nano"],
        inner=InnerConfig(),
        compression=CompressionConfig(),
        piece_bytes=65536,
        genesis_state="ab" * 32,
        dataset=runspec.Dataset("cd" * 32, ("ef" * 32,), "01" * 32, 1 << 20),
        inner_steps=10,
        min_inner_steps=1,
        alpha=1.0,
        roster_size=8,
        snapshot_rounds=10,
        timing=Timing(1, 30, 10, 15, 25),
        scoring=runspec.Scoring(),
        chain=runspec.ChainSpec(1, "23" * 32),
        owner=Hotkey.from_uri("//Alice").hotkey,
    )
    runspec.write(path, spec, Hotkey.from_uri("//Alice"))
    return spec


def test_from_a_run_spec_to_a_checked_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path / "spec.json")
    (tmp_path / "blobs").mkdir()
    where = tmp_path / "peer"
    assert cli.main(["init", "--dir", str(where), "--run-spec", str(tmp_path / "spec.json"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["run_id"], said["run_name"]) == (spec.run_id, "demo")
    assert load_config(where / "covenantd.toml", environ={}).run.seed == tmp_path / "blobs"
    assert cli.main(["check-config", str(where / "covenantd.toml")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok: ") and f"demo ({spec.run_id[:16]})" in out and said["hotkey"] in out


def test_init_keeps_another_run_spec_that_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(tmp_path / "spec.json")
    where = tmp_path / "peer"
    where.mkdir()
    (where / "run.json").write_text("mine")
    assert cli.main(["init", "--dir", str(where), "--run-spec", str(tmp_path / "spec.json")]) == 1
    assert "another run's" in capsys.readouterr().err and (where / "run.json").read_text() == "mine"
    assert not (where / "covenantd.toml").exists()


def test_init_where_we_may_not_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--dir", "/proc/covenantd"]) in (1, 77)
    assert "/proc/covenantd" in capsys.readouterr().err


def test_check_config_tells_all_problems_and_exits_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["init", "--dir", str(tmp_path)])
    path = tmp_path / "covenantd.toml"
    path.write_text(path.read_text() + "\n[nod]\n\n")
    (tmp_path / "run.json").write_text("not json")
    (tmp_path / "hotkey.json").chmod(0o644)
    capsys.readouterr()
    assert cli.main(["check-config", str(path)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"covenantd: {path}:") for line in lines), lines
    assert "run.spec: " in lines[1] and "chmod 600" in lines[2]


def test_check_config_of_a_broken_file_and_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.toml"
    assert cli.main(["check-config", str(path)]) == 78
    assert f"{path}: no such config file" in capsys.readouterr().err
    path.write_text("[engine]\nthreads = 3\n")
    cli.main(["check-config", "--origins", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("engine.threads = 3 ") and line.endswith(f"# {path}:2") for line in lines)
    assert any(line.startswith('node.role = "miner" ') and line.endswith("# default") for line in lines)


def test_run_with_missing_files_is_a_config_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "covenantd.toml").write_text('[run]\nspec = "run.json"\n[identity]\nhotkey = "hotkey.json"\n')
    assert cli.main(["run", "--config", str(tmp_path / "covenantd.toml"), "--behavior", "noise"]) == 78
    error = capsys.readouterr().err
    assert "covenantd.toml:2: run.spec" in error and "covenantd.toml:4: identity.hotkey" in error
    assert cli.main(["run", "--config", str(tmp_path / "covenantd.toml"), "--behavior", "evil"]) == 78
    assert "testing.behavior must be one of honest, noise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 78),
        (PermissionRefused("x"), 77),
        (ChainError("x"), 75),
        (CovenantError("x"), 1),
        (IdentityError("x"), 78),
        (PortInUse("x"), 75),
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("g", [ConfigError("x"), ExceptionGroup("h", [ConfigError("x")])]), 78),
        (BaseExceptionGroup("g", [ConfigError("x"), KeyboardInterrupt()]), 130),
    ],
)
def test_exit_code_of_an_error_and_one_clear_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.report(error) == code
    assert capsys.readouterr().err == ("" if code == 130 else "covenantd: x\n")


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("g", [ConfigError("y"), KeyError("x")])])
def test_a_bug_leaves_a_traceback_and_exits_70(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(error) == 70
    assert type(error).__name__ in capsys.readouterr().err


def program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "covenantd.cli", *words], capture_output=True, text=True, check=False)


def test_usage_is_64_and_help_and_version_are_0() -> None:
    assert program("fly").returncode == 64
    assert program().returncode == 64
    assert program("run", "--nonsense").returncode == 64
    assert program("--version").stdout.startswith("covenantd 0.")
    helped = program("--help")
    assert helped.returncode == 0 and "check-config" in helped.stdout


def test_the_ledger_takes_its_own_words() -> None:
    done = program("ledger", "--help")
    assert done.returncode == 0 and "--block-seconds" in done.stdout


@pytest.mark.parametrize("topic", ["config", "control", "environment", "exit-codes", "join"])
def test_help_topics(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    assert topic in capsys.readouterr().out
    assert cli.main(["help", topic]) == 0
    assert len(capsys.readouterr().out) > 100
    with pytest.raises(SystemExit, match="64"):
        cli.main(["help", "nothing"])


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from covenantd import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'hivemind', 'bittensor', 'bittensor_core', 'trio', 'rich', 'msgpack', 'numpy', 'model'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
