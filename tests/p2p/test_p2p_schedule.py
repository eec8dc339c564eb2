import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.manifest import full_bitmap
from p2p.schedule import Schedule


def bits(pieces, size: int) -> bytes:
    return sum(1 << piece for piece in pieces).to_bytes(-(-size // 8), "little")


@st.composite
def swarms(draw):
    """(pieces, missing, holder -> (pieces it offers, how it behaves))."""
    size = draw(st.integers(1, 40))
    everyone = st.sets(st.integers(0, size - 1))
    manners = st.sampled_from(["good", "lies", "stalls", "leaves", "refuses"])
    holders = draw(st.dictionaries(st.sampled_from("ABCDEF"), st.tuples(everyone, manners), max_size=6))
    return size, draw(everyone), holders


class Run:
    """Plays a swarm against a schedule; checks every request as it is made."""

    def __init__(self, size, missing, holders, seed):
        self.schedule = Schedule(size, missing, seed)
        self.holders, self.random = dict(holders), random.Random(seed)
        self.flights: dict[str, list[int]] = {holder: [] for holder in holders}
        self.refused: set[tuple[str, int]] = set()
        self.late: set[tuple[str, int]] = set()
        for holder, (offered, _) in holders.items():
            self.schedule.offer(holder, bits(offered, size))

    def ask(self, holder) -> bool:
        piece = self.schedule.next_for(holder)
        if piece is None:
            return False
        others = [h for h, flight in self.flights.items() if piece in flight and (h, piece) not in self.late]
        assert not others, "asked of two holders without being late"
        assert piece in self.holders[holder][0], "asked for what the holder lacks"
        assert piece in self.schedule.missing, "asked for what is here"
        assert (holder, piece) not in self.refused
        self.flights[holder].append(piece)
        return True

    def answer(self, holder) -> None:
        manner, piece = self.holders[holder][1], self.flights[holder].pop(0)
        if manner == "refuses":
            self.schedule.failed(holder, piece)
            self.refused.add((holder, piece))
        elif manner == "good":
            self.schedule.got(holder, piece)
        elif manner == "stalls" and (holder, piece) not in self.late:
            self.flights[holder].insert(0, piece)
            for flight in self.flights[holder]:
                self.schedule.late(holder, flight)
                self.late.add((holder, flight))
        else:
            self.schedule.gone(holder)
            del self.holders[holder], self.flights[holder]

    def to_the_end(self) -> None:
        for _ in range(10_000):
            asked = [self.ask(holder) for holder in self.random.sample(list(self.holders), len(self.holders))]
            waiting = [holder for holder, flight in self.flights.items() if flight]
            if waiting:
                self.answer(self.random.choice(waiting))
            elif not any(asked):
                return
        raise AssertionError("it does not end")


@given(swarms(), st.integers(0, 2**32))
@settings(max_examples=200)
def test_it_ends_with_every_piece_that_a_live_holder_has(swarm, seed):
    size, missing, holders = swarm
    run = Run(size, missing, holders, seed)
    run.to_the_end()
    obtainable = {p for offered, manner in holders.values() if manner == "good" for p in offered}
    assert not set(run.schedule.missing) & obtainable
    assert run.schedule.done == (not run.schedule.missing)


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_one_good_holder_of_everything_is_enough(size, seed):
    run = Run(size, range(size), {"good": (set(range(size)), "good"), "bad": (set(range(size)), "lies")}, seed)
    run.to_the_end()
    assert run.schedule.done


def happen(schedule, what, holder, piece):
    flights = sorted(schedule._flights.get(holder, {}))
    if what == "offer":
        schedule.offer(holder, bits({piece, piece * piece % 4}, 4))
    elif what == "ask":
        schedule.next_for(holder)
    elif what == "lost":
        schedule.lost(piece)
    elif what in ("withdraw", "gone"):
        getattr(schedule, what)(holder)
    elif flights:
        getattr(schedule, what)(holder, flights[piece % len(flights)])


WHAT = ["offer", "ask", "ask", "got", "got", "failed", "dropped", "late", "late", "lost", "withdraw", "gone"]


@given(st.lists(st.tuples(st.sampled_from(WHAT), st.sampled_from("ABC"), st.integers(0, 3)), min_size=20, max_size=60))
@settings(max_examples=300, deadline=None)
def test_a_candidate_remembered_is_the_one_that_would_be_found(steps):
    schedule = Schedule(4, range(4), 0)
    for holder in "ABC":
        schedule.offer(holder, full_bitmap(4))
    for what, holder, piece in steps:
        happen(schedule, what, holder, piece)
        assert all(schedule.candidate(one) == schedule._find(one) for one in "ABC")


def test_rarest_first():
    schedule = Schedule(4, range(4), 1)
    for holder, pieces in {"A": [0, 1, 2, 3], "B": [0, 1, 2], "C": [0, 1], "D": [0]}.items():
        schedule.offer(holder, bits(pieces, 4))
    assert [schedule.next_for("A") for _ in range(5)] == [3, 2, 1, 0, None]


def test_peers_differ_in_the_order_of_equals():
    orders = set()
    for seed in range(8):
        schedule = Schedule(30, range(30), seed)
        schedule.offer("A", full_bitmap(30))
        orders.add(tuple(schedule.next_for("A") for _ in range(30)))
    assert len(orders) == 8


def test_a_late_piece_may_be_asked_of_another_and_the_first_answer_counts():
    schedule = Schedule(1, [0], 0)
    schedule.offer("A", b"\x01")
    schedule.offer("B", b"\x01")
    assert schedule.next_for("A") == 0
    assert schedule.next_for("B") is None
    schedule.late("A", 0)
    assert schedule.next_for("A") is None
    assert schedule.next_for("B") == 0
    schedule.got("A", 0)
    assert schedule.done
    schedule.got("B", 0)
    assert schedule.done


def test_what_was_lost_is_asked_for_again():
    schedule = Schedule(1, [0], 0)
    schedule.offer("A", b"\x01")
    schedule.got("A", schedule.next_for("A"))
    schedule.lost(0)
    assert not schedule.done and schedule.next_for("A") == 0


def test_a_bitmap_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="bitmap"):
        Schedule(9, range(9), 0).offer("A", b"\xff")


def test_strangers_are_asked_for_nothing():
    schedule = Schedule(1, [0], 0)
    assert schedule.next_for("A") is None
    schedule.gone("A")
    schedule.failed("A", 0)
    schedule.late("A", 0)
    assert schedule.missing == [0]
