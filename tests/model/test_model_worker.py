"""The engine as a process: what the daemon relies on."""

import json
import math
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from engine_process import HOTKEY, KEY, EngineProcess, load_message, read_theta, write_run

from model import messages as m
from model import worker
from model.engine import Engine

Reply = TypeVar("Reply")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One engine for the tests that need no fresh one: `Load` takes up any state. Starting one takes seconds."""
    with EngineProcess(tmp_path_factory.mktemp("engine"), "--allow-faults") as process:
        yield process


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def expect(kind: type[Reply], reply: m.Message) -> Reply:
    assert isinstance(reply, kind), reply
    return reply


def train_and_seal(engine: EngineProcess, base: str, path: Path | None, round_: int = 0, steps: int = 3) -> m.Sealed:
    expect(m.Trained, engine.ask(m.Train(round_, KEY, steps)))
    return expect(m.Sealed, engine.ask(m.Seal(round_, base, HOTKEY, str(path) if path else None)))


def advance(directory: Path, base: str, *names: str, round_: int = 0, included: bool = True) -> m.Advance:
    paths = tuple(str(directory / name) for name in names)
    theta = str(directory / f"theta-{round_ + 1}.bin")
    return m.Advance(round_, paths, (HOTKEY,) * len(paths), base, 1.0, included, theta)


def test_a_round_and_a_restart(directory: Path) -> None:
    contribution = directory / "c0"
    with EngineProcess(directory) as engine:
        assert "nothing is loaded" in expect(m.Failed, engine.ask(m.Hash())).message
        loaded = expect(m.Loaded, engine.ask(load_message(directory)))
        assert (loaded.trained_round, loaded.pending_rounds) == (-1, ())
        before = expect(m.Evaluated, engine.ask(m.Evaluate(8)))
        trained = expect(m.Trained, engine.ask(m.Train(0, KEY, 20)))
        assert (trained.inner_steps, trained.tokens, trained.nonfinite_steps) == (20, 20 * 2 * 16, 0)
        assert (engine.events[0].inner_step, engine.events[-1].inner_step) == (1, 20)
        assert all(event.memory_bytes > 1 << 20 and event.tokens_per_second > 0 for event in engine.events)
        assert expect(m.Hashed, engine.ask(m.Hash())).state_hash == loaded.state_hash  # training leaves θ alone

        sealed = expect(m.Sealed, engine.ask(m.Seal(0, loaded.state_hash, HOTKEY, str(contribution))))
        assert sealed.bytes == loaded.contribution_bytes == contribution.stat().st_size
        checked = expect(m.Checked, engine.ask(m.Check(str(contribution), 0, loaded.state_hash, HOTKEY)))
        assert checked.ok and checked.norm > 0
        score = m.Score(0, (str(contribution),), (KEY,), (20,), "77" * 32, 1.0, 16)
        scored = expect(m.Scored, engine.ask(score))
        assert scored.random_after[0] < scored.random_before
        assert scored.assigned_after[0] < scored.assigned_before[0]

        advanced = expect(m.Advanced, engine.ask(advance(directory, loaded.state_hash, "c0")))
        assert (advanced.round, advanced.clipped) == (1, 0)
        assert advanced.update_norm == pytest.approx(checked.norm)
        after = expect(m.Evaluated, engine.ask(m.Evaluate(8)))
        assert after.loss < before.loss

    with EngineProcess(directory) as engine:
        again = expect(m.Loaded, engine.ask(load_message(directory, theta="theta-1.bin", round=1)))
        assert again.state_hash == advanced.state_hash
        assert (again.trained_round, again.pending_rounds) == (0, ())
        assert expect(m.Evaluated, engine.ask(m.Evaluate(8))).loss == after.loss
        failed = expect(m.Failed, engine.ask(m.Train(0, KEY, 1)))
        assert failed.kind == "input" and "round 0" in failed.message
        expect(m.Trained, engine.ask(m.Train(1, KEY, 1)))
        assert engine.events[-1].learning_rate < 3e-3  # the schedule went on: past the warm-up of 2 steps


def test_a_sign_of_life_comes_at_every_step_of_long_work(directory: Path) -> None:
    said: list[m.Message] = []
    engine = Engine(allow_faults=False, emit=said.append, should_stop=lambda: False, beat_seconds=0)

    def beats(kind: type[Reply], request: m.Message) -> int:
        said.clear()
        expect(kind, engine.answer(request))
        return said.count(m.Alive())

    assert beats(m.Loaded, load_message(directory)) >= 4
    base = expect(m.Hashed, engine.answer(m.Hash())).state_hash
    assert beats(m.Evaluated, m.Evaluate(16)) == 16 / 2  # a batch each
    expect(m.Trained, engine.answer(m.Train(0, KEY, 3)))
    assert beats(m.Sealed, m.Seal(0, base, HOTKEY, str(directory / "c0"))) >= 3
    score = m.Score(0, (str(directory / "c0"),), (KEY,), (3,), "77" * 32, 1.0, 4)
    assert beats(m.Scored, score) == 4 * 4 / 2
    assert beats(m.Advanced, advance(directory, base, "c0")) >= 2


def test_a_void_round_leaves_theta_and_gives_everything_back(directory: Path, engine: EngineProcess) -> None:
    loaded = expect(m.Loaded, engine.ask(load_message(directory)))
    train_and_seal(engine, loaded.state_hash, directory / "c0")
    sealed_feedback = (directory / "state/ef.bin").read_bytes()
    advanced = expect(m.Advanced, engine.ask(advance(directory, loaded.state_hash, included=False)))
    assert advanced.state_hash == loaded.state_hash
    assert (directory / "theta-1.bin").read_bytes() == (directory / "theta.bin").read_bytes()
    gross_bytes = 4 * loaded.parameters
    settled_feedback = (directory / "state/ef.bin").read_bytes()
    assert settled_feedback[-gross_bytes - 32 : -32] == sealed_feedback[-gross_bytes - 32 : -32]
    assert len(sealed_feedback) > len(settled_feedback)  # the claim is gone


def test_killed_after_a_seal_it_remembers_and_never_trains_the_round_again(
    directory: Path, engine: EngineProcess
) -> None:
    with EngineProcess(directory) as victim:
        loaded = expect(m.Loaded, victim.ask(load_message(directory)))
        train_and_seal(victim, loaded.state_hash, directory / "c0")
        victim.process.send_signal(signal.SIGKILL)
        assert victim.exit_code() == -signal.SIGKILL
    again = expect(m.Loaded, engine.ask(load_message(directory)))
    assert (again.trained_round, again.pending_rounds) == (0, (0,))
    assert expect(m.Failed, engine.ask(m.Train(0, KEY, 1))).kind == "input"
    settled = expect(m.Settled, engine.ask(m.Settle(0, False)))
    assert settled.pending_rounds == ()
    assert expect(m.Settled, engine.ask(m.Settle(0, True))).pending_rounds == ()


def test_killed_in_the_middle_of_a_seal_it_is_before_or_after_never_between(
    directory: Path, engine: EngineProcess
) -> None:
    with EngineProcess(directory) as victim:
        loaded = expect(m.Loaded, victim.ask(load_message(directory)))
        train_and_seal(victim, loaded.state_hash, None)
        expect(m.Trained, victim.ask(m.Train(1, KEY, 1)))
        victim.send(m.Seal(1, loaded.state_hash, HOTKEY, str(directory / "c1")))
        victim.process.send_signal(signal.SIGKILL)
        victim.exit_code()
    again = expect(m.Loaded, engine.ask(load_message(directory)))
    assert (again.trained_round, again.pending_rounds) in ((0, ()), (1, (1,)))


def test_two_engines_with_other_threads_agree_to_the_bit(directory: Path, engine: EngineProcess) -> None:
    base = expect(m.Loaded, engine.ask(load_message(directory, threads=3))).state_hash
    train_and_seal(engine, base, directory / "c0", steps=4)
    with EngineProcess(directory) as other:
        expect(m.Loaded, other.ask(load_message(directory, state="other", threads=1)))
        train_and_seal(other, base, directory / "c1", steps=2)
        order = advance(directory, base, "c0", "c1")
        hashes = {expect(m.Advanced, asked.ask(order)).state_hash for asked in (engine, other)}
    assert len(hashes) == 1 and base not in hashes
    stepped = read_theta(directory / "theta-1.bin")
    assert not (stepped == read_theta(directory / "theta.bin")).all()


def test_no_step_is_taken_from_a_state_with_a_flipped_bit(directory: Path, engine: EngineProcess) -> None:
    base = expect(m.Loaded, engine.ask(load_message(directory))).state_hash
    train_and_seal(engine, base, directory / "c0")
    before = (directory / "state/ef.bin").read_bytes()
    expect(m.Flipped, engine.ask(m.FlipBit(3, 0)))
    for names in ((), ("c0",)):  # a void round keeps θ, and what is wrong with it
        failed = expect(m.Failed, engine.ask(advance(directory, base, *names)))
        assert failed.kind == "input" and "θ in memory hashes to" in failed.message
    assert (directory / "state/ef.bin").read_bytes() == before, "nothing was settled"
    expect(m.Flipped, engine.ask(m.FlipBit(3, 0)))
    expect(m.Advanced, engine.ask(advance(directory, base, "c0")))


def test_a_step_without_a_file_is_the_same_and_one_that_cannot_be_written_is_none(
    directory: Path, engine: EngineProcess
) -> None:
    base = expect(m.Loaded, engine.ask(load_message(directory))).state_hash
    train_and_seal(engine, base, directory / "c0")
    order = advance(directory, base, "c0")
    resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as a full disk
    failed = expect(m.Failed, engine.ask(order))
    assert failed.kind == "input" and "no room on disk" in failed.message
    assert expect(m.Hashed, engine.ask(m.Hash())).state_hash == base
    assert not list(directory.glob("*theta-1*"))
    resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    written = expect(m.Advanced, engine.ask(order))
    assert (directory / "theta-1.bin").stat().st_size == (directory / "theta.bin").stat().st_size
    expect(m.Restored, engine.ask(m.Restore(0, str(directory / "theta.bin"))))
    assert expect(m.Advanced, engine.ask(replace(order, theta_path=None))) == written
    assert expect(m.Restored, engine.ask(m.Restore(1, str(directory / "theta-1.bin")))).state_hash == written.state_hash


def test_a_pseudo_gradient_that_nobody_could_mean_is_not_sealed(directory: Path, engine: EngineProcess) -> None:
    base = expect(m.Loaded, engine.ask(load_message(directory))).state_hash
    wild = {"peak_learning_rate": 1e30, "gradient_clip": 1.0}
    expect(m.Trained, engine.ask(m.Train(0, KEY, 1, wild)))
    failed = expect(m.Failed, engine.ask(m.Seal(0, base, HOTKEY, str(directory / "c0"))))
    assert failed.kind == "input" and "beyond ±32" in failed.message and "e+" in failed.message
    assert not (directory / "c0").exists()
    train_and_seal(engine, base, directory / "c0")


def test_a_flipped_bit_changes_the_hash_and_restore_repairs_it(directory: Path, engine: EngineProcess) -> None:
    loaded = expect(m.Loaded, engine.ask(load_message(directory)))
    expect(m.Flipped, engine.ask(m.FlipBit(loaded.parameters - 1, 0)))
    assert expect(m.Hashed, engine.ask(m.Hash())).state_hash != loaded.state_hash
    assert expect(m.Failed, engine.ask(m.FlipBit(loaded.parameters, 0))).kind == "input"
    restored = expect(m.Restored, engine.ask(m.Restore(0, str(directory / "theta.bin"))))
    assert restored.state_hash == loaded.state_hash


def test_bad_input_is_named_and_the_engine_goes_on(directory: Path, engine: EngineProcess) -> None:
    (directory / "short.bin").write_bytes(b"\0" * 10)
    failed = expect(m.Failed, engine.ask(load_message(directory, theta="short.bin")))
    assert failed.kind == "input" and failed.path.endswith("short.bin") and "10 bytes" in failed.message
    for changes in ({"training": {"x": 1}}, {"threads": 0}, {"heldout_shard": "/nowhere"}, {"device": "abacus"}):
        assert expect(m.Failed, engine.ask(load_message(directory, **changes))).kind == "input"

    base = expect(m.Loaded, engine.ask(load_message(directory))).state_hash
    assert expect(m.Failed, engine.ask(m.Seal(0, base, HOTKEY, None))).kind == "input"
    train_and_seal(engine, base, directory / "c0")
    whole = (directory / "c0").read_bytes()
    (directory / "torn").write_bytes(whole[:-1])
    failed = expect(m.Failed, engine.ask(advance(directory, base, "c0", "torn")))
    assert failed.kind == "input" and failed.path.endswith("torn")
    checked = expect(m.Checked, engine.ask(m.Check(str(directory / "torn"), 0, base, HOTKEY)))
    assert not checked.ok and "bytes" in checked.reason
    wrong_round = expect(m.Failed, engine.ask(advance(directory, base, round_=5)))
    assert "round 0" in wrong_round.message
    foreign = replace(advance(directory, base, "c0"), hotkeys=("ee" * 32,))
    assert "hotkey" in expect(m.Failed, engine.ask(foreign)).message
    unwritable = replace(advance(directory, base, "c0"), theta_path="/proc/theta.bin")
    assert "/proc/theta.bin" in expect(m.Failed, engine.ask(unwritable)).message
    assert expect(m.Hashed, engine.ask(m.Hash())).state_hash == base
    expect(m.Advanced, engine.ask(advance(directory, base, "c0")))  # after all that


def test_a_seal_that_failed_can_be_asked_again(directory: Path, engine: EngineProcess) -> None:
    base = expect(m.Loaded, engine.ask(load_message(directory))).state_hash
    expect(m.Trained, engine.ask(m.Train(0, KEY, 2)))
    assert "/proc/c0" in expect(m.Failed, engine.ask(m.Seal(0, base, HOTKEY, "/proc/c0"))).message
    sealed = expect(m.Sealed, engine.ask(m.Seal(0, base, HOTKEY, str(directory / "c0"))))
    retried = (directory / "state/ef.bin").read_bytes()
    engine.ask(load_message(directory, state="other"))
    assert train_and_seal(engine, base, directory / "c1", steps=2) == replace(sealed, path=str(directory / "c1"))
    assert (directory / "other/ef.bin").read_bytes() == retried  # absorbed once, not twice


def test_a_round_may_have_a_schedule_of_its_own(directory: Path, engine: EngineProcess) -> None:
    expect(m.Loaded, engine.ask(load_message(directory)))
    rates = []
    engine.send(m.Train(0, KEY, 2, {"peak_learning_rate": 1e-9}))
    while isinstance(reply := engine.receive(), m.Progress):
        rates.append(reply.learning_rate)
    expect(m.Trained, reply)
    assert rates and max(rates) <= 1e-9
    for nonsense in ({"beta1": 0.5}, {"decay_steps": math.nan}, {"gradient_clip": -1.0}):
        assert expect(m.Failed, engine.ask(m.Train(0, KEY, 2, nonsense))).kind == "input"


def test_stop_ends_training_after_a_step(directory: Path, engine: EngineProcess) -> None:
    engine.ask(load_message(directory))
    engine.send(m.Stop())  # nothing trains: ignored
    engine.send(m.Train(0, KEY, 100_000))
    expect(m.Progress, engine.receive())
    trained = expect(m.Trained, engine.ask(m.Stop()))
    assert 1 <= trained.inner_steps < 100_000
    engine.events.clear()
    expect(m.Trained, engine.ask(m.Train(0, KEY, 2)))
    assert engine.events[-1].inner_step == 2  # the old Stop is forgotten


def test_a_stop_right_behind_its_train_is_not_lost(directory: Path, engine: EngineProcess) -> None:
    engine.ask(load_message(directory))
    engine.socket.sendall(m.encode(m.Train(0, KEY, 100_000)) + m.encode(m.Stop()))
    while isinstance(reply := engine.receive(), m.Progress):
        pass
    assert expect(m.Trained, reply).inner_steps <= 100
    if reply.inner_steps == 0:
        assert math.isnan(reply.loss)


def test_it_exits_when_the_socket_closes_in_mid_training(directory: Path) -> None:
    with EngineProcess(directory) as engine:
        engine.ask(load_message(directory))
        engine.send(m.Train(0, KEY, 1_000_000))
        expect(m.Progress, engine.receive())
        engine.socket.close()
        assert engine.exit_code() == 0


def test_it_outlives_the_thread_that_started_it(directory: Path) -> None:
    """trio starts processes from worker threads; a parent-death signal is sent when such a thread ends."""
    started: list[EngineProcess] = []
    thread = threading.Thread(target=lambda: started.append(EngineProcess(directory)))
    thread.start()
    thread.join()
    with started[0] as engine:
        expect(m.Loaded, engine.ask(load_message(directory)))
        engine.process.send_signal(signal.SIGINT)  # a terminal's Ctrl-C: for the daemon to decide
        expect(m.Hashed, engine.ask(m.Hash()))


def test_garbage_on_the_socket_is_a_bug_of_the_daemon_and_faults_need_a_flag(directory: Path) -> None:
    with EngineProcess(directory) as engine:
        engine.ask(load_message(directory))
        assert "allow-faults" in expect(m.Failed, engine.ask(m.FlipBit(0, 0))).message
        engine.socket.sendall(b"\xff\xff\xff\xff")
        assert engine.exit_code() == 70
        assert b"exceeds" in engine.errors()


def test_inner_steps_are_traced_on_demand(directory: Path, engine: EngineProcess) -> None:
    trace = directory / "trace.json"
    expect(m.Loaded, engine.ask(load_message(directory)))
    engine.events.clear()
    engine.send(m.Profile(2, str(trace)))  # nothing trains yet: it waits for the next Train
    expect(m.Trained, engine.ask(m.Train(0, KEY, 5)))
    assert [one for one in engine.events if isinstance(one, m.Traced)] == [m.Traced(str(trace), 2)]
    events = json.loads(trace.read_text())["traceEvents"]
    steps = [one for one in events if one["name"].startswith("autograd::engine::evaluate_function")]
    assert any("mm" in one["name"] for one in events) and steps, "operators, forward and back"


def test_a_trace_ends_with_its_training_and_trouble_with_its_file_is_told(
    directory: Path, engine: EngineProcess
) -> None:
    expect(m.Loaded, engine.ask(load_message(directory)))
    engine.events.clear()
    engine.send(m.Profile(100, str(directory / "short.json")))
    engine.send(m.Profile(1, str(directory / "nowhere" / "trace.json")))
    expect(m.Trained, engine.ask(m.Train(0, KEY, 3)))
    assert expect(m.Trained, engine.ask(m.Train(0, KEY, 3))).inner_steps == 3
    short, failed = (one for one in engine.events if isinstance(one, m.Traced))
    assert (short.steps, short.error) == (3, "") and "nowhere" in failed.error
    assert not list(directory.glob("*.part"))


def test_a_bug_is_reported_and_ends_the_process(directory: Path) -> None:
    with EngineProcess(directory) as engine:
        engine.ask(load_message(directory))
        failed = expect(m.Failed, engine.ask(m.Evaluate("many")))  # type: ignore[arg-type]
        assert failed.kind == "bug"
        assert engine.exit_code() == 70
        assert b"Traceback" in engine.errors()


def test_of_a_full_gpu_it_says_what_to_do_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next one finds the memory free that a broken-off request still holds."""

    class Full:
        def __init__(self, **_: object) -> None: ...

        def answer(self, _: m.Message) -> m.Message:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.5 GiB of which "
                "3 MiB is free. Of the allocated memory 1 GiB is allocated by PyTorch. If reserved ..."
            )

    class Daemon(worker.Connection):
        def __init__(self) -> None:
            super().__init__(socket.socket())
            self.requests.put(m.Hash())
            self.said: list[m.Message] = []

        def read_forever(self) -> None: ...

        def send(self, message: m.Message) -> None:
            self.said.append(message)

    monkeypatch.setattr(worker, "Engine", Full)
    daemon = Daemon()
    with daemon._socket, pytest.raises(SystemExit) as ended:
        worker.serve(daemon, allow_faults=False)
    failed = expect(m.Failed, daemon.said[0])
    assert ended.value.code == 75 and failed.kind == "memory"
    assert failed.message.startswith("Hash: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
    assert "is free. End what else uses the GPU" in failed.message and 'device = "cpu"' in failed.message


def test_noise_has_the_norm_of_honest_work_but_not_its_worth(directory: Path, engine: EngineProcess) -> None:
    changes = {}
    for behavior in ("honest", "noise"):
        base = expect(m.Loaded, engine.ask(load_message(directory, state=behavior, behavior=behavior))).state_hash
        sealed = train_and_seal(engine, base, directory / f"c-{behavior}", steps=20)
        score = m.Score(0, (str(directory / f"c-{behavior}"),), (KEY,), (20,), "77" * 32, 1.0, 16)
        scored = expect(m.Scored, engine.ask(score))
        changes[behavior] = scored.random_before - scored.random_after[0]
        assert sealed.error_feedback_norm > 0
    assert changes["honest"] > max(0.0, 10 * changes["noise"])
