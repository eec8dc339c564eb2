"""What is asked of the SDK, and how its answers become the protocol's types. Nothing is taken on trust: an endpoint
may be anyone's."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from covenantd.chain.bittensor.link import Connection
from covenantd.chain.keys import public_key
from covenantd.chain.protocol import (
    MAX_COMMITMENT_FIELDS,
    MAX_FIELD_BYTES,
    Block,
    Commitment,
    EpochInfo,
    Metagraph,
    Neuron,
)
from covenantd.errors import ChainError, ChainRefused

_MAX_NEURONS = 1 << 16
_U16_MAX = 65535


async def read_block(connection: Connection, number: int | None) -> Block:
    """Raises ChainError for a block that is not finalized yet."""
    number = await _finalized(connection, number)
    block_hash = str(await connection.substrate.block_hash(number)).removeprefix("0x")
    if len(bytes.fromhex(block_hash)) != 32:
        raise ValueError(f"hash of block {number} has not 32 bytes")
    # Nobody timed block 0, and a node that prunes may not even have its state.
    timestamp = (await connection.client.timestamp(number)).timestamp() if number else 0.0
    return Block(number, block_hash, timestamp)


async def read_metagraph(connection: Connection, netuid: int, block: int) -> Metagraph:
    import bittensor

    await _finalized(connection, block)
    view = await connection.client.at(block)
    graph = await view.subnets.metagraph(netuid, commitments=True)
    if graph is None:
        raise ChainRefused("SubnetNotExists", f"netuid {netuid} at block {block}")
    rows = await view.query_map(bittensor.storage.SubtensorModule.Weights, [netuid])
    return parse_metagraph(netuid, block, graph, rows)


async def read_epoch(connection: Connection, netuid: int) -> EpochInfo:
    """As the chain computes it: its schedule may be pulled earlier by the subnet's owner."""
    import bittensor

    view = await connection.client.at(await connection.client.finalized_block())
    storage, method = bittensor.storage.SubtensorModule, bittensor.runtime_api.SubnetInfoRuntimeApi
    tempo, limit, coming = await asyncio.gather(
        view.query(storage.Tempo, [netuid]),
        view.query(storage.WeightsSetRateLimit, [netuid]),
        view.runtime(method.get_next_epoch_start_block, [netuid]),
    )
    if not tempo or coming is None:
        raise ChainRefused("SubnetNotExists", f"netuid {netuid} has no epochs")
    return EpochInfo(_count(tempo), _count(coming), _count(limit or 0))


async def read_commitment(connection: Connection, netuid: int, hotkey: str) -> tuple[int, Commitment | None]:
    """(the finalized head, what the hotkey has committed to there)."""
    import bittensor

    head = await connection.client.finalized_block()
    storage = bittensor.storage.Commitments.CommitmentOf
    record = await connection.client.query(storage, [netuid, hotkey], block=head)
    if not isinstance(record, Mapping):
        return head, None
    fields = parse_fields((record.get("info") or {}).get("fields"))
    return head, None if fields is None else Commitment(hotkey, _count(record["block"]), fields)


async def read_nonce(connection: Connection, address: str, block: int) -> int:
    """How many extrinsics of the account the blocks up to `block` hold."""
    import bittensor

    account = await connection.client.query(bittensor.storage.System.Account, [address], block=block)
    return _count(account["nonce"])


async def read_last_update(connection: Connection, netuid: int, hotkey: str) -> tuple[int, int | None]:
    """(the finalized head, the block our weights were last set or committed at there; None: not registered)."""
    import bittensor

    head = await connection.client.finalized_block()
    storage = bittensor.storage.SubtensorModule
    uid = await connection.client.query(storage.Uids, [netuid, hotkey], block=head)
    if uid is None:
        return head, None
    updates = await connection.client.query(storage.LastUpdate, [netuid], block=head)
    return head, _count(updates[_count(uid)])


async def _finalized(connection: Connection, number: int | None) -> int:
    head = _count(await connection.client.finalized_block())
    if number is not None and number > head:
        raise ChainError(f"block {number} is not finalized: the head is {head}")
    return head if number is None else number


def parse_metagraph(netuid: int, block: int, graph: Any, rows: Sequence[tuple[Any, Any]]) -> Metagraph:
    """From the SDK's `Metagraph` and the (uid, row) pairs of its weights. Commitments outlive their hotkeys'
    registration on the chain; here they do not. Raises ValueError, TypeError, LookupError for nonsense."""
    if len(graph.neurons) > _MAX_NEURONS:
        raise ValueError(f"{len(graph.neurons)} neurons")
    neurons = tuple(_neuron(graph, uid, one) for uid, one in enumerate(graph.neurons))
    if len({n.hotkey for n in neurons}) != len(neurons):
        raise ValueError("a hotkey has two uids")
    commitments = {}
    for neuron, one in zip(neurons, graph.neurons, strict=True):
        fields = None if one.commitment is None else parse_fields(one.commitment.fields)
        if fields is not None:
            commitments[neuron.hotkey] = Commitment(neuron.hotkey, _count(one.commitment.block), fields)
    weights = {_u16(uid): {_u16(to): _u16(value) for to, value in row} for uid, row in rows if row}
    return Metagraph(netuid, block, neurons, commitments, weights)


def _neuron(graph: Any, uid: int, one: Any) -> Neuron:
    if one.uid != uid:
        raise ValueError("uids out of order")
    public_key(one.hotkey)
    return Neuron(
        uid=uid,
        hotkey=one.hotkey,
        stake=_count(one.total_stake.rao),
        validator_permit=one.validator_permit is True,
        registered_block=_count(one.block_at_registration),
        last_update_block=_count(one.last_update),
        incentive=_u16(graph.raw["incentives"][uid]),
        dividends=_u16(graph.raw["dividends"][uid]),
        emission=_count(one.emission.rao),
    )


def parse_fields(fields: Any) -> tuple[bytes, ...] | None:
    """The bytes of a commitment, or None for one that holds anything but `Raw` fields: it is none of ours.

    Read from the variants, `{"Raw5": "0x68656c6c6f"}`: the SDK's text of them runs all fields together.
    """
    if not isinstance(fields, list | tuple) or len(fields) > MAX_COMMITMENT_FIELDS:
        return None
    found = [_raw(field) for field in fields]
    return None if None in found else tuple(field for field in found if field is not None)


def _raw(field: Any) -> bytes | None:
    if not isinstance(field, Mapping) or len(field) != 1:
        return None
    [(variant, value)] = field.items()
    if not isinstance(variant, str) or not variant.startswith("Raw"):
        return None
    try:
        if isinstance(value, str):
            data = bytes.fromhex(value[2:]) if value[:2] == "0x" else None if value else b""
        else:
            data = bytes(value if isinstance(value, bytes | bytearray | list | tuple) else ())
    except (ValueError, TypeError):
        return None
    fits = data is not None and len(data) <= MAX_FIELD_BYTES and variant == f"Raw{len(data)}"
    return data if fits else None


def raw_fields(fields: Sequence[bytes]) -> dict[str, list[list[dict[str, str]]]]:
    """The `CommitmentInfo` argument of `set_commitment`."""
    return {"fields": [[{f"Raw{len(field)}": "0x" + field.hex()} for field in fields]]}


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def _u16(value: Any) -> int:
    if _count(value) > _U16_MAX:
        raise ValueError(f"{value} exceeds 16 bits")
    return int(value)
