"""`covenantctl snapshot save`: the file is the state, or there is none."""

from pathlib import Path
from typing import Any

import pytest

from covenantd.controlwire import ControlError
from covenantd.ctlsnapshot import choose, save
from p2p.blobs import BlobStore

PIECE_BYTES = 4096


@pytest.fixture
def snapshot(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "theta").write_bytes(bytes(range(256)) * 40)
    store = BlobStore(tmp_path / "blobs")
    state = store.adopt(tmp_path / "theta", PIECE_BYTES)
    return {"round": 3, "state_hash": state, "piece_bytes": PIECE_BYTES, "path": str(store.path(state))}


def test_a_state_is_copied_out(snapshot: dict[str, Any], tmp_path: Path) -> None:
    save(snapshot, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == bytes(range(256)) * 40
    assert not list(tmp_path.glob("*.part"))


def test_never_over_another_file(snapshot: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out.bin").write_text("mine")
    with pytest.raises(ControlError, match=r"out\.bin exists already"):
        save(snapshot, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_text() == "mine"


def test_a_damaged_state_is_not_handed_out(snapshot: dict[str, Any], tmp_path: Path) -> None:
    path = Path(snapshot["path"])
    path.chmod(0o600)
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(ControlError, match="damaged"):
        save(snapshot, tmp_path / "out.bin")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("target", ["nowhere/out.bin", "."])
def test_places_where_no_file_can_be(snapshot: dict[str, Any], tmp_path: Path, target: str) -> None:
    with pytest.raises(ControlError):
        save(snapshot, tmp_path / target)


def test_a_state_that_went_away(snapshot: dict[str, Any], tmp_path: Path) -> None:
    Path(snapshot["path"]).unlink()
    with pytest.raises(ControlError, match="No such file"):
        save(snapshot, tmp_path / "out.bin")


def test_which_state() -> None:
    rows = [{"round": 7}, {"round": 6}]
    assert choose(rows, None) == {"round": 7} and choose(rows, 6) == {"round": 6}
    for known, round in ((rows, 5), ([], None)):
        with pytest.raises(ControlError, match="snapshot list"):
            choose(known, round)
