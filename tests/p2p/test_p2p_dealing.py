"""Each piece of a blob that only we have is told to one watcher, until all have left once."""

import pytest
import trio
from test_p2p_exchange import PIECE, Swarm, content

from p2p.dealing import PATIENCE_SECONDS, SLOW_SECONDS, Dealing, Dealings, beyond_own
from p2p.manifest import full_bitmap
from p2p.news import Notices
from p2p.testing import Link


def share(dealing: Dealing, peer: str) -> set[int]:
    bits = int.from_bytes(dealing.bitmap(peer), "little")
    return {piece for piece in range(200) if bits >> piece & 1}


def test_watchers_are_told_of_disjoint_parts_that_make_the_whole():
    dealing = Dealing("x", 200)
    assert dealing.deal({"A": 1.0, "B": 1.0, "C": 1.0}, 0.0)
    shares = [share(dealing, peer) for peer in "ABC"]
    assert sum(map(len, shares)) == 200 and set().union(*shares) == set(range(200))
    assert all(40 < len(one) < 95 for one in shares)
    assert share(dealing, "stranger") == set()


def test_who_can_relay_more_is_told_of_more():
    dealing = Dealing("x", 200)
    dealing.deal({"fast": 5.0, "slow": 1.0, "slower": 0.0}, 0.0)
    assert len(share(dealing, "fast")) > 2 * len(share(dealing, "slow"))
    assert share(dealing, "slower")


@pytest.mark.parametrize(("fast", "slow"), [(1, 3), (3, 9), (2, 10)])
def test_what_is_beyond_ones_own_payload_is_what_there_is_to_relay(fast, slow):
    """With uplinks of 5 and 1, the time that all of it takes is N(N-1)P / sum; each sends its own P once in it."""
    uplinks = {f"fast{number}": 5.0 for number in range(fast)} | {f"slow{number}": 1.0 for number in range(slow)}
    seconds = (fast + slow) * (fast + slow - 1) / sum(uplinks.values())
    del uplinks["slow0"]  # who deals, and guesses that it is like the others
    assert beyond_own(uplinks) == pytest.approx({one: rate - 1 / seconds for one, rate in uplinks.items()}, abs=0.12)


def test_of_equal_relays_none_has_less_and_of_one_there_is_something():
    assert len(set(beyond_own(dict.fromkeys("ABC", 7.0)).values())) == 1
    dealing = Dealing("x", 200)
    dealing.deal({"A": 7.0}, 0.0)
    assert share(dealing, "A") == set(range(200))


def test_few_pieces_change_hands_when_a_watcher_comes_or_goes():
    dealing = Dealing("x", 200)
    dealing.deal(dict.fromkeys("ABC", 0.0), 0.0)
    before = share(dealing, "A")
    assert dealing.deal(dict.fromkeys("ABCD", 0.0), 0.5)
    assert share(dealing, "A") < before
    assert dealing.deal(dict.fromkeys("ABC", 0.0), 0.6)
    assert share(dealing, "A") == before
    assert not dealing.deal(dict.fromkeys("ABC", 9.0), 0.7)


def test_what_was_asked_for_does_not_change_hands():
    dealing = Dealing("x", 200)
    dealing.deal({"A": 1.0, "B": 1.0}, 0.0)
    before = share(dealing, "A")
    for piece in before:
        dealing.asked("A", piece)
        dealing.asked("B", piece)
    dealing.deal({"A": 0.0, "B": 1.0, "C": 1.0}, 2.0)
    assert share(dealing, "A") == before


def test_all_is_told_when_all_has_left_or_nobody_takes_the_rest():
    dealing = Dealing("x", 200)
    dealing.deal({"A": 0.0, "B": 0.0}, 10.0)
    for piece in range(199):
        dealing.left(piece, 11.0)
    assert not dealing.over(11.0 + PATIENCE_SECONDS) and dealing.over(11.1 + PATIENCE_SECONDS)
    assert dealing.is_first(199) and not dealing.is_first(0)
    for peer in "AB":
        dealing.asked(peer, 199)  # it waits for a slow uplink
    assert not dealing.over(11.0 + SLOW_SECONDS) and dealing.over(11.1 + SLOW_SECONDS)
    dealing.left(199, 12.0)
    assert dealing.over(12.0)


def test_a_blob_of_few_pieces_is_told_to_all():
    dealing = Dealing("x", 3)
    dealing.deal({"A": 0.0, "B": 0.0}, 0.0)
    assert dealing.over(0.0)


@pytest.mark.parametrize("dead", [False, True])
async def test_an_origin_sends_each_piece_once_before_any_twice(nursery, tmp_path, autojump_clock, dead):
    """Also when a watcher does not ask for what it was dealt: that costs a pause, and everybody gets everything."""
    swarm = Swarm(nursery, tmp_path)
    a = await swarm.peer("A", Link(0.01, 50 * PIECE))
    receivers = [await swarm.peer(name, Link(0.01, 50 * PIECE)) for name in "BCDE"]
    (a.directory / "new").write_bytes(content(200))
    blob_id = await a.exchange.adopt(a.directory / "new", PIECE)
    start = trio.current_time()
    with a.exchange._serving.dealings._notices.watching("dead", [blob_id] if dead else [], 1):
        async with trio.open_nursery() as fetches:
            for one in receivers:
                names = ["A", *(other.name for other in receivers if other is not one)]
                fetches.start_soon(lambda one=one, names=names: one.fetch(blob_id, *names))
    assert trio.current_time() - start < (1.5 if not dead else 2.5) * 4
    sent = sum(a.exchange.sent_bytes.values()) / PIECE / 200
    assert sent < (1.3 if not dead else 2.0)


def test_who_takes_nothing_while_others_do_loses_its_part_to_them():
    dealing = Dealing("x", 200)
    worths = dict.fromkeys(["slow", *"ABC"], 0.0)
    dealing.deal(worths, 0.0)
    withheld = share(dealing, "slow")
    dealing.asked("slow", min(withheld))
    others = sorted(set(range(200)) - withheld)
    for number, piece in enumerate(others[:60]):
        dealing.left(piece, number / 10)
    assert dealing.deal(worths, 6.0)
    assert not share(dealing, "slow")
    assert set().union(*(share(dealing, peer) for peer in "ABC")) == set(range(200))
    assert not dealing.over(6.0)
    dealing.deal(worths, 8.0)
    assert not share(dealing, "slow")


def test_who_has_its_turns_like_others_keeps_its_part_on_a_slow_uplink():
    dealing = Dealing("x", 200)
    worths = dict.fromkeys("ABCDEFGH", 0.0)
    dealing.deal(worths, 0.0)
    shares = {peer: sorted(share(dealing, peer)) for peer in worths}
    now = 0.0
    for turn in range(10):
        for peer in worths:
            now += 1.0
            dealing.left(shares[peer][turn], now)
            assert not dealing.deal(worths, now) and not dealing.over(now)


def test_what_comes_in_trickles_is_over_in_the_end():
    """Each piece counts as progress, and nobody else waits for a turn."""
    dealing = Dealing("x", 200)
    worths = dict.fromkeys("AB", 0.0)
    dealing.deal(worths, 0.0)
    for piece in share(dealing, "A"):
        dealing.left(piece, 1.0)
    now = 1.0
    for piece in share(dealing, "B"):
        now += 2.0
        dealing.left(piece, now)
        dealing.deal(worths, now)
        if dealing.over(now):
            break
    assert now < 15


async def test_strangers_are_dealt_nothing_and_hold_nothing_back(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a = await swarm.peer("A", Link(0.01, 50 * PIECE))
    b, c = [await swarm.peer(name, Link(0.01, 50 * PIECE)) for name in "BC"]
    a.exchange.admit = {"B", "C"}.__contains__
    (a.directory / "new").write_bytes(content(200))
    blob_id = await a.exchange.adopt(a.directory / "new", PIECE)
    dealings = a.exchange._serving.dealings
    with dealings._notices.watching("stranger", [blob_id], 1):
        assert not any(dealings.bitmap(blob_id, "stranger", full_bitmap(200)))
        start = trio.current_time()
        async with trio.open_nursery() as fetches:
            fetches.start_soon(b.fetch, blob_id, "A", "C")
            fetches.start_soon(c.fetch, blob_id, "A", "B")
        assert trio.current_time() - start < 1.5 * 4
        assert dealings.bitmap(blob_id, "stranger", full_bitmap(200)) == full_bitmap(200)


async def test_strangers_hear_of_everything_when_nobody_we_know_comes(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, stranger = await swarm.peer("A"), await swarm.peer("S")
    a.exchange.admit = lambda peer: False
    (a.directory / "new").write_bytes(content(200))
    blob_id = await a.exchange.adopt(a.directory / "new", PIECE)
    assert await stranger.fetch(blob_id, "A", deadline_seconds=SLOW_SECONDS + 20) == content(200)
    assert trio.current_time() > SLOW_SECONDS


async def test_the_rest_is_dealt_anew_while_other_news_flow(autojump_clock):
    """Who turns out to relay well is told so, though nothing happens to the blob itself."""
    notices, worths, whole = Notices(), {"A": 1.0, "B": 1.0}, full_bitmap(200)
    dealings = Dealings(notices)
    dealings.worth = worths.__getitem__
    dealings.begin("x", 200)
    told = []
    with notices.watching("A", ["x", "y"], 1) as watch, notices.watching("B", ["x"], 1):
        for moment in range(10):
            told += [dealings.bitmap("x", "A", whole) for blob_id in watch.take() if blob_id == "x"]
            notices.notify("y")
            worths["A"] += moment
            await trio.sleep(0.25)
    assert 60 < int.from_bytes(told[0], "little").bit_count() < 140
    assert int.from_bytes(told[-1], "little").bit_count() > 150


async def test_what_uplinks_say_they_can_counts_until_somebody_gave(nursery, tmp_path, autojump_clock):
    swarm = Swarm(nursery, tmp_path)
    a, b = await swarm.peer("A"), await swarm.peer("B")
    asked = []
    a.exchange.uplink_of = lambda peer: asked.append(peer) or {"B": 5.0}.get(peer, 0.0)
    assert [a.exchange._worth(peer) for peer in "BBC"] == [5.0, 5.0, 0.0]
    assert asked == ["B", "C"]  # it is not looked up for every piece
    await a.fetch(b.give(content(3)), "B")
    assert a.exchange._worth("B") > 5.0 and a.exchange._worth("C") == 0.0
