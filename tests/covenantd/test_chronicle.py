"""What a daemon says of its rounds: result, fates, sizes, phases, standing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
import trio.testing
from node_fixture import OWN, PayingChain, certified, make_node
from run_fixture import HOTKEYS, TIMING

from covenantd import ctloutput
from covenantd.chronicle import Chronicle
from covenantd.journal import PastRound, SealedContribution
from covenantd.node import Node
from covenantd.round import Phase, State
from covenantd.status import ContributionStatus

ALICE, CHARLIE = HOTKEYS[0], HOTKEYS[2]


def value(node: Node, name: str, **labels: str) -> float:
    found = node.metrics.registry.get_sample_value(f"covenantd_{name}", labels)
    assert found is not None, (name, labels)
    return found


def sent(node: Node, round: int) -> None:
    node.journal.update(sealed=SealedContribution(round, "ab" * 32, 12, 3, node.journal.memory.state_hash))


def past(node: Node, round: int, is_certified: bool = True) -> None:
    digest = "cd" * 32 if is_certified else None
    node.journal.finish_round(PastRound(round, digest, "12" * 32, (digest, "ab" * 32) if digest else ()))


def finish(node: Node, chronicle: Chronicle, round: int, found: Any) -> None:
    past(node, round, found is not None)
    chronicle.round_finished(round, found, "12" * 32)
    chronicle.phase_ended(Phase.OUTER_STEP)  # as the transition that follows does


async def test_every_fate_is_told_ours_first_and_with_our_own_size(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    chronicle = Chronicle(node)
    sent(node, 0)
    finish(node, chronicle, 0, certified(0, [ALICE, OWN], [(CHARLIE, "missing")]))
    (told,) = node.board.rounds
    assert told.contributions == (
        ContributionStatus(OWN, "included", 12),
        ContributionStatus(ALICE, "included", 10),
        ContributionStatus(CHARLIE, "missing"),
    )
    assert (told.own_bytes, told.contribution_bytes, told.own_included) == (12, 20, True)
    sent(node, 1)
    finish(node, chronicle, 1, certified(1, [ALICE]))
    sent(node, 2)
    finish(node, chronicle, 2, None)
    finish(node, chronicle, 3, certified(3, [ALICE]))
    fates = [[(one.hotkey, one.fate) for one in r.contributions] for r in node.board.rounds[1:]]
    assert fates == [[(OWN, "late"), (ALICE, "included")], [(OWN, "void")], [(ALICE, "included")]]
    assert [r.own_included for r in node.board.rounds] == [True, False, False, None]
    assert [value(node, "contributions_total", result=r) for r in ("included", "late", "void")] == [1, 1, 1]
    shown = ctloutput.round_text({"rounds": [told.as_dict()]}, OWN).splitlines()
    assert [line.split() for line in shown if line.startswith("5")] == [
        [OWN, "included", "12", "B", "ours"],
        [ALICE, "included", "10", "B"],
        [CHARLIE, "missing", "-"],
    ]
    assert any("ours in it  yes · 12 B" in line for line in shown)
    assert any("2 contributions, 20 B together" in line for line in shown)


async def test_more_than_are_shown_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    Chronicle(node).round_finished(0, certified(0, [f"5{i}" for i in range(70)]), "12" * 32)
    assert "and 6 or more that are not shown" in ctloutput.round_text({"rounds": [node.board.rounds[0].as_dict()]})


async def test_a_void_round_is_no_outer_step(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    chronicle = Chronicle(node)
    finish(node, chronicle, 0, None)
    assert value(node, "last_commit_timestamp_seconds") == 0 < value(node, "checkpoint_timestamp_seconds")
    assert value(node, "rounds_total", result="void") == 1
    finish(node, chronicle, 1, certified(1, [ALICE]))
    assert value(node, "last_commit_timestamp_seconds") > 1.7e9
    assert value(node, "aggregated_contributions") == 1


async def test_each_phase_is_counted_once_and_in_its_own_round(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    node = make_node(tmp_path)
    chronicle = Chronicle(node)
    for _ in range(2):
        for phase, seconds in ((Phase.WAITING, 1), (Phase.TRAIN, 6), (Phase.OUTER_STEP, 3)):
            await trio.sleep(seconds)
            if phase is Phase.OUTER_STEP:
                finish(node, chronicle, node.journal.memory.round, certified(0, [ALICE]))
            else:
                chronicle.phase_ended(phase)
    assert [dict(r.phases) for r in node.board.rounds] == 2 * [{"waiting": 1, "train": 6, "outer_step": 3}]
    assert value(node, "round_phase_duration_seconds_count", phase="outer_step") == 2
    assert value(node, "round_phase_duration_seconds_sum", phase="outer_step") == 6
    assert value(node, "compute_utilization_ratio") == 0.6


async def test_rounds_that_were_not_lived_through_are_counted_too(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    past(node, 0)
    chronicle = Chronicle(node)  # a daemon that starts again in round 1
    past(node, 1)
    past(node, 2, is_certified=False)
    chronicle.past_rounds()
    results = [(r.round, r.result) for r in node.board.rounds]
    assert results == [(0, "certified"), (1, "certified"), (2, "void")]
    node.journal.update(round=5, state_hash="34" * 32)  # a newer state was fetched
    chronicle.past_rounds()
    chronicle.past_rounds()
    assert [(r.round, r.result) for r in node.board.rounds[3:]] == [(3, "unknown"), (4, "unknown")]
    counts = {r: value(node, "rounds_total", result=r) for r in ("certified", "void", "unknown")}
    assert counts == {"certified": 1, "void": 1, "unknown": 2}


async def test_a_run_that_is_new_to_us_begins_without_a_past(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    chronicle = Chronicle(node)
    node.journal.update(round=500, state_hash="34" * 32)
    chronicle.past_rounds()
    assert value(node, "rounds_total", result="unknown") == 0 and not node.board.rounds
    node.journal.update(round=502, state_hash="56" * 32)
    chronicle.past_rounds()
    assert value(node, "rounds_total", result="unknown") == 2


async def test_our_standing_and_what_we_are_paid(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    chronicle, chain = Chronicle(node), node.chain
    assert isinstance(chain, PayingChain)
    await chronicle.look_up_standing(0)
    assert value(node, "weight") == 21845 / 65535 and value(node, "score") == 21845 / 50000
    assert value(node, "emission_total") == 0, "how many epochs it took to earn that is not known"
    chain.next_epoch, chain.failures = 300, 1
    await chronicle.look_up_standing(0)
    assert value(node, "emission_total") == 0, "the chain did not answer"
    await chronicle.look_up_standing(0)
    assert value(node, "emission_total") == 4, "two epochs"
    assert [one.hotkey for one in node.board.status.ranking] == [CHARLIE, OWN, ALICE]


async def test_how_far_behind(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    state = State(TIMING, trains=True, phase=Phase.SYNCING, round=1, head=TIMING.vote(3))
    Chronicle(node).show(state, draining=False)
    assert value(node, "rounds_behind") == 2 and value(node, "round_number") == 1
    Chronicle(node).show(replace(state, phase=Phase.WAITING), draining=False)
    assert node.board.status.state == "behind"
