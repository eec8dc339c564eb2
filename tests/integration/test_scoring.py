"""What a validator makes of miners that train and of one that does not."""

import pytest
from arena import Arena, OpenArena

from covenantd.localswarm import shares

pytestmark = pytest.mark.swarm


async def test_noise_earns_less_than_a_tenth_of_an_honest_share(new_arena: OpenArena) -> None:
    miners = ("miner-0", "miner-1", "miner-2")
    async with new_arena(miners=3, inner_steps=4, behaviors={"miner-2": "noise"}) as arena:
        arena.start()
        await arena.ready(*miners, "validator-0")
        for number in range(3):
            await arena.play(number, miners)
        share = await _shares(arena, miners)
        assert share["miner-0"] > 0 and share["miner-1"] > 0
        assert share["miner-2"] < 0.1 * min(share["miner-0"], share["miner-1"]), share
        roster = (await arena.rounds("miner-2"))[2]
        assert roster.own_included is False and roster.roster_size == 2  # seen to harm, so left out


async def _shares(arena: Arena, miners: tuple[str, ...]) -> dict[str, float]:
    """Miner -> share of the weight the validator has set on chain."""
    head = await arena.chain.block()
    metagraph = await arena.chain.metagraph(head.number)
    hotkeys = {name: arena.peers[name].hotkey.hotkey for name in miners}
    by_uid = shares(metagraph, arena.peers["validator-0"].hotkey.hotkey, list(hotkeys.values()))
    neurons = {name: metagraph.neuron(hotkey) for name, hotkey in hotkeys.items()}
    return {name: by_uid[str(neuron.uid)] for name, neuron in neurons.items() if neuron}
