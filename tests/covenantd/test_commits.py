"""What a certifier takes as a commit, and what not."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from run_fixture import HOTKEYS, h

from covenantd.chain.keys import Hotkey, verify
from covenantd.commits import COMMIT, EARLY, Commit, CommitBook, CommitRefused, Rules, digest, from_record
from p2p import records
from p2p.errors import RecordRejected
from p2p.records import Record

RULES = Rules(
    round=4,
    first_block=80,
    last_block=88,
    base_state_hash=h("base"),
    contribution_bytes=1000,
    registered=frozenset(HOTKEYS[:2]),
)
GOOD = Commit(HOTKEYS[0], "peer", 4, h("blob"), 1000, h("base"), 30)


def book(*accepted: Commit) -> CommitBook:
    it = CommitBook(RULES)
    for commit in accepted:
        it.accept(commit, 85)
    return it


def refusal(book: CommitBook, commit: Commit, head: int = 85) -> str:
    with pytest.raises(CommitRefused) as caught:
        book.accept(commit, head)
    return caught.value.reason


@pytest.mark.parametrize("head", [RULES.first_block, RULES.last_block])
def test_a_good_commit_is_taken_from_the_first_to_the_last_block(head: int) -> None:
    it = book()
    it.accept(GOOD, head)
    assert it.commits == {GOOD.hotkey: GOOD}


@pytest.mark.parametrize(
    ("commit", "head", "reason"),
    [
        (GOOD, RULES.first_block - 1, EARLY),
        (replace(GOOD, round=5), 85, EARLY),
        (GOOD, RULES.last_block + 1, "late"),
        (replace(GOOD, hotkey=HOTKEYS[2]), 85, "stranger"),
        (replace(GOOD, base_state_hash=h("other")), 85, "base"),
        (replace(GOOD, size=999), 85, "size"),
        (replace(GOOD, size=1001), 85, "size"),
    ],
)
def test_each_refusal_has_its_word_and_leaves_the_book_empty(commit: Commit, head: int, reason: str) -> None:
    it = book()
    assert refusal(it, commit, head) == reason
    assert it.commits == {} and it.equivocators == set()
    assert it.stale == ({commit.hotkey} if reason == "base" else set())


def test_the_same_commit_again_is_fine() -> None:
    assert book(GOOD, GOOD).commits == {GOOD.hotkey: GOOD}


@pytest.mark.parametrize(
    "changes", [{"blob_id": h("x")}, {"inner_steps": 1}, {"size": 5}, {"base_state_hash": h("y")}, {"peer_id": "q"}]
)
def test_two_different_commits_exclude_their_author_for_good(changes: dict[str, Any]) -> None:
    it = book(GOOD, replace(GOOD, hotkey=HOTKEYS[1]))
    assert refusal(it, replace(GOOD, **changes)) == "equivocated"
    assert refusal(it, GOOD) == "equivocated"
    assert it.equivocators == {GOOD.hotkey} and set(it.commits) == {HOTKEYS[1]}


def test_a_late_second_commit_does_not_undo_the_first() -> None:
    it = book(GOOD)
    assert refusal(it, replace(GOOD, blob_id=h("x")), RULES.last_block + 1) == "late"
    assert it.commits == {GOOD.hotkey: GOOD} and not it.equivocators


def test_who_was_stale_may_still_commit_on_the_right_state() -> None:
    it = book()
    assert refusal(it, replace(GOOD, base_state_hash=h("old"))) == "base"
    it.accept(GOOD, 85)
    assert it.commits == {GOOD.hotkey: GOOD}


COMMITS = st.builds(
    Commit,
    st.sampled_from(HOTKEYS[:3]),
    st.just("peer"),
    st.sampled_from([4, 5]),
    st.sampled_from([h("blob"), h("x")]),
    st.sampled_from([1000, 999]),
    st.sampled_from([h("base"), h("old")]),
    st.just(30),
)


@given(st.lists(st.tuples(COMMITS, st.integers(78, 90)), max_size=12))
def test_whatever_is_sent_a_book_holds_only_what_obeys_the_rules(sent: list[tuple[Commit, int]]) -> None:
    it, taken = CommitBook(RULES), []
    for commit, head in sent:
        try:
            it.accept(commit, head)
            taken.append(commit)
        except CommitRefused as refused:
            assert refused.reason in {"late", "early", "stranger", "base", "equivocated", "size"}
    assert set(it.commits) | it.equivocators >= {commit.hotkey for commit in taken}
    for hotkey, commit in it.commits.items():
        assert commit in taken and hotkey in RULES.registered and hotkey not in it.equivocators
        assert (commit.round, commit.size, commit.base_state_hash) == (4, 1000, h("base"))


# Records


def record(body: object, round: int = 4) -> Record:
    key = Hotkey.from_uri("//Alice")
    signed = records.sign(key, run_id=h("run"), kind=COMMIT, round=round, peer_id="peer", body=body, issued_at=1.0)
    return records.open_record(signed, verify, run_id=h("run"), kind=COMMIT)


def test_a_commit_survives_its_record() -> None:
    assert from_record(record(GOOD.body())) == GOOD


BODY = GOOD.body()


@pytest.mark.parametrize("name", sorted(BODY))
def test_a_record_that_lacks_a_field_is_malformed(name: str) -> None:
    with pytest.raises(RecordRejected) as caught:
        from_record(record({key: value for key, value in BODY.items() if key != name}))
    assert caught.value.reason == "malformed"


PLAIN = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary()


@given(st.sampled_from(sorted(BODY)), PLAIN | st.lists(PLAIN, max_size=2))
@example("blob_id", h("a").upper().replace("6", "F"))
@example("blob_id", "0" * 63)
@example("size", 0)
@example("size", True)
@example("size", 1 << 49)
@example("inner_steps", -1)
@example("inner_steps", 1 << 32)
def test_any_value_of_any_field_is_malformed_or_sound(name: str, value: object) -> None:
    try:
        commit = from_record(record({**BODY, name: value}))
    except RecordRejected as rejected:
        assert rejected.reason == "malformed"
        return
    assert commit.body() == {**BODY, name: value}
    assert 0 < commit.size <= 1 << 48 and 0 <= commit.inner_steps <= 1 << 31


@pytest.mark.parametrize("body", [None, [], "x", 7, [BODY]])
def test_a_body_that_is_no_map_is_malformed(body: object) -> None:
    with pytest.raises(RecordRejected):
        from_record(record(body))


def test_a_receipt_names_the_whole_signed_record() -> None:
    """Two commits that say the same are two records: the digest is of the bytes that were signed."""
    assert digest(b"abc") == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
