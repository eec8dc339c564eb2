"""The control socket over a real unix socket: verbs, permission, limits, hostile clients."""

import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covenantd.board import StatusBoard
from covenantd.control import ControlSettings, Owner, Verb, may, serve_control
from covenantd.controlclient import open_control
from covenantd.controlverbs import standard_verbs
from covenantd.controlwire import PROTOCOL, ControlError, hello
from covenantd.errors import CovenantError, TryAgain
from covenantd.status import PeerStatus, RoundSummary, Status
from covenantd.unixsocket import Peer, listen
from p2p.wire import receive_frame, send_frame

HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def names(directory: Path) -> list[str]:
    return [one.name for one in directory.iterdir()]


def open_to_all(directory: str) -> None:
    Path(directory).chmod(0o755)


class Bench:
    """A served control socket and what its verbs act on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        peers = (PeerStatus(HOTKEY, "12D3", "miner", ("/ip4/1.2.3.4/tcp/1",), True, 5, 6),)
        self.board = StatusBoard(Status("miner", hotkey=HOTKEY, state="running", round=3, peers=peers))
        self.orders: list[str] = []
        self.cancelled = trio.Event()
        self.verbs = standard_verbs(self.board, {name: self._order(name) for name in ("pause", "drain")})
        self.verbs |= {
            "bug": Verb(self._bug),
            "later": Verb(self._later),
            "huge": Verb(self._huge),
            "forever": Verb(self._forever),
        }

    def _order(self, name: str):
        async def order() -> None:
            self.orders.append(name)
            self.board.update(state="paused")

        return order

    async def _bug(self, args: object) -> object:
        return 1 / 0

    async def _later(self, args: object) -> object:
        raise TryAgain("the chain is silent")

    async def _huge(self, args: object) -> object:
        return b"x" * (2 << 20)

    async def _forever(self, args: object) -> object:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "run" / "control.sock")
    await nursery.start(serve_control, bench.path, bench.verbs, ControlSettings(max_clients=50, hello_seconds=2))
    yield bench
    nursery.cancel_scope.cancel()


async def raw(bench: Bench) -> trio.SocketStream:
    return await trio.open_unix_socket(str(bench.path))


async def test_status_peers_rounds_and_version(bench: Bench) -> None:
    bench.board.add_round(RoundSummary(2, "certified", 3, True, "ab" * 32, 3.5, phases={"train": 1.5}))
    bench.board.add_round(RoundSummary(1, "void"))
    async with open_control(bench.path) as client:
        assert await client.status() == bench.board.status
        assert (await client.call("peers"))["peers"][0]["received_bytes"] == 6
        shown = [RoundSummary.from_dict(one) for one in (await client.call("rounds"))["rounds"]]
        assert shown == list(bench.board.rounds) and [one.round for one in shown] == [1, 2]
        assert (await client.call("rounds", {"round": 2}))["rounds"][0]["phases"] == {"train": 1.5}
        assert (await client.call("version"))["protocol"] == PROTOCOL


async def test_write_verbs_reach_the_daemon(bench: Bench) -> None:
    async with open_control(bench.path) as client:
        assert (await client.call("pause"))["state"] == "paused"
        await client.call("drain")
    assert bench.orders == ["pause", "drain"]


@pytest.mark.parametrize(
    ("verb", "args", "code", "says"),
    [
        ("nothing", {}, "usage", "there are: status, peers"),
        ("rounds", {"round": 99}, "failed", "round 99"),
        ("rounds", {"round": "x"}, "usage", "round"),
        ("wait", {}, "usage", "for"),
        ("wait", {"for": "round>=x"}, "usage", "not a number"),
        ("bug", {}, "bug", "traceback"),
        ("later", {}, "failed", "the chain is silent"),
        ("huge", {}, "bug", "cannot be sent"),
    ],
)
async def test_errors_have_a_code_and_the_connection_goes_on(
    bench: Bench, verb: str, args: dict[str, object], code: str, says: str
) -> None:
    async with open_control(bench.path) as client:
        with pytest.raises(ControlError) as caught:
            await client.call(verb, args)
        assert caught.value.code == code and says in str(caught.value)
        assert (await client.status()).round == 3


async def test_wait_answers_when_the_status_changes(bench: Bench, nursery: trio.Nursery) -> None:
    met = trio.Event()

    async def wait() -> None:
        async with open_control(bench.path) as client:
            assert (await client.call("wait", {"for": "round>=5"}))["round"] == 5
            met.set()

    nursery.start_soon(wait)
    async with open_control(bench.path) as client:
        await client.status()
    bench.board.update(round=4)
    assert not met.is_set()
    bench.board.update(round=5)
    with trio.fail_after(5):
        await met.wait()


async def test_wait_times_out(bench: Bench) -> None:
    async with open_control(bench.path) as client:
        with pytest.raises(ControlError) as caught:
            await client.call("wait", {"for": "round>=5", "timeout_seconds": 0.01})
    assert caught.value.code == "timeout"


async def test_a_client_that_hangs_up_ends_its_verb(bench: Bench) -> None:
    stream = await raw(bench)
    await send_frame(stream, hello())
    await send_frame(stream, {"verb": "forever"})
    await receive_frame(stream)
    await stream.aclose()
    with trio.fail_after(5):
        await bench.cancelled.wait()


async def test_50_clients_at_once_and_a_clear_no_to_the_next(bench: Bench) -> None:
    streams = []
    for _ in range(50):
        stream = await raw(bench)
        await send_frame(stream, hello())
        await send_frame(stream, {"verb": "status"})
        await receive_frame(stream)
        assert "ok" in await receive_frame(stream)
        streams.append(stream)
    with pytest.raises(ControlError, match="50 control clients already"):
        async with open_control(bench.path) as client:
            await client.status()
    for stream in streams:
        await stream.aclose()


async def test_another_protocol_version_is_a_clear_error(bench: Bench) -> None:
    stream = await raw(bench)
    await send_frame(stream, {"hello": {"protocol": 99, "version": "9.9"}})
    assert (await receive_frame(stream))["hello"]["protocol"] == PROTOCOL
    error = (await receive_frame(stream))["error"]
    assert error["code"] == "protocol" and "speaks control protocol 99" in error["message"]
    assert await stream.receive_some(1) == b""


@pytest.mark.parametrize(
    "soup",
    [
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", (64 << 10) + 1) + b"x" * 10,
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_oversized_or_broken_frames_end_the_connection(bench: Bench, soup: bytes) -> None:
    for greeting in (hello(), None):
        stream = await raw(bench)
        if greeting:
            await send_frame(stream, greeting)
        await stream.send_all(soup)
        await receive_frame(stream)
        assert (await receive_frame(stream))["error"]["code"] == "protocol"
        await stream.aclose()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_fuzz_any_bytes_leave_the_server_standing(frames: list[bytes]) -> None:
    async def scene() -> None:
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(Path(directory) / "c.sock")
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, bench.path, bench.verbs)
                stream = await raw(bench)
                try:
                    await send_frame(stream, hello())
                    for body in frames:
                        await stream.send_all(struct.pack(">I", len(body)) + body)
                    await stream.send_eof()
                    while await stream.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass  # the server may close first
                async with open_control(bench.path) as client:
                    assert (await client.status()).round == 3
                nursery.cancel_scope.cancel()

    trio.run(scene)


async def test_a_client_that_says_nothing_is_dropped(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    bench = Bench(tmp_path / "c.sock")
    await nursery.start(serve_control, bench.path, bench.verbs)
    silent = await raw(bench)
    await receive_frame(silent)
    assert await silent.receive_some(1) == b""
    idle = await raw(bench)
    await send_frame(idle, hello())
    await receive_frame(idle)
    assert await idle.receive_some(1) == b""
    nursery.cancel_scope.cancel()


async def test_socket_mode_and_removal(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, {})
        assert path.stat().st_mode & 0o777 == 0o660
        nursery.cancel_scope.cancel()
    assert names(tmp_path) == []


async def test_stale_socket_replaced_living_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, {})
        with pytest.raises(CovenantError, match="another covenantd answers here"):
            await trio.to_thread.run_sync(listen, path, 0o660)
        nursery.cancel_scope.cancel()


async def test_another_kind_of_file_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(CovenantError, match="is not a socket"):
        listen(path, 0o660)
    assert path.read_text() == "precious"


async def test_a_path_longer_than_a_unix_address(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / "control.sock"
    await nursery.start(serve_control, path, Bench(path).verbs)
    async with open_control(path) as client:
        assert (await client.status()).role == "miner"
    nursery.cancel_scope.cancel()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ControlError) as caught:
        async with open_control(tmp_path / "control.sock"):
            pass
    assert caught.value.code == "not running"


def test_permission_rule() -> None:
    owner = Owner(uid=500, gid=600)
    assert may(Peer(1, 0, frozenset()), owner, True)
    assert may(Peer(1, 500, frozenset()), owner, True)
    assert may(Peer(1, 7, frozenset({1, 600})), owner, False)
    assert not may(Peer(1, 7, frozenset({1, 600})), owner, True)
    assert not may(Peer(1, 7, frozenset({1})), owner, False)


ASK = """
import os, sys
import msgpack
from pathlib import Path
from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
user, groups = int(sys.argv[2]), [int(one) for one in sys.argv[3].split()]
os.setgroups(groups), os.setresgid(user, user, user), os.setresuid(user, user, user)
client = BlockingClient(Path(sys.argv[1]), 5)
for verb in ("status", "pause"):
    try:
        client.call(verb)
        print("ok")
    except ControlError as error:
        print(error.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
@pytest.mark.parametrize(
    ("user", "groups", "says"),
    [(65534, [], ["permission", "permission"]), (65534, [0], ["ok", "permission"]), (0, [], ["ok", "ok"])],
)
async def test_other_users_over_the_real_socket(
    nursery: trio.Nursery, user: int, groups: list[int], says: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        open_to_all(directory)
        bench = Bench(Path(directory) / "control.sock")
        await nursery.start(serve_control, bench.path, bench.verbs)
        bench.path.chmod(0o666)  # the kernel would stop them first: here the daemon's own check is tested
        done = await trio.run_process(
            [sys.executable, "-c", ASK, str(bench.path), str(user), " ".join(map(str, groups))],
            capture_stdout=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.stdout.decode().split() == says
        nursery.cancel_scope.cancel()


HOLD = """
import os, sys
import msgpack
from pathlib import Path
from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
os.setgroups([0]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
clients = [BlockingClient(Path(sys.argv[1]), 5) for _ in range(3)]
for client in clients:
    try:
        client.call("status")
        print("ok")
    except ControlError as error:
        print(error.code)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
async def test_members_of_the_group_cannot_shut_the_owner_out(nursery: trio.Nursery) -> None:
    with tempfile.TemporaryDirectory() as directory:
        open_to_all(directory)
        bench = Bench(Path(directory) / "control.sock")
        await nursery.start(serve_control, bench.path, bench.verbs, ControlSettings(max_clients=2))
        bench.path.chmod(0o666)
        command = [sys.executable, "-c", HOLD, str(bench.path)]
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        holder = await trio.lowlevel.open_process(command, cwd=Path(__file__).parents[2], **pipe)
        try:
            said = b""
            with trio.fail_after(60):
                while not said.endswith(b"held\n") and (more := await holder.stdout.receive_some(4096)):
                    said += more
            assert said.split() == [b"ok", b"ok", b"busy", b"held"]
            async with open_control(bench.path) as client:
                await client.call("drain")
        finally:
            holder.kill()
            await holder.wait()
        assert bench.orders == ["drain"]
        nursery.cancel_scope.cancel()


def test_frames_are_plain_msgpack_with_a_length() -> None:
    """What another language's client must send; a change here breaks installed clients."""
    assert msgpack.packb({"hello": {"protocol": 1, "version": "x"}}).hex() == (
        "81a568656c6c6f82a870726f746f636f6c01a776657273696f6ea178"
    )
