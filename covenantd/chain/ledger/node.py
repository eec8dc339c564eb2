"""The ledger in one process: current state, waiting calls, history, and who waits for the next head."""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from secrets import token_hex
from typing import Any

import trio

from covenantd.chain.ledger.blocks import LedgerBlock, genesis_block, make_block
from covenantd.chain.ledger.epoch import next_epoch_block
from covenantd.chain.ledger.genesis import Genesis
from covenantd.chain.ledger.pool import Pending, Pool
from covenantd.chain.ledger.signing import open_call
from covenantd.chain.ledger.state import UNREAD_TABLES, Refusal, State, StateDigest, canonical_json
from covenantd.chain.ledger.store import KEPT_BLOCKS, CallFate, LedgerStore
from covenantd.chain.ledger.views import commitment_view, fate_view, metagraph_view, subnet_view
from covenantd.chain.ledger.wire import Encoded
from covenantd.errors import ConfigError

MAX_CALLS_PER_BLOCK = 2048
MAX_FINALITY_BLOCKS = 1000
_CACHED_METAGRAPHS = 16
_MAX_INCLUSION_WAIT_SECONDS = 300.0


class LedgerNode:
    """Reads and writes of one ledger. `produce` is for the block producer alone.

    A block is final once `finality_blocks` more stand on it (0: at once, for this ledger never forks). What is not
    final is not shown, nor are its writes acknowledged; nonces, balances and epochs are those of the newest block.
    """

    def __init__(
        self, store: LedgerStore, genesis: Genesis, now_ms: Callable[[], int], finality_blocks: int = 0
    ) -> None:
        """Take up the stored ledger, or make block 0 from `genesis` in an empty store."""
        self._store = store
        self._finality_blocks = finality_blocks
        self._now_ms = now_ms
        if store.head() is None:
            _create(store, genesis, now_ms())
        head, first = store.head(), store.block(0)
        assert head is not None and first is not None
        entries = store.load_state(head)
        self._state = State(entries)
        self._digest = StateDigest(entries)
        self._best = head
        self._head = self._final_block()
        self._pool = Pool()
        self._unsettled: deque[tuple[int, list[Pending]]] = deque()  # by block, those not final
        self._next_head = trio.Event()
        self._metagraphs: OrderedDict[int, Encoded] = OrderedDict()
        self.genesis_hash = first.hash
        self.netuid = self._state.settings.netuid

    @property
    def head(self) -> LedgerBlock:
        """The newest final block."""
        return self._head

    def require_settings(self, expected: Mapping[str, Any]) -> None:
        """Raises ConfigError where the stored ledger was made with other rules."""
        stored = vars(self._state.settings)
        for name, value in expected.items():
            if stored[name] != value:
                raise ConfigError(f"the ledger in this database has {name} {stored[name]!r}, asked for {value!r}")

    def produce(self) -> None:
        """Make and store the next block. After an error the node must not be used: its state is ahead of the disk."""
        batch = self._pool.take(MAX_CALLS_PER_BLOCK)
        block, included, changes = make_block(
            self._state, self._digest, self._best, self._now_ms(), [pending.call for pending in batch]
        )
        # In the event loop on purpose: no reader can see a block that is not on disk, and it takes milliseconds.
        self._store.commit(block, included, changes)
        self._best = block
        for pending, entry in zip(batch, included, strict=True):
            pending.fate = CallFate(block.number, entry.call.digest, entry.error)
        self._unsettled.append((block.number, batch))
        self._settle()

    def _settle(self) -> None:
        self._head = self._final_block()
        while self._unsettled and self._unsettled[0][0] <= self._head.number:
            for pending in self._unsettled.popleft()[1]:
                pending.done.set()
        self._next_head.set()
        self._next_head = trio.Event()

    def _final_block(self) -> LedgerBlock:
        if self._finality_blocks == 0:
            return self._best
        block = self._store.block(max(0, self._best.number - self._finality_blocks))
        assert block is not None  # far fewer are waited for than are kept
        return block

    async def submit(self, hotkey: str, body: str, signature: str) -> CallFate:
        """Wait until the call is in a final block. Raises Refusal; NotIncludedYet leaves it waiting."""
        call = open_call(hotkey, body, signature, self.genesis_hash)
        used = self._state.account(hotkey).nonce
        if call.nonce <= used:
            raise Refusal("StaleNonce", f"nonce {call.nonce}, the last was {used}")
        pending = self._pool.add(call)
        with trio.move_on_after(_MAX_INCLUSION_WAIT_SECONDS):
            await pending.done.wait()
        if pending.fate is None or not pending.done.is_set():
            raise Refusal("NotIncludedYet", f"no block after {_MAX_INCLUSION_WAIT_SECONDS:.0f} s")
        return pending.fate

    def next_nonce(self, hotkey: str) -> int:
        return max(self._state.account(hotkey).nonce, self._pool.highest_nonce(hotkey)) + 1

    def commitment(self, hotkey: str) -> dict[str, Any] | None:
        """`views.commitment_view` of a registered hotkey's commitment; None as long as the newest is not final."""
        row = self._state.commitments.get(hotkey)
        return None if row is None or row.block > self._head.number else commitment_view(row)

    def fate(self, hotkey: str, nonce: int) -> dict[str, Any]:
        """What became of a call: `views.fate_view` of it, or {"status": "pending", "digest"}, or {"status": "unknown",
        "used_nonce"}: one answer, so that nobody has to put two reads together."""
        fate = self._store.fate(hotkey, nonce)
        if fate is not None:
            final = fate.block <= self._head.number
            return fate_view(fate) if final else {"status": "pending", "digest": fate.digest}
        if pending := self._pool.find(hotkey, nonce):
            return {"status": "pending", "digest": pending.call.digest}
        return {"status": "unknown", "used_nonce": self._state.account(hotkey).nonce}

    async def wait_head(self, after: int, timeout_seconds: float) -> LedgerBlock | None:
        """The head as soon as its number exceeds `after`; None when the time is up."""
        with trio.move_on_after(timeout_seconds):
            while self._head.number <= after:
                await self._next_head.wait()
        return self._head if self._head.number > after else None

    def block(self, number: int) -> LedgerBlock:
        """Raises Refusal: BlockNotFinalized (not yet), StateDiscarded (no longer)."""
        self._require_kept(number)
        block = self._store.block(number)
        if block is None:
            raise Refusal("StateDiscarded", f"block {number} is older than the {KEPT_BLOCKS} that are kept")
        return block

    def metagraph(self, number: int) -> Encoded:
        """The subnet after block `number`, as `views.metagraph_view` lays it out."""
        self.block(number)
        if number not in self._metagraphs:
            entries = self._store.entries(number)
            shown = {key: value for key, value in entries.items() if not key.startswith(UNREAD_TABLES)}
            view = metagraph_view(State(shown), number)
            self._metagraphs[number] = Encoded(canonical_json(view))
            if len(self._metagraphs) > _CACHED_METAGRAPHS:
                self._metagraphs.popitem(last=False)
        return self._metagraphs[number]

    def _require_kept(self, number: int) -> None:
        if number > self._head.number:
            raise Refusal("BlockNotFinalized", f"the head is {self._head.number}")
        if 0 < number < self._head.number - KEPT_BLOCKS:
            raise Refusal("StateDiscarded", f"block {number} is older than the {KEPT_BLOCKS} that are kept")

    def epoch(self) -> dict[str, Any]:
        settings = self._state.settings
        return {
            "epochs": self._state.totals.epochs,
            "commit_reveal": settings.commit_reveal,
            "reveal_period_epochs": settings.reveal_period_epochs,
            "tempo_blocks": settings.tempo_blocks,
            "next_epoch_block": next_epoch_block(self._state),
            "weights_rate_limit_blocks": settings.weights_rate_limit_blocks,
        }

    def subnet(self) -> dict[str, Any]:
        """`views.subnet_view` after the newest block."""
        return subnet_view(self._state)

    def balance(self, hotkey: str) -> dict[str, int]:
        """Balance and stake in rao after the newest block."""
        account = self._state.account(hotkey)
        return {"balance": account.balance, "stake": account.stake}


def _create(store: LedgerStore, genesis: Genesis, now_ms: int) -> None:
    salted = replace(genesis.settings, salt=genesis.settings.salt or token_hex(16))
    state = replace(genesis, settings=salted).state()
    changes = state.take_changes()
    digest = StateDigest({})
    digest.update(changes)
    store.commit(genesis_block(digest, now_ms), (), changes)
