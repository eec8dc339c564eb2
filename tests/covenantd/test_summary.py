"""What a local swarm says of itself when it is over."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_fixture import h

from covenantd import summary
from covenantd.status import RoundSummary
from covenantd.summary import Summary

PARAMETERS = 1000


def went(
    round: int, state: str, size: int = 2, loss: float | None = None, heldout: float | None = None
) -> RoundSummary:
    return RoundSummary(
        round=round,
        result="certified" if size else "void",
        roster_size=size,
        state_hash=h(state),
        loss=loss,
        heldout_loss=heldout,
        contribution_bytes=16 * size,
    )


PEERS = {
    "miner-0": [went(0, "a", loss=6.0), went(1, "a", 0, loss=5.5), went(2, "b", loss=5.0)],
    "miner-1": [went(0, "a", loss=6.2), went(1, "a", 0, loss=math.nan), went(2, "b")],
    "validator-0": [went(0, "a", heldout=6.1), went(1, "a", 0, heldout=6.1), went(2, "b", heldout=5.2)],
}


def summarised(peers: dict[str, list[RoundSummary]] = PEERS, rounds: int = 3, first: float | None = 7.0) -> Summary:
    return summary.summarise("ab" * 32, PARAMETERS, peers, rounds, first, {"1": 0.5, "2": 0.5}, 12.5)


def test_the_rounds_are_told_as_the_peers_saw_them() -> None:
    told = summarised()
    assert [row.roster_size for row in told.rounds] == [2, 0, 2]
    assert told.rounds[0].state_hashes == {"miner-0": h("a"), "miner-1": h("a"), "validator-0": h("a")}
    assert [row.heldout_loss for row in told.rounds] == [6.1, 6.1, 5.2]
    assert told.rounds[1].train_losses == {"miner-0": 5.5}
    assert (told.heldout_loss_first, told.heldout_loss_last) == (7.0, 5.2)


def test_the_wire_ratio_is_dense_fp32_over_what_was_sent() -> None:
    told = summarised()
    assert told.rounds[0].wire_bytes == 32 and told.rounds[0].payload_dense_fp32_bytes == 8000
    assert told.wire_ratio == 4 * PARAMETERS / 16


def test_states_are_equal_only_if_every_peer_tells_the_same_of_every_round() -> None:
    assert summarised().state_hashes_equal
    other = {**PEERS, "miner-1": [*PEERS["miner-1"][:2], went(2, "c")]}
    silent = {**PEERS, "miner-1": PEERS["miner-1"][:2]}
    for peers in (other, silent, {name: [] for name in PEERS}):
        assert not summarised(peers).state_hashes_equal
    assert not summarised(rounds=4).state_hashes_equal


@pytest.mark.parametrize("peers", [PEERS, {"miner-0": []}, {"v": [went(0, "a", 0)]}, {"v": [RoundSummary(0, "void")]}])
def test_a_swarm_that_got_nowhere_has_a_summary_too(peers: dict[str, list[RoundSummary]], tmp_path: Path) -> None:
    told = summarised(peers, first=None)
    summary.write(tmp_path, told)
    assert json.loads((tmp_path / "summary.json").read_text())["schema"] == 1
    ElementTree.parse(tmp_path / "loss.svg")


def test_losses_that_are_no_numbers_do_not_spoil_the_json(tmp_path: Path) -> None:
    peers = {"validator-0": [went(0, "a", heldout=math.nan, loss=math.inf)]}
    told = summarised(peers, rounds=1, first=math.inf)
    summary.write(tmp_path, told)
    data = json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert data["heldout_loss_first"] is data["heldout_loss_last"] is data["rounds"][0]["heldout_loss"] is None


def test_the_file_holds_what_was_promised(tmp_path: Path) -> None:
    summary.write(tmp_path, summarised())
    data = json.loads((tmp_path / "summary.json").read_text())
    promised = "rounds state_hashes_equal heldout_loss_first heldout_loss_last wire_ratio weights wall_seconds"
    assert set(promised.split()) <= set(data)
    row = "round roster_size state_hashes heldout_loss wire_bytes payload_dense_fp32_bytes"
    assert set(row.split()) <= set(data["rounds"][0])
