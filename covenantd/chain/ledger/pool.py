"""Verified writes that wait for a block. Bounded in all and for each hotkey; a nonce stands here once."""

from dataclasses import dataclass, field

import trio

from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import Refusal
from covenantd.chain.ledger.store import CallFate

MAX_PENDING = 8192
MAX_PENDING_OF_HOTKEY = 16


@dataclass
class Pending:
    """`fate` is set when `done` is."""

    call: Call
    done: trio.Event = field(default_factory=trio.Event)
    fate: CallFate | None = None


class Pool:
    def __init__(self) -> None:
        # By hotkey in order of first arrival, then by nonce: the order of inclusion.
        self._by_hotkey: dict[str, dict[int, Pending]] = {}
        self._size = 0

    def add(self, call: Call) -> Pending:
        """Raises Refusal: StaleNonce if another call waits with that nonce, PoolFull. The same call joins itself."""
        mine = self._by_hotkey.get(call.hotkey, {})
        waiting = mine.get(call.nonce)
        if waiting is not None:
            if waiting.call.digest != call.digest:
                raise Refusal("StaleNonce", f"another call waits with nonce {call.nonce}")
            return waiting
        if self._size >= MAX_PENDING or len(mine) >= MAX_PENDING_OF_HOTKEY:
            raise Refusal("PoolFull", f"{len(mine)} calls of this hotkey, {self._size} in all are waiting")
        pending = Pending(call)
        self._by_hotkey.setdefault(call.hotkey, {})[call.nonce] = pending
        self._size += 1
        return pending

    def find(self, hotkey: str, nonce: int) -> Pending | None:
        return self._by_hotkey.get(hotkey, {}).get(nonce)

    def highest_nonce(self, hotkey: str) -> int:
        """Of the waiting calls; 0 if there are none."""
        return max(self._by_hotkey.get(hotkey, {}), default=0)

    def take(self, limit: int) -> list[Pending]:
        """Remove up to `limit` calls, each hotkey's lowest nonces first."""
        taken: list[Pending] = []
        for hotkey in list(self._by_hotkey):
            mine = self._by_hotkey[hotkey]
            for nonce in sorted(mine)[: limit - len(taken)]:
                taken.append(mine.pop(nonce))
            if not mine:
                del self._by_hotkey[hotkey]
            if len(taken) >= limit:
                break
        self._size -= len(taken)
        return taken
