"""Reads agreement from the chain: who certifies, what was certified, who is registered. Waits out a silent chain."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog
import trio

from covenantd import missing, roster
from covenantd.chain.protocol import Chain, Metagraph
from covenantd.errors import ChainError, ChainRefused
from covenantd.roster import Roster, Vote
from covenantd.runspec import RunSpec

log = structlog.get_logger("covenantd.agreement")
T = TypeVar("T")
_KEPT_VIEWS = 8


async def persistently(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Repeat a chain read until it is answered: peers wait for a silent chain, they never infer."""
    delay_seconds = 0.25
    while True:
        try:
            return await call()
        except ChainError as error:
            log.warning("chain does not answer", what=what, error=str(error), retry_seconds=delay_seconds)
            await trio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 15.0)


class Agreement:
    """Every answer is about a fixed block, so it is the same for everyone and may be kept."""

    def __init__(self, chain: Chain, spec: RunSpec) -> None:
        self._chain = chain
        self._spec = spec
        self._views: dict[int, Metagraph] = {}
        self._hashes: dict[int, str] = {}
        self._reading = trio.Lock()  # whoever asks for a block that is being read gets what was read

    def revise(self, spec: RunSpec) -> None:
        """Rounds may have another timing from now on."""
        self._spec = spec

    async def view(self, block: int) -> Metagraph:
        if (known := self._views.get(block)) is not None:
            return known
        async with self._reading:
            if block not in self._views:
                self._views[block] = await persistently(lambda: self._chain.metagraph(block), f"metagraph at {block}")
            found = self._views[block]
            _forget_oldest(self._views)
        return found

    async def block_hash(self, number: int) -> str:
        if number not in self._hashes:
            self._hashes[number] = (await persistently(lambda: self._chain.block(number), f"block {number}")).hash
            _forget_oldest(self._hashes)
        return self._hashes[number]

    async def certifiers(self, round: int) -> dict[str, int]:
        return roster.certifiers(await self.view(self._spec.timing.start(round)))

    async def registered(self, round: int) -> frozenset[str]:
        return frozenset(n.hotkey for n in (await self.view(self._spec.timing.start(round))).neurons)

    async def decision(self, round: int) -> Vote | None:
        """The certified vote of a round whose V_r is finalized; None: the round is void."""
        return await self.leading(round, self._spec.timing.vote(round))

    async def leading(self, round: int, block: int) -> Vote | None:
        """What a quorum votes for in that round in the state of that block; only at V_r does it certify."""
        at_start, then = await self.view(self._spec.timing.start(round)), await self.view(block)
        return roster.decide(at_start, then, self._spec.tag, round)

    async def at_fault(self, certified: Vote, body: Roster) -> frozenset[str]:
        """Whose contributions 2/3 of the stake reported missing; see `covenantd.missing`."""
        if not missing.named(body):
            return frozenset()
        timing = self._spec.timing
        at_start, at_vote = await self.view(timing.start(body.round)), await self.view(timing.vote(body.round))
        return missing.at_fault(at_start, at_vote, certified, body)

    async def newest_certified(self, through: int, since: int = 0) -> Vote | None:
        """The newest certified vote of a round in [since, through], all of them decided.

        A quorum's votes at V_q name round q, and certifiers only move on to later rounds: so the newest round that is
        named at V_r bounds every certified one. Where no vote is left (the voters' places were taken by others), no
        round may be skipped.
        """
        round = through
        while round >= since:
            try:
                vote = await self.decision(round)
                if vote is not None:
                    return vote
                named = roster.named_rounds(await self.view(self._spec.timing.vote(round)), self._spec.tag)
            except ChainRefused as error:
                return await self._still_public(round, error)
            round = min(round - 1, max(named, default=round))
        return None

    async def _still_public(self, round: int, error: ChainRefused) -> Vote | None:
        """Of a round whose V_r the chain keeps no state of, the last that anybody voted in: what a quorum of today's
        certifiers still has on chain, unless it was written too late. Raises `error` if it is about something else."""
        timing = self._spec.timing
        if error.name != "StateDiscarded" or await self._kept(timing.vote(round)):
            raise error
        head = await persistently(self._chain.block, "head")
        today = await self.view(head.number)
        late = range(timing.vote(round) + 1, timing.start(round + 1))  # what is newer than that was written again
        in_time = {hotkey: one for hotkey, one in today.commitments.items() if one.block not in late}
        vote = roster.decide(today, replace(today, commitments=in_time), self._spec.tag, round)
        log.warning("no state is kept of the last votes: going by what is on chain", round=round, void=vote is None)
        return vote

    async def _kept(self, block: int) -> bool:
        try:
            await self.view(block)
        except ChainRefused:
            return False
        return True


def _forget_oldest(kept: dict[int, Any]) -> None:
    """What was read first, whatever block it is of: a search goes back in time."""
    while len(kept) > _KEPT_VIEWS:
        del kept[next(iter(kept))]
