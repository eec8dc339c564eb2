"""Whose fault a missing contribution is. Pure.

A roster names what it had to do without as `missing`, and its votes say of each of these whether the voter lacked it
too: one bit, in the roster's order, behind the vote. A contribution that voters of the certified roster with 2/3 of all
the stake lacked is its miner's fault; else nobody's. So a vote for a roster is no vote against those it leaves out: a
proposer that claims to lack what others hold harms nobody, and one that truly lacks it is not held up. Everybody reads
the same reports in the state at V_r. What the certified roster does not name, or names after the first `MAX_REPORTED`,
is not reported.
"""

from collections.abc import Container

from covenantd import roster
from covenantd.chain.protocol import Metagraph
from covenantd.roster import MAX_LACKED_BYTES, Roster, Vote

MAX_REPORTED = 8 * MAX_LACKED_BYTES


def named(body: Roster) -> list[str]:
    """Whose contributions a roster says are missing, as far as votes can say so too."""
    return [one.hotkey for one in body.exclusions if one.reason == "missing"][:MAX_REPORTED]


def report(body: Roster, lacking: Container[str]) -> bytes:
    """The bits of a vote for that roster, by one who lacks these; without zero bytes at the end."""
    bits = sum(1 << place for place, hotkey in enumerate(named(body)) if hotkey in lacking)
    return bits.to_bytes(MAX_LACKED_BYTES, "little").rstrip(b"\0")


def at_fault(at_start: Metagraph, at_vote: Metagraph, certified: Vote, body: Roster) -> frozenset[str]:
    """The miners whose contributions 2/3 of the stake of b_r report missing, in the votes for the certified roster as
    of V_r."""
    enrolled = roster.certifiers(at_start)
    lacked = {hotkey: 0 for hotkey in named(body)}
    for certifier, stake in enrolled.items():
        vote = roster.vote_of(at_vote, certifier)
        if vote is not None and vote.choice == certified.choice:
            for place, hotkey in enumerate(lacked):
                lacked[hotkey] += stake * (int.from_bytes(vote.lacked, "little") >> place & 1)
    total = sum(enrolled.values())
    return frozenset(hotkey for hotkey, stake in lacked.items() if roster.quorum(stake, total))
