"""Caps hold within 5 %, meters measure, turns are taken in order."""

import itertools
import random
from collections import Counter

import pytest
import trio

from p2p.pace import Cap, Meter, Tally
from p2p.turns import Turn, Turns, TurnSettings, choose, weighed


@pytest.mark.parametrize("size", [100, 10_000, 300_000])
async def test_a_cap_holds_within_5_percent(autojump_clock, size):
    cap, taken, start = Cap(1e6), 0, trio.current_time()
    while trio.current_time() - start < 30:
        await cap.take(size)
        taken += size
    assert abs(taken / (trio.current_time() - start) / 1e6 - 1) < 0.05


async def test_what_is_owed_for_things_unasked_is_paid_in_seconds(autojump_clock):
    cap, start = Cap(1000.0), trio.current_time()
    for _ in range(1000):
        cap.owe(1000)
    await cap.ready()
    assert 4.9 < trio.current_time() - start < 5.1
    await cap.take(20_000)
    cap.owe(1000)  # does not make less what is owed already
    start = trio.current_time()
    await cap.ready()
    assert trio.current_time() - start > 20


async def test_a_cap_can_be_changed_under_those_who_wait(autojump_clock):
    cap = Cap(1.0)
    await cap.take(1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cap.take, 1)
        await trio.sleep(1)
        cap.set(None)
    assert trio.current_time() < 10
    with pytest.raises(ValueError):
        cap.set(0.0)


async def test_a_meter_knows_now_and_the_best(autojump_clock):
    meter = Meter()
    for size in [100] * 20 + [10] * 20:
        meter.add(size)
        await trio.sleep(0.1)
    assert 90 <= meter.rate <= 120
    assert 1000 <= meter.best <= 1100
    await trio.sleep(3700)
    assert meter.rate == 0 and meter.best == 0


async def test_a_tally_fades_and_is_bounded(autojump_clock):
    tally = Tally(half_life_seconds=10, max_peers=3)
    tally.add("A", 100)
    await trio.sleep(10)
    assert tally.of("A") == pytest.approx(50)
    for peer in "BCD":
        tally.add(peer, 1)
    assert tally.of("A") == 0


class Sink:
    """A stream that takes what comes, in no time unless said otherwise: `took` is when, and how much."""

    def __init__(self, read_seconds=0.0):
        self.read_seconds = read_seconds
        self.took = []

    async def send_all(self, data):
        await trio.sleep(self.read_seconds)
        self.took.append((trio.current_time(), len(data)))


def turn(peer, piece=0, priority=1, since=0.0, blob="x"):
    return Turn(peer, blob, piece, 10, priority, since=since)


def test_priority_then_what_was_sent_least_then_who_gives():
    chance = random.Random(1)
    sent = {1: 2, 2: 0}
    times = lambda one: sent.get(one.piece, 0)  # noqa: E731
    waiting = [turn("A", 1), turn("B", 2), turn("C", 2, priority=0)]
    assert choose(waiting, times, lambda p, first: 0.0, -1.0, chance).peer == "C"
    assert choose(waiting[:2], times, lambda p, first: 0.0, -1.0, chance).peer == "B"
    equal = [turn("had much", 3), turn("had little", 3)]
    had = {"had much": 9.0, "had little": 1.0}
    assert choose(equal, times, lambda p, first: had[p], -1.0, chance).peer == "had little"
    picked = {choose(equal, times, lambda p, first: 2.0, -1.0, chance).peer for _ in range(50)}
    assert picked == {"had much", "had little"}
    first = Turn("C", "x", 9, 10, 1, first=True)
    assert choose([turn("A", 2, since=-9.0), first], times, lambda p, first: 0.0, -1.0, chance) is first


def test_strangers_come_after_those_we_know_whatever_they_want():
    waiting = [Turn("stranger", "x", 1, 10, 0, stranger=True), turn("known", 2, priority=4)]
    assert choose(waiting, lambda one: 0, lambda p, first: 0.0, -1.0, random.Random(0)).peer == "known"


async def test_what_strangers_want_keeps_nothing_waiting(autojump_clock, nursery):
    turns = Turns(TurnSettings(), Cap(), Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    async with turns.take(Turn("stranger", "x", 1, 10, 0, stranger=True)):
        with trio.fail_after(0.01):
            async with turns.take(turn("known", 2)):
                pass
    with trio.fail_after(0.01):
        async with turns.take(turn("known", 2)):
            pass


def test_a_better_relay_has_more_but_not_everything():
    worth = {"fast": 5.0, "slow": 1.0}.get
    had = weighed({"fast": 150.0, "slow": 100.0}.get, worth, ("fast", "slow"))
    assert had("fast", False) < had("slow", False)
    had = weighed({"fast": 300.0, "slow": 100.0}.get, worth, ("fast", "slow"))
    assert had("fast", False) > had("slow", False)


def test_what_nobody_else_has_goes_to_relays_by_their_worth():
    worth = {"fast": 5.0, "slow": 1.0}.get
    for had_of_us, leads in ((450.0, True), (550.0, False)):
        had = weighed({"fast": had_of_us, "slow": 100.0}.get, worth, ("fast", "slow"))
        assert (had("fast", True) < had("slow", True)) == leads


def test_who_waited_long_goes_first_among_its_equals():
    waiting = [turn("old", 1, since=1.0), turn("new", 2, since=5.0)]
    assert choose(waiting, lambda one: one.piece == 1, lambda p, first: 0.0, 2.0, random.Random(0)).peer == "old"


async def test_turns_bound_what_is_under_way_and_slow_ones_do_not_block(autojump_clock, nursery):
    turns = Turns(TurnSettings(least_bytes=20, slow_seconds=1.0), Cap(), Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    under_way, most = 0, 0

    async def send(one, seconds):
        nonlocal under_way, most
        async with turns.take(one):
            under_way += 1
            most = max(most, under_way)
            await trio.sleep(seconds)
            under_way -= 1

    async with trio.open_nursery() as senders:
        for number in range(20):
            senders.start_soon(send, turn(str(number)), 0.1)
    assert most == 2 and 0.99 < trio.current_time() < 1.2
    async with trio.open_nursery() as senders:
        senders.start_soon(send, turn("slow"), 1000)
        senders.start_soon(send, turn("slower"), 1000)
        await trio.sleep(1.1)
        with trio.fail_after(1):
            await send(turn("quick"), 0.1)
        senders.cancel_scope.cancel()
    assert not turns._waiting and not turns._sending


async def test_capped_turns_keep_their_rate(autojump_clock, nursery):
    cap = Cap(100.0)
    turns = Turns(TurnSettings(), cap, Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)

    async def send():
        async with turns.take(one := turn("A")):
            await turns.paced(Sink(), one).send_all(bytes(10))

    async with trio.open_nursery() as senders:
        for _ in range(100):
            senders.start_soon(send)
    assert 9.5 < trio.current_time() < 10.5


async def test_a_large_piece_leaves_at_the_rate_of_its_cap_a_part_at_a_time(autojump_clock, nursery):
    cap, sink = Cap(100e3), Sink()
    turns = Turns(TurnSettings(slow_seconds=1.0), cap, Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    async with turns.take(one := turn("A")):
        with trio.fail_after(11):
            await turns.paced(sink, one).send_all(bytes(1_000_000))
        sizes = [size for _, size in sink.took]
        assert sum(sizes) == 1_000_000 and max(sizes) < 50_000
        assert max(after - before for (before, _), (after, _) in itertools.pairwise(sink.took)) < 0.5
        assert turns._timely(), "the cap took ten seconds, not who reads it"
    assert not turns._slow
    cap.set(None)
    async with turns.take(one := turn("A")):
        await turns.paced(sink, one).send_all(bytes(1_000_000))
    assert sink.took[-1][1] == 1_000_000, "without a cap nothing is held up"


async def test_who_reads_slowly_is_found_out_however_the_cap_holds_us_up(autojump_clock, nursery):
    turns = Turns(TurnSettings(slow_seconds=1.0), Cap(100e3), Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    async with turns.take(one := turn("A")):
        await turns.paced(Sink(read_seconds=0.5), one).send_all(bytes(100_000))
    assert list(turns._slow) == ["A"]


async def test_a_piece_that_the_cap_holds_up_for_long_leaves_and_is_paid_for_later(autojump_clock, nursery):
    """Who reads it has timeouts, and would ask for all of it again."""
    cap, sink = Cap(10e3), Sink()
    turns = Turns(TurnSettings(), cap, Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    async with turns.take(one := turn("A")):
        await turns.paced(sink, one).send_all(bytes(1_000_000))
    assert 9.9 < trio.current_time() < 11
    await cap.ready()
    assert trio.current_time() > 100, "on average the cap holds"


async def test_who_leaves_while_the_cap_holds_its_piece_up_is_no_slow_reader(autojump_clock, nursery):
    cap = Cap(1e3)
    turns = Turns(TurnSettings(), cap, Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    with trio.move_on_after(5):
        async with turns.take(one := turn("A")):
            await turns.paced(Sink(), one).send_all(bytes(1_000_000))
    assert not turns._slow and not turns._sending and not turns._held_up


@pytest.mark.parametrize(("rate", "share"), [(125e3, 1.0), (250e3, 1.0), (2.5e6, 0.65)])
async def test_under_a_cap_datasets_do_not_share_with_contributions_nor_strangers_with_peers(
    autojump_clock, nursery, rate, share
):
    cap, sent = Cap(rate), Meter(window_seconds=5.0, settle_seconds=3.0)
    turns, got = Turns(TurnSettings(), cap, sent, lambda peer: 0.0), Counter()
    nursery.start_soon(turns.run)

    async def keep_asking(peer, priority, stranger=False):
        for piece in itertools.count():
            one = Turn(peer, peer, piece, 64 << 10, priority, stranger)
            async with turns.take(one):
                await turns.paced(Sink(), one).send_all(bytes(one.size_bytes))
            got[peer] += trio.current_time() > 20

    nursery.start_soon(keep_asking, "contribution", 1)
    nursery.start_soon(keep_asking, "contribution", 1)
    await trio.sleep(15)
    cap.ease(share)
    for peer, priority, stranger in (("dataset", 4, False), ("dataset", 4, False), ("stranger", 1, True)):
        nursery.start_soon(keep_asking, peer, priority, stranger)
    await trio.sleep(65)
    assert got["contribution"] > 0.9 * 60 * rate * share / 1.04 / (64 << 10)
    assert got["dataset"] + got["stranger"] <= 2


async def test_a_debt_under_a_higher_cap_is_paid_in_seconds_under_a_lower_one(autojump_clock):
    cap = Cap(100e6)
    cap.owe(400_000_000)
    cap.set(1e6)
    start = trio.current_time()
    await cap.ready()
    assert 4.9 < trio.current_time() - start < 5.1


async def test_an_eased_cap_allows_a_share_of_its_rate(autojump_clock):
    cap = Cap(100.0)
    cap.ease(0.8)
    await cap.take(100)
    start = trio.current_time()
    for _ in range(10):
        await cap.take(80)
    assert 9.9 < trio.current_time() - start < 10.7 and cap.rate == 100.0
    cap.ease(1.0)
    await cap.take(100)
    start = trio.current_time()
    await cap.take(100)
    assert 0.9 < trio.current_time() - start < 1.1


async def test_an_uplink_idles_when_it_could_carry_more_than_it_is_asked_for(autojump_clock, nursery):
    cap = Cap(100.0)
    turns = Turns(TurnSettings(), cap, Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)
    await trio.sleep(1)
    assert turns.idle
    for seconds, idles in ((0.0, False), (0.2, True), (0.13, True), (0.1, False)):  # 0.1 s is what a piece takes
        for _ in range(20):
            async with turns.take(one := turn("A")):
                await turns.paced(Sink(), one).send_all(bytes(10))
            await trio.sleep(seconds)
        assert turns.idle == idles, seconds
    await trio.sleep(100)
    for _ in range(9):
        async with turns.take(one := turn("A")):
            await turns.paced(Sink(), one).send_all(bytes(10))
    assert not turns.idle  # a lull is soon forgotten


async def test_an_uplink_without_a_cap_idles_when_one_piece_at_most_is_on_its_way(autojump_clock, nursery):
    turns = Turns(TurnSettings(least_bytes=15), Cap(), Meter(), lambda peer: 0.0)
    nursery.start_soon(turns.run)

    async def send():
        async with turns.take(turn("A")):
            await trio.sleep(0.5)

    for expected in (True, False, False):  # two are on their way at a time
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert turns.idle == expected
    await trio.sleep(2)
    assert turns.idle


async def test_under_a_cap_the_most_important_waits_least(autojump_clock, nursery):
    cap, order = Cap(100.0), []

    async def take(name, priority):
        await cap.take(100, priority)
        order.append((name, round(trio.current_time() - start)))

    start = trio.current_time()
    await cap.take(100)
    for name, priority in (("dataset", 4), ("snapshot", 3), ("other dataset", 4)):
        nursery.start_soon(take, name, priority)
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(1.5)
    nursery.start_soon(take, "contribution", 1)
    await trio.sleep(5)
    assert order == [("snapshot", 1), ("contribution", 2), ("dataset", 3), ("other dataset", 4)]


async def test_who_stops_waiting_for_a_cap_lets_others_go_on(autojump_clock):
    cap = Cap(100.0)
    await cap.take(100)
    with trio.move_on_after(0.5):
        await cap.take(100)
    with trio.fail_after(1):
        await cap.take(100, 5)


async def test_who_comes_before_those_who_wait_and_leaves_again_keeps_nobody_waiting(autojump_clock, nursery):
    cap, taken = Cap(100.0), []

    async def take(name):
        await cap.take(100, 1)
        taken.append((name, round(trio.current_time() - start)))

    start = trio.current_time()
    await cap.take(100)
    for name in "ab":
        nursery.start_soon(take, name)
        await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(0.5):
        await cap.take(100, 0)
    await trio.sleep(3)
    assert taken == [("a", 1), ("b", 2)]


async def test_whoever_is_first_and_leaves_calls_the_next(autojump_clock, nursery):
    cap, scope, start = Cap(100.0), trio.CancelScope(), trio.current_time()
    await cap.take(100)

    async def first():
        with scope:
            await cap.take(100)

    nursery.start_soon(first)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(cap.take, 100)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.sleep(1.5)
    await cap.take(100)
    assert 1.9 < trio.current_time() - start < 2.1, "the second one had its turn when the first would have had it"


async def test_a_long_line_costs_no_more_for_each_than_a_short_one(autojump_clock):
    """All used to wake whenever one of them could go."""

    async def steps_for(line: int) -> float:
        counted, cap = Steps(), Cap(1000.0)
        trio.lowlevel.add_instrument(counted)
        async with trio.open_nursery() as nursery:
            for _ in range(line):
                nursery.start_soon(cap.take, 100)
        trio.lowlevel.remove_instrument(counted)
        return counted.steps / line

    assert await steps_for(200) < 1.5 * await steps_for(10)


class Steps(trio.abc.Instrument):
    """How often tasks run."""

    steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def test_what_disappears_in_buffers_at_first_is_no_rate(autojump_clock):
    meter = Meter(window_seconds=5.0, settle_seconds=3.0)
    meter.add(10_000)
    for _ in range(70):
        meter.add(100)
        await trio.sleep(0.1)
    assert meter.best == 0  # not known yet
    for _ in range(30):
        meter.add(100)
        await trio.sleep(0.1)
    assert 950 <= meter.best <= 1050
    await trio.sleep(2)
    meter.add(10_000)
    await trio.sleep(0.5)
    meter.add(10_000)
    assert meter.best <= 1050
