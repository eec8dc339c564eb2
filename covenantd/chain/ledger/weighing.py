"""Weights: set at once, or committed to as a hash and revealed an epoch or more later, so that nobody can copy them
while they are news. Order and names of the checks are the chain's."""

from dataclasses import replace
from typing import Any

from covenantd.chain.ledger.sealing import weights_hash
from covenantd.chain.ledger.state import Refusal, State, WeightCommitsRow, WeightsRow, require

MAX_UNREVEALED = 10
_U16_MAX = 65535


def set_weights(state: State, block: int, hotkey: str, args: dict[str, Any]) -> None:
    require(not state.settings.commit_reveal, "CommitRevealEnabled")
    uid = _put_weights(state, block, hotkey, args, rate_limited_at=block)
    state.put_neuron(uid, replace(state.neuron(uid), last_update_block=block))


def commit_weights(state: State, block: int, hotkey: str, args: dict[str, Any]) -> None:
    require(state.settings.commit_reveal, "CommitRevealDisabled")
    uid = _registered(state, hotkey)
    neuron = state.neuron(uid)
    require(_rate_allows(state, uid, block), "CommittingWeightsTooFast")
    kept = _without_expired(state, state.weight_commits.get(uid))
    require(len(kept.hashes) < MAX_UNREVEALED, "TooManyUnrevealedCommits")
    row = WeightCommitsRow((*kept.hashes, args["hash"]), (*kept.blocks, block), (*kept.epochs, state.totals.epochs))
    state.weight_commits.put(uid, row)
    state.put_neuron(uid, replace(neuron, last_update_block=block))


def reveal_weights(state: State, _block: int, hotkey: str, args: dict[str, Any]) -> None:
    """Weights as of the block they were committed in; older commits go with it."""
    settings = state.settings
    require(settings.commit_reveal, "CommitRevealDisabled")
    uid = _registered(state, hotkey)
    row = state.weight_commits.get(uid)
    if row is None:
        raise Refusal("NoWeightsCommitFound")
    digest = weights_hash(hotkey, settings.netuid, args["uids"], args["values"], args["salt"], args["version_key"])
    kept = _without_expired(state, row)
    if digest not in kept.hashes:
        raise Refusal("ExpiredWeightCommit" if digest in row.hashes else "InvalidRevealCommitHashNotMatch")
    at = kept.hashes.index(digest)
    require(state.totals.epochs == kept.epochs[at] + settings.reveal_period_epochs, "RevealTooEarly")
    _put_weights(state, kept.blocks[at], hotkey, args, rate_limited_at=None)
    rest = WeightCommitsRow(kept.hashes[at + 1 :], kept.blocks[at + 1 :], kept.epochs[at + 1 :])
    if rest.hashes:
        state.weight_commits.put(uid, rest)
    else:
        state.weight_commits.drop(uid)


def _put_weights(state: State, decided: int, hotkey: str, args: dict[str, Any], rate_limited_at: int | None) -> int:
    """Check and store; returns the uid. A reveal is not limited: its commit was."""
    settings, size = state.settings, len(state.neurons)
    uids, values = args["uids"], args["values"]
    require(len(uids) == len(values), "WeightVecNotEqualSize")
    require(len(uids) <= size, "UidsLengthExceedUidsInSubNet")
    uid = _registered(state, hotkey)
    require(state.account(hotkey).stake >= settings.min_weight_stake, "NotEnoughStakeToSetWeights")
    require(args["version_key"] >= settings.weights_version, "IncorrectWeightVersionKey")
    require(rate_limited_at is None or _rate_allows(state, uid, rate_limited_at), "SettingWeightsTooFast")
    only_self = uids == [uid]
    require(only_self or state.neuron(uid).validator_permit, "NeuronNoValidatorPermit")
    require(len(set(uids)) == len(uids), "DuplicateUids")
    require(all(target < size for target in uids), "UidVecContainInvalidOne")
    require(only_self or len(uids) >= min(settings.min_allowed_weights, size), "WeightVecLengthIsLow")
    upscaled = _upscale(values)
    within = settings.max_weight_limit == _U16_MAX or only_self or _within_limit(upscaled, settings.max_weight_limit)
    require(within, "MaxWeightExceeded")
    state.weights.put(uid, WeightsRow(tuple(uids), tuple(upscaled), decided))
    return uid


def _registered(state: State, hotkey: str) -> int:
    uid = state.uid(hotkey)
    if uid is None:
        raise Refusal("HotKeyNotRegisteredInSubNet")
    return uid


def _rate_allows(state: State, uid: int, block: int) -> bool:
    last = state.neuron(uid).last_update_block
    return last == 0 or block - last >= state.settings.weights_rate_limit_blocks


def _without_expired(state: State, row: WeightCommitsRow | None) -> WeightCommitsRow:
    """A commit can be revealed in one epoch only; after that it is void."""
    if row is None:
        return WeightCommitsRow((), (), ())
    oldest = state.totals.epochs - state.settings.reveal_period_epochs
    first = sum(epoch < oldest for epoch in row.epochs)  # epochs only grow along the row
    return WeightCommitsRow(row.hashes[first:], row.blocks[first:], row.epochs[first:])


def _upscale(values: list[int]) -> list[int]:
    """Scale so that the largest is 65535."""
    largest = max(values, default=0)
    return [v * _U16_MAX // largest for v in values] if largest else values


def _within_limit(values: list[int], limit: int) -> bool:
    return max(values, default=0) * _U16_MAX <= limit * sum(values)
