"""From the ledger's JSON to the protocol's types. The ledger may be another's: nothing is taken on trust."""

from collections.abc import Callable
from typing import Any, TypeVar

from covenantd.chain.protocol import (
    MAX_COMMITMENT_FIELDS,
    MAX_FIELD_BYTES,
    Block,
    Commitment,
    EpochInfo,
    Metagraph,
    Neuron,
)
from covenantd.errors import ChainError

T = TypeVar("T")


def decoded(parse: Callable[[Any], T], value: Any) -> T:
    """Raises ChainError if `value` is not what `parse` takes."""
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainError(f"the ledger's answer makes no sense: {error!r:.200}") from None


def parse_block(value: Any) -> Block:
    return Block(_int(value["number"]), _hash(value["hash"]), _int(value["timestamp_ms"]) / 1000)


def parse_epoch(value: Any) -> EpochInfo:
    return EpochInfo(
        _int(value["tempo_blocks"]), _int(value["next_epoch_block"]), _int(value["weights_rate_limit_blocks"])
    )


def parse_metagraph(value: Any) -> Metagraph:
    neurons = tuple(_neuron(uid, entry) for uid, entry in enumerate(_list(value["neurons"])))
    commitments = {_text(k): parse_commitment(_text(k), v) for k, v in value["commitments"].items()}
    weights = {int(uid): _weights(row) for uid, row in value["weights"].items()}
    return Metagraph(_int(value["netuid"]), _int(value["block"]), neurons, commitments, weights)


def _neuron(uid: int, value: Any) -> Neuron:
    if _int(value["uid"]) != uid:
        raise ValueError("uids out of order")
    return Neuron(
        uid=uid,
        hotkey=_text(value["hotkey"]),
        stake=_int(value["stake"]),
        validator_permit=value["validator_permit"] is True,
        registered_block=_int(value["registered_block"]),
        last_update_block=_int(value["last_update_block"]),
        incentive=_int(value["incentive"]),
        dividends=_int(value["dividends"]),
        emission=_int(value["emission"]),
    )


def parse_commitment(hotkey: str, value: Any) -> Commitment:
    fields = tuple(bytes.fromhex(field) for field in _list(value["fields"]))
    if len(fields) > MAX_COMMITMENT_FIELDS or any(len(field) > MAX_FIELD_BYTES for field in fields):
        raise ValueError("a commitment beyond its limits")
    return Commitment(hotkey, _int(value["block"]), fields)


def _weights(row: Any) -> dict[int, int]:
    uids, values = row
    return {_int(uid): _int(value) for uid, value in zip(_list(uids), _list(values), strict=True)}


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.80} is not a count")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):  # text, too, could be iterated over
        raise ValueError("not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not text")
    return value


def _hash(value: Any) -> str:
    if len(bytes.fromhex(_text(value))) != 32:
        raise ValueError("not a hash")
    return str(value)
