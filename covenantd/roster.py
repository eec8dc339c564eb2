"""Who is in a round, and how that is agreed: rosters, votes, quorum. Pure.

A roster body is a blob; its blob id is its digest. Certifiers (validators with a permit that enrolled by a flag in
field 0 of their on-chain commitment) vote for a digest in field 1. The roster of round r is the digest with at least
2/3 of the enrolled stake in the state at exactly V_r; none means the round is void on every peer alike.
"""

import math
import struct
from collections import defaultdict
from dataclasses import asdict, dataclass

import msgpack

from covenantd.chain.keys import public_key
from covenantd.chain.protocol import MAX_FIELD_BYTES, Metagraph

MAX_BODY_BYTES = 1 << 20
MAX_CONTRIBUTIONS = 4096
NO_DIGEST = "0" * 64

_VOTE = struct.Struct("<B8sI32s32s")
_VOTE_VERSION = 1
MAX_LACKED_BYTES = 32  # with the longest identity a vote a turn still fits what an epoch lets a hotkey write
_IDENTITY_TAG = "covenantd1"


class BadRoster(Exception):
    """A roster body, vote or identity that breaks the format or the rules."""


@dataclass(frozen=True)
class Entry:
    hotkey: str  # ss58
    blob_id: str
    size: int


@dataclass(frozen=True)
class Exclusion:
    hotkey: str
    reason: str  # stable word: invalid, missing, equivocated, harmful, useless, base, full


@dataclass(frozen=True)
class Roster:
    run_id: str
    round: int
    previous: str  # digest of the last certified roster before this one
    base_state_hash: str  # θ_round
    metagraph_block: int
    spec_revision: int
    alpha_bits: int  # fp32 bits
    contributions: tuple[Entry, ...]
    exclusions: tuple[Exclusion, ...]
    candidates: tuple[str, ...]  # hotkeys whose contributions the next round's peers fetch ahead
    changes: tuple[str, ...] = ()  # blob ids of all changes of the run spec certified so far, this body's included

    @property
    def alpha(self) -> float:
        return float(struct.unpack("<f", struct.pack("<I", self.alpha_bits))[0])

    def lists(self, hotkey: str) -> bool:
        return any(entry.hotkey == hotkey for entry in self.contributions)

    def encode(self) -> bytes:
        return bytes(msgpack.packb(asdict(self)))


def alpha_bits(alpha: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", alpha))[0])


def decode(body: bytes) -> Roster:
    """Raises BadRoster. What decodes also re-encodes to the same bytes, so a digest names one roster, and everybody
    can carry it out: its contributors are public keys, its α is a number."""
    if len(body) > MAX_BODY_BYTES:
        raise BadRoster(f"roster body of {len(body)} bytes exceeds {MAX_BODY_BYTES}")
    try:
        data = msgpack.unpackb(body, max_array_len=MAX_CONTRIBUTIONS, max_map_len=32, max_str_len=256)
        roster = Roster(
            **{
                **data,
                "contributions": tuple(Entry(**e) for e in data["contributions"]),
                "exclusions": tuple(Exclusion(**e) for e in data["exclusions"]),
                "candidates": tuple(data["candidates"]),
                "changes": tuple(data["changes"]),
            }
        )
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise BadRoster(f"not a roster body: {error!r}") from error
    _check_types(roster)
    if roster.encode() != body:
        raise BadRoster("roster body is not in canonical form")
    return roster


def _check_types(roster: Roster) -> None:
    hashes = [
        roster.run_id,
        roster.previous,
        roster.base_state_hash,
        *(e.blob_id for e in roster.contributions),
        *roster.changes,
    ]
    if not all(is_hash(h) for h in hashes):
        raise BadRoster("roster body holds a malformed hash")
    numbers = [roster.round, roster.metagraph_block, roster.spec_revision, roster.alpha_bits]
    sizes = [e.size for e in roster.contributions]
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*numbers, *sizes)) or roster.alpha_bits >= 1 << 32:
        raise BadRoster("roster body holds a number out of range")
    words = [e.hotkey for e in roster.contributions] + [w for x in roster.exclusions for w in (x.hotkey, x.reason)]
    if not all(isinstance(w, str) for w in (*words, *roster.candidates)):
        raise BadRoster("roster body holds a malformed name")
    if len({e.hotkey for e in roster.contributions}) != len(roster.contributions):
        raise BadRoster("roster lists a hotkey twice")
    if not all(_is_hotkey(e.hotkey) for e in roster.contributions) or not math.isfinite(roster.alpha):
        raise BadRoster("roster body holds what is no hotkey, or an alpha that is no number")


def _is_hotkey(text: str) -> bool:
    try:
        return len(public_key(text)) == 32
    except ValueError:
        return False


def is_hash(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and all(c in "0123456789abcdef" for c in text)


# Field 0 of a commitment: how to reach a peer, and whether it certifies


@dataclass(frozen=True)
class OnChainIdentity:
    peer_id: str
    address: str  # one multiaddr without /p2p, or ""
    certifier: bool

    def encode(self) -> bytes:
        """Raises BadRoster if it does not fit a field; the address goes first."""
        flag = "c" if self.certifier else "-"
        for address in (self.address, ""):
            field = f"{_IDENTITY_TAG} {flag} {self.peer_id} {address}".encode()
            if len(field) <= MAX_FIELD_BYTES:
                return field
        raise BadRoster(f"peer id {self.peer_id!r} does not fit a commitment field")


def decode_identity(field: bytes) -> OnChainIdentity | None:
    """None for anything that is not ours."""
    try:
        tag, flag, peer_id, address = field.decode("ascii").split(" ")
    except ValueError:
        return None
    if tag != _IDENTITY_TAG or flag not in ("c", "-"):
        return None
    return OnChainIdentity(peer_id, address, flag == "c")


# Field 1: the latest vote


@dataclass(frozen=True)
class Vote:
    """I hold and checked every byte of roster `digest`, and `state_hash` is my θ_round. `lacked`: which of what it
    says is missing I lack too, see `covenantd.missing`; it decides nothing of what is certified."""

    run_tag: bytes
    round: int
    digest: str
    state_hash: str
    lacked: bytes = b""  # at most MAX_LACKED_BYTES, without zero bytes at the end

    @property
    def choice(self) -> tuple[bytes, int, str, str]:
        """What votes must have in common to certify something."""
        return self.run_tag, self.round, self.digest, self.state_hash

    def encode(self) -> bytes:
        digest, state = bytes.fromhex(self.digest), bytes.fromhex(self.state_hash)
        return _VOTE.pack(_VOTE_VERSION, self.run_tag, self.round, digest, state) + self.lacked


def decode_vote(field: bytes) -> Vote | None:
    if not _VOTE.size <= len(field) <= _VOTE.size + MAX_LACKED_BYTES or field[0] != _VOTE_VERSION:
        return None
    _, run_tag, round, digest, state = _VOTE.unpack_from(field)
    lacked = field[_VOTE.size :]
    return None if lacked[-1:] == b"\0" else Vote(run_tag, round, digest.hex(), state.hex(), lacked)


# Certifiers and the quorum


def certifiers(metagraph: Metagraph) -> dict[str, int]:
    """Hotkey -> stake of the enrolled validators, in stake order (ties by hotkey): the order they propose in."""
    enrolled = {n.hotkey: n.stake for n in metagraph.neurons if n.validator_permit and _enrolled(metagraph, n.hotkey)}
    return dict(sorted(enrolled.items(), key=lambda item: (-item[1], item[0])))


def _enrolled(metagraph: Metagraph, hotkey: str) -> bool:
    commitment = metagraph.commitments.get(hotkey)
    identity = decode_identity(commitment.fields[0]) if commitment and commitment.fields else None
    return identity is not None and identity.certifier


def quorum(stake: int, total: int) -> bool:
    """At least 2/3, in integers."""
    return total > 0 and 3 * stake >= 2 * total


def decide(at_start: Metagraph, at_vote: Metagraph, run_tag: bytes, round: int) -> Vote | None:
    """The certified vote of a round: certifiers and stake as of b_r, votes as of V_r. None is a void round."""
    enrolled = certifiers(at_start)
    stakes: dict[tuple[str, str], int] = defaultdict(int)
    for hotkey, stake in enrolled.items():
        vote = vote_of(at_vote, hotkey)
        if vote and vote.run_tag == run_tag and vote.round == round:
            stakes[vote.digest, vote.state_hash] += stake
    total = sum(enrolled.values())
    winners = [choice for choice, stake in stakes.items() if quorum(stake, total)]
    return Vote(run_tag, round, *winners[0]) if winners else None


def latest_quorum(metagraph: Metagraph, run_tag: bytes) -> Vote | None:
    """What a quorum of today's certifiers votes for in the state of this block, of whatever round: a hint at the
    newest roster, not yet its certification."""
    return next(
        (
            v
            for r in sorted(named_rounds(metagraph, run_tag), reverse=True)
            if (v := decide(metagraph, metagraph, run_tag, r))
        ),
        None,
    )


def named_rounds(metagraph: Metagraph, run_tag: bytes) -> set[int]:
    """Rounds of a run that any neuron's latest vote names at this block."""
    votes = (vote_of(metagraph, n.hotkey) for n in metagraph.neurons)
    return {vote.round for vote in votes if vote and vote.run_tag == run_tag}


def vote_of(metagraph: Metagraph, hotkey: str) -> Vote | None:
    """A hotkey's latest vote at this block, of whatever run and round."""
    commitment = metagraph.commitments.get(hotkey)
    return decode_vote(commitment.fields[1]) if commitment and len(commitment.fields) > 1 else None
