"""What the exchange must reach, row by row of its benchmark."""

from typing import Any

RIVALS = ("mesh", "bucket", "libtorrent", "hivemind")
MAX_OVER_BOUND = 1.15
MIN_OF_YARDSTICK = 0.8
MAX_OFF_PREDICTION = 0.10
PREDICTED_PEERS = (8, 16)


def bounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of {what, value, bound, met}. Where ours did not finish, nothing is met."""
    return [bound for row in rows for bound in _of(row)]


def _of(row: dict[str, Any]) -> list[dict[str, Any]]:
    ours = row.get("ours", {}).get("over_bound")
    if ours is None:
        return [{"what": f"{row['name']}: ours finishes", "value": None, "bound": MAX_OVER_BOUND, "met": False}]
    found = [_of_the_link(row, ours), *(_against(row, ours, rival) for rival in RIVALS)]
    if "predicted_seconds" in row and row["peers"] in PREDICTED_PEERS:
        off = abs(row["ours"]["seconds"] / row["predicted_seconds"] - 1)
        found.append(_at_most(f"{row['name']}: off what the simulator predicts, at most", off, MAX_OFF_PREDICTION))
    return [one for one in found if one is not None]


def _of_the_link(row: dict[str, Any], ours: float) -> dict[str, Any]:
    if not row["loss"]:
        return _at_most(f"{row['name']}: time over the bound, at most", ours, MAX_OVER_BOUND)
    share = 1 / ours / row["yardstick"]
    what = f"{row['name']}: share of what plain TCP bbr carries, at least"
    return {"what": what, "value": round(share, 3), "bound": MIN_OF_YARDSTICK, "met": share >= MIN_OF_YARDSTICK}


def _against(row: dict[str, Any], ours: float, rival: str) -> dict[str, Any] | None:
    """Ahead of everybody; of the bucket, which has a server to help it, where the bound allows it."""
    other = row.get(rival, {}).get("over_bound")
    if other is None or rival == "bucket" and other <= 1.0:
        return None
    value = round(other / ours, 3)
    return {"what": f"{row['name']}: {rival} over ours, at least", "value": value, "bound": 1.0, "met": other >= ours}


def _at_most(what: str, value: float, bound: float) -> dict[str, Any]:
    return {"what": what, "value": round(value, 3), "bound": bound, "met": value <= bound}
