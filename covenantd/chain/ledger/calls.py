"""What each write does to the state. Every check comes before the first change, so a refused call changes nothing
but the nonce. Order and names of the checks are the chain's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from covenantd.chain.ledger.membership import allow, disallow, register, swap_hotkey
from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import CommitmentRow, Refusal, State, require
from covenantd.chain.ledger.weighing import commit_weights, reveal_weights, set_weights
from covenantd.chain.protocol import MAX_COMMITMENT_FIELDS

MIN_COMMITMENT_COST_BYTES = 100  # what even the smallest commitment takes of the quota


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


def _add_stake(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    amount, account = args["amount"], state.account(hotkey)
    require(amount > 0, "AmountTooLow")
    require(state.uid(hotkey) is not None, "HotKeyAccountNotExists")
    require(account.balance >= amount, "NotEnoughBalanceToStake")
    state.accounts.put(hotkey, replace(account, balance=account.balance - amount, stake=account.stake + amount))


def _transfer(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    amount, sender = args["amount"], state.account(hotkey)
    require(amount > 0, "AmountTooLow")
    require(sender.balance >= amount, "FundsUnavailable")
    state.accounts.put(hotkey, replace(sender, balance=sender.balance - amount))
    receiver = state.account(args["to"])  # read now: it may be the sender
    state.accounts.put(args["to"], replace(receiver, balance=receiver.balance + amount))


def _set_commitment(state: State, block: int, hotkey: str, args: dict[str, Any]) -> None:
    require(state.uid(hotkey) is not None, "AccountNotAllowedCommit")
    require(len(args["fields"]) <= MAX_COMMITMENT_FIELDS, "TooManyFieldsInCommitmentInfo")
    former, quota = state.commitments.get(hotkey), state.settings.commitment_bytes_per_epoch
    this_epoch = former is not None and former.block >= state.totals.last_epoch_block
    used = (former.used_bytes if former and this_epoch else 0) + commitment_cost_bytes(args["fields"])
    require(quota == 0 or used <= quota, "SpaceLimitExceeded")
    state.commitments.put(hotkey, CommitmentRow(block, tuple(args["fields"]), used))


def commitment_cost_bytes(fields: list[str]) -> int:
    """Of fields in hex: the chain counts the encoded record, a byte for the list and one for each field."""
    return max(MIN_COMMITMENT_COST_BYTES, 1 + sum(1 + len(field) // 2 for field in fields))


_METHODS: dict[str, Callable[[State, int, str, dict[str, Any]], None]] = {
    "register": register,
    "swap_hotkey": swap_hotkey,
    "allow": allow,
    "disallow": disallow,
    "add_stake": _add_stake,
    "transfer": _transfer,
    "set_commitment": _set_commitment,
    "set_weights": set_weights,
    "commit_weights": commit_weights,
    "reveal_weights": reveal_weights,
}
