"""What `covenantctl` prints for people: aligned, and coloured on a terminal that wants colours."""

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from covenantd.controlwire import ControlError
from covenantd.status import BadStatus, PeerStatus, RoundSummary, Status

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STATE_COLOURS = {"running": "green", "behind": "red", "paused": "yellow", "draining": "yellow"}
_RESULT_COLOURS = {"certified": "green", "void": "yellow", "unknown": "dim"}
_FATE_COLOURS = {"included": "green", "committed": "cyan", "held": "cyan", "late": "yellow", "void": "yellow"}
_ESCAPE = re.compile("\x1b\\[[0-9;]*m")
# Other peers' words reach this terminal: no escape sequence of theirs may.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and wants_colour() else text


def clean(text: str) -> str:
    return _CONTROL.sub("?", text)


def status_text(data: dict[str, Any]) -> str:
    status = _status_of(data)
    rows = [
        ("state", _state(status)),
        ("run", _joined(clean(status.run_name), paint(status.run_id[:16], "dim"))),
        ("round", _round(status)),
        ("loss", _losses(status)),
        ("speed", "-" if status.tokens_per_second is None else f"{_count(status.tokens_per_second)} tokens/s"),
        ("engine", status.engine),
        ("peers", f"{status.connected_peers} connected of {len(status.peers)} known"),
        ("traffic", f"{size(status.sent_bytes)} sent, {size(status.received_bytes)} received"),
        ("score", f"{_number(status.score)}   weight {_number(status.weight)}"),
        ("state hash", status.state_hash[:16] or "-"),
        ("hotkey", _joined(clean(status.hotkey), "" if status.uid is None else f"uid {status.uid}") or "-"),
        ("peer id", clean(status.peer_id) or "-"),
        ("addresses", "\n".join(clean(one) for one in status.addresses) or "-"),
    ]
    if status.last_error:
        rows.append(("last error", paint(clean(status.last_error), "red")))
    return aligned(rows)


def _state(status: Status) -> str:
    shown = paint(status.state, _STATE_COLOURS.get(status.state, "cyan"))
    since = f"up {duration(max(0.0, time.time() - status.started_at))}" if status.started_at else ""
    return _joined(shown, status.role, f"covenantd {clean(status.version)}" if status.version else "", since)


def _round(status: Status) -> str:
    if status.round is None:
        return "-"
    step = f"step {status.inner_step}/{status.inner_steps}" if status.phase == "train" else ""
    block = "" if status.block is None else f"block {status.block}"
    if status.next_deadline_block is not None:
        block += f" (next deadline {status.next_deadline_block})"
    return _joined(str(status.round), clean(status.phase), step, block)


def _losses(status: Status) -> str:
    return f"{_number(status.loss)}   held-out {_number(status.heldout_loss)}"


def status_line(data: dict[str, Any]) -> str:
    status = _status_of(data)
    return f"{status.state}: round {'-' if status.round is None else status.round} {clean(status.phase)}".rstrip()


def _status_of(data: dict[str, Any]) -> Status:
    try:
        return Status.from_dict(data)
    except BadStatus as error:
        raise ControlError("protocol", str(error)) from None


def peers_text(data: dict[str, Any]) -> str:
    peers = [PeerStatus(**{**one, "addresses": tuple(one["addresses"])}) for one in data["peers"]]
    if not peers:
        return "no peers known yet"
    order = sorted(peers, key=lambda p: (not p.connected, p.role, p.hotkey))
    rows = [
        (
            paint("●", "green") if p.connected else paint("○", "dim"),
            clean(p.role),
            clean(p.hotkey),
            clean(p.peer_id),
            size(p.sent_bytes),
            size(p.received_bytes),
            clean(p.addresses[0]) if p.addresses else "-",
        )
        for p in order
    ]
    return table(("", "role", "hotkey", "peer id", "sent", "received", "address"), rows, right={4, 5})


def _rounds_of(data: dict[str, Any]) -> list[RoundSummary]:
    try:
        return [RoundSummary.from_dict(one) for one in data["rounds"]]
    except BadStatus as error:
        raise ControlError("protocol", str(error)) from None


def rounds_text(data: dict[str, Any]) -> str:
    rounds = _rounds_of(data)
    if not rounds:
        return "no round has ended yet"
    rows = [
        (
            str(r.round),
            paint(r.result, _RESULT_COLOURS.get(r.result, "")),
            "-" if r.roster_size is None else str(r.roster_size),
            _yes(r.own_included),
            _number(r.loss),
            _number(r.heldout_loss),
            str(r.inner_steps),
            size(r.own_bytes) if r.own_bytes else "-",
            duration(sum(r.phases.values())),
            r.state_hash[:12] or "-",
        )
        for r in rounds
    ]
    head = ("round", "result", "roster", "in it", "loss", "held-out", "steps", "sent", "took", "state hash")
    return table(head, rows, right={0, 2, 4, 5, 6, 7, 8})


def round_text(data: dict[str, Any], own_hotkey: str = "") -> str:
    """`own_hotkey`'s row of the contributions is marked."""
    r = _rounds_of(data)[0]
    ended = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(r.finished_at)) if r.finished_at else "-"
    rows = [
        ("round", str(r.round)),
        ("result", paint(r.result, _RESULT_COLOURS.get(r.result, ""))),
        ("roster", _roster(r)),
        ("ours in it", _joined(_yes(r.own_included), size(r.own_bytes) if r.own_bytes else "")),
        ("loss", f"{_number(r.loss)}   held-out {_number(r.heldout_loss)}"),
        ("inner steps", str(r.inner_steps)),
        ("state hash", r.state_hash or "-"),
        ("ended", ended),
        ("phases", "\n".join(f"{clean(name):<11} {seconds:8.2f} s" for name, seconds in r.phases.items()) or "-"),
    ]
    return "\n".join([aligned(rows), *_contributions(r, own_hotkey)])


def _roster(r: RoundSummary) -> str:
    count = "-" if r.roster_size is None else str(r.roster_size)
    return f"{count} contributions" + (f", {size(r.contribution_bytes)} together" if r.contribution_bytes else "")


def _contributions(r: RoundSummary, own_hotkey: str) -> list[str]:
    """What became of each, the roster's reason for those left out."""
    if not r.contributions:
        return []
    rows = [
        (
            clean(one.hotkey),
            paint(clean(one.fate), _FATE_COLOURS.get(one.fate, "red")),
            size(one.size_bytes) if one.size_bytes else "-",
            "ours" if one.hotkey == own_hotkey else "",
        )
        for one in r.contributions
    ]
    more = (r.roster_size or 0) - len(rows)
    rest = [f"and {more} or more that are not shown"] if more > 0 else []
    return ["", table(("hotkey", "fate", "size", ""), rows, right={2}), *rest]


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Name and value in two columns; further lines of a value stand under its first."""
    width = max(len(name) for name, _ in rows)
    indent = "\n" + " " * (width + 2)
    return "\n".join(paint(f"{n:>{width}}", "dim") + "  " + v.replace("\n", indent) for n, v in rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns as wide as their widest cell; those in `right` flush right."""
    shown = [[paint(cell, "bold") for cell in head], *rows]
    widths = [max(_width(row[i]) for row in shown) for i in range(len(head))]

    def cell(i: int, text: str) -> str:
        gap = " " * (widths[i] - _width(text))
        return gap + text if i in right else text + gap

    return "\n".join("  ".join(cell(i, text) for i, text in enumerate(row)).rstrip() for row in shown)


def _width(text: str) -> int:
    return len(_ESCAPE.sub("", text))


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:.0f}" if value < 10_000 else f"{value / 1000:.1f}k"


def size(count: int) -> str:
    """Bytes in decimal units, three digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
