"""Config: layers, origins, and errors that name file, line and remedy."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.config import SETTINGS, Config, EngineConfig, load_config, missing_files, read_config
from covenantd.configlayers import key_lines
from covenantd.configtext import default_toml, render, toml_value
from covenantd.errors import EXIT_CONFIG, ConfigError

PEER = "12D3KooWJ7DzJuTtTbP4YgvCa2YLvBd3JwHLo5oXgkJEJpAN7ZPp"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "covenantd.toml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    return [str(p) for p in read_config(write(tmp_path, text), environ=environ or {})[1]]


def test_shipped_default_is_generated_from_the_definition() -> None:
    assert default_toml() == render()


def test_every_setting_of_the_default_file_uncommented_is_the_default(tmp_path: Path) -> None:
    lines = default_toml().splitlines()
    text = "\n".join(line[1:] if line.startswith("#") and line[1:2] != " " else line for line in lines)
    assert {f"{s}.{k}" for s, body in tomllib.loads(text).items() for k in body} == set(SETTINGS)
    assert load_config(write(tmp_path, text), environ={}) == Config()


def test_layers_override_in_order_and_remember_where_each_value_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\nrole = "validator"\nlog_level = "debug"\n[engine]\nthreads = 2\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-a.toml").write_text("engine.threads = 3\n")
    (tmp_path / "conf.d" / "20-b.toml").write_text("\n[engine]\nthreads = 4\n")
    environ = {"COVENANTD_NODE_LOG_LEVEL": "error", "COVENANTD_TESTING_FAULTS": "yes", "HOME": "/x"}
    config = load_config(path, {"testing.behavior": "noise"}, environ)
    assert (config.node.role, config.node.log_level, config.engine.threads) == ("validator", "error", 4)
    assert config.testing.faults and config.testing.behavior == "noise"
    assert config.origins["node.role"] == f"{path}:2"
    assert config.origins["engine.threads"] == f"{tmp_path}/conf.d/20-b.toml:3"
    assert config.origins["node.log_level"] == "COVENANTD_NODE_LOG_LEVEL"
    assert config.origins["testing.behavior"] == "flag testing.behavior"
    assert config.origins["http.listen"] == "default"


def test_variables_of_other_programs_of_ours_are_no_settings(tmp_path: Path) -> None:
    others = dict.fromkeys(("COVENANTD_SOCKET", "COVENANTD_DIR", "COVENANTD_SKIP_APT"), "1")
    assert problems(tmp_path, "", others) == []
    assert len(problems(tmp_path, "", {"COVENANTD_SKIP": "1"})) == 1


def test_no_number_of_threads_means_all_cores() -> None:
    assert EngineConfig().training_threads == len(os.sched_getaffinity(0)) >= 1
    assert EngineConfig(threads=3).training_threads == 3


def test_paths_count_from_the_file_they_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = write(tmp_path, '[node]\nstate_directory = "state"\n')
    config = load_config(path, {"run.spec": "here.json"}, {})
    assert config.node.state_directory == tmp_path / "state"
    assert config.run.spec == Path("/here.json")
    assert config.control_socket == Path("/run/covenantd/control.sock")


def test_lists_from_the_environment_are_comma_separated(tmp_path: Path) -> None:
    address = f"/dns4/boot.example.org/tcp/31330/p2p/{PEER}"
    environ = {"COVENANTD_NETWORK_BOOTSTRAP": f"{address}, {address}"}
    assert load_config(None, environ=environ).network.bootstrap == (address, address)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[node]\n\nrool = "miner"', 3, "node.rool is not a setting; did you mean node.role?"),
        ("[engin]\nthreads = 1", 2, "[engin] is not a section; did you mean engine?"),
        ("[node]\nthreads = 1", 2, "did you mean engine.threads?"),
        ('[engine]\nthreads = "2"', 2, "engine.threads must be a whole number, not '2'"),
        ("[engine]\nthreads = true", 2, "must be a whole number"),
        ("[engine]\nthreads = -1", 2, "0 (all cores)"),
        ("[engine]\ndevice = 'gpu'", 2, "cuda"),
        ('[node]\nrole = "minor"', 2, "node.role must be one of miner, validator, bootstrap, not 'minor'"),
        ("node.role = 7", 1, "a string"),
        ("node = 7", 1, "[section]"),
        ("[[node]]\nrole = 1", 1, "[section]"),
        ("[testing]\nfaults = 1", 2, "true or false"),
        ('[network]\nlisten = "0.0.0.0:31330"', 2, "not a multiaddr"),
        ('[network]\nlisten = "/ip4/0.0.0.0/udp/31330/quic"', 2, "only tcp"),
        ('[network]\nlisten = "/dns4/example.org/tcp/1"', 2, "names a host"),
        ('[network]\nlisten = "/ip4/1.2.3/tcp/1"', 2, "bad ip4 address"),
        ('[network]\nlisten = "/ip4/1.2.3.4/tcp/70000"', 2, "bad port"),
        (f'[network]\nlisten = "/ip4/1.2.3.4/tcp/1/p2p/{PEER}"', 2, "must not go on"),
        ('[network]\nbootstrap = ["/ip4/1.2.3.4/tcp/1"]', 2, "must end in /p2p/PEER_ID"),
        ('[network]\nbootstrap = "x"', 2, "list of strings"),
        ('[network]\nuplink = "fast"', 2, "'fast' is not a rate"),
        ('[network]\ndownlink = "40"', 2, "write e.g. 5MB"),
        ('[network]\nannounce = [\n"/ip6/1.2.3.4/tcp/1",\n]', 2, "IPv4 address 1.2.3.4 ip6"),
        ('[chain]\nkind = "bittensor"', 2, "no address of a bittensor chain"),
        ('[chain]\nendpoint = "finney"', 2, "no address of a ledger chain"),
        ('[chain]\nkind = "bittensor"\nendpoint = "wss:x"', 3, "names no host"),
        ('[chain]\nsecond = "finney"', 2, "chain.second 'finney' is no address of a ledger chain"),
        ('[chain]\nsecond = "tcp://x"', 2, "tcp://x"),
        ('[chain]\nkind = "bitensor"', 2, "must be one of ledger, bittensor"),
        ('[chain]\nendpoint = "http://x"', 2, "neither unix:///PATH nor tcp://HOST:PORT"),
        ('[chain]\nendpoint = "unix://x"', 2, "absolute path"),
        ('[http]\nlisten = "9464"', 2, "not HOST:PORT"),
        ('[http]\nlisten = "::1:9464"', 2, "brackets"),
        ('[run]\nspec = ""', 2, "must be a path"),
        ('[node]\nx = """\n[engine]\n"""\n[engine]\nthread = 1\n', 6, "engine.threads"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_remedy(tmp_path: Path, text: str, line: int, says: str) -> None:
    found = problems(tmp_path, text)
    assert any(p.startswith(f"{tmp_path}/covenantd.toml:{line}: ") and says in p for p in found), found


def test_all_mistakes_are_told_at_once_and_exit_78(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\nrool = 1\nlog_level = "loud"\n[engine]\nthreads = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={"COVENANTD_HTTP_LISTN": "x"})
    assert len(str(caught.value).splitlines()) == 4
    assert "COVENANTD_HTTP_LISTEN" in str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ENGINE_THREADS", "many", "engine.threads must be a whole number, not 'many'"),
        ("ENGINE_THREADS", "9999", "0 (all cores)"),
        ("TESTING_FAULTS", "maybe", "must be true or false"),
        ("NETWORK_BOOTSTRAP", "x", "not a multiaddr"),
        ("RUN_SPEC", "", "must be a path"),
        ("NOED_ROLE", "miner", "did you mean COVENANTD_NODE_ROLE?"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(name: str, value: str, says: str) -> None:
    (problem,) = read_config(None, environ={f"COVENANTD_{name}": value})[1]
    assert str(problem).startswith(f"COVENANTD_{name}: ") and says in str(problem)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[node]\nrole = \n", ":2: not TOML: Invalid value"),
        (b"[node]\nrole = 'x'\nrole = 'y'\n", ":3: not TOML: Cannot overwrite"),
        (b"[node\n", "not TOML"),
        (b"[node]\nrole = '\xff'\n", ":2: not UTF-8"),
        (b"#" * (1 << 20) + b"\n", "longer than"),
        (b"x = " + b"[" * 100_000, "covenantd.toml"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "covenantd.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file; `covenantd init"):
        load_config(tmp_path / "covenantd.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_missing_files_name_path_origin_and_command(tmp_path: Path) -> None:
    path = write(tmp_path, '[run]\nspec = "s.json"\n[identity]\nhotkey = "k/hotkey.json"\n')
    spec, hotkey = (str(p) for p in missing_files(load_config(path, environ={})))
    assert spec.startswith(f"{path}:2: run.spec: {tmp_path}/s.json does not exist") and "plan" in spec
    assert f"`covenantd init --dir {tmp_path}`" in hotkey
    (tmp_path / "s.json").mkdir()
    assert "is not a file" in str(missing_files(load_config(path, environ={}))[0])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_gives_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        load_config(path, environ={})
    except ConfigError as error:
        assert str(path) in str(error)


@given(st.one_of(st.booleans(), st.integers(0, 10**6), st.text(st.characters(exclude_categories=["Cs"]))))
def test_rendered_values_read_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_key_lines_of_dotted_and_quoted_keys() -> None:
    text = "a.b = 1\n[ c . d ]\n\"e\" = [\n 'f = 1',\n]\ng = 2\n"
    assert key_lines(text) == {"a.b": 1, "a": 1, "c.d": 2, "c.d.e": 3, "c": 3, "c.d.g": 6}
