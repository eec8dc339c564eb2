"""Who counts as a peer of the run: hotkeys registered on its subnet, as the chain says every few blocks."""

from collections.abc import Iterable, Iterator

import structlog
import trio

from covenantd.addresses import multiaddr_problem
from covenantd.chain.protocol import Chain, Commitment
from covenantd.errors import ChainError
from covenantd.roster import decode_identity

log = structlog.get_logger("covenantd.admission")
_BLOCKS_BETWEEN = 10
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 60.0


class Admission:
    """Call it with a hotkey. Until the chain has been read once everybody counts: nobody could be met otherwise."""

    def __init__(self) -> None:
        self._registered: frozenset[str] | None = None
        self.addresses: tuple[str, ...] = ()  # where peers say on chain that they can be reached

    def __call__(self, hotkey: str) -> bool:
        return self._registered is None or hotkey in self._registered

    async def follow(self, chain: Chain, block_seconds: float) -> None:
        """Until cancelled; a silent chain leaves things as they were."""
        while True:
            try:
                head = await chain.block()
                metagraph = await chain.metagraph(head.number)
            except ChainError as error:
                log.warning("metagraph not read", error=str(error))
            else:
                self._registered = frozenset(neuron.hotkey for neuron in metagraph.neurons)
                self.addresses = tuple(_addresses(metagraph.commitments.values()))
            await trio.sleep(min(max(_BLOCKS_BETWEEN * block_seconds, _LEAST_SECONDS), _MOST_SECONDS))


def _addresses(commitments: Iterable[Commitment]) -> Iterator[str]:
    for commitment in commitments:
        identity = decode_identity(commitment.fields[0]) if commitment.fields else None
        if identity is not None and identity.address:
            address = f"{identity.address}/p2p/{identity.peer_id}"
            if multiaddr_problem(address, peer_required=True) is None:  # anybody may write anything there
                yield address
