"""The agenda over many blobs and holders: windows, priorities, takeovers; it ends, and keeps to what holders have."""

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.agenda import Agenda, Ask, Wanted
from p2p.manifest import full_bitmap
from p2p.schedule import Schedule
from p2p.window import Window, WindowSettings

SIZE = 1000
SETTINGS = WindowSettings(first_bytes=4 * SIZE, most_bytes=16 * SIZE)


def bits(pieces, size: int) -> bytes:
    return sum(1 << piece for piece in pieces).to_bytes(-(-size // 8), "little")


def wanted(pieces: int, priority: int = 1, seed: int = 0, size: int = SIZE) -> Wanted:
    return Wanted(Schedule(pieces, range(pieces), seed), lambda piece: size, priority)


@st.composite
def swarms(draw):
    """(pieces by blob, holder -> (pieces it has by blob, how it behaves))."""
    blobs = draw(st.dictionaries(st.sampled_from("xyz"), st.integers(1, 20), min_size=1))
    manners = st.sampled_from(["good", "slow", "lies", "refuses", "leaves", "stalls"])
    shares = st.fixed_dictionaries({blob: st.sets(st.integers(0, size - 1)) for blob, size in blobs.items()})
    return blobs, draw(st.dictionaries(st.sampled_from("ABCDE"), st.tuples(shares, manners)))


class Run:
    def __init__(self, blobs, holders, seed):
        self.now, self.random, self.holders = 0.0, random.Random(seed), dict(holders)
        self.agenda, self.wanted = Agenda(SETTINGS), {}
        self.flights: dict[str, list[Ask]] = {holder: [] for holder in holders}
        for blob, size in blobs.items():
            self.wanted[blob] = wanted(
                size, self.random.randint(0, 2), seed, self.random.choice([SIZE // 4, SIZE, 3 * SIZE])
            )
            self.agenda.add(blob, self.wanted[blob])
            for holder, (shares, _) in holders.items():
                self.wanted[blob].schedule.offer(holder, bits(shares[blob], size))

    def ask(self, holder) -> bool:
        asked = False
        while (ask := self.agenda.next_for(holder, self.now)) is not None:
            asked = True
            assert ask.piece in self.holders[holder][0][ask.blob_id], "asked for what the holder lacks"
            assert self.wanted[ask.blob_id].schedule.wants(ask.piece), "asked for what is here"
            same = [one for one in self.flights[holder] if (one.blob_id, one.piece) == (ask.blob_id, ask.piece)]
            assert not same, "asked twice of the same holder"
            self.flights[holder].append(ask)
            window = self.agenda.window(holder)
            assert window.in_flight_bytes == sum(one.size_bytes for one in self.flights[holder])
            mattering_bytes = sum(one.size_bytes for one in self.flights[holder] if one.priority <= ask.priority)
            assert mattering_bytes <= max(window.limit_bytes, 2 * ask.size_bytes)
        self.check_full(holder)
        return asked

    def check_full(self, holder) -> None:
        """What comes first of what it has would be one too many."""
        found = [(one.priority, one.schedule.candidate(holder), blob) for blob, one in self.wanted.items()]
        first = min((one for one in found if one[1] is not None), default=None)
        if first is not None:
            before_bytes = sum(one.size_bytes for one in self.flights[holder] if one.priority <= first[0])
            assert not self.agenda.window(holder).has_room(self.wanted[first[2]].size_bytes(0), before_bytes)

    def answer(self, holder) -> None:
        manner = self.holders[holder][1]
        if manner == "stalls":
            return self.stall(holder)
        ask = self.flights[holder].pop(0)
        self.now += 0.01 if manner == "good" else 1.0
        schedule = self.wanted[ask.blob_id].schedule
        if manner in ("good", "slow"):
            self.agenda.landed(holder, ask, self.now, arrived=True)
            schedule.got(holder, ask.piece)
        elif manner == "refuses":
            self.agenda.landed(holder, ask, self.now, arrived=False)
            schedule.failed(holder, ask.piece)
        else:
            self.leave(holder)
        return None

    def stall(self, holder) -> None:
        """Nothing comes: the first time it is called late, some of it or all; then it is left."""
        asks = self.flights[holder]
        some = None if self.random.random() < 0.5 else asks[: len(asks) // 2 + 1]
        if not self.agenda.late(holder, some):
            self.leave(holder)
        self.now += 3.0

    def leave(self, holder) -> None:
        self.agenda.gone(holder)
        del self.holders[holder], self.flights[holder]

    def to_the_end(self) -> None:
        for _ in range(5_000):
            asked = [self.ask(holder) for holder in self.random.sample(list(self.holders), len(self.holders))]
            waiting = [holder for holder, flight in self.flights.items() if flight]
            if waiting:
                self.answer(self.random.choice(waiting))
            elif not any(asked):
                return
        raise AssertionError("it does not end")


@given(swarms(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_it_ends_with_every_piece_that_a_live_holder_has(swarm, seed):
    blobs, holders = swarm
    run = Run(blobs, holders, seed)
    run.to_the_end()
    assert not any(run.agenda.in_flight(holder) for holder in holders)
    for blob in blobs:
        live = [shares[blob] for shares, manner in holders.values() if manner in ("good", "slow")]
        assert not set(run.wanted[blob].schedule.missing) & set().union(*live)


def test_what_matters_more_comes_first_and_the_rest_when_that_is_asked_for():
    agenda = Agenda(WindowSettings(first_bytes=100 * SIZE))
    for blob, priority in (("later", 3), ("now", 1)):
        one = wanted(3, priority)
        agenda.add(blob, one)
        one.schedule.offer("A", full_bitmap(3))
    asks = [agenda.next_for("A", 0.0) for _ in range(6)]
    assert [ask.blob_id for ask in asks] == ["now"] * 3 + ["later"] * 3


def test_a_blob_without_pieces_is_in_nobodys_way():
    agenda, one = Agenda(SETTINGS), wanted(9)
    agenda.add("empty", Wanted(Schedule(0, (), 0), [].__getitem__, 1))
    agenda.add("x", one)
    one.schedule.offer("A", full_bitmap(9))
    while agenda.next_for("A", 0.0) is not None:
        pass
    assert agenda.in_flight("A") == 4


def test_rarest_first_over_blobs():
    agenda = Agenda(WindowSettings(first_bytes=100 * SIZE))
    for blob, holders in (("common", "AB"), ("rare", "A")):
        one = wanted(2)
        agenda.add(blob, one)
        for holder in holders:
            one.schedule.offer(holder, full_bitmap(2))
    assert [agenda.next_for("A", 0.0).blob_id for _ in range(4)] == ["rare", "rare", "common", "common"]


def test_an_idle_fast_holder_takes_over_what_waits_longest_at_a_slow_one():
    agenda, one = Agenda(SETTINGS), wanted(6)
    agenda.add("x", one)
    one.schedule.offer("slow", full_bitmap(6))
    asks = [agenda.next_for("slow", 0.0) for _ in range(4)]
    agenda.landed("slow", asks[0], 2.0, arrived=True)  # 2 s a piece
    one.schedule.got("slow", asks[0].piece)
    for number, ask in enumerate(iter(lambda: agenda.next_for("slow", 2.0), None)):
        asks.append(ask)
        assert number < 4
    one.schedule.offer("fast", full_bitmap(6))
    fresh = [agenda.next_for("fast", 2.0) for _ in range(2)]
    assert all(ask.instead_of is None for ask in fresh)
    for ask in fresh:
        agenda.landed("fast", ask, 2.01, arrived=True)
        one.schedule.got("fast", ask.piece)
    taken = agenda.next_for("fast", 2.02)
    assert taken.instead_of == "slow" and taken.piece == asks[3].piece
    assert agenda.next_for("slow", 2.02) is None  # nobody takes it back


def test_what_is_long_overdue_is_taken_over_too():
    """A piece whose transmission stopped is not "about to come"."""
    agenda, one = Agenda(SETTINGS), wanted(2)
    agenda.add("x", one)
    for holder in ("slow", "fast"):
        one.schedule.offer(holder, full_bitmap(2))
        agenda.window(holder).asked(SIZE, 0.0)
        agenda.window(holder).landed(SIZE, {"slow": 2.0, "fast": 0.1}[holder])  # what a piece takes them
    stuck = agenda.next_for("slow", 10.0)
    done = agenda.next_for("fast", 10.0)
    agenda.landed("fast", done, 10.1, arrived=True)
    one.schedule.got("fast", done.piece)
    assert agenda.next_for("fast", 11.9) is None  # it is about to come
    taken = agenda.next_for("fast", 13.0)
    assert taken is not None and taken.piece == stuck.piece and taken.instead_of == "slow"


@pytest.mark.parametrize(("piece_seconds", "idle", "questions"), [(1.0, False, 2), (2.0, False, 1), (2.0, True, 2)])
def test_a_second_question_does_not_stand_in_line_for_long(piece_seconds, idle, questions):
    """Where others keep the holder busy."""
    window, now = Window(WindowSettings(first_bytes=SIZE)), 0.0
    for _ in range(5):
        window.asked(SIZE, now)
        now += piece_seconds
        window.landed(SIZE, now, idle=idle)
    while window.has_room(SIZE, window.in_flight_bytes):
        window.asked(SIZE, now)
    assert window.in_flight_bytes == questions * SIZE


def test_a_window_grows_to_what_the_way_holds_and_no_further():
    """A link of 1 MB/s with 200 ms: whatever is asked arrives at that rate, no sooner than 200 ms later."""
    window, now, free_at, flights = Window(WindowSettings(first_bytes=2 * SIZE)), 0.0, 0.0, []
    for _ in range(12_000):
        while window.has_room(SIZE, window.in_flight_bytes):
            window.asked(SIZE, now)
            free_at = max(free_at, now + 0.2) + SIZE / 1e6
            flights.append(free_at)
        now = flights.pop(0)
        window.landed(SIZE, now)
    assert 0.9e6 < window.rate < 1.05e6
    assert 0.2e6 < window.limit_bytes < 0.9e6


@pytest.mark.parametrize("says_so", [False, True])
def test_a_window_grows_past_a_long_way_to_a_holder_that_idles(says_so):
    """Its uplink carries 1 MB/s, but questions wait for 0.75 s behind what we send ourselves."""
    window, now, free_at, flights, last_second = Window(WindowSettings(first_bytes=8 * SIZE)), 0.0, 0.0, [], deque()
    window.asked(SIZE, now)
    window.landed(SIZE, now + 0.01)  # the way was short once
    for _ in range(20_000):
        while window.has_room(SIZE, window.in_flight_bytes):
            window.asked(SIZE, now)
            free_at = max(free_at, now + 0.75) + SIZE / 1e6
            last_second.append(free_at)
            while last_second[0] < free_at - 1:
                last_second.popleft()
            flights.append((free_at, len(last_second) < 900))
        now, idle = flights.pop(0)
        window.landed(SIZE, now, idle=idle and says_so)
    assert (window.rate > 0.9e6) == says_so
    assert window.limit_bytes < 1.6e6  # when all is well, no further ahead than ever
