"""What a local swarm leaves behind: summary.json, loss.svg and a table. Pure, but for two writes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covenantd.lossplot import Line, plot
from covenantd.status import RoundSummary


@dataclass(frozen=True)
class RoundRow:
    round: int
    roster_size: int
    state_hashes: Mapping[str, str]  # peer name -> hash of θ after the round
    heldout_loss: float | None
    wire_bytes: int  # of the contributions in the roster, as files
    payload_dense_fp32_bytes: int  # the same pseudo-gradients, dense in fp32
    train_losses: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    run_id: str
    parameters: int
    rounds: tuple[RoundRow, ...]
    state_hashes_equal: bool
    heldout_loss_first: float | None
    heldout_loss_last: float | None
    wire_ratio: float | None
    weights: Mapping[str, float]  # uid -> share of the validator's weight on chain
    wall_seconds: float

    @property
    def certified_rounds(self) -> int:
        return sum(row.roster_size > 0 for row in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


def summarise(
    run_id: str,
    parameters: int,
    peers: Mapping[str, Sequence[RoundSummary]],
    rounds: int,
    heldout_loss_first: float | None,
    weights: Mapping[str, float],
    wall_seconds: float,
) -> Summary:
    """`peers`: every miner's and validator's own account of its rounds."""
    rows = tuple(_row(number, parameters, peers) for number in range(rounds))
    wire = sum(row.wire_bytes for row in rows if row.roster_size)
    dense = sum(row.payload_dense_fp32_bytes for row in rows if row.roster_size)
    losses = [row.heldout_loss for row in rows if row.heldout_loss is not None]
    return Summary(
        run_id=run_id,
        parameters=parameters,
        rounds=rows,
        state_hashes_equal=all(_agree(row, set(peers)) for row in rows),
        heldout_loss_first=heldout_loss_first if _known(heldout_loss_first) else None,
        heldout_loss_last=losses[-1] if losses else None,
        wire_ratio=dense / wire if wire else None,
        weights=weights,
        wall_seconds=wall_seconds,
    )


def _row(number: int, parameters: int, peers: Mapping[str, Sequence[RoundSummary]]) -> RoundRow:
    own = {name: one for name, rounds in peers.items() for one in rounds if one.round == number}
    size = max((one.roster_size or 0 for one in own.values()), default=0)
    return RoundRow(
        round=number,
        roster_size=size,
        state_hashes={name: one.state_hash for name, one in own.items()},
        heldout_loss=next((loss for one in own.values() if _known(loss := one.heldout_loss)), None),
        wire_bytes=max((one.contribution_bytes for one in own.values()), default=0),
        payload_dense_fp32_bytes=4 * parameters * size,
        train_losses={n: one.loss for n, one in own.items() if one.loss is not None and _known(one.loss)},
    )


def _known(loss: float | None) -> bool:
    """JSON has no word for a loss that is no number."""
    return loss is not None and math.isfinite(loss)


def _agree(row: RoundRow, names: set[str]) -> bool:
    return set(row.state_hashes) == names and len(set(row.state_hashes.values())) == 1


def write(directory: Path, summary: Summary) -> None:
    (directory / "summary.json").write_text(json.dumps(summary.as_dict(), indent=2, allow_nan=False) + "\n")
    (directory / "loss.svg").write_text(
        plot(_lines(summary), title="Loss by round", x="round", y="loss, nats per token")
    )


def _lines(summary: Summary) -> list[Line]:
    heldout = [(row.round + 1.0, row.heldout_loss) for row in summary.rounds if row.heldout_loss is not None]
    if summary.heldout_loss_first is not None:
        heldout.insert(0, (0.0, summary.heldout_loss_first))
    names = sorted({name for row in summary.rounds for name in row.train_losses})
    trained = [
        Line(name, [(row.round + 0.5, row.train_losses[name]) for row in summary.rounds if name in row.train_losses])
        for name in names
    ]
    return [Line("held-out", heldout, strong=True), *trained]
