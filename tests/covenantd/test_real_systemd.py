"""The service as `install-service` and `init --system` leave it, started by a real systemd, with its whole sandbox."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import systemd_machine
from run_fixture import SPEC

from covenantd import runspec
from covenantd.chain.keys import Hotkey
from covenantd.errors import EXIT_NO_PERMISSION
from covenantd.status import Status

pytestmark = pytest.mark.swarm

SCRIPT = """
ip link set lo up
covenantd install-service --program /opt/covenantd/bin/covenantd
systemd-sysusers /etc/sysusers.d/covenantd.conf
covenantd init --system --json --run-spec /out/run.json --chain tcp://127.0.0.1:9 > /out/init.json
systemctl daemon-reload
systemctl start covenantd; echo $? > /out/started
cat /proc/$(systemctl show -P MainPID covenantd)/status > /out/process
systemctl show -P StatusText covenantd > /out/text
covenantctl wait --for state=waiting --timeout 30
covenantctl --dir /etc/covenantd --json status > /out/status.json
covenantctl --json identity > /out/identity.json
covenantd doctor --json > /out/doctor.json
systemctl reload covenantd; echo $? > /out/reloaded
timeout 60 systemctl stop covenantd; echo $? > /out/stopped
systemctl show -P Result covenantd > /out/result
ls -ln /var/lib/covenantd > /out/state
chown root /var/lib/covenantd/lock; chmod 600 /var/lib/covenantd/lock
systemctl start covenantd
systemctl show -p ActiveState -p ExecMainStatus -p NRestarts covenantd > /out/refused
"""


@pytest.fixture(scope="module")
def out() -> Any:
    """What the script left: file name to text."""
    if reason := systemd_machine.why_not():
        pytest.skip(f"no machine with systemd here: it {reason}")
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        out.chmod(0o777)  # the daemon's log is its own user's
        alice = Hotkey.from_uri("//Alice")
        runspec.write(out / "run.json", replace(SPEC, owner=alice.hotkey), alice)
        systemd_machine.run(Path(work), out, SCRIPT, 180)
        yield {one.name: one.read_text() for one in out.iterdir()}


def test_it_starts_and_is_ready_in_its_sandbox(out: dict[str, str]) -> None:
    assert out["started"] == "0\n", out["daemon.log"] + out["log"]
    process = dict(re.findall(r"^(\w+):\s*(.*)$", out["process"], re.MULTILINE))
    assert process["Uid"].split()[0] != "0" and process["CapEff"] == "0" * 16
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    assert out["text"].startswith("miner, waiting, 0 peers")


def test_covenantctl_and_doctor_find_what_the_service_runs(out: dict[str, str]) -> None:
    """Root's, without the unit's environment: the config alone tells them where."""
    assert Status.from_dict(json.loads(out["status.json"])).state == "waiting"
    identity = json.loads(out["identity.json"])
    assert identity["hotkey"] == json.loads(out["init.json"])["hotkey"], "the credential is what init has made"
    found = {one["name"]: one for one in json.loads(out["doctor.json"])["findings"]}
    assert found["daemon"]["what"] == "runs, and answers at /run/covenantd/control.sock"
    for name in ("port", "hotkey", "disk-space"):
        assert found[name]["level"] == "ok", found[name]
    assert "/var/lib/covenantd" in found["state-directory"]["what"] and found["state-directory"]["level"] == "ok"


def test_it_reloads_and_stops_at_once_while_there_is_no_round(out: dict[str, str]) -> None:
    assert (out["reloaded"], out["stopped"], out["result"]) == ("0\n", "0\n", "success\n"), out["daemon.log"]
    assert '"drained"' in out["daemon.log"]
    assert re.search(r"^-rw------- .* p2p-identity\.key$", out["state"], re.MULTILINE)


def test_what_root_left_in_its_state_is_told_once_and_not_tried_again(out: dict[str, str]) -> None:
    told = dict(line.split("=") for line in out["refused"].split())
    assert told == {"ActiveState": "failed", "ExecMainStatus": str(EXIT_NO_PERMISSION), "NRestarts": "0"}
    assert "chown -R covenantd: /var/lib/covenantd" in out["daemon.log"].splitlines()[-1]
