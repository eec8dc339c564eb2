"""Rosters, votes and the quorum: bytes that every peer must read alike."""

import contextlib
import struct
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import assume, example, given
from run_fixture import HOTKEYS, SPEC, enrolled, h, neuron

from covenantd import roster
from covenantd.chain.protocol import MAX_FIELD_BYTES, Commitment, Metagraph
from covenantd.roster import BadRoster, Entry, Exclusion, OnChainIdentity, Roster, Vote

BODY = Roster(
    run_id=h(1),
    round=7,
    previous=h(2),
    base_state_hash=h(3),
    metagraph_block=140,
    spec_revision=0,
    alpha_bits=roster.alpha_bits(2.0),
    contributions=(Entry(HOTKEYS[1], h(4), 123), Entry(HOTKEYS[0], h(5), 123)),
    exclusions=(Exclusion(HOTKEYS[2], "missing"),),
    candidates=(HOTKEYS[1], HOTKEYS[0]),
)
TAG = bytes(range(8))
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTS = st.integers(0, (1 << 63) - 1)
NAMES = st.text(max_size=40)
LACKED = st.binary(max_size=roster.MAX_LACKED_BYTES).map(lambda bits: bits.rstrip(b"\0"))
VOTES = st.builds(Vote, st.binary(min_size=8, max_size=8), st.integers(0, (1 << 32) - 1), HASHES, HASHES, LACKED)
ROSTERS = st.builds(
    Roster,
    run_id=HASHES,
    round=COUNTS,
    previous=HASHES,
    base_state_hash=HASHES,
    metagraph_block=COUNTS,
    spec_revision=COUNTS,
    alpha_bits=st.floats(width=32, allow_nan=False, allow_infinity=False).map(roster.alpha_bits),
    contributions=st.lists(
        st.builds(Entry, st.sampled_from(HOTKEYS), HASHES, COUNTS), max_size=5, unique_by=lambda entry: entry.hotkey
    ).map(tuple),
    exclusions=st.lists(st.builds(Exclusion, NAMES, NAMES), max_size=4).map(tuple),
    candidates=st.lists(NAMES, max_size=4).map(tuple),
)


def packed(**changes: Any) -> bytes:
    return bytes(msgpack.packb({**asdict(BODY), **changes}))


# Bodies


@given(ROSTERS)
def test_a_body_is_read_as_it_was_written(body: Roster) -> None:
    assert roster.decode(body.encode()) == body


def test_a_body_has_these_bytes() -> None:
    """The digest that is voted for is a hash of them."""
    assert BODY.encode().hex() == GOLDEN_BODY


@given(ROSTERS, st.data())
def test_no_other_bytes_mean_the_same_roster(body: Roster, data: st.DataObject) -> None:
    raw = bytearray(body.encode())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    assume(bytes(raw) != body.encode())
    with contextlib.suppress(BadRoster):
        assert roster.decode(bytes(raw)) != body


@given(st.binary(max_size=300))
def test_noise_is_no_roster(noise: bytes) -> None:
    with pytest.raises(BadRoster):
        roster.decode(noise)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(asdict(BODY))), PLAIN)
@example("alpha_bits", roster.alpha_bits(1.0) + (1 << 32))
@example("alpha_bits", 0x7F800000)  # infinity
@example("alpha_bits", 0x7FC00000)  # not a number
@example("round", True)
@example("round", -1)
@example("round", 7.0)
@example("run_id", h(1).upper())
@example("run_id", b"1" * 64)
@example("contributions", {"hotkey": 1})
@example("contributions", [{"hotkey": HOTKEYS[0], "blob_id": h(1), "size": 1}] * 2)
@example("contributions", [{"hotkey": HOTKEYS[0], "blob_id": "../../etc/passwd", "size": 1}])
@example("contributions", [{"hotkey": "nobody", "blob_id": h(1), "size": 1}])
@example("contributions", [{"hotkey": [], "blob_id": h(1), "size": 1}])
@example("contributions", [{"hotkey": HOTKEYS[0], "blob_id": h(1), "size": -1}])
@example("contributions", [{"hotkey": HOTKEYS[0], "blob_id": h(1), "size": 1, "extra": 1}])
@example("contributions", [{"hotkey": HOTKEYS[0], "blob_id": h(1)}])
@example("contributions", "ab")
@example("exclusions", [{"hotkey": 1, "reason": 2}])
@example("candidates", "ab")
@example("candidates", [1])
@example("candidates", [HOTKEYS[0]] * (roster.MAX_CONTRIBUTIONS + 1))
def test_whatever_a_field_holds_a_body_is_refused_or_sound(name: str, value: Any) -> None:
    body = packed(**{name: value})
    try:
        read = roster.decode(body)
    except BadRoster:
        return
    assert read.encode() == body
    assert type(read.round) is int and read.alpha == read.alpha
    assert isinstance(read.candidates, tuple) and all(isinstance(name, str) for name in read.candidates)


def test_a_key_too_many_or_too_few_is_refused() -> None:
    lacking = {k: v for k, v in asdict(BODY).items() if k != "candidates"}
    for data in ({**asdict(BODY), "extra": 1}, lacking, {**lacking, 5: []}, [], None, 7):
        with pytest.raises(BadRoster):
            roster.decode(msgpack.packb(data))


def test_the_order_of_keys_is_part_of_the_form() -> None:
    with pytest.raises(BadRoster, match="canonical"):
        roster.decode(msgpack.packb(dict(reversed(asdict(BODY).items()))))


def test_what_is_too_long_is_not_even_parsed() -> None:
    with pytest.raises(BadRoster, match="exceeds"):
        roster.decode(b"\x00" * (roster.MAX_BODY_BYTES + 1))


def test_deep_nesting_and_promised_lengths_are_refused() -> None:
    for bomb in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1"):
        with pytest.raises(BadRoster):
            roster.decode(bomb)


def test_the_largest_round_fits_a_body() -> None:
    entries = tuple(Entry(HOTKEYS[0], h(1), 1 << 40) for _ in range(roster.MAX_CONTRIBUTIONS))
    body = replace(BODY, contributions=entries, candidates=tuple(e.hotkey for e in entries))
    assert len(body.encode()) <= roster.MAX_BODY_BYTES


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_alpha_travels_as_its_bits(alpha: float) -> None:
    read = replace(BODY, alpha_bits=roster.alpha_bits(alpha)).alpha
    assert struct.pack("<f", read) == struct.pack("<f", alpha)


# On chain


def test_a_vote_has_these_bytes_and_fits_a_field() -> None:
    vote = Vote(TAG, 258, "ab" * 32, "cd" * 32)
    assert vote.encode().hex() == "01" + "0001020304050607" + "02010000" + "ab" * 32 + "cd" * 32
    assert replace(vote, lacked=b"\0\x05").encode() == vote.encode() + b"\0\x05"
    assert len(replace(vote, lacked=b"\1" * roster.MAX_LACKED_BYTES).encode()) <= MAX_FIELD_BYTES


@given(VOTES)
def test_a_vote_is_read_as_it_was_written(vote: Vote) -> None:
    assert roster.decode_vote(vote.encode()) == vote


@given(st.binary(max_size=130))
@example(bytes(77))
@example(b"\x01" + bytes(76))
@example(b"\x01" + bytes(77))
@example(b"\x01" + b"\x01" * 109)
@example(b"\x02" + bytes(76))
def test_any_field_is_a_vote_or_nothing(field: bytes) -> None:
    vote = roster.decode_vote(field)
    assert vote is None or vote.encode() == field


def test_an_identity_has_these_bytes() -> None:
    address = "/ip6/2001:db8:85a3:1111:2222:8a2e:370:7334/tcp/65535"
    identity = OnChainIdentity("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", address, True)
    expected = b"covenantd1 c 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN " + address.encode()
    assert identity.encode() == expected and len(expected) <= MAX_FIELD_BYTES
    assert roster.decode_identity(expected) == identity


def test_an_address_that_does_not_fit_is_left_out() -> None:
    identity = OnChainIdentity("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "/dns4/" + "a" * 63, False)
    assert roster.decode_identity(identity.encode()) == replace(identity, address="")
    with pytest.raises(BadRoster):
        replace(identity, peer_id="x" * 128).encode()


@given(st.binary(max_size=128))
@example(b"covenantd1 c peer")
@example(b"covenantd1 x peer /ip4")
@example(b"covenantd2 c peer /ip4")
@example(b"covenantd1 c peer /ip4 more")
@example("covenantd1 c peer /dns4/é".encode())
def test_any_field_is_an_identity_or_nothing(field: bytes) -> None:
    identity = roster.decode_identity(field)
    assert identity is None or identity.encode() == field


# Certifiers and the quorum


def test_certifiers_have_a_permit_and_enrolled_by_their_own_commitment() -> None:
    flag, none = OnChainIdentity("p", "", True).encode(), OnChainIdentity("p", "", False).encode()
    fields: list[tuple[bytes, ...]] = [(flag,), (none,), (), (b"junk",), (flag,)]
    neurons = tuple(neuron(uid, 10, permit=uid != 4) for uid in range(6))
    commitments = {HOTKEYS[uid]: Commitment(HOTKEYS[uid], 1, field) for uid, field in enumerate(fields)}
    assert roster.certifiers(Metagraph(1, 1, neurons, commitments)) == {HOTKEYS[0]: 10}


def test_certifiers_propose_by_stake_and_ties_by_hotkey() -> None:
    order = list(roster.certifiers(enrolled([5, 9, 5, 7])))
    assert order == [HOTKEYS[1], HOTKEYS[3], *sorted([HOTKEYS[0], HOTKEYS[2]])]


@given(st.integers(0, 1 << 70), st.integers(0, 1 << 70))
@example(2, 3)
@example(0, 0)
@example((2 << 62) // 3, 1 << 62)
@example((2 << 62) // 3 + 1, 1 << 62)
def test_a_quorum_is_two_thirds_exactly(stake: int, total: int) -> None:
    assert roster.quorum(stake, total) == (total > 0 and Fraction(stake, total or 1) >= Fraction(2, 3))


STAKES = st.lists(st.integers(0, 1 << 60), min_size=1, max_size=6)
BALLOTS = st.lists(
    st.builds(Vote, st.sampled_from([TAG, bytes(8)]), st.integers(4, 5), st.sampled_from([h(1), h(2)]), st.just(h(9))),
    min_size=6,
    max_size=6,
)


@given(STAKES, BALLOTS)
def test_what_is_certified_has_two_thirds_of_the_stake_behind_it(stakes: list[int], ballots: list[Vote]) -> None:
    votes = dict(enumerate(ballots[: len(stakes)]))
    vote = roster.decide(enrolled(stakes), enrolled(stakes, votes), TAG, 5)
    support = {
        digest: sum(s for uid, s in enumerate(stakes) if votes[uid] == Vote(TAG, 5, digest, h(9)))
        for digest in (h(1), h(2))
    }
    certified = [digest for digest, stake in support.items() if sum(stakes) and 3 * stake >= 2 * sum(stakes)]
    assert len(certified) <= 1
    assert (vote.digest if vote else None) == (certified[0] if certified else None)


@given(STAKES, BALLOTS, BALLOTS, st.sampled_from(range(6)))
def test_two_views_of_a_third_of_the_stake_never_certify_two_rosters(
    stakes: list[int], ballots: list[Vote], others: list[Vote], liar: int
) -> None:
    """Even if somebody with at most a third of the stake could show each reader another vote."""
    assume(liar < len(stakes) and 3 * stakes[liar] < sum(stakes))
    one = dict(enumerate(ballots[: len(stakes)]))
    two = {**one, liar: others[liar]}
    first, second = (roster.decide(enrolled(stakes), enrolled(stakes, votes), TAG, 5) for votes in (one, two))
    assert first is None or second is None or first == second


def test_stake_counts_as_it_was_when_the_round_began() -> None:
    votes = {0: Vote(TAG, 5, h(1), h(9))}
    assert roster.decide(enrolled([6, 3]), enrolled([1, 100], votes), TAG, 5) == votes[0]
    assert roster.decide(enrolled([1, 100]), enrolled([6, 3], votes), TAG, 5) is None


def test_what_voters_lacked_makes_no_difference_to_what_they_certify() -> None:
    votes = {0: Vote(TAG, 5, h(1), h(9), b"\x01"), 1: Vote(TAG, 5, h(1), h(9))}
    assert roster.decide(enrolled([1, 1]), enrolled([1, 1], votes), TAG, 5) == Vote(TAG, 5, h(1), h(9))


def test_equal_digests_on_different_states_are_different_votes() -> None:
    votes = {0: Vote(TAG, 5, h(1), h(8)), 1: Vote(TAG, 5, h(1), h(9))}
    assert roster.decide(enrolled([1, 1]), enrolled([1, 1], votes), TAG, 5) is None


def test_who_is_not_enrolled_when_the_round_begins_has_no_vote() -> None:
    votes = {0: Vote(TAG, 5, h(1), h(9)), 1: Vote(TAG, 5, h(1), h(9))}
    assert roster.decide(enrolled([]), enrolled([5, 5], votes), TAG, 5) is None
    assert roster.decide(enrolled([5]), enrolled([5, 5], {1: votes[1]}), TAG, 5) is None


def test_rounds_are_named_by_votes_of_this_run_alone() -> None:
    votes = {0: Vote(TAG, 5, h(1), h(9)), 1: Vote(bytes(8), 6, h(1), h(9)), 2: Vote(TAG, 9, h(1), h(9))}
    assert roster.named_rounds(enrolled([1, 1, 1, 1], votes), TAG) == {5, 9}


def test_a_run_is_named_in_votes_by_eight_bytes_of_its_id() -> None:
    assert SPEC.tag == bytes.fromhex(SPEC.run_id)[:8]


GOLDEN_BODY = (
    "8ba672756e5f6964d94030303030303030303030303030303030303030303030303030303030303030303030303030303030"
    "303030303030303030303030303030303030303030303031a5726f756e6407a870726576696f7573d9403030303030303030"
    "3030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030"
    "303030303032af626173655f73746174655f68617368d9403030303030303030303030303030303030303030303030303030"
    "3030303030303030303030303030303030303030303030303030303030303030303030303033af6d65746167726170685f62"
    "6c6f636bcc8cad737065635f7265766973696f6e00aa616c7068615f62697473ce40000000ad636f6e747269627574696f6e"
    "739283a6686f746b6579d9303546486e655734367847586773356d5569766555347362547947427a6d73745573705a433932"
    "55686a4a4d3639347479a7626c6f625f6964d940303030303030303030303030303030303030303030303030303030303030"
    "30303030303030303030303030303030303030303030303030303030303030303034a473697a657b83a6686f746b6579d930"
    "3547727776614546357a58623236467a397263517044575335374374455248704e6568584350634e6f48474b75745159a762"
    "6c6f625f6964d940303030303030303030303030303030303030303030303030303030303030303030303030303030303030"
    "30303030303030303030303030303030303030303035a473697a657baa6578636c7573696f6e739182a6686f746b6579d930"
    "35464c53696743394847524b566842394669456f3459336b6f50734e6d426d4c4a62705867326d703168586353353959a672"
    "6561736f6ea76d697373696e67aa63616e6469646174657392d9303546486e655734367847586773356d5569766555347362"
    "547947427a6d73745573705a43393255686a4a4d3639347479d9303547727776614546357a58623236467a39726351704457"
    "5335374374455248704e6568584350634e6f48474b75745159a76368616e67657390"
)
