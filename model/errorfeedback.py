"""Error feedback: what has not been sent yet (SparseLoCo, arXiv 2508.15706), kept so that it survives any outcome.

The paper subtracts what was sent: e ← e - scatter(I, v). Here e is kept gross, e ← β·e + Δ, and a sealed
contribution is a *claim* on it until its round is settled:
    in the roster        e ← e - β^d · scatter(I, v), d being the decays since; the claim is dropped
    left out, or void    the claim is dropped; e never lost anything, so it is whole to the last bit
    unknown              the claim stays, and selection works on e - Σ β^d · scatter(I, v): nothing is sent twice
Settled as included before the next decay, e is bit for bit the paper's.

The file, written in one atomic step, little-endian:
    magic "covnefb1" · run id 32 · layout hash 32 · trained round i64 · parameters u64 · claims u32
    per claim: round u64 · decays u32 · the three sections of a contribution
    e fp32 [P] · BLAKE3 of everything before it 32
"""

import struct
from dataclasses import dataclass, replace
from io import FileIO
from math import sqrt
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor

from model.atomicfile import replacing
from model.contribution import body_bytes, decode_body, encode_body
from model.errors import ContributionError, StateError
from model.layout import Layout
from model.regularfile import Unreadable, fill, opened
from model.sparse import Sparse, add_, amounts, bands, indices_of, subtract_
from model.statehash import as_bytes

MAX_CLAIMS = 1024
_MAGIC = b"covnefb1"
_HEADER = struct.Struct("<8s32s32sqQI")
_CLAIM = struct.Struct("<QI")
_CHECKSUM_BYTES = 32


@dataclass(frozen=True, eq=False)
class Claim:
    """A sealed contribution whose outcome is unknown."""

    round: int
    decays: int  # how often e was decayed since it was sealed
    sparse: Sparse


class ErrorFeedback:
    """e of one peer, in one run."""

    def __init__(self, run_id: str, layout: Layout, decay: float) -> None:
        """Nothing trained, nothing owed. `run_id`: 64 hex digits."""
        self._run_id = run_id
        self._layout = layout
        self._decay = torch.tensor(decay, dtype=torch.float32)
        self.gross = torch.zeros(layout.parameters, dtype=torch.float32)
        self.trained_round = -1
        self.claims: tuple[Claim, ...] = ()

    @property
    def pending_rounds(self) -> tuple[int, ...]:
        return tuple(claim.round for claim in self.claims)

    def absorb(self, round_: int, delta: Tensor) -> None:
        """e ← β·e + Δ, Δ finite fp32 [P]. Raises ValueError if a later or the same round was absorbed before."""
        if round_ <= self.trained_round:
            raise ValueError(f"round {round_} comes after round {self.trained_round} was absorbed")
        self.gross.mul_(self._decay).add_(delta)
        self.claims = tuple(replace(claim, decays=claim.decays + 1) for claim in self.claims)
        self.trained_round = round_

    def unclaimed(self, scratch: Tensor) -> Tensor:
        """e less what is claimed: what may be selected from. fp32 [P], not to be changed: e itself without claims, else
        in `scratch`, fp32 [P]."""
        if not self.claims:
            return self.gross
        left = scratch.copy_(self.gross)
        for claim in self.claims:
            subtract_(left, self._layout, claim.sparse, self._factor(claim))
        return left

    def claim(self, round_: int, sparse: Sparse) -> None:
        """Remember what was sealed. Raises ValueError: not the round absorbed last, or too many claims."""
        if round_ != self.trained_round or round_ in self.pending_rounds:
            raise ValueError(f"cannot claim round {round_} after absorbing round {self.trained_round}")
        if len(self.claims) >= MAX_CLAIMS:
            raise ValueError(f"{MAX_CLAIMS} rounds await their outcome already")
        self.claims += (Claim(round_, 0, sparse),)

    def settle(self, round_: int, included: bool) -> bool:
        """Apply the outcome of a round; False if nothing was claimed for it (settling twice is harmless)."""
        settled = [claim for claim in self.claims if claim.round == round_]
        if included:
            for claim in settled:
                subtract_(self.gross, self._layout, claim.sparse, self._factor(claim))
        self.claims = tuple(claim for claim in self.claims if claim.round != round_)
        return bool(settled)

    def norm(self) -> float:
        """The L2 norm of e less its claims, for reports; band by band, so that no copy of e is made."""
        claims, squares = [claim.sparse for claim in self.claims], 0.0
        factors = torch.tensor([-float(self._factor(claim)) for claim in self.claims])
        for band in bands(self._layout):
            chunks = band.group.chunks_of(self.gross)
            if claims:
                chunks = chunks.clone()
                add_(chunks, indices_of(band, claims).long(), amounts(band, claims, factors))
            squares += float(torch.linalg.vector_norm(chunks, dim=1).double().square().sum())
        return sqrt(squares)

    def _factor(self, claim: Claim) -> Tensor:
        """β^d, multiplied as e was, fp32 []."""
        factor = torch.ones((), dtype=torch.float32)
        for _ in range(claim.decays):
            factor = factor * self._decay
        return factor

    def save(self, path: str | Path) -> None:
        """Whole or not at all. Raises OSError; the file before is then still there."""
        layout = self._layout
        ids = bytes.fromhex(self._run_id), bytes.fromhex(layout.hash)
        head = _HEADER.pack(_MAGIC, *ids, self.trained_round, layout.parameters, len(self.claims))
        claims = (_CLAIM.pack(c.round, c.decays) + encode_body(layout, c.sparse) for c in self.claims)
        parts: tuple[bytes | memoryview, ...] = (head, *claims, as_bytes(self.gross))
        hasher = blake3()
        with replacing(path) as file:
            for part in parts:
                hasher.update(part)
                file.write(part)
            file.write(hasher.digest())

    @staticmethod
    def load(path: str | Path, run_id: str, layout: Layout, decay: float) -> "ErrorFeedback":
        """What `save` wrote. Raises StateError: missing, torn, damaged, or of another run or layout."""
        feedback = ErrorFeedback(run_id, layout, decay)
        try:
            with opened(str(path)) as (file, size):
                feedback._fill(file, size)
        except (Unreadable, ContributionError, StateError) as error:
            raise StateError(str(error), str(path)) from error
        return feedback

    def _fill(self, file: FileIO, size: int) -> None:
        layout = self._layout
        head = _take(file, min(size, _HEADER.size))
        claims = _checked_claims(head, self._run_id, layout)
        claim_bytes = _CLAIM.size + body_bytes(layout)
        wanted = _HEADER.size + claims * claim_bytes + 4 * layout.parameters + _CHECKSUM_BYTES
        if size != wanted:
            raise StateError(f"torn: {size} bytes, error feedback with {claims} claims has {wanted}")
        packed = [_take(file, claim_bytes) for _ in range(claims)]
        fill(file, as_bytes(self.gross))
        checksum = blake3(b"".join((head, *packed))).update(as_bytes(self.gross)).digest()
        if _take(file, _CHECKSUM_BYTES) != checksum:
            raise StateError("damaged: the checksum does not match")
        self.trained_round = _HEADER.unpack(head)[3]
        self.claims = tuple(_parse_claim(layout, claim) for claim in packed)
        if not torch.isfinite(self.gross).all():
            raise StateError("holds a value that is not finite")


def _take(file: FileIO, count: int) -> bytes:
    data = bytearray(count)
    fill(file, memoryview(data))
    return bytes(data)


def _checked_claims(head: bytes, run_id: str, layout: Layout) -> int:
    """The number of claims, once the header is known to be ours."""
    if len(head) != _HEADER.size or head[: len(_MAGIC)] != _MAGIC:
        raise StateError("not an error feedback file")
    _, run, layout_hash, _, parameters, claims = _HEADER.unpack(head)
    if run.hex() != run_id:
        raise StateError(f"of run {run.hex()}, not {run_id}")
    if layout_hash.hex() != layout.hash or parameters != layout.parameters:
        raise StateError(f"of layout {layout_hash.hex()}, not {layout.hash}")
    if claims > MAX_CLAIMS:
        raise StateError(f"{claims} claims, at most {MAX_CLAIMS} can be")
    return int(claims)


def _parse_claim(layout: Layout, packed: bytes) -> Claim:
    round_, decays = _CLAIM.unpack_from(packed)
    return Claim(round_, decays, decode_body(layout, packed[_CLAIM.size :]))
