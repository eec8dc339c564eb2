"""`covenantd register` against a real ledger that makes its own blocks."""

import subprocess
import sys
from pathlib import Path

from ledger_fixture import LedgerProcess, StartLedger


def covenantd(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "covenantd.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def peer(directory: Path, ledger: LedgerProcess) -> tuple[Path, str]:
    """(config, hotkey)"""
    made = covenantd("init", "--dir", str(directory), "--chain", ledger.endpoint)
    return directory / "covenantd.toml", made.stdout.splitlines()[0].split()[1]


def test_registers_once_and_says_so(start_ledger: StartLedger, tmp_path: Path) -> None:
    ledger = start_ledger(None, block_seconds=0.1)
    for uid in ("0", "1"):
        config, hotkey = peer(tmp_path / uid, ledger)
        for news in ("registered in block", "was registered already"):
            done = covenantd("register", "--config", str(config))
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"{hotkey} {news}") and done.stdout.endswith(f"uid {uid} of netuid 1\n")


def test_a_no_of_the_chain_is_the_message(start_ledger: StartLedger, tmp_path: Path) -> None:
    config, _ = peer(tmp_path / "peer", start_ledger({"registration_allowed": False}, block_seconds=0.1))
    done = covenantd("register", "--config", str(config))
    assert done.returncode == 1 and "SubNetRegistrationDisabled" in done.stderr


def test_another_subnet_is_refused(start_ledger: StartLedger, tmp_path: Path) -> None:
    config, _ = peer(tmp_path / "peer", start_ledger(None, block_seconds=0.1))
    done = covenantd("register", "--config", str(config), "--netuid", "7")
    assert done.returncode == 1 and "SubnetNotExists" in done.stderr


def test_a_missing_key_is_named(start_ledger: StartLedger, tmp_path: Path) -> None:
    config, _ = peer(tmp_path / "peer", start_ledger(None, block_seconds=0.1))
    (tmp_path / "peer" / "hotkey.json").unlink()
    done = covenantd("register", "--config", str(config))
    assert done.returncode == 78 and "hotkey.json" in done.stderr
