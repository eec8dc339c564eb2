"""A private swarm on two machines, by the README's own commands."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from machines import Machine, two_machines, until, why_not
from readme import README, code_block

pytestmark = [pytest.mark.swarm, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
SECOND_DAEMON = "--set network.listen=/ip4/0.0.0.0/tcp/31331 --set http.listen=127.0.0.1:9465"
FASTER = {"--block-seconds 1": "--block-seconds 0.5", "covenantd plan": "covenantd plan --start-in-seconds 25"}
GOES_ON = ("covenantd ledger", "covenantd run")
PLACEHOLDERS = {"hotkey ": "HOTKEY", "peer id": "PEER_ID"}
ROUNDS = 5


async def follow(machine: Machine, lines: list[str], words: dict[str, str]) -> dict[str, str]:
    """Do what the lines say; returns HOTKEY and PEER_ID as `init` printed them."""
    printed: dict[str, str] = {}
    for line in lines:
        for placeholder, word in {**words, **printed, **FASTER}.items():
            line = line.replace(placeholder, word)
        if line.startswith(GOES_ON):
            machine.start(line)
            continue
        said = (await machine.run(line)).splitlines()
        printed |= {PLACEHOLDERS[one[:7]]: one.split()[-1] for one in said if one[:7] in PLACEHOLDERS}
    return printed


async def included_round(miner: Machine) -> dict[str, Any]:
    """The first certified round whose roster lists this machine's miner."""
    await until((miner.directory / "miner" / "run" / "control.sock").exists, 60)
    seen: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        await miner.run(f"covenantctl --dir miner wait --for 'round>={number + 1}' --timeout 110")
        seen = (await miner.ask("covenantctl --dir miner --json rounds"))["rounds"]
        for one in seen:
            if one["result"] == "certified" and one["own_included"]:
                return one
    raise AssertionError(f"no round counted our contribution: {seen}")


async def test_a_miner_on_a_second_machine_is_in_the_roster_and_holds_the_same_state() -> None:
    assert SECOND_DAEMON.partition(" --set http")[0] in README.read_text()
    with tempfile.TemporaryDirectory(prefix="two-") as directory:
        path = Path(directory)
        async with two_machines(path, ("10.0.0.1", "10.0.0.2"), COVENANTD_ENGINE_THREADS="1") as (a, b):
            try:
                with trio.fail_after(270):
                    await play(a, b)
            except BaseException:
                print(a.logs(), b.logs(), sep="\n")
                raise


async def play(a: Machine, b: Machine) -> None:
    validator = await follow(a, code_block("machine A: ledger"), {})
    await follow(a, code_block("machine A: run"), {})
    join, *then = code_block("machine B")
    async with trio.open_nursery() as nursery:
        for machine, line in ((a, f"{join} {SECOND_DAEMON}"), (b, join)):
            shutil.copy(a.directory / "validator" / "run.json", machine.directory / "run.json")
            nursery.start_soon(follow, machine, [line, *then], {"PEER_ID": validator["PEER_ID"]})
    one = await included_round(b)
    await a.run(f"covenantctl --dir validator wait --for 'round>={one['round'] + 1}' --timeout 110")
    [theirs] = (await a.ask(f"covenantctl --dir validator --json rounds show {one['round']}"))["rounds"]
    assert one["roster_size"] == theirs["roster_size"] >= 1
    assert one["state_hash"] == theirs["state_hash"] != ""
