from collections import Counter
from contextlib import ExitStack

import pytest
import trio

from p2p.errors import Busy
from p2p.limits import MAX_PEERS_COUNTED, ByteBudget, SlotLimiter, count
from p2p.reputation import Reputation, ReputationSettings


def test_slots_are_limited_a_peer_and_in_all():
    limiter = SlotLimiter(per_peer=2, total=3)
    with limiter.slot("A"), limiter.slot("A"):
        with pytest.raises(Busy, match="A"), limiter.slot("A"):
            pass
        with limiter.slot("B"), pytest.raises(Busy), limiter.slot("C"):
            pass
        with limiter.slot("C"):
            assert limiter.held == 3
    assert limiter.held == 0


def test_a_slot_is_given_back_on_error():
    limiter = SlotLimiter(1, 1)
    with pytest.raises(ZeroDivisionError), limiter.slot("A"):
        1 / 0  # noqa: B018
    with limiter.slot("B"):
        pass


async def test_a_byte_budget_makes_later_ones_wait_in_order(autojump_clock):
    budget, order = ByteBudget(10), []

    async def use(name, size, seconds):
        async with budget.hold(size, name):
            order.append((name, trio.current_time()))
            await trio.sleep(seconds)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name, size, seconds in (("a", 6, 5), ("b", 100, 1), ("c", 1, 1)):
            nursery.start_soon(use, name, size, seconds)
            await trio.testing.wait_all_tasks_blocked()
    assert [(name, at - start) for name, at in order] == [("a", 0), ("b", 5), ("c", 6)]


def test_strangers_leave_slots_to_those_we_know():
    limiter = SlotLimiter(per_peer=8, total=8, admit="AB".__contains__)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(limiter.slot("stranger"))
        with pytest.raises(Busy), limiter.slot("stranger"):
            pass
        for _ in range(2):
            held.enter_context(limiter.slot("other stranger"))
        with pytest.raises(Busy), limiter.slot("third stranger"):
            pass
        for _ in range(4):
            held.enter_context(limiter.slot("A"))
    with limiter.slot("third stranger"):
        assert limiter.held == 1


async def test_one_peer_or_all_strangers_do_not_use_up_a_byte_budget(autojump_clock, nursery):
    budget, has = ByteBudget(16, "AB".__contains__), []

    async def hold(peer, size):
        async with budget.hold(size, peer):
            has.append(peer)
            await trio.sleep_forever()

    for peer, size in (("A", 4), ("A", 4), ("s", 4), ("t", 4), ("u", 4), ("B", 4)):
        nursery.start_soon(hold, peer, size)
        await trio.testing.wait_all_tasks_blocked()
    assert has == ["A", "s", "t", "B"]
    nursery.cancel_scope.cancel()


def test_counts_keep_their_sum_and_are_bounded():
    counts = Counter()
    for number in range(2 * MAX_PEERS_COUNTED):
        count(counts, str(number), 1)
    assert counts.total() == 2 * MAX_PEERS_COUNTED and len(counts) <= MAX_PEERS_COUNTED + 1
    assert counts[str(2 * MAX_PEERS_COUNTED - 1)] == 1


async def test_a_cancelled_wait_costs_nothing(autojump_clock):
    budget = ByteBudget(10)
    async with budget.hold(10, "A"):
        with trio.move_on_after(1):
            async with budget.hold(5, "B"):
                pytest.fail("there was no room")
    with trio.fail_after(1):
        async with budget.hold(10, "A"):
            pass


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_bans_end_and_can_be_lifted():
    clock, bans = Clock(), []
    reputation = Reputation(ReputationSettings(ban_seconds=10), clock, lambda *ban: bans.append(ban))
    reputation.ban("A", "lied")
    reputation.ban("B", "lied")
    reputation.unban("B")
    assert bans == [("A", "lied"), ("B", "lied")]
    assert reputation.is_banned("A") and not reputation.is_banned("B") and not reputation.is_banned("C")
    assert reputation.bans()["A"].reason == "lied"
    clock.now += 10
    assert not reputation.is_banned("A") and not reputation.bans()


def test_slowness_decays_and_is_forgiven():
    clock = Clock()
    reputation = Reputation(ReputationSettings(half_life_seconds=10), clock)
    reputation.slow("A", 4)
    clock.now += 10
    assert reputation.penalty("A") == 2
    reputation.slow("A", 2)
    reputation.good("A")
    assert reputation.penalty("A") == 2
    assert reputation.penalty("B") == 0


def test_memory_of_strangers_is_bounded():
    reputation = Reputation(ReputationSettings(max_peers=10), Clock())
    for number in range(100):
        reputation.slow(str(number))
        reputation.ban(str(number), "lied")
    assert len(reputation.bans()) == 10 and reputation.is_banned("99")
    assert sum(reputation.penalty(str(n)) > 0 for n in range(100)) == 10
