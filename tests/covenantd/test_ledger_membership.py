"""Who may be in, under which key, and how much each may write: rules that are off unless genesis turns them on."""

from dataclasses import replace
from typing import Any

import pytest
from test_ledger_rules import KEYS, UNIT, genesis, outcome, supply, weights

from covenantd.chain.ledger.blocks import genesis_block, make_block
from covenantd.chain.ledger.epoch import run_epoch
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.sealing import SealedWeights
from covenantd.chain.ledger.state import State, StateDigest, WeightCommitsRow
from covenantd.chain.yuma.subnet import PackedRow
from covenantd.errors import ConfigError


def test_a_private_subnet_lets_in_whom_its_owner_lists() -> None:
    owner, listed, stranger = KEYS[4], KEYS[5], KEYS[6]
    state = genesis(private=True, owner=owner, allow_list=[listed])
    assert outcome(state, stranger, "register") == "HotKeyNotAllowed"
    assert outcome(state, listed, "register") is None
    assert outcome(state, listed, "allow", who=stranger) == "NotSubnetOwner"
    assert outcome(state, owner, "allow", who=stranger) is None
    assert outcome(state, stranger, "register") is None
    assert outcome(state, owner, "disallow", who=KEYS[7]) == "HotKeyNotAllowed"
    assert outcome(state, owner, "disallow", who=listed) is None
    assert state.uid(listed) is not None  # stays until evicted
    assert outcome(state, owner, "register") is None


def test_nobody_keeps_the_list_of_a_subnet_without_an_owner() -> None:
    state = genesis(private=True, allow_list=[KEYS[5]])
    assert outcome(state, KEYS[4], "allow", who=KEYS[6]) == "NotSubnetOwner"
    with pytest.raises(ConfigError, match="allow_list means nothing"):
        parse_genesis({"allow_list": [KEYS[5]]})


def test_a_key_swap_moves_everything_but_nonces() -> None:
    old, new = KEYS[0], KEYS[6]
    state = genesis(private=True, owner=old, allow_list=[old], key_swap_cost=3)
    total = supply(state)
    assert outcome(state, old, "set_commitment", fields=["aa"]) is None
    assert weights(state, old, [2], [1]) is None
    assert outcome(state, old, "swap_hotkey", to=old) == "NewHotKeyIsSameWithOld"
    assert outcome(state, old, "swap_hotkey", to=KEYS[1]) == "HotKeyAlreadyRegisteredInSubNet"
    assert outcome(state, KEYS[1], "swap_hotkey", to=new) == "NotEnoughBalanceToPaySwapHotKey"
    neuron = state.neuron(0)
    assert outcome(state, old, "swap_hotkey", to=new) is None
    assert state.neuron(0) == replace(neuron, hotkey=new)
    assert (state.uid(old), state.uid(new)) == (None, 0)
    assert (state.account(new).balance, state.account(new).stake) == (4, 3 * UNIT)
    assert (state.account(old).balance, state.account(old).stake, state.account(old).nonce) == (0, 0, 5)
    assert state.commitments.get(old) is None and state.commitments.get(new) is not None
    assert state.weights.get(0) is not None and state.settings.owner == new
    assert state.allowed.get(new) is not None and state.allowed.get(old) is None
    assert supply(state) == total
    assert outcome(state, old, "register") == "HotKeyNotAllowed"


def test_a_key_without_a_uid_is_swapped_too() -> None:
    state = genesis()
    assert outcome(state, KEYS[4], "swap_hotkey", to=KEYS[5]) is None
    assert state.account(KEYS[5]).balance == 50 * UNIT and state.uid(KEYS[5]) is None


def test_commitments_have_a_quota_an_epoch() -> None:
    """Each counts for what it takes on the chain, 100 bytes at least."""
    state, key = genesis(commitment_bytes_per_epoch=700), KEYS[2]
    big = ["00" * 128] * 3  # 1 + 3 · 129 bytes
    assert outcome(state, key, "set_commitment", fields=big) is None
    assert outcome(state, key, "set_commitment", fields=big) == "SpaceLimitExceeded"
    for _ in range(3):
        assert outcome(state, key, "set_commitment", fields=["00"]) is None
    assert outcome(state, key, "set_commitment", fields=[]) == "SpaceLimitExceeded"
    assert outcome(state, KEYS[3], "set_commitment", fields=big) is None
    assert outcome(state, key, "swap_hotkey", to=KEYS[6]) is None
    assert outcome(state, KEYS[6], "set_commitment", fields=[]) == "SpaceLimitExceeded"
    run_epoch(state, 6)
    assert outcome(state, KEYS[6], "set_commitment", block=6, fields=big) is None


def committed(state: State, hotkey: str, values: dict[int, float], block: int) -> SealedWeights:
    sealed = SealedWeights.seal(values, 0)
    assert outcome(state, hotkey, "commit_weights", block=block, hash=sealed.hash_for(hotkey, 1)) is None
    return sealed


def reveal(state: State, hotkey: str, sealed: SealedWeights, block: int = 9) -> str | None:
    return outcome(state, hotkey, "reveal_weights", block=block, **sealed.reveal_arguments())


def test_weights_are_revealed_in_the_epoch_after_their_commit() -> None:
    state, key = genesis(commit_reveal=True, weights_rate_limit_blocks=2), KEYS[0]
    assert weights(state, key, [2], [1]) == "CommitRevealEnabled"
    assert outcome(state, KEYS[7], "commit_weights", hash="00" * 32) == "HotKeyNotRegisteredInSubNet"
    first = committed(state, key, {2: 1.0}, block=5)
    assert outcome(state, key, "commit_weights", block=6, hash="00" * 32) == "CommittingWeightsTooFast"
    second = committed(state, key, {3: 1.0}, block=7)
    assert reveal(state, KEYS[1], first) == "NoWeightsCommitFound"
    assert reveal(state, key, first) == "RevealTooEarly"
    run_epoch(state, 8)
    assert reveal(state, key, replace(first, salt="00")) == "InvalidRevealCommitHashNotMatch"
    assert reveal(state, key, second) is None
    row = state.weights.get(0)
    assert row is not None and row.uids == (3,) and row.block == 7
    assert state.neuron(0).last_update_block == 7
    assert reveal(state, key, first) == "NoWeightsCommitFound"  # older ones went with it


def test_a_commit_expires() -> None:
    state, key = genesis(commit_reveal=True, reveal_period_epochs=2), KEYS[0]
    sealed = committed(state, key, {2: 1.0}, block=5)
    run_epoch(state, 8)
    assert reveal(state, key, sealed) == "RevealTooEarly"
    run_epoch(state, 12)
    run_epoch(state, 16)
    assert reveal(state, key, sealed) == "ExpiredWeightCommit"
    assert outcome(genesis(), key, "reveal_weights", **sealed.reveal_arguments()) == "CommitRevealDisabled"
    assert outcome(genesis(), key, "commit_weights", hash="00" * 32) == "CommitRevealDisabled"


def test_unrevealed_commits_are_bounded() -> None:
    state, key = genesis(commit_reveal=True), KEYS[0]
    for block in range(5, 15):
        committed(state, key, {2: 1.0}, block=block)
    assert outcome(state, key, "commit_weights", block=15, hash="00" * 32) == "TooManyUnrevealedCommits"
    run_epoch(state, 16)
    run_epoch(state, 20)
    committed(state, key, {2: 1.0}, block=21)  # the expired made room
    row = state.weight_commits.get(0)
    assert row is not None and len(row.hashes) == 1


def test_a_reveal_is_checked_like_weights_set_at_once() -> None:
    state, key = genesis(commit_reveal=True), KEYS[2]
    sealed = committed(state, key, {1: 1.0}, block=5)
    run_epoch(state, 8)
    assert reveal(state, key, sealed) == "NeuronNoValidatorPermit"
    assert state.weights.get(2) is None


def test_weights_committed_before_a_uid_changed_hands_do_not_count_for_the_new_owner() -> None:
    state, key = genesis(commit_reveal=True, immunity_blocks=0, max_neurons=4), KEYS[0]
    sealed = committed(state, key, {2: 1.0, 3: 1.0}, block=5)
    run_epoch(state, 8)
    state.put_neuron(3, replace(state.neuron(3), emission=1))
    assert outcome(state, KEYS[4], "register", block=9) is None
    assert state.uid(KEYS[4]) == 2
    committed(state, key, {3: 1.0}, block=10)  # newer than the newcomer, but it is not what is revealed
    assert reveal(state, key, sealed, block=10) is None
    run_epoch(state, 12)
    assert [state.neuron(uid).incentive for uid in range(4)] == [0, 0, 0, 65535]


def test_an_evicted_neuron_leaves_nothing() -> None:
    state = genesis(max_neurons=4, immunity_blocks=0, commit_reveal=True)
    state.bonds.put(2, PackedRow.of({3: 9}))
    state.weight_commits.put(2, WeightCommitsRow(("00",), (1,), (0,)))
    for uid in (0, 1, 3):
        state.put_neuron(uid, replace(state.neuron(uid), emission=1))
    assert outcome(state, KEYS[4], "register") is None
    assert state.bonds.get(2) is None and state.weight_commits.get(2) is None


def test_who_sets_no_weights_for_long_has_no_say() -> None:
    state = genesis(activity_cutoff_blocks=10)
    for key, target, block in ((KEYS[0], 2, 5), (KEYS[1], 3, 9)):
        assert weights(state, key, [target], [1], block=block) is None
    run_epoch(state, 15)
    assert state.neuron(2).incentive == 65535 and state.neuron(0).dividends == 65535
    run_epoch(state, 16)  # block 5 is 11 blocks ago
    assert state.neuron(3).incentive == 65535 and state.neuron(2).incentive == 0
    assert state.neuron(0).vtrust == 0 and state.neuron(1).vtrust == 65535


def test_bonds_are_kept_over_epochs_and_lost_with_the_permit() -> None:
    state = genesis(max_validators=2)
    assert weights(state, KEYS[0], [2, 3], [1, 1]) is None and weights(state, KEYS[1], [2, 3], [1, 1]) is None
    run_epoch(state, 8)
    rows = [state.bonds.get(uid) for uid in range(4)]
    assert rows[0] == PackedRow.of({2: 65535, 3: 65535}) and rows[1] is not None and rows[2:] == [None, None]
    assert outcome(state, KEYS[4], "register") is None
    assert outcome(state, KEYS[4], "add_stake", amount=2 * UNIT) is None
    run_epoch(state, 12)
    assert state.bonds.get(1) is None and state.bonds.get(0) is not None
    assert not state.neuron(1).validator_permit and state.neuron(4).validator_permit


@pytest.mark.parametrize("mode", ["classic", "yuma3", "yuma3+liquid"])
def test_every_kind_of_yuma_pays_out_all_there_is(mode: str) -> None:
    state = genesis(yuma=mode, emission_per_block=7, tempo_blocks=3)
    digest = StateDigest({})
    head = genesis_block(digest, 1)
    assert weights(state, KEYS[0], [2, 3], [2, 1], block=1) is None
    assert weights(state, KEYS[1], [2], [2], block=1) is None
    total = supply(state)
    for _ in range(9):
        head, _, _ = make_block(state, digest, head, 5, [])
    assert supply(state) == total and state.totals.issued == 63 and state.totals.epochs == 3
    assert state.neuron(2).incentive > state.neuron(3).incentive > 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"yuma": "yuma2"}, "yuma must be one of classic, yuma3"),
        ({"kappa": 65536}, "kappa must be between 0 and 65535"),
        ({"bonds_moving_average": 1_000_001}, "bonds_moving_average must be"),
        ({"alpha_steepness": 4001}, "alpha_steepness must be"),
        ({"alpha_low": 60_000}, "alpha_low exceeds alpha_high"),
        ({"activity_cutoff_blocks": 0}, "activity_cutoff_blocks must be between 1"),
        ({"owner": "me"}, "owner: 'me' is not an ss58"),
        ({"private": 1}, "private must be bool"),
        ({"private": True, "allow_list": {}}, "allow_list must be a list"),
        ({"private": True, "allow_list": [3]}, "allow_list: 3 is not an ss58"),
    ],
)
def test_a_genesis_that_is_wrong_says_where(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_genesis(value)
