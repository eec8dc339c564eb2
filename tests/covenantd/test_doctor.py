"""`covenantd doctor`: every check both ways, then the program."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from ledger_fixture import StartLedger

from covenantd import __version__, doctor, doctorhost, doctornet, statedirectory
from covenantd.chain.keys import create_hotkey
from covenantd.chain.protocol import Block, Metagraph, Neuron
from covenantd.config import ChainConfig, Config, EngineConfig, HttpConfig, IdentityConfig, NetworkConfig, NodeConfig
from covenantd.doctorchain import chain_findings
from covenantd.errors import ChainError, ConfigError
from covenantd.finding import Finding
from covenantd.modelsize import parameters, training_bytes
from covenantd.statedirectory import FORMAT, claim, format_problem
from covenantd.timing import Timing
from model.config import PRESETS

PEER_ID = "12D3KooWGatU9DoRkc8GDR4fq6TZKXSiYdmbwWAYKMPBTG3oFjhW"


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {one.name: one.level for one in findings}


def network(**settings: object) -> Config:
    return Config(network=NetworkConfig(**settings))  # type: ignore[arg-type]


# The network


def test_a_taken_port_is_named_with_a_way_to_find_who_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        config = network(listen=f"/ip4/127.0.0.1/tcp/{number}")
        (found,) = doctornet.port(config, False)
        assert found.level == "failure" and f"sport = :{number}" in found.fix
        assert levels(doctornet.port(config, True)) == {"port": "ok"}
    assert levels(doctornet.port(config, False)) == {"port": "ok"}


def test_what_is_announced_is_dialled() -> None:
    config = network(announce=("/ip4/203.0.113.7/tcp/31330",))
    assert levels(doctornet.reachable(config, True, None, lambda host, port: None)) == {"reachable": "ok"}
    (found,) = doctornet.reachable(config, True, None, lambda host, port: "refused")
    assert found.level == "warning" and "nc -vz 203.0.113.7 31330" in found.fix
    assert levels(doctornet.reachable(config, False)) == {"reachable": "skipped"}
    assert levels(doctornet.reachable(network(), True)) == {"reachable": "skipped"}


def reach(*tries: tuple[str, int, str]) -> doctornet.Reach:
    return doctornet.Reach(31330, tuple(doctornet.Sighting(*one) for one in tries))


def test_what_peers_found_when_they_dialled_us() -> None:
    outside = "203.0.113.7"
    (yes,) = doctornet.reachable(network(), True, reach((outside, 31330, ""), (outside, 31330, "no answer")))
    assert yes.level == "ok" and "1 of 2 peers" in yes.what and outside in yes.what
    (no,) = doctornet.reachable(network(), True, reach((outside, 31330, "no answer in 5 s"), (outside, 1, "\x1b[31m")))
    assert no.level == "warning" and "no answer in 5 s" in no.what and "\x1b" not in no.what
    assert "TCP 31330" in no.fix and "forward it" in no.fix
    (closed,) = doctornet.reachable(network(), True, reach(("127.0.0.1", 31330, "Connection refused")))
    assert closed.level == "warning" and "this host's firewall" in closed.fix
    relayed = network(relays=(f"/ip4/203.0.113.9/tcp/1/p2p/{PEER_ID}",))
    assert "relay" in next(iter(doctornet.reachable(relayed, True, reach((outside, 1, "x"))))).what
    (unknown,) = doctornet.reachable(network(), True, reach())
    assert unknown.level == "skipped" and "unknown" in unknown.what


def test_the_kind_of_nat_is_told_from_what_peers_see() -> None:
    def found(*tries: tuple[str, int, str]) -> Finding:
        (one,) = doctornet.nat(network(), reach(*tries), lambda: pytest.fail("peers know better"))
        return one

    outside = "203.0.113.7"
    assert "none: peers see" in found(("127.0.0.1", 31330, "")).what
    alike = found((outside, 5000, "no answer"), (outside, 5000, "no answer"))
    assert alike.level == "warning" and "one outside port" in alike.what and f"/ip4/{outside}/tcp/31330" in alike.fix
    assert "symmetric" in found((outside, 5000, "no answer"), (outside, 5001, "no answer")).what
    forwarded = found((outside, 5000, ""), (outside, 5001, "no answer"))
    assert forwarded.level == "ok" and "the port is forwarded" in forwarded.what
    assert "cannot tell" in found((outside, 5000, "x")).what


@pytest.mark.parametrize(
    ("address", "level", "word"),
    [
        ("192.168.1.4", "warning", "forward TCP 31330"),
        ("100.64.3.4", "warning", "provider"),
        ("203.0.114.7", "ok", ""),
        ("2a00::1", "ok", ""),
        ("127.0.0.1", "ok", ""),
        (None, "skipped", ""),
    ],
)
def test_nat(address: str | None, level: str, word: str) -> None:
    (found,) = doctornet.nat(network(), None, lambda: address)
    assert found.level == level and word in found.fix


def test_nat_with_an_announced_address_is_fine() -> None:
    config = network(announce=("/ip4/203.0.113.7/tcp/31330",))
    assert levels(doctornet.nat(config, None, lambda: "10.0.0.2")) == {"nat": "ok"}


@pytest.mark.parametrize("address", ["192.168.1.4", "100.64.3.4"])
def test_nat_with_a_relay_is_fine(address: str) -> None:
    (found,) = doctornet.nat(network(relays=(f"/ip4/203.0.113.7/tcp/31330/p2p/{PEER_ID}",)), None, lambda: address)
    assert found.level == "ok" and "reached through /ip4/203.0.113.7" in found.what


def test_own_address_is_found_without_a_packet() -> None:
    assert doctornet._own_address(network(bootstrap=(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER_ID}",))) == "127.0.0.1"


def test_bootstrap_peers() -> None:
    config = network(bootstrap=tuple(f"/ip4/10.0.0.{i}/tcp/31330/p2p/{PEER_ID}" for i in (1, 2)))
    one_dead = list(doctornet.bootstrap(config, lambda host, port: "refused" if host.endswith("1") else None))
    assert [one.level for one in one_dead] == ["warning", "ok"]
    all_dead = list(doctornet.bootstrap(config, lambda host, port: "refused"))
    assert [one.level for one in all_dead] == ["warning", "failure"]
    assert levels(doctornet.bootstrap(Config())) == {"bootstrap": "warning"}
    assert levels(doctornet.bootstrap(Config(node=NodeConfig(role="bootstrap")))) == {"bootstrap": "ok"}


def test_tcp_connect_says_why() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert doctornet.tcp_connect("127.0.0.1", port) == "Connection refused"
        probe.listen()
        assert doctornet.tcp_connect("127.0.0.1", port) is None


@pytest.mark.parametrize(("listen", "level"), [("", "ok"), ("127.0.0.1:9464", "ok"), ("0.0.0.0:9464", "warning")])
def test_metrics_for_all_the_world_are_pointed_out(listen: str, level: str) -> None:
    assert levels(doctornet.http(Config(http=HttpConfig(listen=listen)))) == {"http": level}


# The host


def test_congestion_control(tmp_path: Path) -> None:
    def state(current: str, available: str) -> list[Finding]:
        (tmp_path / "tcp_congestion_control").write_text(current + "\n")
        (tmp_path / "tcp_available_congestion_control").write_text(available + "\n")
        return list(doctorhost.congestion_control(tmp_path))

    assert levels(state("bbr", "reno cubic bbr")) == {"congestion-control": "ok"}
    (cubic,) = state("cubic", "reno cubic")
    assert cubic.level == "warning" and "modprobe tcp_bbr" in cubic.fix and "net.ipv4" in cubic.fix
    assert "modprobe" not in state("cubic", "reno cubic bbr")[0].fix
    assert levels(doctorhost.congestion_control(tmp_path / "none")) == {"congestion-control": "skipped"}


def test_disk_is_measured_and_left_clean(tmp_path: Path) -> None:
    config = Config(node=NodeConfig(state_directory=tmp_path / "not" / "yet"))
    found = levels(doctorhost.disk(config, None))
    assert found["disk-space"] == "ok" and found["disk-speed"] in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


def nvidia(free: str = "81000", answer: str | None = '["2.13", "13.0", true, "H100"]') -> doctorhost.Run:
    def run(command: list[str], seconds: float) -> str | None:
        if command[0] != "nvidia-smi":
            return answer
        return f"{free}\n" if "memory.free" in command[1] else "NVIDIA H100, 580.1, 81559 MiB\n"

    return run


@pytest.mark.parametrize(
    ("device", "run", "level"),
    [
        ("cpu", lambda command, seconds: None, "ok"),
        ("auto", lambda command, seconds: None, "warning"),
        ("cuda", lambda command, seconds: None, "failure"),
        ("auto", nvidia(), "ok"),
        ("cuda", nvidia(answer='["2.13", null, false, ""]'), "failure"),
        ("cuda", nvidia(answer=None), "failure"),
    ],
)
def test_gpu(device: str, run: doctorhost.Run, level: str) -> None:
    assert levels(doctorhost.gpu(Config(engine=EngineConfig(device=device)), run)) == {"gpu": level}


def test_memory_is_held_against_the_model(tmp_path: Path, spec: object) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8388608 kB\n")
    none = doctorhost.memory(Config(), None, tmp_path)
    assert levels(none) == {"memory": "skipped"}
    nano, large = (replace(spec, model=PRESETS[name]) for name in ("nano", "8b"))  # type: ignore[type-var]
    assert levels(doctorhost.memory(Config(), nano, tmp_path, nvidia(free="x"))) == {"memory": "ok"}  # type: ignore[arg-type]
    assert levels(doctorhost.memory(Config(), large, tmp_path, nvidia(free="x"))) == {"memory": "failure"}  # type: ignore[arg-type]
    on_gpu = list(doctorhost.memory(Config(), nano, tmp_path, nvidia(free="500")))  # type: ignore[arg-type]
    assert on_gpu[0].level == "failure" and "GPU" in on_gpu[0].what


def test_sizes_of_known_models() -> None:
    assert parameters(PRESETS["8b"]) == pytest.approx(8.03e9, rel=0.01)
    assert training_bytes(PRESETS["nano"]) < 2 << 30 < training_bytes(PRESETS["1b"])


def test_open_files_and_versions() -> None:
    assert levels(doctorhost.open_files(256)) == {"open-files": "warning"}
    assert levels(doctorhost.open_files(65536)) == {"open-files": "ok"}
    assert levels(doctorhost.versions()) == {"version": "ok"}


def test_the_version_gate_is_what_the_package_requires() -> None:
    def find(name: str) -> str:
        if name == "gone":
            raise PackageNotFoundError(name)
        return {"torch": "2.12.1", "trio": "0.35.0", "own": "3.0rc1"}[name]

    def told(*requirements: str) -> tuple[str, str]:
        (found,) = doctorhost.versions(requirements, find)
        return found.level, found.what

    assert told("trio>=0.35", "own>=2", 'gone; extra == "test"', 'gone; python_version < "3"')[0] == "ok"
    assert told("torch<2.14,>=2.13", "trio>=0.35") == ("failure", "torch is 2.12.1, not <2.14,>=2.13")
    assert told("gone==1", "torch==2.*") == ("failure", "gone is not installed")


def test_a_daemon_of_another_version_and_a_newer_run_spec() -> None:
    old = doctor.Patient(Config(), (), None, "run spec has format 2, ...: upgrade covenantd", True, "0.0.9")
    (daemon,) = doctor._daemon(old)
    assert daemon.level == "warning" and "0.0.9" in daemon.what and "restart" in daemon.fix
    spec = {one.name: one for one in doctor._config(old)}["run-spec"]
    assert spec.level == "failure" and "covenantd help upgrade" in spec.fix
    assert levels(doctor._daemon(replace(old, daemon_version=__version__))) == {"daemon": "ok"}


def test_keys(tmp_path: Path) -> None:
    config = Config(identity=IdentityConfig(hotkey=tmp_path / "hotkey.json"))
    assert levels(doctorhost.keys(config)) == {"hotkey": "failure"}
    create_hotkey(tmp_path / "hotkey.json")
    assert levels(doctorhost.keys(config)) == {"hotkey": "ok"}
    (tmp_path / "hotkey.json").chmod(0o644)
    (found,) = doctorhost.keys(config)
    assert found.level == "failure" and "chmod 600" in found.fix


# The state directory's format


def test_an_older_state_directory_is_taken_over_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the version that wrote it would go on writing into what it no longer understands."""
    claim(tmp_path)
    with monkeypatch.context() as newer:
        newer.setattr(statedirectory, "FORMAT", FORMAT + 1)
        claim(tmp_path)
    with pytest.raises(ConfigError, match="written by a newer covenantd"):
        claim(tmp_path)


def test_a_newer_state_directory_is_refused_in_words(tmp_path: Path) -> None:
    assert format_problem(tmp_path) is None
    claim(tmp_path)
    claim(tmp_path)
    assert json.loads((tmp_path / "format.json").read_text()) == {"format": FORMAT}
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ConfigError, match="written by a newer covenantd"):
        claim(tmp_path)
    config = Config(node=NodeConfig(state_directory=tmp_path))
    assert levels(doctorhost.state_directory(config)) == {"state-directory": "failure"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "1"}', '{"format": 0}', '{"format": true}', "\xff"])
def test_a_damaged_format_is_not_guessed(tmp_path: Path, content: str) -> None:
    (tmp_path / "format.json").write_text(content, encoding="latin-1")
    assert "damaged" in (format_problem(tmp_path) or "")


# The chain


class FakeChain:
    def __init__(self, timestamp: float, neurons: tuple[Neuron, ...] = (), silent: bool = False) -> None:
        self._timestamp, self._neurons, self._silent = timestamp, neurons, silent

    async def block(self, number: int | None = None) -> Block:
        if self._silent:
            raise ChainError("no route to host")
        return Block(0 if number == 0 else 9, "aa" * 32 if number == 0 else "bb" * 32, self._timestamp)

    async def metagraph(self, block: int) -> Metagraph:
        return Metagraph(1, block, self._neurons, {})


NOW = 1_000_000.0


async def chain_levels(chain: FakeChain, spec: object = None, role: str = "miner") -> dict[str, str]:
    config = Config(node=NodeConfig(role=role), chain=ChainConfig())
    return levels(await chain_findings(config, spec, chain, "5Own", lambda: NOW))  # type: ignore[arg-type]


async def test_clocks() -> None:
    for age, level in {1.0: "ok", 40.0: "ok", 200.0: "warning", -1.0: "ok", -60.0: "failure"}.items():
        assert (await chain_levels(FakeChain(NOW - age)))["clock"] == level, age


async def test_registration() -> None:
    neuron = Neuron(3, "5Own", 0, False, 1, 1, 0, 0, 0)
    assert (await chain_levels(FakeChain(NOW)))["registration"] == "failure"
    assert (await chain_levels(FakeChain(NOW, (neuron,))))["registration"] == "ok"
    assert (await chain_levels(FakeChain(NOW, (neuron,)), role="validator"))["registration"] == "failure"
    permitted = replace(neuron, validator_permit=True)
    assert (await chain_levels(FakeChain(NOW, (permitted,)), role="validator"))["registration"] == "ok"


async def test_silence_and_another_chain(spec: object) -> None:
    assert await chain_levels(FakeChain(NOW, silent=True)) == {"chain": "failure"}
    assert (await chain_levels(FakeChain(NOW), spec))["chain"] == "failure"
    assert (await chain_levels(FakeChain(NOW)))["chain"] == "ok"


@pytest.fixture
def spec() -> object:
    """The little of a run spec that doctor looks at."""
    from dataclasses import dataclass, field

    from covenantd.runspec import ChainSpec
    from model.config import ModelConfig

    @dataclass(frozen=True)
    class Spec:
        model: ModelConfig = field(default_factory=lambda: PRESETS["nano"])
        timing: Timing = field(default_factory=lambda: Timing(1, 60, 10, 20, 40, 12.0))
        chain: ChainSpec = field(default_factory=lambda: ChainSpec(1, "cc" * 32))

    return Spec()


# The whole


def test_a_check_with_a_bug_does_not_hide_the_others() -> None:
    def broken(patient: doctor.Patient) -> Iterable[Finding]:
        raise ZeroDivisionError

    patient = doctor.Patient(Config(), (), None, None, False)
    checks = (broken, lambda patient: iter([Finding("later", "ok", "")]))
    assert levels(doctor.examine(patient, checks)) == {"doctor": "failure", "later": "ok"}  # type: ignore[arg-type]


def test_the_program(tmp_path: Path, start_ledger: StartLedger) -> None:
    ledger = start_ledger(None)
    (tmp_path / "covenantd.toml").write_text(
        f"""[node]
state_directory = "state"
runtime_directory = "run"
log_levle = "info"
[identity]
hotkey = "hotkey.json"
[run]
spec = "run.json"
[network]
listen = "/ip4/127.0.0.1/tcp/0"
[engine]
device = "cpu"
[chain]
endpoint = "{ledger.endpoint}"
"""
    )
    create_hotkey(tmp_path / "hotkey.json")
    command = [sys.executable, "-m", "covenantd.cli", "doctor", "--config", str(tmp_path / "covenantd.toml")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert "node.log_level" in found["config"]["what"] and found["run-spec"]["level"] == "failure"
    assert found["registration"]["level"] == "failure" and found["chain"]["level"] == "ok"
    assert all(one["fix"] for one in found.values() if one["level"] in ("warning", "failure"))
    assert not {"torch", "hivemind"} & set(found)
    people = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "XX  registration" in people.stdout and "to fix" in people.stderr and "\x1b" not in people.stdout
