"""Who is in the subnet: registration with eviction, key swap, and the allow-list of a private one."""

from dataclasses import replace
from typing import Any

from covenantd.chain.ledger.state import Account, AllowedRow, NeuronRow, State, require


def register(state: State, block: int, hotkey: str, _args: dict[str, Any]) -> None:
    settings, totals = state.settings, state.totals
    require(settings.registration_allowed, "SubNetRegistrationDisabled")
    require(may_register(state, hotkey), "HotKeyNotAllowed")
    count = totals.registrations if totals.registrations_block == block else 0
    require(count < settings.max_registrations_per_block, "TooManyRegistrationsThisBlock")
    require(state.uid(hotkey) is None, "HotKeyAlreadyRegisteredInSubNet")
    account = state.account(hotkey)
    require(account.balance >= settings.registration_burn, "NotEnoughBalanceToStake")
    uid = _free_uid(state, block)
    _clear_uid(state, uid)
    state.accounts.put(hotkey, replace(account, balance=account.balance - settings.registration_burn))
    # As on the chain, a registration counts as an update: the first weights wait for the rate limit too.
    state.put_neuron(uid, NeuronRow(hotkey, registered_block=block, last_update_block=block))
    state.totals = replace(
        totals,
        burned=totals.burned + settings.registration_burn,
        registrations_block=block,
        registrations=count + 1,
    )


def may_register(state: State, hotkey: str) -> bool:
    settings = state.settings
    return not settings.private or hotkey == settings.owner or state.allowed.get(hotkey) is not None


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
    require(bool(candidates), "NoNeuronIdAvailable")
    return min(candidates)[2]


def _clear_uid(state: State, uid: int) -> None:
    """Bonds of others on this uid go at the next epoch, which knows when it was registered."""
    former = state.neurons.get(uid)
    if former is not None:
        state.commitments.drop(former.hotkey)  # unlike the chain, which keeps it: here nothing may grow for ever
        state.weights.drop(uid)
        state.bonds.drop(uid)
        state.weight_commits.drop(uid)


def swap_hotkey(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    """Everything the hotkey has and is becomes the new one's: uid, stake, balance, commitment, place on the list.
    Weights it committed to but has not revealed are lost: their hash names the old hotkey."""
    to, uid, cost = args["to"], state.uid(hotkey), state.settings.key_swap_cost
    require(to != hotkey, "NewHotKeyIsSameWithOld")
    require(state.uid(to) is None, "HotKeyAlreadyRegisteredInSubNet")
    old, new = state.account(hotkey), state.account(to)
    require(old.balance >= cost, "NotEnoughBalanceToPaySwapHotKey")
    state.accounts.put(hotkey, Account(nonce=old.nonce))
    state.accounts.put(to, replace(new, balance=new.balance + old.balance - cost, stake=new.stake + old.stake))
    state.totals = replace(state.totals, burned=state.totals.burned + cost)
    if uid is not None:
        state.put_neuron(uid, replace(state.neuron(uid), hotkey=to))
        state.weight_commits.drop(uid)
    _move_names(state, hotkey, to)


def _move_names(state: State, hotkey: str, to: str) -> None:
    commitment = state.commitments.get(hotkey)
    if commitment is not None:
        state.commitments.drop(hotkey)
        state.commitments.put(to, commitment)
    if state.allowed.get(hotkey) is not None:
        state.allowed.drop(hotkey)
        state.allowed.put(to, AllowedRow())
    if state.settings.owner == hotkey:
        state.settings = replace(state.settings, owner=to)


def allow(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    _require_owner(state, hotkey)
    state.allowed.put(args["who"], AllowedRow())


def disallow(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    """It may not register again; if it is registered it stays until evicted."""
    _require_owner(state, hotkey)
    require(state.allowed.get(args["who"]) is not None, "HotKeyNotAllowed")
    state.allowed.drop(args["who"])


def _require_owner(state: State, hotkey: str) -> None:
    require(hotkey == state.settings.owner, "NotSubnetOwner")
