"""Rates as people write them, and back: `5MB`, `40Mbit`, `none`. Decimal units; a second is understood."""

import re

_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kMGT]?)(B|bit|bps)?(?:/s)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
LEAST_BYTES_PER_SECOND = 1000  # below, a peer that reads from us is cut off as stuck
NONE = "none"


def parse_rate(text: str) -> float | None:
    """Bytes a second; None for `none`. Raises ValueError, with what would be right."""
    if text == NONE:
        return None
    found = _RATE.fullmatch(text)
    if found is None or found[3] is None:
        raise ValueError(f"{text!r} is not a rate; write e.g. 5MB, 500kB or 40Mbit (a second), or none")
    rate = float(found[1]) * _FACTORS[found[2].lower()] / (1 if found[3].upper() == "B" else 8)
    if rate < LEAST_BYTES_PER_SECOND:
        raise ValueError(f"{text} is too slow to take part: at least {LEAST_BYTES_PER_SECOND // 1000}kB a second")
    return rate


def rate_text(bytes_per_second: float | None) -> str:
    """With three digits, in bytes and in bits a second."""
    if bytes_per_second is None:
        return NONE
    return f"{_scaled(bytes_per_second)}B/s ({_scaled(8 * bytes_per_second)}bit/s)"


def _scaled(value: float) -> str:
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.0f} T"
