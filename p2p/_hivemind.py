"""hivemind's DHT node on our p2pd, imported without torch.

`hivemind` as a package imports torch (1.4 s, 280 MB); its DHT node does not need it. So the few modules that do
are replaced by empty stand-ins while the node is imported, for the one version this was tried with; any other
version is imported plainly. Everything but `load` and `key_id` runs in an asyncio loop (`p2p._asyncio_thread`).
Never `hivemind.DHT`: it forks, and a store of 70 KB kills its child while the caller waits.
"""

import asyncio
import functools
import hashlib
import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack

from p2p._p2pd_process import package_file
from p2p.protocols import PeerId

LIGHT_VERSION = "1.1.12"
_STAND_INS: dict[str, dict[str, Any]] = {
    "torch": {},
    "hivemind": {},
    "hivemind.dht": {},
    "hivemind.utils.mpfuture": {"MPFuture": object},
    "hivemind.utils.tensor_descr": {"TensorDescriptor": object},
}
_MAX_KEYS = 1 << 14  # a stranger's signed records cost him nothing
_PACKAGES = {"hivemind": ".", "hivemind.dht": "dht"}

Accept = Callable[[bytes, str, bytes, float], bool]
"""(id of the key, subkey, value, expiry in seconds since the epoch) -> whether the DHT may hold this entry."""

Keep = Callable[[str], bool]
"""subkey -> whether we store entries under it for others. Unlike Accept, it may differ between nodes."""


def key_id(key: str) -> bytes:
    """The 20-byte DHT id of a key, as hivemind computes it."""
    return hashlib.sha1(msgpack.packb(key), usedforsecurity=False).digest()


@functools.cache
def load() -> ModuleType:
    """`hivemind.dht.node`, by the light way if it is known to work."""
    fresh = "hivemind" not in sys.modules and importlib.metadata.version("hivemind") == LIGHT_VERSION
    module = _load_light() if fresh else None
    if module is None:
        module = importlib.import_module("hivemind.dht.node")
    _silence()
    return module


def _load_light() -> ModuleType | None:
    root = package_file("__init__.py").parent
    missing = [name for name in _STAND_INS if name not in sys.modules]
    for name in missing:
        sys.modules[name] = _stand_in(name, root)
    try:
        return importlib.import_module("hivemind.dht.node")
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "hivemind"]:
            del sys.modules[name]
        return None
    finally:
        if "torch" in missing:
            sys.modules.pop("torch", None)  # who imports torch later must get torch


def _stand_in(name: str, root: Path) -> ModuleType:
    module = ModuleType(name, "Stand-in made by p2p._hivemind.")
    module.__dict__.update(_STAND_INS[name])
    spec = ModuleSpec(name, None, is_package=name in _PACKAGES)  # importlib.util.find_spec wants one
    module.__spec__ = spec
    if name in _PACKAGES:
        spec.submodule_search_locations = module.__path__ = [str(root / _PACKAGES[name])]
    return module


def _silence() -> None:
    """hivemind takes over logging, with colours, and lets any peer write into our log."""
    importlib.import_module("hivemind.utils.logging").use_hivemind_log_handler("nowhere")
    logging.getLogger("hivemind").setLevel(logging.CRITICAL)


class HivemindNode:
    """One DHT node. All methods but `create` and `key_id` are coroutines of the asyncio loop."""

    def __init__(self, p2p: Any, node: Any, hivemind: ModuleType) -> None:
        self._p2p = p2p
        self._node = node
        self._hivemind = hivemind

    @classmethod
    async def create(
        cls, control_address: str, accept: Accept | None, keep: Keep, replicas: int, rpc_seconds: float
    ) -> "HivemindNode":
        hivemind = load()
        p2p = await hivemind.P2P.replicate(hivemind.Multiaddr(control_address))
        node = await hivemind.DHTNode.create(
            p2p,
            # the same after a restart, so that others' routing tables stay right
            node_id=hivemind.DHTID.generate(source=p2p.peer_id.to_bytes()),
            num_replicas=replicas,
            wait_timeout=rpc_seconds,
            record_validator=_validator(hivemind, accept) if accept is not None else None,
            # every read asks the network for the latest; caches would only be one more place to be stale
            cache_locally=False,
            cache_nearest=0,
            cache_on_store=False,
            backoff_rate=1.0,  # by default a silent peer is avoided twice as long each time, without bound
        )
        for storage in (node.protocol.storage, node.protocol.cache):
            storage.maxsize = _MAX_KEYS
            storage.store_subkey = functools.partial(_store_if_kept, storage.store_subkey, keep)
        return cls(p2p, node, hivemind)

    async def store(self, key: str, subkey: str, value: bytes, expires_at: float) -> bool:
        return bool(await self._node.store(key, value, expires_at, subkey=subkey))

    async def fetch(self, key: str) -> dict[str, bytes]:
        found = await self._node.get(key, latest=True)
        if found is None or not isinstance(found.value, dict):
            return {}
        entries = {subkey: entry.value for subkey, entry in found.value.items()}
        return {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, bytes)}

    async def strangers(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Those of `peers` that are not in our routing table."""
        known = self._node.protocol.routing_table
        return [peer for peer in peers if self._hivemind.PeerID.from_base58(peer) not in known]

    async def introduce(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Ping `peers`, so that we and they know each other; returns those that answered."""
        wanted = list(peers)
        ids = [self._hivemind.PeerID.from_base58(peer) for peer in wanted]
        answers = await asyncio.gather(*(self._node.protocol.call_ping(peer_id) for peer_id in ids))
        met = [(peer, peer_id) for peer, peer_id, answer in zip(wanted, ids, answers, strict=True) if answer]
        for _, peer_id in met:
            self._node.blacklist.register_success(peer_id)
        if met:
            await self._node.find_nearest_nodes([self._node.node_id])
        return [peer for peer, _ in met]

    async def size(self) -> int:
        """Nodes in our routing table."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def shutdown(self) -> None:
        await self._node.shutdown()
        await self._p2p.shutdown()


def _store_if_kept(
    store: Callable[..., bool], keep: Keep, key: Any, subkey: Any, value: bytes, expires_at: float
) -> bool:
    return keep(subkey) and store(key, subkey, value, expires_at)


def _validator(hivemind: ModuleType, accept: Accept) -> Any:
    """hivemind's hook for incoming entries, of stores and of answers alike. Must never raise."""

    class Validator(hivemind.RecordValidatorBase):  # type: ignore[name-defined, misc]
        def validate(self, record: Any) -> bool:
            try:
                subkey, value = msgpack.unpackb(record.subkey), msgpack.unpackb(record.value)
            except (ValueError, TypeError, msgpack.exceptions.UnpackException):
                return False
            if not isinstance(subkey, str) or not isinstance(value, bytes):
                return False
            return accept(record.key, subkey, value, record.expiration_time)

    return Validator()
