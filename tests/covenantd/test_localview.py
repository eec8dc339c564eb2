"""The live view of a local swarm, as text."""

import io
import math
from dataclasses import replace

from rich.console import Console
from test_summary import PEERS, summarised

from covenantd.localview import SwarmView, plain_lines, size, summary_table, verdict
from covenantd.status import PeerStatus, Status

STATUSES = {
    "bootstrap": Status("bootstrap"),
    "miner-0": Status("miner", state="running", phase="train", round=2, loss=5.25, inner_step=3, inner_steps=30),
    "miner-1": None,
    "validator-0": Status("validator", round=1, heldout_loss=math.nan, peers=(PeerStatus("h", "p", "miner"),)),
}


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120), out


def test_without_a_terminal_lines_say_it_all_now_and_then() -> None:
    screen, out = console(terminal=False)
    with SwarmView(rounds=8, console=screen) as view:
        for _ in range(5):
            view.show(STATUSES)
        view.say("word " * 40)
    assert out.getvalue().count("first loss: miner-0 5.250") == 1
    assert len(out.getvalue().splitlines()) == 1 + len(STATUSES) + 1, "no line is cut in two"
    assert out.getvalue().count("miner-1      starting") == 1
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_there_is_a_row_a_daemon() -> None:
    screen, out = console(terminal=True)
    with SwarmView(rounds=8, console=screen) as view:
        view.show({})
        view.show(STATUSES)
    for word in ("miner-0", "3/30", "5.250", "starting", "round 1 of 8"):
        assert word in out.getvalue()


def test_plain_lines_show_who_does_what() -> None:
    busy = replace(STATUSES["miner-0"], tokens_per_second=1234.5, sent_bytes=32_768, received_bytes=5_000_000)
    assert plain_lines({**STATUSES, "miner-0": busy}) == [
        "bootstrap    round -  waiting     sent 0 B  received 0 B  0 peers",
        "miner-0      round 2  train       loss 5.250  1234 tok/s  sent 32.8 kB  received 5.0 MB  0 peers",
        "miner-1      starting",
        "validator-0  round 1  waiting     held-out nan  sent 0 B  received 0 B  0 peers",
    ]
    assert plain_lines({}) == []


def test_sizes_have_three_digits_and_a_unit() -> None:
    assert [size(count) for count in (0, 999, 1000, 32_768, 5_000_000, 7_000_000_000)] == [
        "0 B", "999 B", "1.0 kB", "32.8 kB", "5.0 MB", "7.0 GB"
    ]  # fmt: skip


def test_the_table_tells_equal_states_from_different_ones() -> None:
    screen, out = console(terminal=False)
    screen.print(summary_table(summarised(), list(PEERS)))
    screen.print(summary_table(summarised(rounds=4), list(PEERS)))
    assert out.getvalue().count("yes") == 3 + 1 + 3 and out.getvalue().count("NO") == 2
    assert "held-out loss  7.0000 -> 5.2000" in verdict(summarised())
    assert "none set" not in verdict(summarised())
