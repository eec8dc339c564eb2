"""A Subtensor node as the SDK meets it: a websocket, JSON-RPC, SCALE. Behind it a `MemoryChain`; before it a script of
what goes wrong: connections refused, cut or stalled, extrinsics refused or lost half way."""

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from bittensor import ExtrinsicResult
from bittensor._generated.errors import ERRORS
from bittensor._transport.codec import RuntimeCodec
from blake3 import blake3
from memory_substrate import MemoryChain, metagraph_of, storage_of
from subtensor_metadata import Runtime, compact
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from covenantd.chain.keys import verify
from p2p._asyncio_thread import asyncio_thread

SPEC_VERSION, TRANSACTION_VERSION = 435, 1
_PLAIN = ("SubtensorModule.StakeThreshold", "Commitments.MaxSpace", "Timestamp.Now")
_BY_SUBNET = (
    *("CommitRevealWeightsEnabled", "WeightsSetRateLimit", "LastUpdate", "MinAllowedWeights", "MaxWeightsLimit"),
    *("SubnetEpochConsensus", "Tempo", "RevealPeriodEpochs", "LastEpochBlock", "PendingEpochAt", "SubnetEpochIndex"),
    "BlocksSinceLastStep",
)
_ERRORS = {error.name: where for where, error in ERRORS.items()}


@cache
def metadata() -> bytes:
    return Runtime().encoded()


@cache
def runtime_codec() -> RuntimeCodec:
    return RuntimeCodec(metadata(), spec_version=SPEC_VERSION, transaction_version=TRANSACTION_VERSION)


@dataclass
class Faults:
    """The script. Methods are matched by name, one entry is used up by each call."""

    refuse_handshakes: int = 0  # so many connections get `status`
    status: HTTPStatus = HTTPStatus.TOO_MANY_REQUESTS
    stall: bool = False  # read and never answer
    mute_heads: bool = False  # a subscription is granted and says nothing
    cut_before: deque[str] = field(default_factory=deque)  # cut the connection instead of doing this
    cut_after: deque[str] = field(default_factory=deque)  # do it, and cut instead of answering
    answers: dict[str, deque[dict[str, Any]]] = field(default_factory=dict)  # JSON-RPC errors


class RpcError(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


@dataclass
class _Body:
    """What a block holds, as far as it came through this node."""

    extrinsics: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)


class SubtensorNode:
    """Serves in an asyncio loop of its own; the script may be changed from any thread."""

    def __init__(self, chain: MemoryChain) -> None:
        self.chain, self.faults = chain, Faults()
        self.handshakes = 0
        self.asked: list[str] = []
        self.reached = threading.Event()  # one did
        self.submitted: list[str] = []  # extrinsics that reached us, in hex
        self._bodies: dict[int, _Body] = {}
        self._storage: dict[int, dict[str, str]] = {}
        self._connections: set[ServerConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    def cut_all(self) -> None:
        """Every connection goes, without a goodbye."""
        assert self._loop is not None
        for connection in list(self._connections):
            self._loop.call_soon_threadsafe(connection.transport.abort)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._handshake, max_size=2**22)

    async def stop(self) -> None:
        assert self._server is not None
        for connection in list(self._connections):
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        if self.faults.refuse_handshakes <= 0:
            return None
        self.faults.refuse_handshakes -= 1
        return connection.respond(self.faults.status, "go away\n")

    async def _serve(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        session = _Session(self, connection)
        try:
            async for frame in connection:
                await session.take(json.loads(frame))
        except ConnectionClosed:
            return
        finally:
            self._connections.discard(connection)
            session.close()

    # What the chain says

    def block_number(self, block_hash: str | None) -> int:
        return self.chain.number_of(block_hash)

    def header(self, block_hash: str | None) -> dict[str, Any]:
        block = self.chain.blocks[self.block_number(block_hash)]
        return {"number": hex(block.number), "parentHash": f"0x{block.parent}", "digest": {"logs": []}}

    def body(self, number: int) -> _Body:
        return self._bodies.setdefault(number, _Body())

    def storage(self, block_hash: str | None) -> dict[str, str]:
        """Every key and value of a block, in hex."""
        number = self.block_number(block_hash)
        if number < self.chain.discarded_below:
            raise RpcError(-32000, "Client error: UnknownBlock", f"State already discarded for {block_hash}")
        if number not in self._storage:
            with self.chain.lock:
                self._storage[number] = dict(_entries(self.chain, number, self.body(number)))
        return self._storage[number]

    def submit(self, data: str, settle: Callable[[ExtrinsicResult], None]) -> None:
        """Check an extrinsic as the pool does, and pass its call on. Raises RpcError."""
        self.submitted.append(data)
        self.reached.set()
        codec = runtime_codec()
        value = codec.decode_extrinsic(data)
        hotkey, nonce = value["address"], value["nonce"]
        if nonce != self.chain.next_nonce(hotkey):
            when = "is outdated" if nonce < self.chain.next_nonce(hotkey) else "will be valid in the future"
            raise RpcError(1010, "Invalid Transaction", f"Transaction {when}")
        self._check_signature(value)

        def included(result: ExtrinsicResult) -> None:
            number = int(str(result.extrinsic_id).partition("-")[0])
            body = self.body(number)
            body.extrinsics.append(data)
            body.errors.append(None if result.success else str(getattr(result.error, "name", None)))
            settle(result)

        self.chain.submit(hotkey, *ledger_call(value["call"]), included)

    def _check_signature(self, value: dict[str, Any]) -> None:
        codec, era = runtime_codec(), value["era"]
        call = codec.compose_call(
            value["call"]["call_module"],
            value["call"]["call_function"],
            {arg["name"]: _nested(arg) for arg in value["call"]["call_args"]},
        )
        for current in range(self.chain.head, max(-1, self.chain.head - 64), -1):
            signed = codec.signature_payload(
                call,
                era={"period": era[0], "current": current} if isinstance(era, list | tuple) else era,
                nonce=value["nonce"],
                tip=value["tip"],
                tip_asset_id=None,
                genesis_hash=f"0x{self.chain.blocks[0].hash}",
                era_block_hash=f"0x{self.chain.blocks[current].hash}",
            )
            if verify(value["address"], signed, _signature(value["signature"])):
                return
        raise RpcError(1010, "Invalid Transaction", "Transaction has a bad signature")


def _signature(value: Any) -> bytes:
    text = next(iter(value.values())) if isinstance(value, dict) else value
    return bytes.fromhex(text.removeprefix("0x"))


def _nested(arg: dict[str, Any]) -> Any:
    """The decoder takes the list out of the bounded list that the encoder wants it in."""
    return {"fields": [arg["value"]["fields"]]} if arg["name"] == "info" else arg["value"]


def ledger_call(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    args = {arg["name"]: arg["value"] for arg in call["call_args"]}
    if call["call_function"] == "set_commitment":
        values = [value for one in args["info"]["fields"] for value in one.values()]
        return "set_commitment", {"fields": [value[2:] if value else "" for value in values]}
    if call["call_function"] == "set_mechanism_weights":
        names = {"dests": "uids", "weights": "values", "version_key": "version_key"}
        return "set_weights", {ours: args[theirs] for theirs, ours in names.items()}
    return "commit_weights", {"hash": blake3(str(args["commit"]).encode()).hexdigest()}


def _entries(chain: MemoryChain, number: int, body: _Body) -> list[tuple[str, str]]:
    state = chain.state(number)
    netuid, hotkeys = state.settings.netuid, [state.neuron(uid).hotkey for uid in range(len(state.neurons))]
    found = [_entry(item, [], storage_of(chain, number, item, [])) for item in _PLAIN]
    for name in _BY_SUBNET:
        item = f"SubtensorModule.{name}"
        found.append(_entry(item, [netuid], storage_of(chain, number, item, [netuid])))
    for hotkey in [hotkey for hotkey, _ in state.accounts.items()]:
        found.append(_entry("System.Account", [hotkey], storage_of(chain, number, "System.Account", [hotkey])))
    for hotkey in hotkeys:
        for item in ("SubtensorModule.Uids", "Commitments.CommitmentOf", "Commitments.UsedSpaceOf"):
            value = storage_of(chain, number, item, [netuid, hotkey])
            if value is not None:
                found.append(_entry(item, [netuid, hotkey], value))
    for uid, row in state.weights.items():
        pairs = list(zip(row.uids, row.values, strict=True))
        found.append(_entry("SubtensorModule.Weights", [netuid, int(uid)], pairs))
    return [*found, _entry("System.Events", [], [_event(i, error) for i, error in enumerate(body.errors)])]


def _entry(item: str, params: list[Any], value: Any) -> tuple[str, str]:
    codec = runtime_codec()
    entry = codec.storage_entry(*item.split("."))
    if item == "Commitments.CommitmentOf":
        value = value | {"info": {"fields": [value["info"]["fields"]]}}
    return "0x" + codec.storage_key(entry, params).hex(), "0x" + codec.encode(entry.value_type, value).hex()


def _event(index: int, error: str | None) -> dict[str, Any]:
    info = {"weight": {"ref_time": 1, "proof_size": 0}, "class": "Normal", "pays_fee": "No"}
    event: dict[str, Any] = {"ExtrinsicSuccess": {"dispatch_info": info}}
    if error is not None:
        pallet, number = _ERRORS[error]
        module = {"Module": {"index": pallet, "error": [number, 0, 0, 0]}}
        event = {"ExtrinsicFailed": {"dispatch_error": module, "dispatch_info": info}}
    return {"phase": {"ApplyExtrinsic": index}, "event": {"System": event}, "topics": []}


class _Session:
    """One connection: its subscriptions and the script of its faults."""

    def __init__(self, node: SubtensorNode, connection: ServerConnection) -> None:
        self._node, self._connection = node, connection
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._stops: list[Callable[[], None]] = []
        self._sending: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        for stop in self._stops:
            stop()

    async def take(self, frame: Any) -> None:
        for request in frame if isinstance(frame, list) else [frame]:
            await self._answer(request)

    async def _answer(self, request: dict[str, Any]) -> None:
        faults, method = self._node.faults, request["method"]
        self._node.asked.append(method)
        if faults.stall:
            return
        if method in faults.cut_before:
            faults.cut_before.remove(method)
            self._connection.transport.abort()
            return
        try:
            if faults.answers.get(method):
                error = faults.answers[method].popleft()
                raise RpcError(error["code"], error["message"], error.get("data"))
            answer: dict[str, Any] = {"result": self._result(method, request["params"])}
        except RpcError as error:
            answer = {"error": error.error}
        if method in faults.cut_after:
            faults.cut_after.remove(method)
            self._connection.transport.abort()
            return
        await self._connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}))

    def _result(self, method: str, params: list[Any]) -> Any:
        node, chain = self._node, self._node.chain
        versions = {"specVersion": SPEC_VERSION, "transactionVersion": TRANSACTION_VERSION}
        answers: dict[str, Callable[..., Any]] = {
            "chain_getBlockHash": lambda number: self._hash(number) if number <= chain.head else None,
            "chain_getHead": lambda: self._hash(chain.head),
            "chain_getFinalizedHead": lambda: self._hash(chain.finalized),
            "chain_getHeader": node.header,
            "chain_getBlock": lambda at: {
                "block": {"header": node.header(at), "extrinsics": node.body(node.block_number(at)).extrinsics}
            },
            "state_getRuntimeVersion": lambda at: versions | {"specName": "node-subtensor"},
            "state_getStorageAt": lambda key, at: node.storage(at).get(key),
            "state_getKeysPaged": lambda prefix, count, after, at: sorted(
                key for key in node.storage(at) if key.startswith(prefix) and key > after
            )[:count],
            "state_queryStorageAt": lambda keys, at: [
                {"block": at, "changes": [[key, node.storage(at).get(key)] for key in keys]}
            ],
            "account_nextIndex": chain.next_nonce,
            "state_call": self._runtime_call,
            "chain_subscribeFinalizedHeads": self._subscribe_heads,
            "author_submitAndWatchExtrinsic": self._submit,
            "chain_unsubscribeFinalizedHeads": lambda name: True,
            "author_unwatchExtrinsic": lambda name: True,
        }
        return answers[method](*params)

    def _runtime_call(self, method: str, params: str, block_hash: str | None) -> str:
        if method == "Metadata_metadata_at_version":
            return "0x01" + (compact(len(metadata())) + metadata()).hex()
        if method == "TransactionPaymentApi_query_info":
            raise RpcError(-32000, "no fees here")
        chain, codec, number = self._node.chain, runtime_codec(), self._node.block_number(block_hash)
        self._node.storage(block_hash)
        name = method.removeprefix("SubnetInfoRuntimeApi_")
        output = codec.runtime_api_map["SubnetInfoRuntimeApi"][name]["output"]
        state = chain.state(number)
        value: Any = None
        if int.from_bytes(bytes.fromhex(params.removeprefix("0x")), "little") == state.settings.netuid:
            next_epoch = state.totals.last_epoch_block + state.settings.tempo_blocks
            value = metagraph_of(state, number) if name == "get_metagraph" else next_epoch
        return "0x" + codec.encode(output, value).hex()

    def _subscribe_heads(self) -> str:
        name = self._name("heads")
        if not self._node.faults.mute_heads:
            self._say(name, "chain_finalizedHead", self._node.header(self._hash(self._node.chain.finalized)))
            self._stops.append(self._node.chain.listen(lambda number: self._from_any_thread(self._head, name, number)))
        return name

    def _head(self, name: str, number: int) -> None:
        self._say(name, "chain_finalizedHead", self._node.header(self._hash(number)))

    def _submit(self, data: str) -> str:
        name = self._name("watch")
        self._node.submit(data, lambda result: self._from_any_thread(self._included, name, result))
        return name

    def _included(self, name: str, result: ExtrinsicResult) -> None:
        for status in ("inBlock", "finalized"):
            self._say(name, "author_extrinsicUpdate", {status: result.block_hash})

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def _hash(self, number: int) -> str:
        return f"0x{self._node.chain.blocks[number].hash}"

    def _from_any_thread(self, function: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _say(self, name: str, method: str, result: Any) -> None:
        if self._node.faults.stall:
            return
        frame = {"jsonrpc": "2.0", "method": method, "params": {"subscription": name, "result": result}}
        task = self._loop.create_task(self._send(json.dumps(frame)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, frame: str) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed:
            return


@asynccontextmanager
async def subtensor_node(chain: MemoryChain) -> AsyncIterator[SubtensorNode]:
    node = SubtensorNode(chain)
    async with asyncio_thread("subtensor node") as thread:
        await thread.call(node.start, 10)
        try:
            yield node
        finally:
            await thread.call(node.stop, 10)
