"""`covenantd ledger`, as its operator types it, against a real ledger; and what it prints."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_fixture import LedgerProcess, StartLedger

from covenantd import cli
from covenantd.chain.keys import Hotkey, create_hotkey
from covenantd.chain.ledger.amounts import amount_text, parse_amount
from covenantd.chain.ledger.inspection import inspection_text

UNIT = 10**9


class Operator:
    """Types `covenantd ledger ...`; by default to one ledger whose blocks come by themselves."""

    def __init__(self, ledger: LedgerProcess, capsys: pytest.CaptureFixture[str]) -> None:
        self._ledger = ledger
        self._capsys = capsys

    def __call__(self, verb: str, *words: str, key: Path | None = None, code: int = 0) -> str:
        signed = ["--hotkey", str(key)] if key else []
        assert cli.main(["ledger", verb, *words, "--endpoint", self._ledger.endpoint, *signed]) == code
        out, err = self._capsys.readouterr()
        return out if code == 0 else err

    def json(self, verb: str, *words: str, key: Path | None = None) -> dict[str, Any]:
        answer = json.loads(self(verb, *words, "--json", key=key))
        assert answer.pop("schema") == 1
        return dict(answer)


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.key" for name in ("owner", "member", "other")]
    for path in paths:
        create_hotkey(path)
    return paths


def address(path: Path) -> str:
    return str(json.loads(path.read_text())["ss58Address"])


def create(*words: str, code: int = 0) -> None:
    assert cli.main(["ledger", "create", *words]) == code


def test_a_private_swarms_ledger_from_nothing_to_stake(
    start_ledger: StartLedger, tmp_path: Path, keys: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    owner, member, other = keys
    ledger = LedgerProcess(tmp_path / "made", block_seconds=0.05)
    words = ["--private", "--owner", address(owner), "--allow", address(member), "--set", "registration_burn=500"]
    words += ["--fund", f"{address(owner)}=1000", "--neuron", f"{address(owner)}=50.5", "--tempo-blocks", "100000"]
    create("--database", str(ledger.database), *words, "--json")
    made = json.loads(capsys.readouterr().out)
    at = ledger.command.index("--genesis")
    del ledger.command[at : at + 2]
    operate = Operator(ledger, capsys)
    ledger.start()
    try:
        assert ledger.ready["genesis"] == made["genesis"]
        _run_a_subnet(operate, owner, member, other)
    finally:
        ledger.kill()


def _run_a_subnet(operate: Operator, owner: Path, member: Path, other: Path) -> None:
    assert "NotEnoughBalanceToStake" in operate("register", key=member, code=1)
    operate("fund", address(member), "12.25", key=owner)
    operate("transfer", address(other), "7rao", key=member)
    block = operate.json("register", key=member)["block"]
    assert operate("stake", "2", key=member).startswith("did     stake\nblock   ")
    assert operate("balance", address(member)) == "10.249999493 free, 2 staked\n"
    assert "HotKeyNotAllowed" in operate("register", key=other, code=1)
    operate("allow", address(other), key=owner)
    operate("disallow", address(other), key=owner)
    assert "HotKeyNotAllowed" in operate("register", key=other, code=1)
    operate("swap-hotkey", address(other), key=member)
    assert operate.json("balance", address(other)) == {
        "hotkey": address(other),
        "balance": 10249999500,
        "stake": 2 * UNIT,
    }
    text = operate("inspect")
    assert "registration  1 allowed hotkeys, burns 0.0000005" in text
    assert [line.split()[1:5] for line in text.splitlines()[-2:]] == [
        [address(owner), "yes", "50.5", "987.75"],
        [address(other), "-", "2", "10.2499995"],
    ]
    shown = operate.json("inspect", "--block", str(block))
    assert [n["stake"] for n in shown["metagraph"]["neurons"]] == [50_500_000_000, 0]
    assert shown["subnet"]["totals"]["burned"] == 500 and shown["epoch"]["epochs"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "tempo_blok=3"], "did you mean 'tempo_blocks'"),
        (["--set", "kappa"], "not NAME=VALUE"),
        (["--fund", "x=1"], "balances: 'x' is not an ss58 hotkey"),
        (["--fund", "x=-1"], "'-1' is no amount"),
        (["--neuron", "x=y"], "'y' is no amount"),
        (["--neuron", "x"], "neurons[0]: 'x' is not an ss58 hotkey"),
        (["--allow", Hotkey.from_uri("//A").hotkey], "allow_list means nothing"),
        (["--genesis", "absent.json"], "cannot read the genesis file"),
        (["--database", "nowhere/l.db"], "no such directory"),
    ],
)
def test_what_create_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    create("--database", "l.db", *words, code=78)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "l.db").exists()


def test_create_takes_a_file_and_flags_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alice, bob = (Hotkey.from_uri(f"//{name}").hotkey for name in ("Alice", "Bob"))
    genesis, database = tmp_path / "g.json", tmp_path / "l.db"
    genesis.write_text(json.dumps({"neurons": [{"hotkey": alice}], "tempo_blocks": 9, "salt": "x"}))
    create("--database", str(database), "--genesis", str(genesis), "--neuron", bob, "--netuid", "3")
    assert "netuid  3" in capsys.readouterr().out
    create("--database", str(database), code=78)
    assert "never overwritten" in capsys.readouterr().err
    genesis.write_text('{"neurons": {}}')
    create("--database", str(tmp_path / "m.db"), "--genesis", str(genesis), "--neuron", bob, code=78)
    assert "neurons must be a list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        [],
        ["stake", "1x", "--endpoint", "unix:///s", "--hotkey", "k"],
        ["balance", "nobody", "--endpoint", "unix:///s"],
        ["register", "--endpoint", "unix:///s"],
    ],
)
def test_usage_is_64(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ledger", *words])
    assert stopped.value.code == 64


def test_serve_is_the_verb_that_may_be_left_out(tmp_path: Path) -> None:
    for verb in ([], ["serve"]):
        words = [*verb, "--database", str(tmp_path), "--socket", str(tmp_path / "s"), "--block-seconds", "-1"]
        done = subprocess.run(
            [sys.executable, "-m", "covenantd.cli", "ledger", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 78 and "--block-seconds must be between" in done.stderr


def test_verbs_for_clients_need_no_numpy() -> None:
    code = "import sys, covenantd.chain.ledger.commands\n"
    code += "print({'numpy', 'torch', 'hivemind', 'bittensor'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out == "set()\n"


def test_what_a_strange_ledger_says_is_cleaned() -> None:
    neuron: dict[str, Any] = {"uid": 0, "hotkey": "\x1b[2J", "validator_permit": False, "stake": 1, "balance": 0}
    neuron |= {"incentive": 65535, "dividends": 0, "vtrust": 0, "emission": 5, "last_update_block": 0}
    rules = {"registration_allowed": False, "commit_reveal": True, "private": False, "registration_burn": 0}
    shown = {
        "head": 7,
        "epoch": {"epochs": 1, "next_epoch_block": 9, "tempo_blocks": 4},
        "subnet": {"totals": {"issued": 0, "burned": 0}, "settings": rules, "allowed": [], "balance": 0, "stake": 0},
        "metagraph": {"netuid": 1, "block": 7, "neurons": [neuron], "commitments": {}},
    }
    text = inspection_text(shown)
    assert "\x1b" not in text and "(not a hotkey)" in text and "committed, revealed later" in text
    assert "registration  closed" in text and "1.0000" in text


@pytest.mark.parametrize(
    ("text", "rao"),
    [("0", 0), ("1.5", 1_500_000_000), ("100rao", 100), (".5", UNIT // 2), ("9223372036.854775807", 2**63 - 1)],
)
def test_amounts(text: str, rao: int) -> None:
    assert parse_amount(text) == rao


@pytest.mark.parametrize(
    "text",
    ["", "rao", "-1", "1e9", "0.0000000001", "1.5rao", "9223372036.854775808", "1_0", "٣", "1 ", "nan", ".", "9" * 99],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        parse_amount(text)


@given(st.integers(0, 2**63 - 1))
def test_amounts_are_read_as_they_are_written(rao: int) -> None:
    assert parse_amount(amount_text(rao)) == parse_amount(f"{rao}rao") == rao
