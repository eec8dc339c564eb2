"""Whether a contribution that is here is what a contribution must be: the engine says."""

from pathlib import Path

import structlog

from covenantd.chain.keys import public_key
from covenantd.commits import Commit
from covenantd.node import Node
from model import messages

log = structlog.get_logger("covenantd.soundness")


async def is_sound(node: Node, commit: Commit, path: Path) -> bool:
    """Raises EngineError, EngineRefused: nothing is known of it then."""
    order = messages.Check(str(path), commit.round, commit.base_state_hash, public_key(commit.hotkey).hex())
    checked = await node.engine.order(order, messages.Checked)
    if not checked.ok:
        log.warning("contribution refused", hotkey=commit.hotkey, reason=checked.reason, peer_caused=True)
    return checked.ok
