"""`covenantctl top`: what a frame shows, and the program in a real terminal."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from tmux_fixture import Terminal, needs_tmux

from covenantd.board import StatusBoard
from covenantd.control import serve_control
from covenantd.controlverbs import standard_verbs
from covenantd.status import ContributionStatus, PeerStatus, Rank, RoundSummary, Status, Transfer
from covenantd.textplot import ASCII, UNICODE, Glyphs, bar, curve, glyphs_for, sparkline
from covenantd.topmodel import History, Rate
from covenantd.topview import Screen, frame

OWN, OTHER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
STATUS = Status(
    "miner",
    hotkey=OWN,
    uid=3,
    run_name="demo",
    run_id="ab" * 32,
    version="0.1.0",
    state="running",
    round=7,
    phase="train",
    block=700,
    next_deadline_block=712,
    inner_step=5,
    inner_steps=20,
    loss=3.25,
    tokens_per_second=1234.5,
    score=0.9,
    weight=0.25,
    engine="ready",
    started_at=1000.0,
    peers=(
        PeerStatus(OTHER, "12D3KooA", "miner", ("/ip4/1.2.3.4/tcp/1",), True, 1_000_000, 2_000_000),
        PeerStatus("5Other\x1b[31m", "12D3KooB", "validator"),
    ),
    sent_bytes=1_000_000,
    received_bytes=2_000_000,
    contributions=(ContributionStatus(OWN, "included", 25_600), ContributionStatus(OTHER, "late")),
    contributions_round=6,
    transfers=(Transfer("cd" * 32, 500, 1000),),
    ranking=(Rank(0, "5V", 0.0, True), Rank(1, OTHER, 0.75), Rank(3, OWN, 0.25)),
)
ROUNDS = tuple(RoundSummary(r, "certified", 2, True, loss=6.0 - r / 2, finished_at=1e9) for r in range(7))
SCREENS = [Screen(80, 24, UNICODE), Screen(80, 24, ASCII), Screen(200, 60, UNICODE), Screen(40, 12, ASCII)]


def history(*statuses: Status, seconds: float = 1.0) -> History:
    seen = History()
    seen.rounds = ROUNDS
    for number, status in enumerate(statuses):
        seen.see(number * seconds, status)
    return seen


def busier(status: Status, bytes_more: int) -> Status:
    first = replace(status.peers[0], received_bytes=status.peers[0].received_bytes + bytes_more)
    return replace(
        status, peers=(first, *status.peers[1:]), received_bytes=status.received_bytes + bytes_more, inner_step=6
    )


@pytest.mark.parametrize("screen", SCREENS, ids=lambda s: f"{s.columns}x{s.rows}-{'u' if s.glyphs.braille else 'a'}")
def test_a_frame_fills_the_screen_and_no_more(screen: Screen) -> None:
    for seen in (History(), history(STATUS), history(Status("bootstrap"))):
        lines = frame(seen, screen, lambda: 1060.0)
        assert len(lines) == screen.rows
        assert all(len(line) <= screen.columns for line in lines)
    assert not re.search("[\x00-\x1f\x7f]", "".join(frame(history(STATUS), screen)))


def test_what_an_operator_looks_for_is_there_at_80x24() -> None:
    text = "\n".join(frame(history(STATUS, busier(STATUS, 500_000)), Screen(80, 24, UNICODE), lambda: 1060.0))
    for wanted in (
        "RUNNING",
        "up 1 min 0 s",
        "round 7",
        "[train]",
        "step 6/20",
        "1,234 tokens/s",
        "12 blocks left",
        "score 0.9000",
        "weight 0.2500",
        "2 of 2",
        "loss 3.2500",
        "1 of 2 connected",
        "↓ 500 kB/s",
        "contributions of round 6: 1 included",
        "25.6 kB ours",
        "late",
        "500 B of 1.0 kB",
        "q quit",
    ):
        assert wanted in text, f"{wanted!r} is not in\n{text}"


def test_ascii_terminals_get_ascii() -> None:
    assert "\n".join(frame(history(STATUS), Screen(100, 40, ASCII))).isascii()
    assert glyphs_for("ANSI_X3.4-1968") is ASCII and glyphs_for("UTF-8") is UNICODE and glyphs_for(None) is ASCII


def test_many_peers_and_contributions_are_counted_not_shown() -> None:
    peers = tuple(PeerStatus(f"5{i:047}", f"12D3{i}", "miner", connected=True) for i in range(64))
    sent = tuple(ContributionStatus(f"5{i:047}", "included", 100) for i in range(64))
    text = "\n".join(frame(history(replace(STATUS, peers=peers, contributions=sent)), Screen(80, 24, UNICODE)))
    assert len(re.findall(r"\.\. and \d+ more", text)) == 2


def test_rates_are_means_over_the_window_and_survive_a_restart() -> None:
    seen = history(STATUS, busier(STATUS, 1000), seconds=2.0)
    assert seen.rate() == Rate(0.0, 500.0) and seen.peer_rate(seen.status.peers[0]) == Rate(0.0, 500.0)
    seen.see(4.0, replace(STATUS, started_at=2000.0, sent_bytes=0, received_bytes=0))
    assert seen.rate() == Rate()


def test_old_looks_are_forgotten() -> None:
    seen = history(*[STATUS] * 100, busier(STATUS, 1000))
    assert seen.rate().down == pytest.approx(1000 / 10, rel=0.2)


def test_losses_are_those_of_rounds_or_of_steps() -> None:
    assert history(STATUS).losses() == (6.0, 5.5, 5.0, 4.5, 4.0, 3.5, 3.0, 3.25)
    fresh = history(STATUS, busier(STATUS, 1))
    fresh.rounds = ()
    assert fresh.losses() == (3.25, 3.25)


@given(
    st.lists(st.floats(-1e30, 1e30), max_size=50),
    st.integers(1, 60),
    st.integers(1, 20),
    st.sampled_from([UNICODE, ASCII]),
)
def test_plots_have_the_size_asked_for(values: list[float], width: int, height: int, glyphs: Glyphs) -> None:
    drawn = curve(values, width, height, glyphs)
    assert len(drawn) == height and {len(line) for line in drawn} == {width}
    assert len(sparkline(values, width, glyphs)) == min(width, len(values))
    assert len(bar(values[0] if values else 0, width, glyphs)) == width


def test_a_falling_loss_falls() -> None:
    assert curve([4.0, 3.0, 2.0, 1.0], 4, 4, ASCII) == ["**  ", " ** ", "  **", "   *"]
    assert sparkline([1.0, 2.0, 3.0], 9, UNICODE) == "▁▅█"


# The program itself


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path / "tmux")
    yield terminal
    terminal.close()


def command(socket: Path, *words: str) -> str:
    whole = [sys.executable, "-m", "covenantd.ctl", "--socket", str(socket), "top", "--interval", "0.2", *words]
    return f"{shlex.join(whole)}; echo left with $?; sleep 60"


def served(board: StatusBoard, path: Path, nursery: trio.Nursery) -> trio.CancelScope:
    scope = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with scope:
            await serve_control(path, standard_verbs(board, {}), task_status=task_status)

    nursery.start_soon(serve)
    return scope


@needs_tmux
async def test_in_a_terminal(tmp_path: Path, terminal: Terminal, nursery: trio.Nursery) -> None:
    path, board = tmp_path / "control.sock", StatusBoard(STATUS)
    for one in ROUNDS:
        board.add_round(one)
    first = served(board, path, nursery)
    await trio.testing.wait_all_tasks_blocked()
    terminal.open(command(path))
    screen = await terminal.until(lambda text: "round 7" in text and "[train]" in text and "q quit" in text)
    assert len(screen.rstrip("\n").split("\n")) == 24
    assert "\x1b[32m" in terminal.screen(colours=True)
    board.update(phase="exchange", round=8)
    await terminal.until(lambda text: "round 8" in text and "[exchange]" in text)
    first.cancel()  # the daemon stops: what was last seen stays, and it says so
    await terminal.until(lambda text: "waiting for the daemon" in text and "round 8" in text)
    board.update(round=9, started_at=2000.0)
    second = served(board, path, nursery)
    await terminal.until(lambda text: "round 9" in text and "waiting" not in text)
    terminal.tmux("resize-window", "-x", "120", "-y", "40")
    grown = await terminal.until(lambda text: "q quit" in [*text.split("\n"), *[""] * 40][39])
    assert max(map(len, grown.split("\n"))) > 100
    terminal.press("q")
    after = await terminal.until(lambda text: "left with 0" in text)
    assert "RUNNING" not in after  # the alternate screen is gone
    second.cancel()


@needs_tmux
async def test_no_colour_and_sigterm_leave_the_terminal_as_it_was(
    tmp_path: Path, terminal: Terminal, nursery: trio.Nursery
) -> None:
    path = tmp_path / "control.sock"
    scope = served(StatusBoard(STATUS), path, nursery)
    await trio.testing.wait_all_tasks_blocked()
    terminal.open(f"{command(path)}; stty -a", NO_COLOR="1")
    await terminal.until(lambda text: "round 7" in text)
    colours = terminal.screen(colours=True)
    assert not re.search("\x1b\\[[0-9;]*m", colours), colours
    shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
    children = await trio.Path(f"/proc/{shell}/task/{shell}/children").read_text()
    os.kill(int(children.split()[0]), signal.SIGTERM)
    await terminal.until(lambda text: "left with 143" in text)
    scope.cancel()


async def test_once_needs_no_terminal_and_top_does(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "control.sock"
    scope = served(StatusBoard(STATUS), path, nursery)
    await trio.testing.wait_all_tasks_blocked()
    words = [sys.executable, "-m", "covenantd.ctl", "--socket", str(path), "top"]
    once = await trio.run_process([*words, "--once"], capture_stdout=True)
    assert b"RUNNING" in once.stdout
    plain = await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)
    assert plain.returncode == 2 and b"needs a terminal" in plain.stderr and plain.stdout == b""
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    gone = await trio.run_process([*words, "--once"], capture_stdout=True, capture_stderr=True, check=False)
    assert gone.returncode == 3
