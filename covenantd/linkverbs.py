"""Control verbs about links to other peers: limits, their caps, a peer to connect to by hand."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from covenantd.addresses import multiaddr_problem
from covenantd.control import ControlSettings, Verb
from covenantd.controlwire import ControlError
from covenantd.http import HttpSettings
from covenantd.rates import parse_rate
from covenantd.status import SCHEMA
from p2p.errors import ProtocolViolation, TransportError
from p2p.exchange import Exchange
from p2p.exchange_settings import ExchangeSettings
from p2p.swarm import Swarm
from p2p.wire import Fields

Args = Mapping[str, Any]
Handler = Callable[[Args], Awaitable[object]]

_MAX_ADDRESS_CHARS = 512
_MAX_RATE_CHARS = 32


def link_verbs(swarm: Swarm, exchange: Exchange) -> dict[str, Verb]:
    return {
        "limits": Verb(_limits(swarm, exchange)),
        "set-limit": Verb(_set_limit(exchange), writes=True),
        "connect": Verb(_connect(swarm), writes=True),
    }


def _limits(swarm: Swarm, exchange: Exchange) -> Handler:
    """The caps of our link, and what strangers may have of the parts that meet them; the latter are fixed."""

    async def handler(args: Args) -> object:
        groups = {
            "exchange": asdict(ExchangeSettings()),
            "swarm": {k: v for k, v in asdict(swarm.settings).items() if k not in ("run_id", "role", "bootstrap")},
            "control": asdict(ControlSettings()),
            "http": asdict(HttpSettings()),
        }
        return {"schema": SCHEMA, "link": _link(exchange), "limits": groups}

    return handler


def _link(exchange: Exchange) -> dict[str, Any]:
    (uplink, downlink), (up, down) = exchange.limits, exchange.rates
    return {
        "uplink_bytes_per_second": uplink,
        "uplink_queue_seconds": exchange.uplink_queue_seconds,
        "downlink_bytes_per_second": downlink,
        "up_bytes_per_second": up,
        "down_bytes_per_second": down,
    }


def _set_limit(exchange: Exchange) -> Handler:
    """{"way": "uplink" or "downlink", "rate": as `parse_rate` takes it}: until the next restart."""

    async def handler(args: Args) -> object:
        way = Fields(args).text("way", 16)
        if way not in ("uplink", "downlink"):
            raise ControlError("usage", f"{way!r} is neither uplink nor downlink")
        try:
            rate = parse_rate(Fields(args).text("rate", _MAX_RATE_CHARS))
        except ValueError as error:
            raise ControlError("usage", str(error)) from None
        uplink, downlink = exchange.limits
        exchange.set_limits(*((rate, downlink) if way == "uplink" else (uplink, rate)))
        return {"schema": SCHEMA, "link": _link(exchange)}

    return handler


def _connect(swarm: Swarm) -> Handler:
    """{"address": one that ends in /p2p/PEER_ID}: who it is, once it has proven it."""

    async def handler(args: Args) -> object:
        address = Fields(args).text("address", _MAX_ADDRESS_CHARS)
        if (problem := multiaddr_problem(address, peer_required=True)) is not None:
            raise ControlError("usage", f"{address!r} {problem}")
        peer_id = address.rpartition("/p2p/")[2]
        if peer_id == swarm.peer_id:
            raise ControlError("usage", "that is this peer itself")
        if swarm.reputation.is_banned(peer_id):
            raise ControlError("failed", f"{peer_id} is banned; `covenantctl peers unban {peer_id}` first")
        try:
            hotkey = await swarm.connect(address)
        except (TransportError, ProtocolViolation) as error:
            raise ControlError("failed", f"{address}: {error}") from None
        counts = swarm.by_peer_id(peer_id) is not None
        return {"schema": SCHEMA, "peer_id": peer_id, "hotkey": hotkey, "counts": counts}

    return handler
