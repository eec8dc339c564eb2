"""One frame of `covenantctl top`: a History laid out for a terminal of so many columns and rows. Pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from covenantd.ctloutput import clean, duration, paint, size
from covenantd.status import ContributionStatus, PeerStatus, Status
from covenantd.textplot import Glyphs, bar, curve, sparkline
from covenantd.topmodel import History

Span = tuple[str, str]  # text, colour
Line = list[Span]

PHASES = ("train", "seal", "commit", "exchange", "certify", "aggregate", "outer_step")
_STATES = {"running": "green", "behind": "red", "paused": "yellow", "draining": "yellow", "syncing": "cyan"}
_FATES = {"included": "green", "committed": "cyan", "held": "cyan", "late": "yellow", "void": "yellow"}
_FIXED_ROWS = 9  # head, phases, progress, standing, three rules, footer, trouble
_LEAST_CURVE = 3


@dataclass(frozen=True)
class Screen:
    columns: int
    rows: int
    glyphs: Glyphs


def frame(history: History, screen: Screen, wall: Callable[[], float] = time.time) -> list[str]:
    """At most `rows` lines, none longer than `columns` (colours aside)."""
    status = history.status
    if status is None:
        lines: list[Line] = [[("covenantctl top", "bold")], [], [(history.trouble or "", "yellow")]]
    else:
        lines = _body(history, status, screen, wall())
    body = lines[: max(1, screen.rows - 1)]
    body += [[] for _ in range(screen.rows - 1 - len(body))]
    return [_render(line, screen.columns) for line in [*body, _footer(history, screen)][: screen.rows]]


def _body(history: History, status: Status, screen: Screen, wall: float) -> list[Line]:
    spare = max(0, screen.rows - _FIXED_ROWS)
    contributions = _contributions(status, screen)
    for_contributions = min(len(contributions), max(2, spare // 3))
    for_peers = min(max(1, len(status.peers)), max(2, spare // 3))
    for_curve = max(_LEAST_CURVE, spare - for_contributions - for_peers)
    return [
        _head(status, screen, wall),
        _identity(status, screen),
        _phases(status),
        _progress(status, screen),
        *_loss(history, status, screen, for_curve),
        _rule(f"peers  {status.connected_peers} of {len(status.peers)} connected  {_rates(history, screen)}", screen),
        *_fitting(_peers(history, status, screen), for_peers),
        _rule(_contributions_title(status), screen),
        *_fitting(contributions, for_contributions),
    ]


def _head(status: Status, screen: Screen, wall: float) -> Line:
    dot = f" {screen.glyphs.separator} "
    left = [status.role, plain(status.run_name), status.run_id[:12], f"covenantd {plain(status.version)}"]
    up = f"up {duration(max(0.0, wall - status.started_at))}" if status.started_at else ""
    text = dot.join(part for part in left if part)
    state = [(status.state.upper(), _STATES.get(status.state, "cyan")), (f"  {up}", "dim")]
    gap = screen.columns - len(text) - len(status.state) - len(up) - 2
    return [(text, "bold"), (" " * max(2, gap), ""), *state]


def _identity(status: Status, screen: Screen) -> Line:
    return [
        ("score ", "dim"),
        (_number(status.score), "bold"),
        ("  weight ", "dim"),
        (_number(status.weight), "bold"),
        (f"{_place(status)}  uid {'-' if status.uid is None else status.uid}  ", "dim"),
        (_short(status.hotkey, 8), ""),
        ("  engine ", "dim"),
        (plain(status.engine), "" if status.engine == "ready" else "yellow"),
        (f"  block {'-' if status.block is None else status.block}", "dim"),
    ]


def _place(status: Status) -> str:
    """Among those who train: a validator's incentive is nothing to compare with."""
    ranked = [one.hotkey for one in status.ranking if not one.validator]
    return f"  {ranked.index(status.hotkey) + 1} of {len(ranked)}" if status.hotkey in ranked else ""


def _phases(status: Status) -> Line:
    """The round's phases with brackets around the present one, so that it is seen without colours too."""
    line: Line = [(f"round {'-' if status.round is None else status.round:<5} ", "bold")]
    passed = status.phase in PHASES
    for name in PHASES:
        word = name.replace("_", " ")
        if name == status.phase:
            line.append((f"[{word}]", "green"))
            passed = False
        else:
            line.append((f" {word} ", "cyan" if passed else "dim"))
    return line


def _progress(status: Status, screen: Screen) -> Line:
    left = _blocks_left(status)
    if not status.inner_steps:
        return [("nothing trained here yet" if status.role == "miner" else "", "dim"), (left, "dim")]
    steps = f"step {status.inner_step}/{status.inner_steps}  "
    speed = "" if status.tokens_per_second is None else f"  {status.tokens_per_second:,.0f} tokens/s"
    width = max(8, screen.columns - len(steps) - len(speed) - len(left))
    done = bar(status.inner_step / status.inner_steps, width, screen.glyphs)
    return [(steps, ""), (done, "green"), (speed, "bold"), (left, "dim")]


def _blocks_left(status: Status) -> str:
    if status.block is None or status.next_deadline_block is None:
        return ""
    left = max(0, status.next_deadline_block - status.block)
    return f"  {left} block{'' if left == 1 else 's'} left"


def _loss(history: History, status: Status, screen: Screen, rows: int) -> list[Line]:
    values = history.losses()
    spark = sparkline(history.steps, 16, screen.glyphs)
    title = f"loss {_number(status.loss)}  held-out {_number(status.heldout_loss)}  {spark}"
    lines = [_rule(title, screen)]
    if not values:
        return [*lines, [("no loss yet", "dim")], *[[] for _ in range(rows - 1)]]
    drawn = curve(values, max(10, screen.columns - 9), rows, screen.glyphs)
    labels = {0: max(values), rows - 1: min(values)}
    return [
        *lines,
        *([(f"{labels.get(i, ''):8.4} " if i in labels else " " * 9, "dim"), (d, "cyan")] for i, d in enumerate(drawn)),
    ]


def _rates(history: History, screen: Screen) -> str:
    rate, g = history.rate(), screen.glyphs
    return f"{g.up} {size(round(rate.up))}/s  {g.down} {size(round(rate.down))}/s"


def _peers(history: History, status: Status, screen: Screen) -> list[Line]:
    rates = {peer.peer_id: history.peer_rate(peer) for peer in status.peers}
    traffic = {peer_id: rate.up + rate.down for peer_id, rate in rates.items()}
    order = sorted(status.peers, key=lambda p: (not p.connected, -traffic[p.peer_id], p.role, p.hotkey))
    return [_peer(peer, rates[peer.peer_id].up, rates[peer.peer_id].down, screen) for peer in order]


def _peer(peer: PeerStatus, up: float, down: float, screen: Screen) -> Line:
    g = screen.glyphs
    return [
        (f"{g.on if peer.connected else g.off} ", "green" if peer.connected else "dim"),
        (f"{plain(peer.role)[:9]:<10}{_short(peer.hotkey, 10):<11}", ""),
        (f"{g.up} {size(round(up)):>8}/s  {g.down} {size(round(down)):>8}/s", "bold" if up + down else "dim"),
        (f"  sent {size(peer.sent_bytes):>8}  got {size(peer.received_bytes):>8}", "dim"),
    ]


def _contributions_title(status: Status) -> str:
    if status.contributions_round is None:
        return "contributions"
    included = sum(one.fate == "included" for one in status.contributions)
    held = sum(one.fate == "held" for one in status.contributions)
    so_far = f"{included} included" if included else f"{len(status.contributions)} committed so far"
    so_far += f", {held} held here" if held else ""
    return f"contributions of round {status.contributions_round}: {so_far}"


def _contributions(status: Status, screen: Screen) -> list[Line]:
    """A cell each, as many beside one another as fit; then what is on its way here."""
    cells = [_contribution(one, status.hotkey) for one in status.contributions]
    per_line = max(1, screen.columns // 40)
    lines = [[span for cell in cells[i : i + per_line] for span in cell] for i in range(0, len(cells), per_line)]
    for one in status.transfers:
        part = one.held_bytes / one.size_bytes if one.size_bytes else 0.0
        text = f" {size(one.held_bytes)} of {size(one.size_bytes)}"
        lines.append(
            [
                ("fetching  ", "cyan"),
                (f"{one.blob_id[:12]}  ", ""),
                (bar(part, 20, screen.glyphs), "cyan"),
                (text, "dim"),
            ]
        )
    return lines or [[("none yet", "dim")]]


def _contribution(one: ContributionStatus, own: str) -> Line:
    whose = "ours" if one.hotkey == own else ""
    amount = size(one.size_bytes) if one.size_bytes else ""
    return [
        (f"{plain(one.fate)[:10]:<10} ", _FATES.get(one.fate, "red")),
        (f"{_short(one.hotkey, 10):<12}", "bold" if whose else ""),
        (f"{amount:>8} {whose:<7}", "dim"),
    ]


def _fitting(lines: Sequence[Line], rows: int) -> list[Line]:
    if len(lines) <= rows:
        return [*lines, *([] for _ in range(rows - len(lines)))]
    return [*lines[: rows - 1], [(f".. and {len(lines) - rows + 1} more", "dim")]]


def _footer(history: History, screen: Screen) -> Line:
    if history.trouble and history.status is not None:
        return [("q quit  ", "dim"), (plain(history.trouble), "yellow")]
    error = history.status.last_error if history.status else None
    return [("q quit  ", "dim"), *([(f"last error: {plain(error)}", "red")] if error else [])]


def _rule(title: str, screen: Screen) -> Line:
    line = screen.glyphs.rule
    return [(f"{line}{line} ", "dim"), (title, "bold"), (f" {line * max(0, screen.columns - len(title) - 4)}", "dim")]


def _render(line: Line, columns: int) -> str:
    parts, left = [], columns
    for text, colour in line:
        shown = text[:left]
        left -= len(shown)
        parts.append(paint(shown, colour) if shown else "")
    return "".join(parts)


def plain(text: str) -> str:
    """Others' words, a column a character: nothing that moves the cursor or is wider than it looks."""
    return clean(text).encode("ascii", "replace").decode()


def _short(text: str, most: int) -> str:
    shown = plain(text)
    return shown if len(shown) <= most else shown[: most - 2] + ".."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
