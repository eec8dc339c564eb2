"""How a hotkey stands with the chain's limits, for whoever wants to know before it is refused."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from covenantd.chain.bittensor.link import Connection


@dataclass(frozen=True)
class Standing:
    """In the finalized state of block `head`. What depends on a uid is None without one. Stake in rao."""

    head: int
    uid: int | None
    last_update_block: int | None
    weights_rate_limit_blocks: int
    weights_min_stake: int
    commit_reveal: bool
    commitment_bytes_used: int  # in this epoch
    commitment_bytes_allowed: int

    @property
    def weights_wait_blocks(self) -> int:
        """Until the chain takes weights again; 0: now."""
        if not self.last_update_block:
            return 0
        return max(0, self.last_update_block + self.weights_rate_limit_blocks - self.head)

    @property
    def commitment_bytes_left(self) -> int:
        return max(0, self.commitment_bytes_allowed - self.commitment_bytes_used)


async def read_standing(connection: Connection, netuid: int, hotkey: str) -> Standing:
    import bittensor

    subnet, commitments = bittensor.storage.SubtensorModule, bittensor.storage.Commitments
    view = await connection.client.at(await connection.client.finalized_block())
    uid, updates, limit, stake, hidden, usage, allowed, epoch = await asyncio.gather(
        view.query(subnet.Uids, [netuid, hotkey]),
        view.query(subnet.LastUpdate, [netuid]),
        view.query(subnet.WeightsSetRateLimit, [netuid]),
        view.query(subnet.StakeThreshold),
        view.query(subnet.CommitRevealWeightsEnabled, [netuid]),
        view.query(commitments.UsedSpaceOf, [netuid, hotkey]),
        view.query(commitments.MaxSpace),
        view.query(subnet.SubnetEpochIndex, [netuid]),
    )
    return Standing(
        head=view.block,
        uid=None if uid is None else int(uid),
        last_update_block=None if uid is None else int(updates[int(uid)]),
        weights_rate_limit_blocks=int(limit or 0),
        weights_min_stake=int(stake or 0),
        commit_reveal=bool(hidden),
        commitment_bytes_used=_used(usage, int(epoch or 0)),
        commitment_bytes_allowed=int(allowed or 0),
    )


def _used(usage: Any, epoch: int) -> int:
    """The chain resets the count at the first write of an epoch, not at the epoch."""
    if not isinstance(usage, Mapping) or int(usage["last_epoch"]) != epoch:
        return 0
    return int(usage["used_space"])
