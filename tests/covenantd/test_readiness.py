"""What is wrong with the world is said by the check of its name."""

from pathlib import Path
from typing import Any, cast

import trio
import trio.testing
from node_fixture import ScriptedSwarm, make_node, peer
from run_fixture import TIMING

from covenantd.chain.protocol import Block
from covenantd.health import Health
from covenantd.readiness import watch_node, watch_peers


async def test_every_need(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    node, health, swarm = make_node(tmp_path), Health(), ScriptedSwarm()
    watch_peers(health, cast(Any, swarm))
    watch_node(health, node)
    node.board.update(state="syncing")

    def wrong() -> dict[str, str]:
        return {one.name: one.reason for one in health.findings() if one.reason is not None}

    assert wrong() == {"peers": "no peer connected", "chain": "no block seen yet", "state": "state syncing"}
    assert health.alive(), "a restart cures none of it"
    swarm.present = (peer("A", connected=False),)
    assert wrong()["peers"] == "no peer connected", "one we have heard of is not enough"
    swarm.present = (peer("A"),)
    node.heads.see(Block(7, "ab" * 32, 0.0))
    node.board.update(state="running")
    assert wrong() == {} and health.ready()
    await trio.sleep(10 * TIMING.block_seconds)
    assert health.ready()
    await trio.sleep(1)
    assert wrong() == {"chain": f"no block for {10 * TIMING.block_seconds + 1:.0f} s since 7"}
    node.heads.see(Block(8, "ab" * 32, 0.0))
    node.board.update(state="behind")
    node.engine.state = "restarting"  # type: ignore[misc]
    assert wrong() == {"engine": "engine restarting", "state": "state behind"}
