"""Peers that nobody can connect to take part through a relay: real p2pds, on links without an inbound route."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.lab import Lab, Link, open_lab, why_not
from tests.swarmpeer import SwarmPeer, open_peer

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
DEADLINE_SECONDS = 120
BLOB_BYTES = 3_000_000
PORT = 4001


class Village:
    """Peer i of the lab by its name; who is in it ends with the stack."""

    def __init__(self, lab: Lab, directory: Path, stack: AsyncExitStack) -> None:
        self._lab, self._directory, self._stack = lab, directory, stack

    async def open(self, index: int, name: str, bootstrap: tuple[str, ...] = (), **transport: Any) -> SwarmPeer:
        transport |= {"listen_host": self._lab.address(index), "listen_port": PORT}
        opened = open_peer(
            self._directory,
            name,
            transport=transport,
            swarm={"bootstrap": bootstrap},
            within=lambda command: self._lab.command(index, command),
        )
        return await self._stack.enter_async_context(opened)


async def passes(giver: SwarmPeer, taker: SwarmPeer) -> None:
    """A blob, which is fetched from `giver` alone."""
    blob_id = await giver.ask("adopt", BLOB_BYTES)
    assert await taker.ask("fetch", blob_id, giver.peer_id, 30) == BLOB_BYTES


async def test_peers_behind_nats_take_part_through_a_relay(tmp_path: Path) -> None:
    links = [Link(), Link(inbound=False), Link(inbound=False), Link()]
    with open_lab(links) as lab, trio.fail_after(DEADLINE_SECONDS):
        async with AsyncExitStack() as stack:
            village = Village(lab, tmp_path, stack)
            relay = await village.open(0, "relay", relay_service=True)
            known = tuple(relay.addresses)
            first = await village.open(1, "first", known, relays=known)
            second = await village.open(2, "second", known, relays=known)
            public = await village.open(3, "public", known)
            everybody = [relay, first, second, public]
            for one in everybody:
                await one.until_met(*(other for other in everybody if other is not one))
            circuit = f"{known[0]}/p2p-circuit/p2p/{first.peer_id}"
            for other in (public, second):
                assert circuit in (await other.ask("book"))[first.hotkey][1]
            await passes(first, second)  # there is no other way between the two
            await passes(second, first)
            await passes(first, public)
            await passes(public, first)


async def test_a_relay_that_was_away_is_asked_again(tmp_path: Path) -> None:
    links = [Link(), Link(inbound=False), Link(inbound=False)]
    with open_lab(links) as lab, trio.fail_after(DEADLINE_SECONDS):
        async with AsyncExitStack() as stack:
            village = Village(lab, tmp_path, stack)
            async with AsyncExitStack() as briefly:
                relay = await Village(lab, tmp_path, briefly).open(0, "relay", relay_service=True)
                known = tuple(relay.addresses)
                first = await village.open(1, "first", known, relays=known)
                second = await village.open(2, "second", known, relays=known)
                await first.until_met(second)
            while (await first.ask("book"))[second.hotkey][2]:  # noqa: ASYNC110 - another process
                await trio.sleep(0.2)
            await village.open(0, "relay", relay_service=True)
            await first.until_met(second)
            await passes(second, first)
