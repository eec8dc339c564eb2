"""What a validator asks: is it well-formed, and does it help?"""

import math

import torch

from model import contribution
from model.contribution import Expected
from model.data import assigned_sequences, unassigned_sequences
from model.errors import ContributionError, InputError
from model.evaluate import mean_loss
from model.messages import Check, Checked, Evaluate, Evaluated, Score, Scored
from model.session import Session, check_hex32
from model.sparse import subtract_, total_norm


def check(session: Session, request: Check) -> Checked:
    """The fast checks. A bad contribution is an answer, not an error."""
    expected = Expected(session.config.run_id, request.round, request.base_state_hash, request.hotkey)
    try:
        sparse = contribution.read(request.path, session.layout, expected)
    except ContributionError as error:
        return Checked(False, error.reason, 0.0)
    return Checked(True, "", total_norm(session.layout, sparse))


def evaluate(session: Session, request: Evaluate) -> Evaluated:
    """Raises InputError."""
    if request.sequences < 1:
        raise InputError(f"{request.sequences} sequences to evaluate")
    count = min(request.sequences, session.heldout_pool.sequences)
    session.fill_model(session.theta)
    batch = session.config.inner.batch_sequences
    loss = mean_loss(session.model, session.heldout_pool, range(count), batch, session.beat)
    return Evaluated(loss, count)


def score(session: Session, request: Score) -> Scored:
    """Losses with θ and with θ - scale · contribution, each alone. Raises InputError."""
    judge = _Judge(session, request)
    before = judge.losses(session.theta, range(len(request.contributions)))
    random_after, assigned_after = [], []
    for number, path in enumerate(request.contributions):
        after = judge.losses(judge.applied(path), [number])
        random_after.append(after[0])
        assigned_after.append(after[1])
    return Scored(before[0], tuple(random_after), before[1:], tuple(assigned_after))


class _Judge:
    """The sequences of one `Score`: random ones nobody was assigned, and each miner's own."""

    def __init__(self, session: Session, request: Score) -> None:
        _check_score(request)
        self.session, self.request = session, request
        batch, total = session.config.inner.batch_sequences, session.train_pool.sequences
        claims = zip(request.assignment_keys, request.assigned_steps, strict=True)
        assigned = [assigned_sequences(key, total, steps * batch) for key, steps in claims]
        self.own = [sequences[: request.sequences] for sequences in assigned]
        self.random = unassigned_sequences(request.key, total, request.sequences, set().union(*assigned))
        if not self.random:
            raise InputError(f"all {total} sequences are assigned to miners, none is left to score with")

    def losses(self, theta: torch.Tensor, numbers: range | list[int]) -> tuple[float, ...]:
        """θ fp32 [P] -> its loss on the random sequences, then on those of each numbered contribution."""
        self.session.fill_model(theta)
        return tuple(self._loss(sequences) for sequences in (self.random, *(self.own[n] for n in numbers)))

    def _loss(self, sequences: list[int]) -> float:
        if not sequences:
            return math.nan
        session = self.session
        batch = session.config.inner.batch_sequences
        return mean_loss(session.model, session.train_pool, sequences, batch, session.beat)

    def applied(self, path: str) -> torch.Tensor:
        """θ - scale · the contribution at `path`."""
        session = self.session
        expected = Expected(session.config.run_id, self.request.round, None, None)
        sparse = contribution.read(path, session.layout, expected)
        theta = session.theta.clone()
        subtract_(theta, session.layout, sparse, torch.tensor(self.request.scale, dtype=torch.float32))
        return theta


def _check_score(request: Score) -> None:
    for name, key in (("key", request.key), *(("assignment key", key) for key in request.assignment_keys)):
        check_hex32(name, key)
    if not len(request.contributions) == len(request.assignment_keys) == len(request.assigned_steps):
        raise InputError("a score needs an assignment key and a number of steps for each contribution")
    if min(request.assigned_steps, default=0) < 0 or request.sequences < 1 or not math.isfinite(request.scale):
        raise InputError("a score's steps, sequences or scale are out of range")
