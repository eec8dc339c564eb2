"""Control verbs about the daemon itself, whatever its role: log level, config, identity, bans."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from covenantd import logs
from covenantd.board import StatusBoard
from covenantd.control import Verb
from covenantd.controlwire import ControlError
from covenantd.liveconfig import LiveConfig
from covenantd.status import SCHEMA
from p2p.swarm import Swarm
from p2p.wire import Fields

Args = Mapping[str, Any]
Reload = Callable[[], Awaitable[dict[str, Any]]]

_MAX_PEER_ID_CHARS = 128


def daemon_verbs(live: LiveConfig, board: StatusBoard, swarm: Swarm, reload: Reload) -> dict[str, Verb]:
    """`reload` takes up the config anew and says what came of it."""
    return {
        "log-level": Verb(_log_level(live)),
        "set-log-level": Verb(_set_log_level(live), writes=True),
        "config": Verb(_config(live)),
        "config-reload": Verb(_reload(reload), writes=True),
        "identity": Verb(_identity(live, board)),
        "bans": Verb(_bans(swarm)),
        "ban": Verb(_ban(swarm), writes=True),
        "unban": Verb(_unban(swarm), writes=True),
    }


Handler = Callable[[Args], Awaitable[object]]


def _log_level(live: LiveConfig) -> Handler:
    async def handler(args: Args) -> object:
        return {"schema": SCHEMA, "level": live.config.node.log_level, "levels": list(logs.LEVELS)}

    return handler


def _set_log_level(live: LiveConfig) -> Handler:
    async def handler(args: Args) -> object:
        level = Fields(args).text("level", 16)
        try:
            live.set_log_level(level)
        except ValueError as error:
            raise ControlError("usage", str(error)) from None
        return {"schema": SCHEMA, "level": level, "levels": list(logs.LEVELS)}

    return handler


def _config(live: LiveConfig) -> Handler:
    async def handler(args: Args) -> object:
        return {"schema": SCHEMA, "file": str(live.config.file or ""), "settings": live.shown()}

    return handler


def _reload(reload: Reload) -> Handler:
    async def handler(args: Args) -> object:
        return {"schema": SCHEMA, **await reload()}

    return handler


def _identity(live: LiveConfig, board: StatusBoard) -> Handler:
    async def handler(args: Args) -> object:
        status = board.status
        return {
            "schema": SCHEMA,
            "hotkey": status.hotkey,
            "uid": status.uid,
            "peer_id": status.peer_id,
            "addresses": list(status.addresses),
            "role": status.role,
            "run_id": status.run_id,
            "run_name": status.run_name,
            "hotkey_file": str(live.config.identity.hotkey),
            "p2p_identity_file": str(live.config.p2p_identity),
        }

    return handler


# Bans


def _bans(swarm: Swarm) -> Handler:
    async def handler(args: Args) -> object:
        now = trio.current_time()
        bans = swarm.reputation.bans()
        rows = [{"peer_id": p, "reason": b.reason, "seconds_left": max(0.0, b.until - now)} for p, b in bans.items()]
        return {"schema": SCHEMA, "bans": rows}

    return handler


def _ban(swarm: Swarm) -> Handler:
    async def handler(args: Args) -> object:
        peer_id = _peer_id(swarm, args)
        if peer_id == swarm.peer_id:
            raise ControlError("usage", "that is this peer itself")
        swarm.reputation.ban(peer_id, "banned by the operator")
        return {"schema": SCHEMA, "peer_id": peer_id, "banned": True}

    return handler


def _unban(swarm: Swarm) -> Handler:
    async def handler(args: Args) -> object:
        peer_id = Fields(args).text("peer", _MAX_PEER_ID_CHARS)
        if peer_id not in swarm.reputation.bans():
            raise ControlError("failed", f"{peer_id} is not banned; `covenantctl peers bans` lists who is")
        swarm.reputation.unban(peer_id)
        return {"schema": SCHEMA, "peer_id": peer_id, "banned": False}

    return handler


def _peer_id(swarm: Swarm, args: Args) -> str:
    """A peer id, known or not, or the hotkey of a known peer."""
    word = Fields(args).text("peer", _MAX_PEER_ID_CHARS)
    peer = swarm.by_hotkey(word)
    if peer is not None:
        return peer.peer_id
    if swarm.by_peer_id(word) is None and not word.startswith(("12D3Koo", "Qm", "16Uiu2")):
        raise ControlError("usage", f"{word!r} is neither a peer id nor the hotkey of a peer we know")
    return word
