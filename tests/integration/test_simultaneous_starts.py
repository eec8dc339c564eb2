"""Five peers started at once are one swarm, every time: each a process of its own with its own p2pd and DHT node.

A hundred times: `pytest -m slow tests/integration/test_simultaneous_starts.py`, 10 to 15 minutes on two cores.
"""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from test_dht_discovery import free_ports

from p2p.identity import create_identity
from tests.swarmpeer import SwarmPeer, open_peer

PEERS = 5
STARTS_EACH = 10
DEADLINE_SECONDS = 90


async def starts(directory: Path) -> None:
    """A ring: each knows only the next one, which may or may not be there yet."""
    names = [f"peer{index}" for index in range(PEERS)]
    for name in names:
        (directory / name).mkdir(parents=True)
    ids = [create_identity(directory / name / "p2p.key") for name in names]
    ports = free_ports(PEERS)
    peers: list[SwarmPeer] = []
    async with AsyncExitStack() as stack:

        async def start(index: int) -> None:
            following = (index + 1) % PEERS
            opened = open_peer(
                directory,
                names[index],
                transport={"listen_host": "127.0.0.1", "listen_port": ports[index]},
                swarm={"bootstrap": [f"/ip4/127.0.0.1/tcp/{ports[following]}/p2p/{ids[following]}"]},
            )
            peers.append(await stack.enter_async_context(opened))

        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                for index in range(PEERS):
                    nursery.start_soon(start, index)
            for peer in peers:
                await peer.until_met(*(other for other in peers if other is not peer))
            for peer in peers:  # and one DHT, which takes in new nodes now and then
                while await peer.ask("nodes") < PEERS - 1:  # noqa: ASYNC110 - another process
                    await trio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(STARTS_EACH * DEADLINE_SECONDS)
@pytest.mark.parametrize("ten", range(10))
async def test_five_peers_started_at_once_are_one_swarm(tmp_path: Path, ten: int) -> None:
    for number in range(STARTS_EACH):
        await starts(tmp_path / str(number))
