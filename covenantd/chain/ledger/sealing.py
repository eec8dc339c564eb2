"""Weights committed to and not shown yet: their hash, and what their owner keeps until it reveals them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from secrets import token_hex
from typing import Any

from blake3 import blake3

from covenantd.chain.ledger.state import canonical_json

SALT_BYTES = 16
_DOMAIN = b"covenantd ledger weights 1\0"
_U16_MAX = 65535


def weights_hash(
    hotkey: str, netuid: int, uids: Sequence[int], values: Sequence[int], salt: str, version_key: int
) -> str:
    """64 hex digits: BLAKE3 of everything a reveal will say and of who says it. The salt (hex) keeps weights that
    could be guessed from being found by trying."""
    fields = {
        "hotkey": hotkey,
        "netuid": netuid,
        "uids": list(uids),
        "values": list(values),
        "salt": salt,
        "version_key": version_key,
    }
    return blake3(_DOMAIN + canonical_json(fields).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class SealedWeights:
    """What a commit hides; without the salt nobody can reveal it, its owner included."""

    uids: tuple[int, ...]
    values: tuple[int, ...]  # u16
    version_key: int
    salt: str

    @classmethod
    def seal(cls, weights: Mapping[int, float], version_key: int) -> "SealedWeights":
        """Raises ValueError for a negative or infinite weight."""
        uids = sorted(weights)
        values = scaled_to_u16([weights[uid] for uid in uids])
        return cls(tuple(uids), tuple(values), version_key, token_hex(SALT_BYTES))

    def hash_for(self, hotkey: str, netuid: int) -> str:
        return weights_hash(hotkey, netuid, self.uids, self.values, self.salt, self.version_key)

    def open_arguments(self) -> dict[str, Any]:
        """Of `set_weights`."""
        return {"uids": list(self.uids), "values": list(self.values), "version_key": self.version_key}

    def reveal_arguments(self) -> dict[str, Any]:
        """Of `reveal_weights`."""
        return self.open_arguments() | {"salt": self.salt}


def scaled_to_u16(weights: Sequence[float]) -> list[int]:
    """Scale so that the largest is 65535; all zero stays so. Raises ValueError for a negative or infinite weight."""
    if not all(isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError("weights must be finite and not negative")
    largest = max(weights, default=0.0)
    return [round(weight / largest * _U16_MAX) if largest else 0 for weight in weights]
