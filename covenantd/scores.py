"""The validator's scores: measured by the engine, kept on disk."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import structlog

from covenantd.commits import Commit
from covenantd.errors import ConfigError
from covenantd.gauntlet import standing
from covenantd.gauntlet.standing import Standing
from covenantd.journal import write_atomically
from covenantd.node import Node
from model import messages

log = structlog.get_logger("covenantd.scores")


class Scores:
    def __init__(self, node: Node, path: Path) -> None:
        """Raises ConfigError for a damaged file."""
        self._node = node
        self._path = path
        self.standings = _read(path)
        self.version = 0  # grows with every round judged; what a restart brings back counts as new

    async def score(self, round: int, contributions: dict[str, tuple[Commit, Path]]) -> None:
        """Loss before and after each contribution alone, on sequences drawn by the first block after C_r from those
        no miner of this round was assigned: known to nobody while it could still have been fitted."""
        if not contributions:
            return
        node, spec = self._node, self._node.spec
        keys = {h: await node.assignment_key(h, round) for h in contributions}
        order = messages.Score(
            round=round,
            contributions=tuple(str(path) for _, path in contributions.values()),
            assignment_keys=tuple(keys.values()),
            assigned_steps=tuple(min(c.inner_steps, spec.inner_steps) for c, _ in contributions.values()),
            key=await node.agreement.block_hash(spec.timing.commit(round) + 1),
            scale=spec.scoring.scale,
            sequences=spec.scoring.sequences,
        )
        scored = await node.engine.order(order, messages.Scored)
        after = dict(zip(contributions, scored.random_after, strict=True))
        gains = {h: standing.gain(scored.random_before, loss) for h, loss in after.items()}
        self._keep(standing.observe(self.standings, gains, spec.scoring.decay))
        log.info("scored", round=round, gains={h[:8]: f"{g:.2e}" for h, g in gains.items()})

    def fault(self, hotkeys: Iterable[str]) -> None:
        self._keep(standing.miss(self.standings, hotkeys, self._node.spec.scoring.decay))

    async def age(self, round: int, committed: Iterable[str]) -> None:
        """Ends the judging of a round. Who committed to nothing in it earned nothing; who left the subnet is forgotten.
        A round in which nothing was to be seen says nothing of anybody."""
        present = set(committed)
        if present:
            registered = await self._node.agreement.registered(round)
            known = {h: s for h, s in self.standings.items() if h in registered}
            self._keep(standing.absent(known, set(known) - present, self._node.spec.scoring.decay))
            self.version += 1

    def shares(self) -> dict[str, float]:
        """Hotkey -> share of the reward."""
        return standing.weights(self.standings)

    def _keep(self, standings: dict[str, Standing]) -> None:
        if standings == self.standings:
            return
        write_atomically(self._path, json.dumps({h: asdict(s) for h, s in standings.items()}).encode())
        self.standings = standings


def _read(path: Path) -> dict[str, Standing]:
    try:
        return {h: Standing(**s) for h, s in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged scores ({error}); move the file away to start them anew") from error
