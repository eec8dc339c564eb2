"""What reads answer, as JSON values."""

from collections.abc import Iterator
from typing import Any

from covenantd.chain.ledger.blocks import LedgerBlock
from covenantd.chain.ledger.state import Account, CommitmentRow, NeuronRow, State
from covenantd.chain.ledger.store import CallFate


def block_view(block: LedgerBlock) -> dict[str, Any]:
    return {
        "number": block.number,
        "hash": block.hash,
        "parent": block.parent,
        "timestamp_ms": block.timestamp_ms,
        "calls_root": block.calls_root,
        "state_digest": block.state_digest,
    }


def fate_view(fate: CallFate) -> dict[str, Any]:
    """Of a call in a block; `error` is null if it succeeded."""
    return {"status": "included", "block": fate.block, "digest": fate.digest, "error": fate.error}


def commitment_view(row: CommitmentRow) -> dict[str, Any]:
    """Fields in hex."""
    return {"block": row.block, "fields": list(row.fields)}


def subnet_view(state: State) -> dict[str, Any]:
    """The rules, the totals, what all accounts hold (rao), and the allow-list."""
    accounts = [row for _, row in state.accounts.items()]
    return {
        "settings": vars(state.settings),
        "totals": vars(state.totals),
        "accounts": len(accounts),
        "balance": sum(row.balance for row in accounts),
        "stake": sum(row.stake for row in accounts),
        "allowed": sorted(hotkey for hotkey, _ in state.allowed.items()),
    }


def metagraph_view(state: State, number: int) -> dict[str, Any]:
    """The subnet after block `number`: neurons by uid, commitments of registered hotkeys (fields in hex), weights as
    {uid: [uids, values]}."""
    neurons = [
        {"uid": uid, "stake": account.stake, "balance": account.balance} | vars(row)
        for uid, row, account in _registered(state)
    ]
    commitments = {
        hotkey: commitment_view(row) for hotkey, row in state.commitments.items() if state.uid(hotkey) is not None
    }
    weights = {uid: [list(row.uids), list(row.values)] for uid, row in state.weights.items()}
    return {
        "netuid": state.settings.netuid,
        "block": number,
        "neurons": neurons,
        "commitments": commitments,
        "weights": weights,
    }


def _registered(state: State) -> Iterator[tuple[int, NeuronRow, Account]]:
    for uid in range(len(state.neurons)):
        row = state.neuron(uid)
        yield uid, row, state.account(row.hotkey)
