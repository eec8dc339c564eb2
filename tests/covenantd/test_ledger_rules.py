"""The pure rules: calls, epochs, blocks."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.blocks import ZERO_HASH, LedgerBlock, calls_root, genesis_block, make_block
from covenantd.chain.ledger.calls import apply_call
from covenantd.chain.ledger.genesis import parse_genesis
from covenantd.chain.ledger.signing import Call
from covenantd.chain.ledger.state import Account, Refusal, Settings, State, StateDigest, canonical_json
from covenantd.errors import ConfigError

KEYS = [Hotkey.from_uri(f"//{i}").hotkey for i in range(8)]
UNIT = 10**9


def genesis(**changes: Any) -> State:
    """KEYS[0] and [1] are validators, [2] and [3] miners, [4] has a balance, the others nothing."""
    neurons = [{"hotkey": KEYS[0], "stake": 3 * UNIT}, {"hotkey": KEYS[1], "stake": UNIT}]
    neurons += [{"hotkey": KEYS[2]}, {"hotkey": KEYS[3]}]
    value = {"tempo_blocks": 4, "neurons": neurons, "balances": {KEYS[4]: 50 * UNIT, KEYS[0]: 7}, "salt": "s"}
    state = parse_genesis(value | changes).state()
    state.take_changes()
    return state


def call(hotkey: str, nonce: int, method: str, **args: Any) -> Call:
    body = canonical_json({"hotkey": hotkey, "nonce": nonce, "method": method, "args": args})
    return Call(hotkey, nonce, method, args, body, "00" * 64)


def outcome(state: State, hotkey: str, method: str, *, block: int = 5, **args: Any) -> str | None:
    return apply_call(state, block, call(hotkey, state.account(hotkey).nonce + 1, method, **args))


def weights(state: State, hotkey: str, uids: list[int], values: list[int], block: int = 5, version: int = 0) -> Any:
    return outcome(state, hotkey, "set_weights", block=block, uids=uids, values=values, version_key=version)


def supply(state: State) -> int:
    held = sum(row.balance + row.stake for _, row in state.accounts.items())
    return held + state.totals.burned - state.totals.issued


def test_set_weights_checks_in_the_chains_order() -> None:
    """Each call breaks every rule from its own on; the first broken one is named."""
    state = genesis(
        min_weight_stake=2 * UNIT,
        weights_version=3,
        weights_rate_limit_blocks=10,
        min_allowed_weights=3,
        max_weight_limit=40000,
    )
    v, stranger = KEYS[0], KEYS[5]
    assert weights(state, stranger, [9, 9, 9, 9, 9], [1]) == "WeightVecNotEqualSize"
    assert weights(state, stranger, [9] * 5, [1] * 5) == "UidsLengthExceedUidsInSubNet"
    assert weights(state, stranger, [9, 9], [1, 1]) == "HotKeyNotRegisteredInSubNet"
    assert weights(state, KEYS[1], [9, 9], [1, 1]) == "NotEnoughStakeToSetWeights"
    assert weights(state, v, [9, 9], [1, 1], version=2) == "IncorrectWeightVersionKey"
    state.put_neuron(0, replace(state.neuron(0), last_update_block=1, validator_permit=False))
    assert weights(state, v, [9, 9], [1, 1], version=3) == "SettingWeightsTooFast"
    assert weights(state, v, [9, 9], [1, 1], version=3, block=11) == "NeuronNoValidatorPermit"
    state.put_neuron(0, replace(state.neuron(0), validator_permit=True))
    assert weights(state, v, [9, 9], [1, 1], version=3, block=11) == "DuplicateUids"
    assert weights(state, v, [9, 1], [1, 1], version=3, block=11) == "UidVecContainInvalidOne"
    assert weights(state, v, [2, 1], [1, 0], version=3, block=11) == "WeightVecLengthIsLow"
    assert weights(state, v, [1, 2, 3], [9, 1, 1], version=3, block=11) == "MaxWeightExceeded"
    assert weights(state, v, [1, 2, 3], [2, 1, 1], version=3, block=11) is None
    assert state.weights.get(0).values == (65535, 32767, 32767)  # type: ignore[union-attr]
    assert weights(state, v, [1, 2, 3], [2, 1, 1], version=3, block=20) == "SettingWeightsTooFast"


def test_self_weight_needs_no_permit() -> None:
    state = genesis()
    assert weights(state, KEYS[2], [2], [1]) is None
    assert weights(state, KEYS[3], [2], [1]) == "NeuronNoValidatorPermit"


def test_a_used_nonce_is_not_applied() -> None:
    state = genesis()
    apply_call(state, 1, call(KEYS[4], 3, "transfer", to=KEYS[5], amount=1))
    for nonce in (1, 3):
        with pytest.raises(Refusal, match="StaleNonce"):
            apply_call(state, 1, call(KEYS[4], nonce, "transfer", to=KEYS[5], amount=1))
    assert state.account(KEYS[5]).balance == 1


def test_registration_evicts_the_poorest_that_is_not_immune() -> None:
    state = genesis(max_neurons=5, immunity_blocks=10, registration_burn=UNIT, max_registrations_per_block=1)
    assert outcome(state, KEYS[5], "register") == "NotEnoughBalanceToStake"
    assert outcome(state, KEYS[4], "transfer", to=KEYS[5], amount=2 * UNIT) is None
    assert outcome(state, KEYS[4], "register", block=5) is None
    assert outcome(state, KEYS[4], "register", block=5) == "TooManyRegistrationsThisBlock"
    assert outcome(state, KEYS[4], "register", block=6) == "HotKeyAlreadyRegisteredInSubNet"
    assert (state.uid(KEYS[4]), state.totals.burned) == (4, UNIT)
    assert outcome(state, KEYS[5], "register", block=9) == "NoNeuronIdAvailable"
    for uid, emission in enumerate((5, 4, 2, 3, 0)):
        state.put_neuron(uid, replace(state.neuron(uid), emission=emission))
    assert outcome(state, KEYS[2], "set_commitment", fields=["00"]) is None
    assert weights(state, KEYS[2], [2], [1]) is None
    assert outcome(state, KEYS[5], "register", block=12) is None  # uid 4 earns less but is immune
    assert (state.uid(KEYS[5]), state.uid(KEYS[2]), len(state.neurons)) == (2, None, 5)
    assert state.commitments.get(KEYS[2]) is None and state.weights.get(2) is None
    assert outcome(state, KEYS[2], "set_commitment", fields=["00"]) == "AccountNotAllowedCommit"
    closed = genesis(registration_allowed=False)
    assert outcome(closed, KEYS[4], "register") == "SubNetRegistrationDisabled"


def test_stake_and_transfer() -> None:
    state = genesis()
    assert outcome(state, KEYS[4], "add_stake", amount=1) == "HotKeyAccountNotExists"
    assert outcome(state, KEYS[4], "register") is None
    assert outcome(state, KEYS[4], "add_stake", amount=0) == "AmountTooLow"
    assert outcome(state, KEYS[4], "add_stake", amount=51 * UNIT) == "NotEnoughBalanceToStake"
    assert outcome(state, KEYS[4], "add_stake", amount=50 * UNIT) is None
    assert state.account(KEYS[4]) == Account(nonce=5, balance=0, stake=50 * UNIT)
    assert outcome(state, KEYS[4], "transfer", to=KEYS[0], amount=1) == "FundsUnavailable"
    assert outcome(state, KEYS[0], "transfer", to=KEYS[0], amount=7) is None
    assert state.account(KEYS[0]).balance == 7


def test_an_epoch_pays_by_weight_and_renews_permits() -> None:
    state = genesis(emission_per_block=1000, max_validators=2)
    digest = StateDigest({})
    head = LedgerBlock(0, ZERO_HASH, 1, ZERO_HASH, digest.root())
    calls = [
        call(KEYS[0], 1, "set_weights", uids=[2, 3], values=[3, 1], version_key=0),
        call(KEYS[4], 1, "register"),
        call(KEYS[4], 2, "add_stake", amount=2 * UNIT),
    ]
    head, included, _ = make_block(state, digest, head, 5, calls)
    assert [entry.error for entry in included] == [None] * 3
    while head.number < 4:
        head, _, _ = make_block(state, digest, head, 5, [])
    assert [state.neuron(uid).emission for uid in range(5)] == [2000, 0, 1500, 500, 0]
    assert state.neuron(2).incentive == 65535 * 3 // 4
    assert state.account(KEYS[0]).balance == 2007
    assert [state.neuron(uid).validator_permit for uid in range(5)] == [True, False, False, False, True]
    assert state.totals.issued == 4000 and state.totals.last_epoch_block == 4


_uids = st.lists(st.integers(0, 9), max_size=6)
_calls = st.tuples(
    st.sampled_from(KEYS),
    st.one_of(
        st.tuples(st.just("register"), st.just({})),
        st.tuples(st.just("add_stake"), st.fixed_dictionaries({"amount": st.integers(0, 3 * UNIT)})),
        st.tuples(
            st.just("transfer"),
            st.fixed_dictionaries({"to": st.sampled_from(KEYS), "amount": st.integers(0, 60 * UNIT)}),
        ),
        st.tuples(
            st.just("set_commitment"),
            st.fixed_dictionaries({"fields": st.lists(st.just("00"), max_size=4)}),
        ),
        st.tuples(
            st.just("set_weights"),
            st.fixed_dictionaries({"uids": _uids, "values": _uids, "version_key": st.just(0)}),
        ),
        st.tuples(st.just("swap_hotkey"), st.fixed_dictionaries({"to": st.sampled_from(KEYS)})),
        st.tuples(st.sampled_from(["allow", "disallow"]), st.fixed_dictionaries({"who": st.sampled_from(KEYS)})),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_calls, max_size=4), max_size=30), st.booleans())
def test_whatever_is_called(blocks: list[list[Any]], private: bool) -> None:
    """Nothing is made or lost but by emission; a refused call changes its nonce alone; uids have no gap; the changes
    rebuild the state; and the digest by increments is the digest of the whole."""
    state = genesis(
        max_neurons=6,
        immunity_blocks=3,
        registration_burn=UNIT // 3,
        max_registrations_per_block=2,
        private=private,
        owner=KEYS[0],
        key_swap_cost=UNIT // 7,
        commitment_bytes_per_epoch=150,
    )
    entries = _entries(state)
    digest, total = StateDigest(entries), supply(state)
    head = genesis_block(digest, 1000)
    for batch in blocks:
        nonces = {key: state.account(key).nonce for key in KEYS}
        calls = []
        for hotkey, (method, args) in batch:
            nonces[hotkey] += 1
            calls.append(call(hotkey, nonces[hotkey], method, **args))
        head, included, changes = make_block(state, digest, head, 0, calls)
        entries = {k: v for k, v in (entries | changes).items() if v is not None}
        assert entries == _entries(state)
        assert digest.root() == StateDigest(entries).root() == head.state_digest
        assert supply(state) == total
        assert sorted(int(uid) for uid, _ in state.neurons.items()) == list(range(len(state.neurons)))
        assert all(state.uid(row.hotkey) == int(uid) for uid, row in state.neurons.items())
        assert all(row.balance >= 0 and row.stake >= 0 for _, row in state.accounts.items())
        if calls and all(entry.error for entry in included) and head.number % 4:
            assert set(changes) == {f"account/{c.hotkey}" for c in calls}
    assert head.timestamp_ms == 1000 + len(blocks)  # by a clock that stands still


def _entries(state: State) -> dict[str, str]:
    tables: dict[str, Any] = {"account": state.accounts, "neuron": state.neurons, "commitment": state.commitments}
    tables |= {"bonds": state.bonds, "weight_commits": state.weight_commits, "allowed": state.allowed}
    tables |= {"weights": state.weights, "settings": state._settings, "totals": state._totals}
    return {f"{n}/{i}": canonical_json(vars(r)) for n, table in tables.items() for i, r in table.items()}


def test_hashes_are_fixed() -> None:
    """The format: a change here is a new format of the ledger."""
    digest = StateDigest({"a/1": "{}", "b/": '{"x":1}'})
    block = LedgerBlock(1, "11" * 32, 1_700_000_000_000, calls_root(()), digest.root())
    assert digest.root() == "ee97c575af17766e8b13b890e84309333f4205ae8eba784c9b9ad6a7723bcc73"
    assert calls_root(()) == "9ef132ae0542c6fc4ed2fa60b1b423dedf090427f9f0c461ba1f0a08677111de"
    assert block.hash == "f69a041981390f482bfee22541fc2a2343fdb432feeef529bf130488b270dede"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "object"),
        ({"tempo_block": 3}, "did you mean 'tempo_blocks'"),
        ({"tempo_blocks": 0}, "tempo_blocks must be between 1"),
        ({"tempo_blocks": 1.5}, "must be int"),
        ({"netuid": 65536}, "netuid"),
        ({"neurons": {}}, "list"),
        ({"neurons": [{"hotkey": "x"}]}, "not an ss58"),
        ({"neurons": [{"hotkey": KEYS[0], "stakes": 1}]}, "did you mean 'stake'"),
        ({"neurons": [{"hotkey": KEYS[0], "stake": -1}]}, "stake must be an amount"),
        ({"neurons": [{"hotkey": KEYS[0]}] * 2}, "twice"),
        ({"neurons": [{"hotkey": KEYS[0], "validator_permit": 1}]}, "true or false"),
        ({"neurons": [{"hotkey": KEYS[0]}], "max_neurons": 1, "balances": {KEYS[0]: 1 << 63}}, "rao"),
        ({"balances": {k: (1 << 63) - 1 for k in KEYS[:2]}}, "exceed"),
        ({"balances": []}, "object"),
        ({"neurons": [{"hotkey": k} for k in KEYS], "max_neurons": 2}, "max_neurons is 2"),
    ],
)
def test_a_genesis_that_is_wrong_says_where(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_genesis(value)


def test_a_stated_permit_is_checked_against_stake() -> None:
    with pytest.raises(ConfigError, match="follows from stake"):
        parse_genesis({"neurons": [{"hotkey": KEYS[0], "validator_permit": True}]}).state()
    assert parse_genesis({}).settings == Settings()
