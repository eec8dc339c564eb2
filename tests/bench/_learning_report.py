"""From the cells that were run to tables, bounds and a plot."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from covenantd.lossplot import Line, plot
from model import contribution, transformer
from model.config import compression_named
from model.layout import Layout
from tests.bench._learning_cells import DEFAULT_DECAY, MODELS, OURS, RIVALS, SEEDS, Cell

Result = dict[str, Any]
Outer = tuple[str, float, float]  # rule, α, β
RIVAL_RULES = tuple(rule for rule, _ in RIVALS)
CODECS = (OURS[0], *RIVAL_RULES)
DEFAULT: Outer = (*OURS, DEFAULT_DECAY)


def report(cells: Sequence[Cell], results: dict[str, Result]) -> dict[str, Any]:
    """Tables by group; only cells that were run to their end count."""
    done = [(cell, results[cell.key]) for cell in cells if results.get(cell.key, {}).get("loss") is not None]
    deciding = [(cell, result) for cell, result in done if cell.group == "deciding"]
    settings = _settings(deciding)
    tables = {group: [_row(cell, result) for cell, result in done if cell.group == group] for group in _groups(cells)}
    return {
        "cells_of_the_grid": len(cells),
        "cells_run": len(done),
        "default": f"{OURS[0]}, α = {OURS[1]:g}, β = {DEFAULT_DECAY:g}",
        "deciding_settings": settings,
        **tables,
        "traffic_of_a_sharded_reduce": _traffic(),
        "bounds": _bounds(settings),
    }


def _groups(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.group for cell in cells))


def _row(cell: Cell, result: Result) -> dict[str, Any]:
    rule = cell.rule + (f" + {cell.variant}" if cell.variant else "")
    return {
        "setting": cell.setting, "batch": cell.batch_sequences, "rule": rule, "alpha": cell.alpha, "decay": cell.decay,
        "seed": cell.seed, "wire_ratio": _wire_ratio(cell), "loss": round(result["loss"], 4),
        "seconds": round(result["seconds"]),
    }  # fmt: skip


def _wire_ratio(cell: Cell) -> float | None:
    """Of whole files, for codecs that a run can choose."""
    if cell.variant in ("two-per-row", "row-scale", "tensor-scale") or cell.variant.startswith("dense-"):
        return None
    try:
        layout = Layout.of(transformer.parameter_layout(MODELS[cell.model]), compression_named(cell.rule))
    except ValueError:
        return None  # a reference that sends everything
    return round(4 * layout.parameters / contribution.file_bytes(layout), 1)


def _settings(deciding: Sequence[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    """One row a setting, each loss the mean over the same seeds: our default beside each rival at the best of the
    α and β that were run with all of them, and by how many seeds the default is ahead of it."""
    found: dict[str, dict[Outer, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for cell, result in deciding:
        if not cell.variant:
            found[cell.setting][cell.rule, cell.alpha, cell.decay][cell.seed] = result["loss"]
    return [_setting(name, losses) for name, losses in found.items() if len(losses[DEFAULT]) == len(SEEDS)]


def _setting(name: str, losses: dict[Outer, dict[int, float]]) -> dict[str, Any]:
    ours = losses[DEFAULT]
    row: dict[str, Any] = {"setting": name, "default": round(fmean(ours.values()), 4)}
    for rival in RIVAL_RULES:
        tried = {outer: one for outer, one in losses.items() if outer[0] == rival and len(one) == len(SEEDS)}
        if tried:
            best = min(tried, key=lambda outer: fmean(tried[outer].values()))
            row[rival] = round(fmean(tried[best].values()), 4)
            row[f"{rival} α, β"] = f"{best[1]:g}, {best[2]:g}"
            row[f"seeds ahead of {rival}"] = sum(ours[seed] <= tried[best][seed] for seed in SEEDS)
    for rule, alpha in (("average", 1.0), ("ddp", 1.0)):  # of the first seed
        row[rule] = _rounded(losses[rule, alpha, 0.95].get(0))
    return row


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 4)


def _bounds(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """No worse in any setting, and below on average."""
    rows = []
    for rival in RIVAL_RULES:
        gaps = [round(row["default"] - row[rival], 4) for row in settings if rival in row]
        if gaps:
            what = f"loss over that of {rival} at its best α and β, "
            rows.append({"what": what + "largest of the settings", "value": max(gaps), "bound": 0.0})
            rows.append({"what": what + "mean of the settings", "value": round(fmean(gaps), 4), "bound": 0.0})
    return [{**row, "met": row["value"] <= row["bound"]} for row in rows]


def _traffic() -> list[dict[str, Any]]:
    """What a peer sends a round, in payloads P: an all-gather without help from others, against a reduce in shards
    that sends the aggregate of N with `kept` values a chunk: (1 + ρ)(N - 1)P / N, ρ being its size over P."""
    shapes, payload = (("w", (4096, 4096)),), {}
    for rule, kept in (("row1", 64), ("row1:16", 256), ("row1:8", 512), ("row1:4", 1024)):
        bits = kept * ((4096 // kept).bit_length() - 1 + 1) + 8  # a column and a sign each, a scale
        payload[rule] = bits
    assert contribution.body_bytes(Layout.of(shapes, compression_named("row1"))) * 8 == payload["row1"] * 4096
    rows = []
    for peers in (4, 8, 16, 32, 64):
        row: dict[str, Any] = {"N": peers, "all-gather": float(peers - 1)}
        for kept, rule in ((64, "row1"), (256, "row1:16"), (512, "row1:8"), (1024, "row1:4")):
            row[f"reduce, {kept} kept"] = (1 + payload[rule] / payload["row1"]) * (peers - 1) / peers
        rows.append(row)
    return rows


def curves(cells: Sequence[Cell], results: dict[str, Result]) -> str:
    """The curves of the first deciding setting, as SVG: the default, each rival at its best, the references."""
    drawn = [cell for cell in cells if cell.group == "deciding" and results.get(cell.key, {}).get("loss") is not None]
    if not drawn:
        return plot([], title="Nothing run yet", x="million tokens", y="held-out loss, nats a token")
    first = [cell for cell in drawn if cell.setting == drawn[0].setting and cell.seed == 0 and not cell.variant]
    first = [cell for cell in first if cell.rule != OURS[0] or (cell.rule, cell.alpha, cell.decay) == DEFAULT]
    best: dict[str, Cell] = {}
    for cell in sorted(first, key=lambda cell: results[cell.key]["loss"]):
        best.setdefault(cell.rule, cell)
    lines = [
        Line(
            f"{cell.rule} {cell.alpha:g}/{cell.decay:g}" if cell.rule in CODECS else cell.rule,
            [(tokens / 1e6, loss) for tokens, loss in results[cell.key]["curve"]],
            strong=cell.rule == OURS[0],
        )
        for cell in best.values()
    ]
    return plot(lines, title=f"Rules (α/β) at equal tokens: {drawn[0].setting}", x="million tokens", y="held-out loss")
