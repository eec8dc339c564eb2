"""Tells the chain what the scores are worth: weights once in every epoch that brought new scores, and on a chain that
hides them until they are shown, shows them when their time comes."""

import structlog

from covenantd.chain.protocol import EpochInfo, Neuron
from covenantd.errors import ChainError, ChainRefused
from covenantd.node import Node
from covenantd.scores import Scores

log = structlog.get_logger("covenantd.weights")
_UNREGISTERED_BLOCKS = 10  # between two looks whether we have a uid again


class WeightSetter:
    """What was set when is read from the chain, so a restart changes nothing."""

    def __init__(self, node: Node, scores: Scores) -> None:
        self._node = node
        self._scores = scores
        self._told = -1  # version of the scores that the chain has heard
        self._set_at = 0  # head from which weights may be set, as far as we know
        self._show_at: int | None = 0  # head from which hidden ones may be shown; None: there are none

    async def run(self) -> None:
        """Until cancelled. Looks at every head: a silent chain has none and is not asked."""
        heads = self._node.heads
        await heads.reached(1)
        while True:
            seen = heads.number
            try:
                await self._look(seen)
            except (ChainError, ChainRefused, OSError) as error:  # what hides weights is kept on disk
                log.warning("weights not set", error=str(error))
            await heads.reached(seen + 1)

    async def _look(self, head: int) -> None:
        if self._show_at is not None and head >= self._show_at:
            self._show_at = await self._node.chain.reveal_due()
        if self._scores.version != self._told and head >= self._set_at:
            await self._tell(head)

    async def _tell(self, head: int) -> None:
        node, version = self._node, self._scores.version
        epoch, metagraph = await node.chain.epoch(), await node.chain.metagraph(head)
        neuron, shares = metagraph.neuron(node.hotkey.hotkey), self._scores.shares()
        by_uid = {n.uid: shares[n.hotkey] for n in metagraph.neurons if n.hotkey in shares}
        if not by_uid:
            self._told = version
            return
        self._set_at = first_head(epoch, neuron) if neuron else head + _UNREGISTERED_BLOCKS
        if head >= self._set_at:
            await self._set(by_uid, version, epoch)

    async def _set(self, by_uid: dict[int, float], version: int, epoch: EpochInfo) -> None:
        try:
            block = await self._node.chain.set_weights(by_uid)
        except ChainRefused as refusal:
            self._set_at = epoch.next_epoch_block  # permits, which it mostly is about, come with epochs
            log.warning("the chain refused the weights", error=str(refusal), again_at_block=self._set_at)
            return
        self._told, self._show_at = version, 0
        log.info("weights set", block=block, weights={uid: f"{share:.3f}" for uid, share in by_uid.items()})


def first_head(epoch: EpochInfo, neuron: Neuron) -> int:
    """The head after which weights may be set: not again in an epoch they were set in, nor before the rate limit
    lets them into the next block. To be registered counts as an update to the rate limit alone."""
    last = neuron.last_update_block
    if last > neuron.registered_block and last >= epoch.next_epoch_block - epoch.tempo_blocks:
        return epoch.next_epoch_block
    return last + epoch.weights_rate_limit_blocks - 1 if last else 0
