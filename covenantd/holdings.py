"""What this certifier holds of the round in work, and how it comes by what only others hold.

A miner may serve its contribution, or show its commit, to some certifiers alone. So whoever is to propose asks the
others first what they hold, and whoever lacks what is proposed to it fetches that before it judges: from those that
claim to hold it, with the receipts that prove the commit where it has not heard of it, and checked as any other.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog
import trio

from covenantd import gather
from covenantd.commits import Commit, CommitRefused
from covenantd.engine import EngineRefused
from covenantd.errors import ChainRefused, EngineError
from covenantd.node import Node
from covenantd.proofs import Proof
from covenantd.proposals import View, hearing
from covenantd.roster import Roster
from covenantd.soundness import is_sound
from covenantd.turns import EARLY, Turns
from p2p.errors import BlobError, BlobTooLarge, P2pError, Refused
from p2p.protocols import PeerId
from p2p.wire import Fields

log = structlog.get_logger("covenantd.holdings")
HOLDING, PROOF = "holding", "proof"
_RETRY_SECONDS = 0.5
_ASK_SECONDS = 5.0
_PATIENCE_SECONDS = 20.0  # with one question of a proposer's; it may ask again
_TRIES = 3
_MAX_LISTED = 1000  # hotkeys in a message


class Desk(Protocol):
    """See `covenantd.commitdesk.CommitDesk`."""

    def proof(self, round: int, hotkey: str) -> Proof | None: ...

    async def believe(self, round: int, hotkey: str, fields: Fields) -> Commit | None: ...


class Holdings:
    """Of one round at a time; `view` only grows in it."""

    def __init__(self, node: Node, desk: Desk) -> None:
        self._node = node
        self._desk = desk
        self.view: View | None = None
        self._others: tuple[str, ...] = ()
        self._heard: dict[tuple[int, bool], str] = {}  # the one proposal of a turn that things are fetched for
        self._fetching: set[tuple[int, bool]] = set()
        self._unproven: set[tuple[str, str]] = set()  # (hotkey, certifier): what that one showed proves nothing

    async def serve(self) -> None:
        answer, protocol = self._node.swarm.answer, self._node.spec.protocol
        await answer(protocol(HOLDING), self.tell)
        await answer(protocol(PROOF), self.show)

    def open(self, view: View, turns: Turns) -> None:
        self.view = view
        self._others = tuple(hotkey for hotkey in turns.order if hotkey != self._node.hotkey.hotkey)
        self._heard, self._unproven = {}, set()

    # For others

    async def tell(self, peer: PeerId, message: object) -> object:
        """Whose contributions we hold. Raises Refused."""
        view = self._view_for(peer, Fields(message).number("round", 0, 1 << 31))
        await trio.lowlevel.checkpoint()
        return {"sound": sorted(view.sound)[:_MAX_LISTED]}

    async def show(self, peer: PeerId, message: object) -> object:
        """What proves a commit. Raises Refused."""
        fields = Fields(message)
        view = self._view_for(peer, fields.number("round", 0, 1 << 31))
        proof = self._desk.proof(view.round, fields.text("hotkey", 64))
        await trio.lowlevel.checkpoint()
        if proof is None:
            raise Refused("no such commit is proven here")
        return proof.body()

    def _view_for(self, peer: PeerId, round: int) -> View:
        asker = self._node.swarm.by_peer_id(peer)
        if (reason := hearing(self.view, round)) is not None:
            raise Refused(reason)
        if asker is None or asker.hotkey not in self._others:
            raise Refused("you do not certify this round")
        assert self.view is not None
        return self.view

    # From others

    async def survey(self, until_block: int) -> None:
        """Bring what any other certifier holds and we lack. Whoever has not looked yet is waited for, up to
        `until_block`; whoever is not there is not."""
        claims: dict[str, list[str]] = defaultdict(list)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, until_block, scope)
                async with trio.open_nursery() as questions:
                    for certifier in self._others:
                        questions.start_soon(self._ask_for_list, certifier, claims)
                nursery.cancel_scope.cancel()
        await self._bring(claims, until_block, math.inf)

    async def _ask_for_list(self, certifier: str, claims: dict[str, list[str]]) -> None:
        view, tries = self._open_view(), 0
        while tries < _TRIES:
            try:
                answer = Fields(await self._ask(certifier, HOLDING, {"round": view.round}))
                listed = [one for one in answer.items("sound", _MAX_LISTED) if isinstance(one, str)]
                for hotkey in self._lacking(listed)[: self._node.spec.roster_size]:
                    claims[hotkey].append(certifier)
                return
            except P2pError as error:
                tries += str(error) != EARLY
                log.info("another's holdings not known yet", certifier=certifier, error=str(error), peer_caused=True)
            await trio.sleep(_RETRY_SECONDS)

    async def complete(self, body: Roster, digest: str, proposer: str | None, turn: int, end_block: int) -> None:
        """Before the end of the turn, bring what a proposal lists and we lack. What a quorum votes for already has no
        `proposer`: anybody may have it. Raises Refused("early") while it may still be had.

        A proposer makes us fetch nothing but what 2/3 of the stake has receipted, for one proposal a turn.
        """
        key, names = (turn, proposer is None), [entry.hotkey for entry in body.contributions]
        if not (lacking := self._lacking(names)) or self._node.heads.number >= end_block:
            return
        if self._heard.setdefault(key, digest) != digest:
            raise Refused("another proposal of that turn was heard")
        if key in self._fetching:
            raise Refused(EARLY)
        self._fetching.add(key)
        try:
            sources = self._others if proposer is None else (proposer,)
            seconds = math.inf if proposer is None else _PATIENCE_SECONDS
            await self._bring(dict.fromkeys(lacking, sources), end_block, seconds)
        finally:
            self._fetching.discard(key)
        hopeful = [h for h in self._lacking(names) if not all((h, source) in self._unproven for source in sources)]
        if hopeful and self._node.heads.number < end_block:
            raise Refused(EARLY)

    def _lacking(self, hotkeys: Iterable[str]) -> Sequence[str]:
        view = self._open_view()
        return [h for h in hotkeys if h not in view.sound and view.refused.get(h) != "invalid"]

    async def _bring(self, wanted: Mapping[str, Sequence[str]], until_block: int, seconds: float) -> None:
        """`wanted`: hotkey -> the certifiers that claim to hold its contribution."""
        found: list[tuple[Commit, Path]] = []
        view = self._open_view()
        with trio.move_on_after(seconds) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.heads.cancel_at, until_block, scope)
                async with trio.open_nursery() as fetches:
                    for hotkey, sources in wanted.items():
                        fetches.start_soon(self._fetch, view, hotkey, sources, found)
                nursery.cancel_scope.cancel()
        for commit, path in found:
            await self._check(commit, path)

    async def _fetch(self, view: View, hotkey: str, sources: Sequence[str], found: list[tuple[Commit, Path]]) -> None:
        commit = view.proven.get(hotkey) or await self._prove(view.round, hotkey, sources)
        if commit is None:
            return
        try:
            found.append((commit, await gather.contribution(self._node, sources[0], commit.blob_id)))
        except BlobTooLarge as error:
            log.warning("contribution refused", hotkey=hotkey, reason=str(error), peer_caused=True)
            self._grow(commit, sound=False)
        except (BlobError, OSError) as error:
            log.info("contribution not to be had of others", hotkey=hotkey, error=str(error), peer_caused=True)

    async def _prove(self, round: int, hotkey: str, sources: Sequence[str]) -> Commit | None:
        """The first of them that proves it counts."""
        proven: list[Commit] = []
        async with trio.open_nursery() as nursery:

            async def ask(certifier: str) -> None:
                commit = await self._shown(round, hotkey, certifier)
                if commit is not None:
                    proven.append(commit)
                    nursery.cancel_scope.cancel()

            for certifier in sources:
                if (hotkey, certifier) not in self._unproven:
                    nursery.start_soon(ask, certifier)
        return proven[0] if proven else None

    async def _shown(self, round: int, hotkey: str, certifier: str) -> Commit | None:
        try:
            answer = await self._ask(certifier, PROOF, {"round": round, "hotkey": hotkey})
        except P2pError as error:
            log.info("proof of a commit not to be had", certifier=certifier, error=str(error), peer_caused=True)
            if isinstance(error, Refused) and str(error) != EARLY:
                self._unproven.add((hotkey, certifier))
            return None
        try:
            commit = await self._desk.believe(round, hotkey, Fields(answer))
        except (P2pError, CommitRefused, ChainRefused) as error:
            log.warning("proof of a commit refused", certifier=certifier, error=str(error), peer_caused=True)
            commit = None
        if commit is None:
            self._unproven.add((hotkey, certifier))
        return commit

    async def _ask(self, certifier: str, protocol: str, message: object) -> object:
        peer = self._node.swarm.by_hotkey(certifier)
        if peer is None:
            raise P2pError("not connected")
        return await self._node.swarm.ask(peer.peer_id, self._node.spec.protocol(protocol), message, _ASK_SECONDS)

    async def _check(self, commit: Commit, path: Path) -> None:
        try:
            self._grow(commit, await is_sound(self._node, commit, path))
        except (EngineError, EngineRefused) as error:
            log.error("a contribution cannot be checked now", hotkey=commit.hotkey, error=str(error))

    def _grow(self, commit: Commit, sound: bool) -> None:
        """Unless the round is over meanwhile."""
        if self.view is not None and self.view.round == commit.round:
            self.view = self.view.joined_by(commit, sound)

    def _open_view(self) -> View:
        assert self.view is not None  # nobody is asked for anything before that
        return self.view
