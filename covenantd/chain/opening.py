"""From `[chain]` to a client of that chain."""

from pathlib import Path
from typing import Protocol

from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Chain
from covenantd.config import ChainConfig
from p2p.protocols import Signer


class OpenChain(Chain, Protocol):
    """A chain whose connections and threads end with `aclose`."""

    async def aclose(self) -> None: ...


def open_chain(config: ChainConfig, netuid: int, signer: Signer | None = None, hidden: Path | None = None) -> OpenChain:
    """Connects to nothing before its first call. Without a signer it only reads. `hidden`: where weights are kept that
    a ledger is not to know yet. Raises ConfigError."""
    if config.kind == "bittensor":
        return BittensorChain(config.endpoint, netuid, signer, archive=config.archive)
    return LedgerChain(config.endpoint, netuid, signer, hidden=hidden)
