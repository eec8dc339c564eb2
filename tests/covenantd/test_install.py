"""Loading the state that the journal names, from a disk that is not to be trusted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from run_fixture import SPEC

from covenantd import catchup
from covenantd.config import EngineConfig
from covenantd.engine import EngineRefused
from covenantd.node import Desynced, Node
from model import messages
from p2p.blobs import BlobStore

PIECE = 4096
FILES = {"theta": b"\x01" * 5000, "train": b"\x02" * 3000, "heldout": b"\x03" * 1000}


class Place:
    """A blob store, a journal, an engine that reads what it is told to load, and peers who hold everything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = BlobStore(directory / "blobs")
        self.ids = {name: self.blobs.adopt(self._file(name, data), PIECE) for name, data in FILES.items()}
        self.fetched: list[str] = []
        self.loads = 0
        self.spoil: Callable[[Path], None] = lambda path: None  # what the disk does to a fetched file
        dataset = SimpleNamespace(
            tokenizer="", train_shards=(self.ids["train"],), heldout_shard=self.ids["heldout"], max_blob_bytes=1 << 20
        )
        spec = SimpleNamespace(dataset=dataset)
        config = SimpleNamespace(
            node=SimpleNamespace(state_directory=directory),
            engine=EngineConfig(threads=1, device="cpu"),
            testing=SimpleNamespace(behavior="honest"),
        )
        (directory / "staging").mkdir()
        self.node = cast(
            Node,
            SimpleNamespace(
                spec=spec,
                config=config,
                blobs=self.blobs,
                exchange=self,
                engine=self,
                holders=lambda: lambda: [],
                traffic=SimpleNamespace(is_state=lambda blob_id: None),
                history=SimpleNamespace(genesis=SPEC),
                staging=directory / "staging",
                journal=SimpleNamespace(memory=SimpleNamespace(round=3, state_hash=self.ids["theta"])),
            ),
        )

    def _file(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def path(self, name: str) -> Path:
        path = self.blobs.path(self.ids[name])
        assert path is not None
        return path

    def damage(self, name: str, data: bytes) -> None:
        self.path(name).chmod(0o600)
        self.path(name).write_bytes(data)

    async def fetch(self, blob_id: str, *args: Any, seed: Path | None = None, **options: Any) -> Path:
        if (path := self.blobs.path(blob_id)) is not None:
            return path
        name = next(name for name, known in self.ids.items() if known == blob_id)
        self.fetched.append(name)
        self.blobs.adopt(self._file("fetched", FILES[name]), PIECE)
        self.spoil(self.path(name))
        return self.path(name)

    async def order(self, message: messages.Load, expect: type[messages.Loaded]) -> messages.Loaded:
        self.loads += 1
        assert message.round == 3
        for name in (message.theta_path, *message.train_shards, message.heldout_shard):
            data = await trio.Path(name).read_bytes()
            if len(data) not in map(len, FILES.values()) or b"\xff" in data:
                raise EngineRefused(f"{name}: torn or not finite", name)
        theta = await trio.Path(message.theta_path).read_bytes()
        return messages.Loaded(1250, "", self.ids["theta"] if theta == FILES["theta"] else "0" * 64, 99, 10, 2, ())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_sound_state_is_loaded_and_nothing_fetched(place: Place) -> None:
    loaded = await catchup.install(place.node)
    assert loaded.trained_round == 2 and place.fetched == [] and place.loads == 1
    assert (place.node.contribution_bytes, place.node.parameters) == (99, 1250)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\x01" * 4999, b"\x01" * 4999 + b"\x00", b"\x01" * 4999 + b"\xff"],
    ids=["empty", "short", "flipped", "not-finite"],
)
async def test_a_damaged_state_is_repaired_however_it_is_damaged(place: Place, damaged: bytes) -> None:
    place.damage("theta", damaged)
    await catchup.install(place.node)
    assert place.fetched == ["theta"] and place.path("theta").read_bytes() == FILES["theta"]
    assert not list(place.node.staging.iterdir())


async def test_a_disk_that_spoils_whatever_is_written_is_named(place: Place) -> None:
    place.damage("theta", b"")
    place.spoil = lambda path: place.damage("theta", b"\x01" * 4999 + b"\x00")
    with pytest.raises(Desynced, match="disk or the memory"):
        await catchup.install(place.node)


@pytest.mark.parametrize("name", ["train", "heldout"])
async def test_damaged_tokens_are_dropped_for_the_next_catch_up_to_fetch(place: Place, name: str) -> None:
    place.damage(name, b"\x02")
    with pytest.raises(Desynced, match="fetched anew"):
        await catchup.install(place.node)
    assert place.blobs.path(place.ids[name]) is None
    await place.fetch(place.ids[name])
    await catchup.install(place.node)


async def test_other_refusals_are_not_ours_to_repair(place: Place) -> None:
    async def refuse(message: object, expect: object) -> messages.Loaded:
        raise EngineRefused("bad training config")

    place.order = refuse  # type: ignore[assignment]
    with pytest.raises(EngineRefused):
        await catchup.install(place.node)
    assert place.fetched == []
