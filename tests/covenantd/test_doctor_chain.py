"""`covenantd doctor --chain` as an operator types it, on a Bittensor subnet behind a real websocket."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from memory_substrate import MemoryChain
from run_fixture import SPEC
from subtensor_node import SubtensorNode, subtensor_node

from covenantd import cli, runspec
from covenantd.chain.keys import Hotkey, create_hotkey
from covenantd.runspec import ChainSpec

OWNER, MINER = Hotkey.from_uri("//Alice"), Hotkey.from_uri("//Miner")
RULES = {"tempo_blocks": 360, "commitment_bytes_per_epoch": 3100, "weights_rate_limit_blocks": 5}
Said = dict[str, dict[str, str]]
Doctor = Callable[..., Awaitable[tuple[int, Said]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """doctor(stake, role, genesis of the spec, prepare) -> (exit code, finding by name)."""
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "metadata"))
    key = create_hotkey(tmp_path / "hotkey.json")

    def configure(node: SubtensorNode, role: str, genesis: str) -> list[str]:
        spec = replace(SPEC, chain=ChainSpec(1, genesis))
        runspec.write(tmp_path / "run.json", spec, OWNER)
        (tmp_path / "covenantd.toml").write_text(
            f'[node]\nrole = "{role}"\nstate_directory = "{tmp_path}/state"\n'
            f'[identity]\nhotkey = "{tmp_path}/hotkey.json"\n'
            f'[run]\nspec = "{tmp_path}/run.json"\n'
            f'[chain]\nkind = "bittensor"\nendpoint = "{node.url}"\n'
        )
        return ["doctor", "--chain", "--json", "--config", str(tmp_path / "covenantd.toml")]

    async def examined(
        stake: int | None = 10**12,
        role: str = "validator",
        genesis: str = "",
        prepare: Callable[[SubtensorNode, str], None] = lambda node, hotkey: None,
        **rules: Any,
    ) -> tuple[int, Said]:
        members = [{"hotkey": MINER.hotkey}]
        if stake is not None:
            members.append({"hotkey": key.hotkey, "stake": stake})
        memory = MemoryChain({**RULES, **rules, "neurons": members})
        memory.advance(3)
        async with subtensor_node(memory) as node:
            prepare(node, key.hotkey)
            words = configure(node, role, genesis or memory.blocks[0].hash)
            code = await trio.to_thread.run_sync(cli.main, words)
        findings = json.loads(capsys.readouterr().out)["findings"]
        return code, {one["name"]: one for one in findings}

    return examined


def trouble(said: Said) -> set[str]:
    """Names of what is wrong. The clock always is: blocks in memory are some years old."""
    assert said["clock"]["level"] == "warning" and "the chain stands still" in said["clock"]["what"]
    return {name for name, one in said.items() if one["level"] not in ("ok", "skipped")} - {"clock"}


async def test_a_validator_with_all_it_needs(doctor: Doctor) -> None:
    code, said = await doctor()
    assert code == 0 and trouble(said) == set(), said
    assert said["registration"]["what"] == "uid 1 on subnet 1"
    assert said["commitment-quota"]["what"].startswith("3100 of 3100")
    assert "next is possible now" in said["weights-rate-limit"]["what"]


async def test_a_rate_limit_longer_than_a_round(doctor: Doctor) -> None:
    code, said = await doctor(weights_rate_limit_blocks=100)
    assert code == 0 and trouble(said) == {"weights-rate-limit"}
    what = f"the chain takes weights every 100 blocks, a round has {SPEC.timing.blocks_per_round}"
    assert said["weights-rate-limit"]["what"] == what


async def test_weights_that_were_set_lately(doctor: Doctor) -> None:
    def weigh(node: SubtensorNode, hotkey: str) -> None:
        arguments = {"uids": [0], "values": [65535], "version_key": 0}
        node.chain.submit(hotkey, "set_weights", arguments, lambda result: None)
        node.chain.advance(2)

    code, said = await doctor(prepare=weigh)
    assert code == 0 and trouble(said) == set()
    assert "the chain takes more in 4 blocks" in said["weights-rate-limit"]["what"]


async def test_the_chain_of_another_run(doctor: Doctor) -> None:
    code, said = await doctor(genesis="ab" * 32)
    assert code == 1 and trouble(said) == {"chain"}
    assert "the run wants abababababababab" in said["chain"]["what"] and "right run spec" in said["chain"]["fix"]


async def test_a_hotkey_without_a_uid(doctor: Doctor) -> None:
    code, said = await doctor(stake=None)
    assert code == 1 and trouble(said) == {"registration"}
    assert "btcli subnets register --netuid 1" in said["registration"]["fix"]
    code, said = await doctor(stake=None, role="bootstrap")
    assert code == 0 and trouble(said) == set()


async def test_a_validator_without_stake(doctor: Doctor) -> None:
    code, said = await doctor(stake=0, min_weight_stake=5 * 10**9)
    assert code == 1 and trouble(said) == {"registration", "weights-stake"}
    assert "no validator permit" in said["registration"]["what"] and "below the 5" in said["weights-stake"]["what"]
    code, said = await doctor(stake=0, role="miner", min_weight_stake=5 * 10**9)
    assert code == 0 and trouble(said) == set()


async def test_a_quota_that_is_spent(doctor: Doctor) -> None:
    def spend(node: SubtensorNode, hotkey: str) -> None:
        node.chain.submit(hotkey, "set_commitment", {"fields": ["00" * 128, "11" * 128]}, lambda result: None)
        node.chain.advance(1)

    code, said = await doctor(prepare=spend, commitment_bytes_per_epoch=400)
    assert code == 0 and trouble(said) == {"commitment-quota"}


async def test_an_endpoint_that_turns_us_away(doctor: Doctor) -> None:
    def refuse(node: SubtensorNode, hotkey: str) -> None:
        node.faults.refuse_handshakes, node.faults.status = 10**6, 429

    code, said = await doctor(prepare=refuse)
    assert code == 1 and said["chain"]["level"] == "failure" and "registration" not in said
    assert "turns us away" in said["chain"]["what"] and "a node of your own" in said["chain"]["fix"]


async def test_a_network_that_has_no_such_subnet(doctor: Doctor) -> None:
    code, said = await doctor(netuid=5)
    assert code == 1 and "has no subnet 1" in said["chain"]["what"]
