"""The end of a tempo: weights become incentive and dividends, emission becomes balances."""

from dataclasses import replace

from covenantd.chain.ledger.permits import assign_permits
from covenantd.chain.ledger.state import MAX_AMOUNT, State
from covenantd.chain.yuma.apportion import apportion
from covenantd.chain.yuma.epoch import run_epoch as run_yuma
from covenantd.chain.yuma.subnet import EpochInputs, EpochResult, EpochRules, Row


def next_epoch_block(state: State) -> int:
    return state.totals.last_epoch_block + state.settings.tempo_blocks


def run_epoch(state: State, block: int) -> None:
    """Emit what the blocks since the last epoch are worth, to the unit, and renew the permits."""
    result = run_yuma(_inputs(state, block), _rules(state))
    blocks = block - state.totals.last_epoch_block
    amount = min(state.settings.emission_per_block * blocks, MAX_AMOUNT - state.totals.issued)
    shares = apportion(amount, result.emission_parts)
    _score(state, result, shares)
    _pay(state, shares)
    assign_permits(state)
    _keep_bonds(state, result)
    totals = state.totals
    state.totals = replace(totals, issued=totals.issued + sum(shares), last_epoch_block=block, epochs=totals.epochs + 1)


def _score(state: State, result: EpochResult, shares: tuple[int, ...]) -> None:
    for uid, share in enumerate(shares):
        neuron = state.neuron(uid)
        scored = replace(
            neuron,
            incentive=result.incentive[uid],
            dividends=result.dividends[uid],
            consensus=result.consensus[uid],
            vtrust=result.vtrust[uid],
            emission=share,
        )
        if scored != neuron:
            state.put_neuron(uid, scored)


def _pay(state: State, shares: tuple[int, ...]) -> None:
    for uid, share in enumerate(shares):
        if share:
            hotkey = state.neuron(uid).hotkey
            account = state.account(hotkey)
            state.accounts.put(hotkey, replace(account, balance=account.balance + share))


def _keep_bonds(state: State, result: EpochResult) -> None:
    """Bonds are a permitted validator's: who lost the permit lost them."""
    for uid, cells in enumerate(result.bonds):
        if not cells.packed or not state.neuron(uid).validator_permit:
            state.bonds.drop(uid)
        elif cells != state.bonds.get(uid):
            state.bonds.put(uid, cells)


def _inputs(state: State, block: int) -> EpochInputs:
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    weights = [state.weights.get(uid) for uid in range(len(neurons))]
    cutoff = block - state.settings.activity_cutoff_blocks
    return EpochInputs(
        stakes=[state.account(n.hotkey).stake for n in neurons],
        permits=[n.validator_permit for n in neurons],
        active=[n.last_update_block >= cutoff for n in neurons],
        voted=[row.block if row else 0 for row in weights],
        registered=[n.registered_block for n in neurons],
        weights=[row or Row() for row in weights],
        bonds=[state.bonds.get(uid) or Row() for uid in range(len(neurons))],
        last_epoch_block=state.totals.last_epoch_block,
    )


def _rules(state: State) -> EpochRules:
    settings = state.settings
    return EpochRules(
        mode=settings.yuma,
        kappa=settings.kappa,
        bonds_penalty=settings.bonds_penalty,
        bonds_moving_average=settings.bonds_moving_average,
        alpha_low=settings.alpha_low,
        alpha_high=settings.alpha_high,
        alpha_steepness=settings.alpha_steepness,
    )
