"""Bytes to and from peers, by what they are for: counted, and served in the order of how much they matter."""

from collections.abc import Iterable

from covenantd.metrics import Metrics
from covenantd.runspec import RunSpec
from p2p.exchange_settings import Priority


class Traffic:
    """Blobs of the run spec are known by id, the others from what is said of them; what nobody said anything of is a
    contribution of the round in work."""

    def __init__(self, spec: RunSpec, metrics: Metrics) -> None:
        self._metrics = metrics
        dataset = (spec.dataset.tokenizer, *spec.dataset.train_shards, spec.dataset.heldout_shard)
        self._of_run = dict.fromkeys(dataset, Priority.DATASET) | {spec.genesis_state: Priority.SNAPSHOT}
        self._priorities: dict[str, Priority] = {}

    def is_state(self, blob_id: str) -> None:
        """To be called before its bytes move."""
        self._priorities[blob_id] = Priority.SNAPSHOT

    def is_control(self, blob_ids: Iterable[str]) -> None:
        """Rosters and changes of the run spec: short, and nothing goes on without them."""
        self._priorities.update(dict.fromkeys(blob_ids, Priority.CONTROL))

    def is_past(self, blob_ids: Iterable[str]) -> None:
        """Of a round that is over: only who is behind still asks for them."""
        for blob_id in blob_ids:
            self._priorities.setdefault(blob_id, Priority.CATCH_UP)

    def retain(self, blob_ids: Iterable[str]) -> None:
        """Forget what was said of any other."""
        kept = frozenset(blob_ids)
        self._priorities = {blob_id: one for blob_id, one in self._priorities.items() if blob_id in kept}

    def priority_of(self, blob_id: str) -> Priority | None:
        """None if nothing was said of it."""
        return self._of_run.get(blob_id, self._priorities.get(blob_id))

    def count(self, direction: str, blob_id: str, count: int) -> None:
        """`direction`: "out" or "in", as the exchange says."""
        kinds = {Priority.CONTROL: "control", Priority.SNAPSHOT: "state", Priority.DATASET: "other"}
        priority = self.priority_of(blob_id)
        kind = "contribution" if priority is None else kinds.get(priority, "contribution")
        self._metrics.add_network_bytes("sent" if direction == "out" else "received", kind, count)
