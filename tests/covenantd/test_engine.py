"""The daemon's end of the engine, against real processes that die, hang and babble."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripted_engine
import trio
import trio.testing

from covenantd import engine as engine_module
from covenantd.engine import EngineRefused, EngineSettings
from covenantd.engineslot import EngineSlot
from covenantd.errors import EngineError
from covenantd.health import Health
from covenantd.readiness import watch_engine
from model import messages as m
from p2p.child import Child

ROOT = Path(__file__).parents[2]
TRAIN = m.Train(1, "ab" * 32, 2)
SETTLE = m.Settle(1, True)
EVALUATE = m.Evaluate(1)
OpenSlot = Callable[..., AbstractAsyncContextManager[EngineSlot]]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """Every engine process that was started; all are reaped in the end."""
    started: list[Child] = []
    yield started
    for process in started:
        assert process.returncode is not None, "an engine outlived its slot"


@pytest.fixture
def open_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Child]) -> OpenSlot:
    """open_slot(behaviour of the first engine, of the second, ...; the last for ever) -> a running EngineSlot."""

    @asynccontextmanager
    async def run(*behaviours: str, **settings: Any) -> AsyncIterator[EngineSlot]:
        def start(settings: EngineSettings) -> Child:
            behaviour = behaviours[min(len(processes), len(behaviours) - 1)]
            command = [sys.executable, scripted_engine.__file__, str(settings.socket), behaviour]
            processes.append(Child(command, environment={**os.environ, "PYTHONPATH": str(ROOT)}))
            return processes[-1]

        monkeypatch.setattr(engine_module, "_start", start)
        slot = EngineSlot(replace(EngineSettings(tmp_path / "engine.sock"), **settings))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slot.run)
                yield slot
                nursery.cancel_scope.cancel()
        assert not (tmp_path / "engine.sock").exists()

    return run


async def hash_of(slot: EngineSlot) -> str:
    return (await slot.order(m.Hash(), m.Hashed)).state_hash


async def test_orders_are_answered_in_turn_and_progress_is_told(open_slot: OpenSlot) -> None:
    async with open_slot("first") as slot:
        assert slot.state == "starting" and slot.pid is None
        progress: list[m.Progress] = []
        assert await slot.order(TRAIN, m.Trained, progress.append) == m.Trained(1, 2, 100, 5.0, 0.1, 0)
        assert [one.inner_step for one in progress] == [0, 1]
        assert await slot.order(TRAIN, m.Trained) and await hash_of(slot) == "first"
        assert (slot.state, slot.generation, slot.last_error) == ("ready", 1, None)
        assert slot.pid is not None


async def test_many_who_order_at_once_each_get_their_own_answer(open_slot: OpenSlot) -> None:
    async with open_slot("first") as slot:
        answers: list[Any] = []

        async def order(message: m.Message, expect: type[Any]) -> None:
            answers.append(await slot.order(message, expect))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(order, m.Hash(), m.Hashed)
                nursery.start_soon(order, EVALUATE, m.Evaluated)
        assert len([a for a in answers if isinstance(a, m.Hashed)]) == 20 == len(answers) - 20


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("die", "died|broke"),
        ("die-within", "died|broke"),
        ("close", "died"),
        ("garbage", "not an engine message"),
        ("oversized", "exceeds"),
        ("wrong", "answered Hashed instead of Evaluated"),
        ("bug", "has a bug: list index out of range"),
        ("full", "^Evaluate: CUDA out of memory"),
    ],
)
async def test_an_engine_that_fails_is_replaced(open_slot: OpenSlot, behaviour: str, said: str) -> None:
    async with open_slot(behaviour, "second") as slot:
        assert await hash_of(slot) == behaviour
        with pytest.raises(EngineError, match=said):
            await slot.order(EVALUATE, m.Evaluated)
        assert slot.last_error is not None
        assert await hash_of(slot) == "second" and slot.generation == 2


@pytest.mark.parametrize("behaviour", ["hang", "hang-within"])
async def test_an_engine_that_says_nothing_is_given_up(open_slot: OpenSlot, behaviour: str) -> None:
    async with open_slot(behaviour, "second", stall_seconds=0.3) as slot:
        assert await hash_of(slot) == behaviour
        with pytest.raises(EngineError, match="said nothing"):
            await slot.order(EVALUATE, m.Evaluated)
        assert await hash_of(slot) == "second"


async def test_slow_bytes_are_not_a_stall(open_slot: OpenSlot) -> None:
    async with open_slot("byte-by-byte") as slot:
        assert await slot.order(EVALUATE, m.Evaluated) == m.Evaluated(1.0, 1)
        assert await hash_of(slot) == "byte-by-byte"


async def test_long_work_is_no_stall_while_the_engine_shows_that_it_goes_on(open_slot: OpenSlot) -> None:
    async with open_slot("slow", stall_seconds=1.0) as slot:
        assert slot.silent_seconds is None
        assert await slot.order(EVALUATE, m.Evaluated) == m.Evaluated(1.0, 1)
        assert await hash_of(slot) == "slow" and slot.silent_seconds is None


async def test_a_silent_engine_at_work_fails_the_liveness_check(open_slot: OpenSlot, nursery: trio.Nursery) -> None:
    async with open_slot("hang") as slot:
        health = Health()
        watch_engine(health, slot, limit_seconds=0.2)
        assert not health.ready() and health.alive(), "an engine that starts is no reason to start the daemon anew"
        assert await hash_of(slot) == "hang"
        await trio.sleep(0.3)
        assert health.ready() and health.alive(), "one that has nothing to do has nothing to say"
        nursery.start_soon(slot.order, EVALUATE, m.Evaluated)
        await trio.testing.wait_all_tasks_blocked()
        assert health.alive()
        await trio.sleep(0.3)
        (failing,) = [finding for finding in health.findings() if finding.live and not finding.ok]
        assert failing.name == "engine-heartbeat" and failing.reason == "at work, but silent for 0 s"
        nursery.cancel_scope.cancel()


async def test_bad_input_is_refused_and_the_engine_goes_on(open_slot: OpenSlot) -> None:
    async with open_slot("first", "second") as slot:
        for _ in range(2):
            with pytest.raises(EngineRefused, match="no such round"):
                await slot.order(SETTLE, m.Settled)
            assert await hash_of(slot) == "first"


async def test_an_answer_too_many_is_not_taken_for_the_next(open_slot: OpenSlot) -> None:
    async with open_slot("twice", "second") as slot:
        assert await slot.order(EVALUATE, m.Evaluated) == m.Evaluated(1.0, 1)
        with pytest.raises(EngineError, match="spoke unasked"):
            await slot.order(EVALUATE, m.Evaluated)
        assert await hash_of(slot) == "second"


async def test_an_order_given_up_half_way_leaves_the_stream_in_step(open_slot: OpenSlot) -> None:
    async with open_slot("first", "second") as slot:
        for _ in range(5):
            with trio.CancelScope() as scope:
                await slot.order(TRAIN, m.Trained, lambda progress, scope=scope: scope.cancel())
            assert scope.cancelled_caught
        assert await hash_of(slot) == "first"
        assert await slot.order(EVALUATE, m.Evaluated) == m.Evaluated(1.0, 1)


async def test_who_gave_up_an_order_that_kills_the_engine_harms_nobody_else(open_slot: OpenSlot) -> None:
    async with open_slot("die", "second") as slot:
        assert await hash_of(slot) == "die"

        async def order() -> None:
            with suppress(EngineError):  # should the engine die of it before it is given up
                await slot.order(EVALUATE, m.Evaluated)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(order)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await slot.successor(1) == 2
        assert await hash_of(slot) == "second"


async def test_a_listener_that_raises_hears_it_and_the_stream_is_not_trusted_again(open_slot: OpenSlot) -> None:
    def listen(progress: m.Progress) -> None:
        raise ZeroDivisionError

    async with open_slot("first", "second") as slot:
        with pytest.raises(ZeroDivisionError):
            await slot.order(TRAIN, m.Trained, listen)
        assert await hash_of(slot) == "second"


async def test_everybody_waiting_is_told_when_the_engine_is_gone(open_slot: OpenSlot) -> None:
    async with open_slot("hang", "second") as slot:
        assert await hash_of(slot) == "hang" and slot.pid is not None
        told: list[str] = []

        async def order(message: m.Message, expect: type[Any]) -> None:
            try:
                await slot.order(message, expect)
                told.append("answered")
            except EngineError:
                told.append("lost")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(order, EVALUATE, m.Evaluated)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(30):  # more than the queue holds
                nursery.start_soon(order, m.Hash(), m.Hashed)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(slot.pid, signal.SIGKILL)
        assert told.count("lost") == len(told) == 31


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_idle_engine_that_is_killed_is_replaced_before_anybody_asks(open_slot: OpenSlot, number: int) -> None:
    async with open_slot("first", "second") as slot:
        assert await hash_of(slot) == "first"
        assert slot.pid is not None
        os.kill(slot.pid, number)
        assert await slot.successor(1) == 2
        assert await hash_of(slot) == "second" and slot.last_error is None


async def test_one_that_cannot_start_is_tried_again_ever_more_slowly(
    open_slot: OpenSlot, processes: list[Child]
) -> None:
    async with open_slot("exit", "exit", "third") as slot:
        began = trio.current_time()
        assert await hash_of(slot) == "third"
        assert [process.returncode for process in processes[:2]] == [3, 3]
        assert trio.current_time() - began >= 0.5 + 1
        assert slot.last_error is not None and "exited with 3" in slot.last_error
        assert (slot.starts, slot.generation) == (3, 1), "also those that came to nothing are told"


async def test_one_that_does_not_connect_is_killed_and_replaced(open_slot: OpenSlot, processes: list[Child]) -> None:
    async with open_slot("never-connect", "second", start_seconds=0.3) as slot:
        while not processes or processes[0].returncode is None:  # noqa: ASYNC110 - nothing says so
            await trio.sleep(0.01)
        slot._settings = replace(slot._settings, start_seconds=60)
        assert await hash_of(slot) == "second"
        assert processes[0].returncode == -signal.SIGKILL
        assert slot.last_error is not None and "did not connect in time" in slot.last_error


def test_a_log_that_has_grown_long_is_put_aside_when_an_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_MAX_LOG_BYTES", 100)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    log = tmp_path / "engine.log"
    for text in ("a" * 90, "b" * 90, "c"):
        child = engine_module._start(EngineSettings(tmp_path / "engine.sock", log_file=log))
        assert child.pid > 0
        with log.open("a") as file:
            file.write(text)
        trio.run(child.stop, 0)
    assert log.read_text() == "c" and (tmp_path / "engine.log.1").read_text() == "a" * 90 + "b" * 90


async def test_a_place_where_no_socket_can_be_is_an_error_not_a_crash(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "engine.sock", tmp_path / ("x" * 200)):
        with pytest.raises(EngineError, match="cannot be started"):
            async with engine_module.open_engine(EngineSettings(path)):
                pytest.fail("started")


async def kill_soon(process: Child) -> None:
    await trio.testing.wait_all_tasks_blocked()
    process.send_signal(signal.SIGKILL)


async def test_traces_reach_who_asked_and_end_with_the_engine(
    open_slot: OpenSlot, processes: list[Child], nursery: trio.Nursery
) -> None:
    async with open_slot("first") as slot:
        with pytest.raises(EngineError, match="no engine"):
            await slot.trace(m.Profile(1, "early"))
        assert await hash_of(slot) == "first"
        traced: list[m.Traced] = []

        async def ask(path: str) -> None:
            traced.append(await slot.trace(m.Profile(2, path)))

        async with trio.open_nursery() as asking:
            asking.start_soon(ask, "a")
            asking.start_soon(ask, "b")
            await trio.testing.wait_all_tasks_blocked()
            await slot.order(TRAIN, m.Trained)
        assert sorted(one.path for one in traced) == ["a", "b"]
        with trio.move_on_after(0.01):
            await slot.trace(m.Profile(1, "nobody waits for this one"))
        await slot.order(TRAIN, m.Trained)
        nursery.start_soon(kill_soon, processes[0])
        with pytest.raises(EngineError, match="ended before the trace"):
            await ask("c")


async def test_stop_reaches_a_training_engine_and_is_idle_otherwise(
    open_slot: OpenSlot, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_slot("first") as slot:
        await slot.stop_training()  # nobody there yet: nothing to stop
        assert await hash_of(slot) == "first"
        await slot.stop_training()
        assert await hash_of(slot) == "first"
    assert capfd.readouterr().out.count("stop\n") == 1
