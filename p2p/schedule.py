"""Which piece of one blob to ask whom for next. Pure: no clock, no I/O; the exchange tells it what happened.

Rarest piece first over what the known holders have, ties broken by an order of this peer's own, so that peers who
start together fetch different pieces and can serve each other. A piece is asked of one holder at a time, until that
request is called late; then others may be asked too and the first answer counts.
"""

from collections.abc import Iterable

import numpy
from numpy.random import default_rng
from numpy.typing import NDArray

Holder = str
Candidate = tuple[int, float, int]  # (rarity, place in our own order from 0 to 1, piece); comparable over blobs


class Schedule:
    """`pieces` of one blob, `missing` those to get."""

    def __init__(self, pieces: int, missing: Iterable[int], order_seed: int) -> None:
        self.pieces = pieces
        self._missing = numpy.zeros(pieces, bool)
        self._missing[list(missing)] = True
        self._asked = numpy.zeros(pieces, bool)  # by a request that is not late
        self._order = default_rng(order_seed).permutation(pieces).astype(numpy.int64)
        self._offers: dict[Holder, NDArray[numpy.bool_]] = {}
        self._rarity = numpy.zeros(pieces, numpy.int64)  # how many holders offer it
        self._flights: dict[Holder, dict[int, bool]] = {}  # piece -> late
        self._candidates: dict[Holder, Candidate | None] = {}  # found before, and still right

    @property
    def done(self) -> bool:
        return not self._missing.any()

    @property
    def missing(self) -> list[int]:
        return [int(piece) for piece in numpy.flatnonzero(self._missing)]

    def offer(self, holder: Holder, bitmap: bytes) -> bool:
        """`holder` has these pieces (bit i % 8 of byte i // 8), and no others; whether any of them is missing here.

        What was refused by the holder before may be offered again. Raises ValueError on a short bitmap.
        """
        if len(bitmap) != -(-self.pieces // 8):
            raise ValueError(f"bitmap of {len(bitmap)} bytes for {self.pieces} pieces")
        bits = numpy.unpackbits(numpy.frombuffer(bitmap, numpy.uint8), count=self.pieces, bitorder="little")
        offered = bits.astype(bool)
        before = self._offers.get(holder)
        if before is None or (before & ~offered).any():
            self.withdraw(holder)
            before = numpy.zeros(self.pieces, bool)
        more = offered & ~before
        self._offers[holder] = offered
        self._rarity += more
        self._candidates.pop(holder, None)
        self._used(*numpy.flatnonzero(more))  # what became less rare may no longer come first
        self._flights.setdefault(holder, {})
        return bool((self._offers[holder] & self._missing).any())

    def next_for(self, holder: Holder) -> int | None:
        """The piece to ask `holder` for now, noted as in flight; None if it is of no use now."""
        candidate = self.candidate(holder)
        if candidate is None:
            return None
        self.ask(holder, candidate[-1])
        return candidate[-1]

    def candidate(self, holder: Holder) -> Candidate | None:
        """What `next_for` would ask. It is asked for at every piece of every blob, and seldom changes."""
        if holder not in self._candidates:
            self._candidates[holder] = self._find(holder)
        return self._candidates[holder]

    def _find(self, holder: Holder) -> Candidate | None:
        flights, offered = self._flights.get(holder), self._offers.get(holder)
        if flights is None or offered is None:
            return None
        useful = offered & self._missing & ~self._asked
        if flights:
            useful[list(flights)] = False  # late from this very holder: asking it again cannot help
        pieces = numpy.flatnonzero(useful)
        if not len(pieces):
            return None
        piece = int(pieces[(self._rarity[pieces] * self.pieces + self._order[pieces]).argmin()])
        return int(self._rarity[piece]), float(self._order[piece]) / self.pieces, piece

    def ask(self, holder: Holder, piece: int) -> None:
        """`holder` is asked for `piece`."""
        self._flights[holder][piece] = False
        self._asked[piece] = True
        self._used(piece)

    def may_take_over(self, holder: Holder, other: Holder, piece: int) -> bool:
        """Whether `piece`, asked of `other`, can be asked of `holder` instead: it has it and was not asked yet."""
        offered = self._offers.get(holder)
        on_its_way = self._flights.get(other, {}).get(piece)
        return (
            offered is not None
            and bool(offered[piece] and self._missing[piece])
            and on_its_way is False
            and piece not in self._flights[holder]
        )

    def wants(self, piece: int) -> bool:
        return bool(self._missing[piece])

    def got(self, holder: Holder, piece: int) -> None:
        """`piece` came, is verified and stored."""
        self._missing[piece] = False
        self._land(holder, piece)
        self._used(piece)

    def lost(self, piece: int) -> None:
        """`piece` was here and is no more."""
        self._missing[piece] = True
        self._candidates.clear()

    def failed(self, holder: Holder, piece: int) -> None:
        """`holder` did not, or could not, give `piece`: not asked for it again until it makes a new offer."""
        self._land(holder, piece)
        offered = self._offers.get(holder)
        if offered is not None and offered[piece]:
            offered[piece] = False
            self._rarity[piece] -= 1

    def dropped(self, holder: Holder, piece: int) -> None:
        """The request came to nothing, and nobody is to blame: `holder` may be asked again."""
        self._land(holder, piece)

    def late(self, holder: Holder, piece: int) -> bool:
        """The request is still in flight, but others may now be asked as well; whether that is news."""
        if self._flights.get(holder, {}).get(piece) is not False:
            return False
        self._flights[holder][piece] = True
        self._asked[piece] = False
        self._candidates.clear()
        return True

    def gone(self, holder: Holder) -> None:
        """`holder` stalled, lied or left: what it was asked for is free for others."""
        for piece in list(self._flights.get(holder, {})):
            self._land(holder, piece)
        self.withdraw(holder)
        self._flights.pop(holder, None)

    def withdraw(self, holder: Holder) -> None:
        """It has nothing any more; what it was asked for may still come."""
        offered = self._offers.pop(holder, None)
        self._candidates.clear()
        if offered is not None:
            self._rarity -= offered

    def _land(self, holder: Holder, piece: int) -> None:
        """Late requests gave up their claim on the piece already; another holder may have it now."""
        late = self._flights.get(holder, {}).pop(piece, True)
        if not late:
            self._asked[piece] = False
        if self._missing[piece]:
            self._candidates.clear()  # somebody may be asked for it again

    def _used(self, *pieces: int) -> None:
        """Whoever would have been asked for one of them may now be asked for something else."""
        for holder in [one for one, found in self._candidates.items() if found is not None and found[-1] in pieces]:
            del self._candidates[holder]
