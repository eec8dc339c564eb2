"""`covenantctl profile`: a trace of the engine's next inner steps, left in the staging directory. One is kept."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from covenantd.control import Verb
from covenantd.controlwire import ControlError
from covenantd.node import Node
from covenantd.status import SCHEMA
from model.messages import Profile
from p2p.wire import Fields

MAX_STEPS = 100  # each leaves a megabyte and more
_MAX_WAIT_SECONDS = 86400.0


def profile_verb(node: Node) -> Verb:
    """{"steps": N, "timeout_seconds": S}: the path, once N steps are traced. They may be those of a later round."""
    one_at_a_time = trio.Lock()

    async def handler(args: Mapping[str, Any]) -> object:
        if node.validates:
            raise ControlError("failed", "a validator does not train; ask a miner")
        steps = Fields(args).number("steps", 1, MAX_STEPS)
        patience_seconds = Fields(args).real("timeout_seconds", 0, _MAX_WAIT_SECONDS)
        try:
            one_at_a_time.acquire_nowait()
        except trio.WouldBlock:
            raise ControlError("busy", "another trace is being taken; wait for it") from None
        try:
            return await _trace(node, steps, patience_seconds)
        finally:
            one_at_a_time.release()

    return Verb(handler, writes=True)


async def _trace(node: Node, steps: int, patience_seconds: float) -> object:
    path = _next_path(node.staging)
    with trio.move_on_after(patience_seconds):
        traced = await node.engine.trace(Profile(steps, str(path)))
        if traced.error:
            raise ControlError("failed", traced.error)
        return {"schema": SCHEMA, "path": traced.path, "steps": traced.steps}
    raise ControlError(
        "timeout",
        f"{steps} steps were not trained within {patience_seconds:g} s (`covenantctl status` says what goes on); "
        f"the trace will be in {path} when they are",
    )


def _next_path(directory: Path) -> Path:
    """A new name; older traces give way, so that they cannot fill the disk."""
    for old in directory.glob("profile-*.json"):
        old.unlink(missing_ok=True)
    return directory.absolute() / f"profile-{time.strftime('%Y%m%d-%H%M%S')}.json"
