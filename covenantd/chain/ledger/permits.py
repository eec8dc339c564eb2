"""Who may set weights: the largest stakes above a minimum."""

from dataclasses import replace

from covenantd.chain.ledger.state import State


def assign_permits(state: State) -> None:
    """Give the permit to the `max_validators` largest stakes of at least `min_permit_stake`, lower uid first."""
    settings = state.settings
    neurons = [state.neuron(uid) for uid in range(len(state.neurons))]
    stakes = [state.account(neuron.hotkey).stake for neuron in neurons]
    ranked = sorted(
        (uid for uid, stake in enumerate(stakes) if stake >= max(1, settings.min_permit_stake)),
        key=lambda uid: (-stakes[uid], uid),
    )
    permitted = set(ranked[: settings.max_validators])
    for uid, neuron in enumerate(neurons):
        if neuron.validator_permit != (uid in permitted):
            state.put_neuron(uid, replace(neuron, validator_permit=uid in permitted))
