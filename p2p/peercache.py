"""Addresses of peers that were met, on disk: who finds every bootstrap peer dead joins through these."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from p2p.peerbook import MAX_ADDRESS_CHARS

_log = logging.getLogger(__name__)
MAX_ADDRESSES = 256
_MAX_FILE_BYTES = 4 * MAX_ADDRESSES * MAX_ADDRESS_CHARS


class PeerCache:
    """A list of multiaddrs that end in /p2p/PEER_ID, the newest first. It is a hint: whoever answers there proves
    who it is. A file that is missing or broken is an empty list."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._addresses = self._read()

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def remember(self, addresses: Iterable[str]) -> None:
        """Before those known already, which are kept while there is room. A full disk costs the cache, no more."""
        short = (one for one in (*addresses, *self._addresses) if _is_address(one))
        kept = tuple(dict.fromkeys(short))[:MAX_ADDRESSES]
        if kept == self._addresses:
            return
        self._addresses = kept
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with fresh.open("w") as file:
                json.dump({"addresses": kept}, file, indent=0)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._path)
        except OSError as error:
            _log.warning("%s: peers not remembered: %s", self._path, error.strerror)

    def _read(self) -> tuple[str, ...]:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_MAX_FILE_BYTES))["addresses"]
            return tuple(one for one in found if _is_address(one))[:MAX_ADDRESSES]
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("%s is not a list of peers and is made anew: %r", self._path, error)
            return ()


def _is_address(one: object) -> bool:
    return isinstance(one, str) and len(one) <= MAX_ADDRESS_CHARS and one.startswith("/") and "/p2p/" in one
