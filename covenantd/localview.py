"""The live view of a local swarm: a row a daemon on a terminal, now and then a line a daemon elsewhere. On stderr."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from covenantd.status import Status
from covenantd.summary import Summary

_PLAIN_SECONDS = 10.0
_PHASE_STYLES = {"train": "green", "exchange": "cyan", "certify": "magenta", "syncing": "yellow"}


class SwarmView:
    """Use as a context manager; `show` as often as there is news."""

    def __init__(self, rounds: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._rounds = rounds
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._said_at = 0.0
        self._started = time.monotonic()
        self._first_loss = False

    def __enter__(self) -> "SwarmView":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line stays a line where no terminal has a width."""
        line = Text(f"[{time.monotonic() - self._started:5.1f} s] {text}", style="dim")
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def show(self, statuses: Mapping[str, Status | None]) -> None:
        self._announce_first_loss(statuses)
        if self.console.is_terminal:
            self._live.update(self._table(statuses))
        elif time.monotonic() - self._said_at >= _PLAIN_SECONDS:
            self._said_at = time.monotonic()
            for line in plain_lines(statuses):
                self.say(line)

    def _announce_first_loss(self, statuses: Mapping[str, Status | None]) -> None:
        first = next(((n, s.loss) for n, s in statuses.items() if s and s.loss is not None), None)
        if first and not self._first_loss:
            self._first_loss = True
            self.say(f"first loss: {first[0]} {first[1]:.3f}")

    def _table(self, statuses: Mapping[str, Status | None]) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in (
            "peer",
            "state",
            "phase",
            "round",
            "step",
            "loss",
            "held-out",
            "tok/s",
            "sent",
            "received",
            "peers",
        ):
            table.add_column(name, justify="left" if name in ("peer", "state", "phase") else "right", no_wrap=True)
        for name, status in statuses.items():
            table.add_row(*_cells(name, status))
        block = max((s.block or 0 for s in statuses.values() if s), default=0)
        done = min((s.round or 0 for s in statuses.values() if s and s.role != "bootstrap"), default=0)
        elapsed = time.monotonic() - self._started
        return Group(Text(f"round {done} of {self._rounds}   block {block}   {elapsed:.0f} s", style="bold"), table)


def _cells(name: str, status: Status | None) -> list[Text]:
    if status is None:
        return [Text(name), Text("starting", style="yellow"), *[Text("")] * 9]
    steps = f"{status.inner_step}/{status.inner_steps}" if status.inner_steps else ""
    words = [
        name,
        status.state,
        status.phase,
        "" if status.round is None else str(status.round),
        steps,
        _number(status.loss, ".3f"),
        _number(status.heldout_loss, ".3f"),
        _number(status.tokens_per_second, ".0f"),
        size(status.sent_bytes),
        size(status.received_bytes),
        str(status.connected_peers),
    ]
    cells = [Text(word) for word in words]
    cells[2].stylize(_PHASE_STYLES.get(status.phase, ""))
    return cells


def plain_lines(statuses: Mapping[str, Status | None]) -> list[str]:
    """One a daemon, of the same words in the same order."""
    width = max((len(name) for name in statuses), default=0)
    return [f"{name:<{width}}  {_plain(status)}" for name, status in statuses.items()]


def _plain(status: Status | None) -> str:
    if status is None:
        return "starting"
    words = ["round -" if status.round is None else f"round {status.round}", f"{status.phase or status.state:<10}"]
    words += [f"loss {status.loss:.3f}"] if status.loss is not None else []
    words += [f"held-out {status.heldout_loss:.3f}"] if status.heldout_loss is not None else []
    words += [f"{status.tokens_per_second:.0f} tok/s"] if status.tokens_per_second is not None else []
    words += [f"sent {size(status.sent_bytes)}", f"received {size(status.received_bytes)}"]
    return "  ".join([*words, f"{status.connected_peers} peers"])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def summary_table(summary: Summary, names: Sequence[str]) -> RenderableType:
    table = Table(
        title=f"run {summary.run_id[:16]}", title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for column in (
        "round",
        "roster",
        "held-out loss",
        "train loss",
        "on the wire",
        "dense fp32",
        "state hash",
        "equal",
    ):
        table.add_column(column, justify="left" if column in ("state hash", "equal") else "right")
    for row in summary.rounds:
        losses, hashes = list(row.train_losses.values()), set(row.state_hashes.values())
        table.add_row(
            str(row.round),
            str(row.roster_size),
            _number(row.heldout_loss, ".4f"),
            _number(sum(losses) / len(losses) if losses else None, ".4f"),
            size(row.wire_bytes),
            size(row.payload_dense_fp32_bytes),
            next(iter(hashes))[:12] if len(hashes) == 1 else f"{len(hashes)} different",
            "yes" if len(hashes) == 1 and set(row.state_hashes) == set(names) else "NO",
        )
    return Group(table, Text(verdict(summary)))


def verdict(summary: Summary) -> str:
    """The swarm in four lines."""
    first, last = summary.heldout_loss_first, summary.heldout_loss_last
    weights = ", ".join(f"uid {uid}: {share:.2f}" for uid, share in summary.weights.items()) or "none set"
    return "\n".join(
        [
            f"held-out loss  {_number(first, '.4f')} -> {_number(last, '.4f')}",
            f"all peers hold the same state after every round: {'yes' if summary.state_hashes_equal else 'NO'}",
            f"compression  {_number(summary.wire_ratio, '.1f')}x   weights on chain  {weights}",
            f"took {summary.wall_seconds:.0f} s",
        ]
    )
