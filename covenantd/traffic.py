"""Bytes to and from peers, counted by what they were for."""

from covenantd.metrics import Metrics
from covenantd.runspec import RunSpec


class Traffic:
    """Blobs of the run spec and states are known by id; every other blob is a contribution or a roster."""

    def __init__(self, spec: RunSpec, metrics: Metrics) -> None:
        self._metrics = metrics
        self._dataset = {spec.dataset.tokenizer, *spec.dataset.train_shards, spec.dataset.heldout_shard}
        self._states = {spec.genesis_state}

    def is_state(self, blob_id: str) -> None:
        """To be called before its bytes move."""
        self._states.add(blob_id)

    def count(self, direction: str, blob_id: str, count: int) -> None:
        """`direction`: "out" or "in", as the exchange says."""
        kind = "state" if blob_id in self._states else "contribution"
        kind = "other" if blob_id in self._dataset else kind
        self._metrics.add_network_bytes("sent" if direction == "out" else "received", kind, count)
