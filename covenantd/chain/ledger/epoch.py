"""The end of a tempo: weights become incentive and dividends, emission becomes balances."""

from dataclasses import replace

from covenantd.chain.ledger.permits import assign_permits
from covenantd.chain.ledger.state import MAX_AMOUNT, State
from covenantd.chain.yuma.consensus import EpochInputs, EpochResult, apportion, run_consensus


def next_epoch_block(state: State) -> int:
    return state.totals.last_epoch_block + state.settings.tempo_blocks


def run_epoch(state: State, block: int) -> None:
    """Emit what the blocks since the last epoch are worth, to the unit, and renew the permits."""
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    result = run_consensus(_inputs(state))
    blocks = block - state.totals.last_epoch_block
    _emit(state, result, min(state.settings.emission_per_block * blocks, MAX_AMOUNT - state.totals.issued))
    for uid, neuron in enumerate(neurons):
        scored = replace(state.neuron(uid), incentive=result.incentive[uid], dividends=result.dividends[uid])
        if scored != neuron:
            state.put_neuron(uid, scored)
    assign_permits(state)
    state.totals = replace(state.totals, last_epoch_block=block)


def _emit(state: State, result: EpochResult, amount: int) -> None:
    shares = apportion(amount, result.emission_parts)
    for uid, share in enumerate(shares):
        neuron = state.neuron(uid)
        if share:
            account = state.account(neuron.hotkey)
            state.accounts.put(neuron.hotkey, replace(account, balance=account.balance + share))
        if share != neuron.emission:
            state.put_neuron(uid, replace(neuron, emission=share))
    state.totals = replace(state.totals, issued=state.totals.issued + sum(shares))


def _inputs(state: State) -> EpochInputs:
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    rows = [state.weights.get(uid) for uid in range(len(neurons))]
    return EpochInputs(
        stakes=[state.account(n.hotkey).stake for n in neurons],
        permits=[n.validator_permit for n in neurons],
        last_updates=[n.last_update_block for n in neurons],
        registered=[n.registered_block for n in neurons],
        weights=[dict(zip(row.uids, row.values, strict=True)) if row else {} for row in rows],
    )
