"""Tells the chain who we are: field 0 of our commitment, kept true for as long as we run."""

import structlog
import trio

from covenantd.errors import ChainError, ChainRefused
from covenantd.node import Node

log = structlog.get_logger("covenantd.enrol")
_RETRY_SECONDS = 5.0
_LOOK_BLOCKS = 20
_CHANGE_BLOCKS = 100  # a write takes up to 260 bytes of the 3100 that a hotkey has in an epoch of 360 blocks


async def keep_identity(node: Node) -> None:
    """Until cancelled: published at once where the chain has none of ours (also after we lost our uid and got another),
    and when it changes, as addresses do that are found out later, but then not sooner than `_CHANGE_BLOCKS` after the
    last write. A certifier enrols by this: it counts from the first round that starts later."""
    first = True
    while True:
        try:
            async with node.commitment:
                published = await _published(node, first)
        except ChainRefused as error:
            node.board.update(last_error=f"the chain refused our commitment: {error}")
            log.warning("identity not published", error=str(error), hotkey=node.hotkey.hotkey)
        except ChainError as error:
            log.warning("identity not published yet", error=str(error))
        else:
            if published:
                first = False
                await node.heads.reached(node.heads.number + _LOOK_BLOCKS)
                continue
        await trio.sleep(_RETRY_SECONDS)


def _latest_vote(node: Node) -> tuple[bytes, ...]:
    """The vote of the round in work, if we have cast it: it may not be on chain yet."""
    memory = node.journal.memory
    if memory.voted is None or memory.voted.round != memory.round:
        return ()
    return (memory.voted.on_chain(node.spec.tag, memory.state_hash).encode(),)


async def _published(node: Node, first: bool) -> bool:
    """False without a uid. A write replaces both fields, so a vote that is there is written again with the new
    identity."""
    head = await node.chain.block()  # no waiting here: our vote may want the commitment
    metagraph = await node.chain.metagraph(head.number)
    if metagraph.neuron(node.hotkey.hotkey) is None:
        node.board.update(
            last_error="hotkey is not registered on the subnet: register it, e.g. by `covenantd register`"
        )
        log.warning("hotkey not registered", hotkey=node.hotkey.hotkey, netuid=metagraph.netuid)
        return False
    identity = node.identity().encode()
    commitment = metagraph.commitments.get(node.hotkey.hotkey)
    if commitment is not None and commitment.fields:
        lately = head.number < commitment.block + _CHANGE_BLOCKS
        if commitment.fields[0] == identity or (lately and not first):
            return True
    votes = _latest_vote(node) or (commitment.fields[1:] if commitment is not None else ())
    block = await node.chain.publish_commitment([identity, *votes])
    log.info("identity published", block=block)
    return True
