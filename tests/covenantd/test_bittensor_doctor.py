"""`covenantd doctor --chain` on Bittensor: what it says of what is wrong."""

from pathlib import Path
from typing import Any

import bittensor
import pytest
from memory_substrate import MemoryChain, MemorySubstrate

from covenantd import chaindoctor
from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.keys import Hotkey
from covenantd.config import ChainConfig, Config, NodeConfig, RunConfig
from covenantd.finding import Finding

VALIDATOR, MINER, STRANGER = (Hotkey.from_uri(f"//{name}") for name in ("Validator", "Miner", "Stranger"))
GENESIS = {
    "tempo_blocks": 50,
    "commitment_bytes_per_epoch": 3100,
    "neurons": [{"hotkey": VALIDATOR.hotkey, "stake": 10**12}, {"hotkey": MINER.hotkey}],
}


async def examine(
    memory: MemoryChain, key: Hotkey = VALIDATOR, role: str = "validator", late_seconds: float = 0, dial: Any = None
) -> dict[str, Finding]:
    chain = BittensorChain("local", 1, dial=dial or (lambda: MemorySubstrate(memory)), read_seconds=3.0)
    config = Config(node=NodeConfig(role=role), chain=ChainConfig("bittensor", "local"))
    now = memory.blocks[-1].timestamp_ms / 1000 + late_seconds
    try:
        found = await chaindoctor.examine(config, None, 1, chain, key.hotkey, lambda: now)
    finally:
        await chain.aclose()
    return {one.name: one for one in found}


def chain_of(**settings: Any) -> MemoryChain:
    memory = MemoryChain({**GENESIS, **settings})
    memory.advance(3)
    return memory


async def test_a_validator_with_all_it_needs_finds_nothing() -> None:
    found = await examine(chain_of(weights_rate_limit_blocks=100))
    assert {one.level for one in found.values()} == {"ok"}
    assert found["commitment-quota"].what.startswith("3100 of 3100")
    assert "next is possible now" in found["weights-rate-limit"].what


async def test_a_hotkey_without_a_uid_is_told_how_to_get_one() -> None:
    found = await examine(chain_of(), STRANGER)
    assert found["registration"].level == "failure"
    assert "btcli subnets register --netuid 1" in found["registration"].fix
    assert "weights-rate-limit" not in found


async def test_permit_and_stake() -> None:
    found = await examine(chain_of(min_weight_stake=5 * 10**12), MINER)
    assert "permit" in found["registration"].what and found["registration"].level == "failure"
    assert found["weights-stake"].level == "failure" and "5000" in found["weights-stake"].what


async def test_a_miner_needs_no_permit() -> None:
    found = await examine(chain_of(), MINER, role="miner")
    assert {one.level for one in found.values()} == {"ok"}


async def test_limits_in_numbers() -> None:
    memory = chain_of(weights_rate_limit_blocks=100)
    arguments = {"uids": [1], "values": [65535], "version_key": 0}
    memory.submit(VALIDATOR.hotkey, "set_weights", arguments, lambda result: None)
    for n in range(9):
        fields = [f"{n:02x}" * 128, "00" * 128, "11" * 90]
        memory.submit(VALIDATOR.hotkey, "set_commitment", {"fields": fields}, lambda result: None)
    memory.advance(2)
    found = await examine(memory)
    assert "more in 99 blocks" in found["weights-rate-limit"].what
    assert found["commitment-quota"].level == "ok"
    memory.submit(VALIDATOR.hotkey, "set_commitment", {"fields": []}, lambda result: None)
    memory.advance(1)
    assert int((await examine(memory))["commitment-quota"].what.split()[0]) < 256  # nine writes, and 100 for nothing
    memory.advance(60)
    assert "3100 of 3100" in (await examine(memory))["commitment-quota"].what


async def test_a_spent_quota_is_a_warning() -> None:
    memory = chain_of(commitment_bytes_per_epoch=400)
    memory.submit(VALIDATOR.hotkey, "set_commitment", {"fields": ["00" * 128, "11" * 128]}, lambda result: None)
    memory.advance(1)
    assert (await examine(memory))["commitment-quota"].level == "warning"


@pytest.mark.parametrize(("late_seconds", "level"), [(0, "ok"), (-60, "failure"), (600, "warning")])
async def test_clocks(late_seconds: float, level: str) -> None:
    assert (await examine(chain_of(), late_seconds=late_seconds))["clock"].level == level


async def test_a_node_that_forgets_is_named() -> None:
    memory = chain_of()
    memory.advance(400)
    memory.discarded_below = memory.head - 256
    found = await examine(memory)
    assert found["chain-archive"].level == "warning" and "[chain] archive" in found["chain-archive"].fix


async def test_endpoints_that_are_none() -> None:
    class Failing(MemorySubstrate):
        error: Exception = ConnectionRefusedError("nobody there")

        async def connect(self) -> None:
            raise self.error

    memory = chain_of()
    found = await examine(memory, dial=lambda: Failing(memory))
    assert list(found) == ["chain"] and "nobody there" in found["chain"].what
    Failing.error = bittensor.RpcPolicyError("rate limited this source (HTTP 429)", retry_after="60")
    found = await examine(memory, dial=lambda: Failing(memory))
    assert "retry after 60" in found["chain"].what and "node of your own" in found["chain"].fix


async def test_a_network_without_the_subnet() -> None:
    memory = MemoryChain({**GENESIS, "netuid": 5})
    found = await examine(memory)
    assert list(found) == ["chain"] and "no subnet 1" in found["chain"].what


def test_without_a_run_spec_there_is_no_subnet_to_ask_about(tmp_path: Path) -> None:
    [found] = chaindoctor.chain_findings(Config(run=RunConfig(spec=tmp_path / "absent")))
    assert found.level == "skipped"
