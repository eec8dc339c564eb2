"""A subnet in memory, spoken to through the SDK's `Substrate` protocol: every check is the ledger's, which are the
chain's, so `BittensorChain` meets the refusals of the real one without a network."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import trio
from bittensor import Balance, ChainError, ExtrinsicResult
from blake3 import blake3

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.blocks import LedgerBlock, genesis_block, make_block
from covenantd.chain.ledger.epoch import next_epoch_block
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import State, StateDigest
from covenantd.errors import ChainRefused

BLOCK_MS = 12_000


@dataclass
class _Submission:
    hotkey: str
    method: str
    args: dict[str, Any]
    settle: Callable[[ExtrinsicResult], None]


@dataclass
class Fault:
    """What happens to the next submission. `kept`: it reaches the pool all the same."""

    error: Exception
    kept: bool = False


@dataclass
class MemoryChain:
    """Blocks come by `advance` alone. Any thread may call anything."""

    genesis: dict[str, Any]
    finality_blocks: int = 0
    faults: deque[Fault] = field(default_factory=deque)
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    discarded_below: int = 0  # blocks whose state this node has forgotten, block 0 included
    leftovers: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # commitments of the deregistered
    silent: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._state = parse_genesis(self.genesis).state()
        self._entries: list[dict[str, str]] = [{k: v for k, v in self._state.take_changes().items() if v is not None}]
        self._digest = StateDigest(self._entries[0])
        self.blocks: list[LedgerBlock] = [genesis_block(self._digest, 1_700_000_000_000)]
        self._numbers = {f"0x{self.blocks[0].hash}": 0}
        self._pool: list[_Submission] = []
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._listeners: list[Callable[[int], None]] = []
        self._nonces: dict[str, int] = {}

    def connection(self) -> "MemorySubstrate":
        return MemorySubstrate(self)

    @property
    def head(self) -> int:
        return len(self.blocks) - 1

    @property
    def finalized(self) -> int:
        return max(0, self.head - self.finality_blocks)

    def advance(self, blocks: int = 1) -> None:
        with self.lock:
            for _ in range(blocks):
                self._make_block()
            if not self.silent:
                for listener in list(self._listeners):
                    listener(self.finalized)

    def _make_block(self) -> None:
        pool, self._pool = self._pool, []
        calls = [self._call(one) for one in pool]
        parent = self.blocks[-1]
        block, included, changes = make_block(self._state, self._digest, parent, parent.timestamp_ms + BLOCK_MS, calls)
        entries = dict(self._entries[-1])
        for key, value in changes.items():
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value
        self._entries.append(entries)
        self.blocks.append(block)
        self._numbers[f"0x{block.hash}"] = block.number
        for index, (one, entry) in enumerate(zip(pool, included, strict=True)):
            result = _result(block, index, entry.error)
            self._waiting.append((block.number, lambda one=one, result=result: one.settle(result)))  # type: ignore[misc]
        while self._waiting and self._waiting[0][0] <= self.finalized:
            self._waiting.popleft()[1]()

    def _call(self, one: _Submission) -> Call:
        self._nonces[one.hotkey] = self._nonces.get(one.hotkey, 0) + 1
        self.calls.append((one.hotkey, one.method, one.args))
        return Call(one.hotkey, self._nonces[one.hotkey], one.method, one.args, "{}", "00" * 64)

    def submit(self, hotkey: str, method: str, args: dict[str, Any], settle: Callable[[ExtrinsicResult], None]) -> None:
        with self.lock:
            self._pool.append(_Submission(hotkey, method, args, settle))

    def next_nonce(self, hotkey: str) -> int:
        """Of an account, the pool included."""
        with self.lock:
            return self._nonces.get(hotkey, 0) + sum(one.hotkey == hotkey for one in self._pool)

    def state(self, number: int) -> State:
        if number < self.discarded_below:
            raise ChainError(f"State discarded for 0x{self.blocks[number].hash}. Use an archive node.")
        return State(self._entries[number])

    def number_of(self, block_hash: str | None) -> int:
        if block_hash is None:
            return self.head
        return self._numbers[block_hash]

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        with self.lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


def _result(block: LedgerBlock, index: int, error: str | None) -> ExtrinsicResult:
    return ExtrinsicResult(
        success=error is None,
        message=error or "Success",
        block_hash=f"0x{block.hash}",
        extrinsic_id=f"{block.number}-{index:04d}",
        error=None if error is None else ChainError(error, error),
    )


@dataclass(frozen=True)
class _Composed:
    """What `compose` makes: calls are bytes to everybody above the transport."""

    module: str
    function: str
    params: dict[str, Any]


class MemoryDriver:
    """Makes a `MemoryChain`'s blocks, from trio."""

    def __init__(self, chain: MemoryChain) -> None:
        self._chain = chain

    async def advance(self, blocks: int) -> None:
        self._chain.advance(blocks)
        await trio.sleep(0.005)  # what was asked of this block in other threads is to be answered before the next

    async def register(self, key: Hotkey) -> int:
        """The block. Wallets do this on Bittensor: `burned_register` is the coldkey's to sign."""
        results: list[ExtrinsicResult] = []
        self._chain.submit(key.hotkey, "register", {}, results.append)
        self._chain.advance()
        if not results[0].success:
            raise ChainRefused(results[0].message)
        return self._chain.head


class MemorySubstrate:
    """One connection to a `MemoryChain`. Implements as much of `bittensor.Substrate` as is asked for."""

    def __init__(self, chain: MemoryChain) -> None:
        self.token_symbols: dict[int, str] = {}
        self._chain = chain

    def balance(self, rao: int, netuid: int = 0) -> Balance:
        return Balance(int(rao), netuid, None)

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def block_hash(self, block: int | None = None) -> str:
        number = self._chain.head if block is None else block
        if number > self._chain.head:
            raise ChainError(f"no block at height {number}")
        return f"0x{self._chain.blocks[number].hash}"

    async def block_number(self) -> int:
        return self._chain.head

    async def finalized_block_number(self) -> int:
        return self._chain.finalized

    async def block_time(self) -> float:
        return BLOCK_MS / 1000

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        with self._chain.lock:
            number = self._chain.number_of(block_hash)
            return storage_of(self._chain, number, f"{module}.{storage_function}", params or [])

    async def query_map(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[tuple[Any, Any]]:
        with self._chain.lock:
            state = self._chain.state(self._chain.number_of(block_hash))
            if storage_function == "Weights":
                return [(int(u), list(zip(w.uids, w.values, strict=True))) for u, w in state.weights.items()]
            if storage_function == "CommitmentOf":
                own = [
                    (h, _registration(c.block, [bytes.fromhex(f) for f in c.fields]))
                    for h, c in state.commitments.items()
                ]
                return own + [(h, _registration(1, list(fields))) for h, fields in self._chain.leftovers.items()]
            assert storage_function == "RevealedCommitments"
            return []

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        with self._chain.lock:
            number = self._chain.number_of(block_hash)
            state = self._chain.state(number)
            if params != [state.settings.netuid]:
                return None
            return next_epoch_block(state) if method == "get_next_epoch_start_block" else metagraph_of(state, number)

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        assert finalized
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[int]()
        stop = self._chain.listen(lambda number: _tell(loop, queue, number))
        try:
            yield {"header": {"number": self._chain.finalized}}
            while True:
                yield {"header": {"number": await queue.get()}}
        finally:
            stop()

    async def compose(self, call: Any) -> _Composed:
        return _Composed(*call)

    async def estimate_fee(self, call: Any, keypair: Any) -> Balance:
        return Balance.from_rao(0)

    async def account_next_index(self, address: str) -> int:
        return self._chain.next_nonce(address)

    async def submit(self, call: _Composed, keypair: Any, **options: Any) -> ExtrinsicResult:
        assert options["wait_for_inclusion"] and options["wait_for_finalization"] and options["period"] <= 64
        assert len(keypair.sign(b"payload")) == 64
        method, args = _to_ledger(call)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ExtrinsicResult] = loop.create_future()
        fault = self._chain.faults.popleft() if self._chain.faults else None
        if options.get("nonce") not in (None, self._chain.next_nonce(keypair.ss58_address)):
            return ExtrinsicResult(success=False, message="outdated", error=ChainError("outdated", "Stale"))
        if fault is None or fault.kept:
            self._chain.submit(keypair.ss58_address, method, args, lambda result: _settle(loop, done, result))
        if fault is not None:
            raise fault.error
        return await done


def _tell(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[int]", number: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, number)


def _settle(loop: asyncio.AbstractEventLoop, done: "asyncio.Future[ExtrinsicResult]", result: ExtrinsicResult) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: done.done() or done.set_result(result))


def _to_ledger(call: _Composed) -> tuple[str, dict[str, Any]]:
    if call.function == "set_commitment":
        [fields] = call.params["info"]["fields"]
        return "set_commitment", {"fields": [value[2:] for one in fields for value in one.values()]}
    if call.function == "set_mechanism_weights":
        names = {"dests": "uids", "weights": "values", "version_key": "version_key"}
        return "set_weights", {ours: call.params[theirs] for theirs, ours in names.items()}
    assert call.function == "commit_timelocked_mechanism_weights" and call.params["reveal_round"] > 0
    return "commit_weights", {"hash": blake3(bytes(call.params["commit"])).hexdigest()}


def storage_of(chain: MemoryChain, number: int, item: str, params: list[Any]) -> Any:
    if item == "Timestamp.Now":
        chain.state(number)
        return chain.blocks[number].timestamp_ms
    state = chain.state(number)
    if item == "System.Account":
        counts = dict.fromkeys(("consumers", "providers", "sufficients"), 0)
        return {"nonce": state.account(params[0]).nonce, **counts}
    assert not params or params[0] == state.settings.netuid
    if item == "SubtensorModule.Uids":
        return state.uid(params[1])
    if item == "Commitments.CommitmentOf":
        row = state.commitments.get(params[1])
        return None if row is None else _registration(row.block, [bytes.fromhex(f) for f in row.fields])
    settings, totals = state.settings, state.totals
    if item == "Commitments.UsedSpaceOf":
        row = state.commitments.get(params[1])
        fresh = row is not None and row.block >= totals.last_epoch_block
        return None if row is None else {"last_epoch": totals.epochs - (not fresh), "used_space": row.used_bytes}
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    return {
        "SubtensorModule.CommitRevealWeightsEnabled": settings.commit_reveal,
        "SubtensorModule.WeightsSetRateLimit": settings.weights_rate_limit_blocks,
        "SubtensorModule.LastUpdate": [n.last_update_block for n in neurons],
        "SubtensorModule.MinAllowedWeights": 0,  # the chain's own check is to be met, not the SDK's
        "SubtensorModule.MaxWeightsLimit": settings.max_weight_limit,
        "SubtensorModule.SubnetEpochConsensus": "Yuma",
        "SubtensorModule.Tempo": settings.tempo_blocks,
        "SubtensorModule.RevealPeriodEpochs": settings.reveal_period_epochs,
        "SubtensorModule.LastEpochBlock": totals.last_epoch_block,
        "SubtensorModule.PendingEpochAt": 0,
        "SubtensorModule.SubnetEpochIndex": totals.epochs,
        "SubtensorModule.BlocksSinceLastStep": number - totals.last_epoch_block,
        "SubtensorModule.StakeThreshold": settings.min_weight_stake,
        "Commitments.MaxSpace": settings.commitment_bytes_per_epoch,
    }[item]


def _registration(block: int, fields: list[bytes]) -> dict[str, Any]:
    """As the SDK's codec decodes `Registration`."""
    return {"deposit": 0, "block": block, "info": {"fields": [{f"Raw{len(f)}": "0x" + f.hex()} for f in fields]}}


def metagraph_of(state: State, number: int) -> dict[str, Any]:
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    stakes = [state.account(n.hotkey).stake for n in neurons]
    totals = state.totals
    return {
        "netuid": state.settings.netuid,
        "block": number,
        "tempo": state.settings.tempo_blocks,
        "last_step": totals.last_epoch_block,
        "blocks_since_last_step": number - totals.last_epoch_block,
        "owner_hotkey": neurons[0].hotkey,
        "owner_coldkey": neurons[0].hotkey,
        "network_registered_at": 0,
        "num_uids": len(neurons),
        "hotkeys": [n.hotkey for n in neurons],
        "coldkeys": [n.hotkey for n in neurons],
        "validator_permit": [n.validator_permit for n in neurons],
        "last_update": [n.last_update_block for n in neurons],
        "block_at_registration": [n.registered_block for n in neurons],
        "incentives": [n.incentive for n in neurons],
        "dividends": [n.dividends for n in neurons],
        "emission": [n.emission for n in neurons],
        "total_stake": stakes,
        "alpha_stake": stakes,
    }
