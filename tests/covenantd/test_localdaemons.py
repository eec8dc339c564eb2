"""The daemons of a local swarm as `covenantd swarm` keeps them: stand-ins that end, and boards that answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from covenantd.board import StatusBoard
from covenantd.chain.keys import Hotkey
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.errors import TryAgain
from covenantd.localdaemons import MAX_RESTARTS, Daemons, running_daemons
from covenantd.localpeers import LocalPeer
from covenantd.roundlog import NAME, RoundLog
from covenantd.status import RoundSummary, Status
from p2p.child import Child


@pytest.fixture
def peer(tmp_path: Path) -> LocalPeer:
    (tmp_path / "state").mkdir()
    return LocalPeer("miner-0", "miner", tmp_path, tmp_path, Hotkey.from_uri("//Alice"))


def running(script: str) -> Callable[[LocalPeer], Child]:
    def start(peer: LocalPeer) -> Child:
        with peer.log.open("ab") as log:
            return Child(["sh", "-c", script], output=log)

    return start


async def _ended(daemons: Daemons) -> None:
    for _, child in daemons._running.values():
        await child.wait()


async def test_one_that_dies_is_started_again_but_not_for_ever(peer: LocalPeer) -> None:
    said: list[str] = []
    async with running_daemons(said.append, running("echo the disk is gone; exit 75")) as daemons:
        daemons.start(peer)
        for count in range(MAX_RESTARTS):
            await _ended(daemons)
            assert await daemons.look() == {"miner-0": None}
            assert said == ["miner-0 ended with 75: the disk is gone; starting it again"] * (count + 1)
        await _ended(daemons)
        with pytest.raises(TryAgain, match=r"miner-0 ended with 75: the disk is gone; its log: .*/daemon\.log"):
            await daemons.look()


async def test_one_that_was_killed_had_no_last_words(peer: LocalPeer) -> None:
    said: list[str] = []
    async with running_daemons(said.append, running("echo all is well; kill -9 $$")) as daemons:
        daemons.start(peer)
        await _ended(daemons)
        await daemons.look()
    assert said == ["miner-0 was killed by signal 9; starting it again"]


@pytest.mark.parametrize("code", [0, 64, 77, 78])
async def test_one_that_was_told_to_end_or_cannot_run_is_not_started_again(peer: LocalPeer, code: int) -> None:
    async with running_daemons(pytest.fail, running(f"exit {code}")) as daemons:
        daemons.start(peer)
        await _ended(daemons)
        with pytest.raises(TryAgain, match=f"ended with {code}"):
            await daemons.look()


async def test_all_rounds_are_heard_of_though_a_daemon_shows_only_its_last(peer: LocalPeer) -> None:
    board = StatusBoard(Status("miner"))
    async with running_daemons(pytest.fail, running("exec sleep 60")) as daemons, trio.open_nursery() as nursery:
        daemons.start(peer)
        await nursery.start(serve_control, peer.control_socket, standard_verbs(board, {}))
        for number in range(450):
            board.add_round(RoundSummary(number, "certified", state_hash=f"{number:064}"))
            board.update(round=number + 1)
            if number % 90 == 0:
                status = (await daemons.look())["miner-0"]
                assert status is not None and status.round == number + 1
        told = (await daemons.rounds())["miner-0"]
        assert [one.round for one in told] == list(range(450)) and told[7].state_hash == f"{7:064}"
        nursery.cancel_scope.cancel()


async def test_who_does_not_answer_any_more_has_written_its_rounds_down(peer: LocalPeer) -> None:
    RoundLog(peer.directory / "state" / NAME).append(RoundSummary(0, "void", state_hash="ab" * 32))
    async with running_daemons(pytest.fail, running("exec sleep 60")) as daemons:
        daemons.start(peer)
        assert [one.state_hash for one in (await daemons.rounds())["miner-0"]] == ["ab" * 32]
