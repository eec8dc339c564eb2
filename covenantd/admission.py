"""Who counts as a peer of the run: hotkeys registered on its subnet, as the chain says every few blocks."""

import structlog
import trio

from covenantd.chain.protocol import Chain
from covenantd.errors import ChainError

log = structlog.get_logger("covenantd.admission")
_BLOCKS_BETWEEN = 10
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 60.0


class Admission:
    """Call it with a hotkey. Until the chain has been read once everybody counts: nobody could be met otherwise."""

    def __init__(self) -> None:
        self._registered: frozenset[str] | None = None

    def __call__(self, hotkey: str) -> bool:
        return self._registered is None or hotkey in self._registered

    async def follow(self, chain: Chain, block_seconds: float) -> None:
        """Until cancelled; a silent chain leaves things as they were."""
        while True:
            try:
                head = await chain.block()
                neurons = (await chain.metagraph(head.number)).neurons
            except ChainError as error:
                log.warning("metagraph not read", error=str(error))
            else:
                self._registered = frozenset(neuron.hotkey for neuron in neurons)
            await trio.sleep(min(max(_BLOCKS_BETWEEN * block_seconds, _LEAST_SECONDS), _MOST_SECONDS))
