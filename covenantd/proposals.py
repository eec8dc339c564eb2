"""What a certifier proposes, and what it votes for when another proposes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from covenantd.commits import Commit
from covenantd.gauntlet.standing import Standing
from covenantd.roster import Entry, Exclusion, Roster, alpha_bits
from covenantd.runspec import RunSpec
from covenantd.turns import EARLY


@dataclass(frozen=True)
class View:
    """What one certifier knows of a round once commits are closed and contributions are here."""

    round: int
    previous: str
    base_state_hash: str
    proven: Mapping[str, Commit]  # in time, by 2/3 of the stake
    sound: frozenset[str]  # of those: held whole, decodes, checked
    refused: Mapping[str, str]  # of those: why not
    unfit: Mapping[str, str]  # sound, but not worth having: why
    changes: tuple[str, ...] = ()  # blob ids of the certified changes of the run spec
    offered: str | None = None  # a change we would have in the next roster
    late: frozenset[str] = frozenset()  # of the sound: those we have of other certifiers, who hold them against nobody

    @property
    def missing(self) -> frozenset[str]:
        """Committed in time, but to be had of nobody, not even of another certifier so far."""
        return frozenset(hotkey for hotkey, reason in self.refused.items() if reason == "missing")

    def joined_by(self, commit: Commit, sound: bool) -> "View":
        """What another certifier has shown us to be in time, and we have checked."""
        hotkey, proven = commit.hotkey, {**self.proven, commit.hotkey: commit}
        if not sound:
            return replace(self, proven=proven, refused={**self.refused, hotkey: "invalid"})
        refused = {h: reason for h, reason in self.refused.items() if h != hotkey}
        late = self.late | ({hotkey} - self.sound)
        return replace(self, proven=proven, sound=self.sound | {hotkey}, refused=refused, late=late)


def compose(spec: RunSpec, view: View, standings: Mapping[str, Standing]) -> Roster:
    """The best first; what this certifier has seen to harm stays out."""
    unknown = Standing(0.0, 0)
    ranked = sorted(view.sound, key=lambda h: (-standings.get(h, unknown).gain, h))
    fit = [h for h in ranked if h not in view.unfit]
    listed = fit[: spec.roster_size]
    reasons = {**view.refused, **view.unfit, **dict.fromkeys(fit[len(listed) :], "full")}
    return Roster(
        run_id=spec.run_id,
        round=view.round,
        previous=view.previous,
        base_state_hash=view.base_state_hash,
        metagraph_block=spec.timing.start(view.round),
        spec_revision=spec.revision,
        alpha_bits=alpha_bits(spec.alpha),
        contributions=tuple(Entry(h, view.proven[h].blob_id, view.proven[h].size) for h in listed),
        exclusions=tuple(Exclusion(h, reason) for h, reason in sorted(reasons.items())),
        candidates=tuple(listed),
        changes=(*view.changes, view.offered) if view.offered else view.changes,
    )


def hearing(view: View | None, round: int) -> str | None:
    """Why a proposal for that round need not even be read."""
    if view is None or view.round < round:
        return EARLY
    return "that round is over" if view.round > round else None


def misfit(spec: RunSpec, view: View, body: Roster, offered: str | None = None) -> str | None:
    """Why a proposal does not obey the rules, whatever it lists. `offered` is the one new change of the run spec that
    it carries, once that was found signed, applicable and in time."""
    fixed = (spec.run_id, view.round, view.previous, view.base_state_hash)
    if (body.run_id, body.round, body.previous, body.base_state_hash) != fixed:
        return "it is built on another state or round"
    if (body.metagraph_block, body.spec_revision) != (spec.timing.start(view.round), spec.revision):
        return "it names another metagraph or spec revision"
    if body.alpha_bits != alpha_bits(spec.alpha):
        return "its alpha is not the run's"
    if body.changes != (*view.changes, *([offered] if offered else [])):
        return "it names other changes of the run spec"
    if not 0 < len(body.contributions) <= spec.roster_size:
        return f"it lists {len(body.contributions)} contributions"
    return None


def objection(view: View, body: Roster) -> str | None:
    """Why we cannot answer for what a proposal that obeys the rules lists; None: we hold and checked every byte."""
    for entry in body.contributions:
        commit = view.proven.get(entry.hotkey)
        if commit is None or (commit.blob_id, commit.size) != (entry.blob_id, entry.size):
            return f"{entry.hotkey} has not committed to that in time"
        if entry.hotkey not in view.sound:
            return f"the contribution of {entry.hotkey} is not here or not sound"
    return None


def censors(spec: RunSpec, view: View, body: Roster) -> str | None:
    """A proposer may leave out what it judges worthless, but not more than half of what we find fit. What we hold of
    other certifiers alone is not held against it: it asked us what we hold before we had that. Honest certifiers whose
    scores disagree about most of the swarm refuse each other here, and may void a round: the price of a bound on what
    one of them can leave out."""
    ours = view.sound - view.late
    if 2 * _listed_fit(view, body) < _most(spec, view, ours):
        return "it leaves out most of what is fit"
    return None


def complete(spec: RunSpec, view: View, body: Roster) -> bool:
    """Whether a proposal that we have voted for leaves out nothing that ours would list: then it may be ours."""
    whole = objection(view, body) is None  # after a crash we may not know any more what others have shown us
    return whole and _listed_fit(view, body) >= _most(spec, view, view.sound)


def _listed_fit(view: View, body: Roster) -> int:
    return sum(body.lists(h) for h in view.sound if h not in view.unfit)


def _most(spec: RunSpec, view: View, sound: frozenset[str]) -> int:
    return min(sum(h not in view.unfit for h in sound), spec.roster_size)
