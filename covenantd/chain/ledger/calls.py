"""What each write does to the state. Every check comes before the first change, so a refused call changes nothing
but the nonce. Order and names of the checks are the chain's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import (
    CommitmentRow,
    NeuronRow,
    Refusal,
    State,
    Totals,
    WeightsRow,
)
from covenantd.chain.protocol import MAX_COMMITMENT_FIELDS

_U16_MAX = 65535


def apply_call(state: State, block: int, call: Call) -> str | None:
    """Apply one call in `block`; None, or the error name it was included with. The nonce is used up either way.

    Raises Refusal(StaleNonce) for a nonce that was used: such a call must not be in a block.
    """
    account = state.account(call.hotkey)
    if call.nonce <= account.nonce:
        raise Refusal("StaleNonce", f"nonce {call.nonce}, the last was {account.nonce}")
    state.accounts.put(call.hotkey, replace(account, nonce=call.nonce))
    try:
        _METHODS[call.method](state, block, call.hotkey, call.args)
    except Refusal as refusal:
        return refusal.name
    return None


def _require(condition: bool, name: str) -> None:
    if not condition:
        raise Refusal(name)


def _register(state: State, block: int, hotkey: str, _args: dict[str, Any]) -> None:
    settings, totals = state.settings, state.totals
    _require(settings.registration_allowed, "SubNetRegistrationDisabled")
    count = totals.registrations if totals.registrations_block == block else 0
    _require(count < settings.max_registrations_per_block, "TooManyRegistrationsThisBlock")
    _require(state.uid(hotkey) is None, "HotKeyAlreadyRegisteredInSubNet")
    account = state.account(hotkey)
    _require(account.balance >= settings.registration_burn, "NotEnoughBalanceToStake")
    uid = _free_uid(state, block)
    _clear_uid(state, uid)
    state.accounts.put(hotkey, replace(account, balance=account.balance - settings.registration_burn))
    # As on the chain, a registration counts as an update: the first weights wait for the rate limit too.
    state.put_neuron(uid, NeuronRow(hotkey, registered_block=block, last_update_block=block))
    state.totals = Totals(
        totals.issued, totals.burned + settings.registration_burn, totals.last_epoch_block, block, count + 1
    )


def _free_uid(state: State, block: int) -> int:
    """The next uid, or that of the neuron with the least emission, the oldest first, immune ones spared."""
    settings = state.settings
    if len(state.neurons) < settings.max_neurons:
        return len(state.neurons)
    candidates = [
        (row.emission, row.registered_block, uid)
        for uid, row in ((int(uid), row) for uid, row in state.neurons.items())
        if block - row.registered_block >= settings.immunity_blocks
    ]
    _require(bool(candidates), "NoNeuronIdAvailable")
    return min(candidates)[2]


def _clear_uid(state: State, uid: int) -> None:
    former = state.neurons.get(uid)
    if former is not None:
        state.commitments.drop(former.hotkey)  # unlike the chain, which keeps it: here nothing may grow for ever
        state.weights.drop(uid)


def _add_stake(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    amount, account = args["amount"], state.account(hotkey)
    _require(amount > 0, "AmountTooLow")
    _require(state.uid(hotkey) is not None, "HotKeyAccountNotExists")
    _require(account.balance >= amount, "NotEnoughBalanceToStake")
    state.accounts.put(hotkey, replace(account, balance=account.balance - amount, stake=account.stake + amount))


def _transfer(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    amount, sender = args["amount"], state.account(hotkey)
    _require(amount > 0, "AmountTooLow")
    _require(sender.balance >= amount, "FundsUnavailable")
    state.accounts.put(hotkey, replace(sender, balance=sender.balance - amount))
    receiver = state.account(args["to"])  # read now: it may be the sender
    state.accounts.put(args["to"], replace(receiver, balance=receiver.balance + amount))


def _set_commitment(state: State, block: int, hotkey: str, args: dict[str, Any]) -> None:
    _require(state.uid(hotkey) is not None, "AccountNotAllowedCommit")
    _require(len(args["fields"]) <= MAX_COMMITMENT_FIELDS, "TooManyFieldsInCommitmentInfo")
    state.commitments.put(hotkey, CommitmentRow(block, tuple(args["fields"])))


def _set_weights(state: State, block: int, hotkey: str, args: dict[str, Any]) -> None:
    settings, size = state.settings, len(state.neurons)
    uids, values = args["uids"], args["values"]
    _require(len(uids) == len(values), "WeightVecNotEqualSize")
    _require(len(uids) <= size, "UidsLengthExceedUidsInSubNet")
    uid = state.uid(hotkey)
    if uid is None:
        raise Refusal("HotKeyNotRegisteredInSubNet")
    neuron = state.neuron(uid)
    _require(state.account(hotkey).stake >= settings.min_weight_stake, "NotEnoughStakeToSetWeights")
    _require(args["version_key"] >= settings.weights_version, "IncorrectWeightVersionKey")
    waited = neuron.last_update_block == 0 or (block - neuron.last_update_block >= settings.weights_rate_limit_blocks)
    _require(waited, "SettingWeightsTooFast")
    only_self = uids == [uid]
    _require(only_self or neuron.validator_permit, "NeuronNoValidatorPermit")
    _require(len(set(uids)) == len(uids), "DuplicateUids")
    _require(all(target < size for target in uids), "UidVecContainInvalidOne")
    _require(only_self or len(uids) >= min(settings.min_allowed_weights, size), "WeightVecLengthIsLow")
    upscaled = _upscale(values)
    within = settings.max_weight_limit == _U16_MAX or only_self or _within_limit(upscaled, settings.max_weight_limit)
    _require(within, "MaxWeightExceeded")
    state.weights.put(uid, WeightsRow(tuple(uids), tuple(upscaled)))
    state.put_neuron(uid, replace(neuron, last_update_block=block))


def _upscale(values: list[int]) -> list[int]:
    """Scale so that the largest is 65535."""
    largest = max(values, default=0)
    return [v * _U16_MAX // largest for v in values] if largest else values


def _within_limit(values: list[int], limit: int) -> bool:
    return max(values, default=0) * _U16_MAX <= limit * sum(values)


_METHODS: dict[str, Callable[[State, int, str, dict[str, Any]], None]] = {
    "register": _register,
    "add_stake": _add_stake,
    "transfer": _transfer,
    "set_commitment": _set_commitment,
    "set_weights": _set_weights,
}
