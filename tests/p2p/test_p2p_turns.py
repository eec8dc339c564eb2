"""Whose turn it is at a crowded uplink."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.turns import Turn, choose, weighed

SIZE = 1000
CHANCE = random.Random(0)


def turn(peer: str, piece: int = 0, **more) -> Turn:
    return Turn(peer, "blob", piece, SIZE, more.pop("priority", 1), **more)


def never(turn: Turn) -> int:
    return 0


def chosen(waiting, times_sent=never, had=None, longest_since=-1.0) -> Turn:
    had = had or {}
    return choose(waiting, times_sent, lambda peer, first: had.get(peer, 0), longest_since, CHANCE)


def test_the_known_before_strangers_and_what_matters_more_before_the_rest():
    stranger, later, now = turn("S", stranger=True, priority=0), turn("A", priority=3), turn("B", priority=1)
    assert chosen([stranger, later, now]) is now
    assert chosen([stranger, later]) is later


def test_what_nobody_else_has_goes_first_once():
    fresh, common = turn("A", 1, first=True), turn("B", 2)
    assert chosen([common, fresh], had={"A": 9}) is fresh
    sent = {fresh: 1, common: 0}
    assert chosen([common, fresh], times_sent=sent.__getitem__) is common


def test_what_was_sent_least_goes_first_until_somebody_has_waited_long():
    again, new = turn("A", 1, since=1.0), turn("B", 2, since=5.0)
    sent = {again: 3, new: 0}.__getitem__
    assert chosen([again, new], sent) is new
    assert chosen([again, new], sent, longest_since=4.0) is again


def test_of_those_who_waited_long_and_had_as_much_the_oldest_goes_first():
    queue = [turn("A", piece, since=0.1 * piece) for piece in range(20)]
    assert {chosen(queue, longest_since=9.0) for _ in range(20)} == {queue[0]}


def test_of_those_who_waited_long_the_one_that_had_least_goes_first():
    """Else who asks for more gets more, and who fell behind stays there until all wait for it."""
    queue = [turn("greedy", piece, since=0.1 * piece) for piece in range(5)] + [turn("behind", 9, since=1.0)]
    assert chosen(queue, had={"greedy": 100, "behind": 10}, longest_since=2.0).peer == "behind"


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_nobody_waits_for_ever(peers, seed):
    """However little a peer is worth as a relay, and however eager the others are."""
    had, chance, served = dict.fromkeys(map(str, range(peers)), 0), random.Random(seed), set()
    worth = {peer: chance.choice([0, 1, 100]) for peer in had}
    for now in range(60 * peers):
        waiting = [turn(peer, now, since=0.0) for peer in had]
        one = choose(waiting, never, weighed(had.__getitem__, worth.__getitem__, had), now - 2.0, chance)
        had[one.peer] += SIZE
        served.add(one.peer)
    assert served == set(had)
