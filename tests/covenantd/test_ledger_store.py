import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covenantd.chain.ledger import store as store_module
from covenantd.chain.ledger.blocks import LedgerBlock, calls_root, genesis_block
from covenantd.chain.ledger.state import StateDigest
from covenantd.chain.ledger.store import LedgerStore
from covenantd.errors import ConfigError, CovenantError, TryAgain

Changes = dict[str, str | None]
KEYS = ["account/a", "account/b", "neuron/0"]
_changes = st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers(0, 9).map(str))


class Writer:
    """Appends blocks and remembers what the state was after each."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self.digest = StateDigest({})
        self.states: list[dict[str, str]] = [{}]
        self.head = genesis_block(self.digest, 1)
        store.commit(self.head, (), {})

    def append(self, changes: Changes) -> None:
        self.digest.update(changes)
        state = {k: v for k, v in (self.states[-1] | changes).items() if v is not None}
        self.states.append(state)
        number = self.head.number + 1
        self.head = LedgerBlock(number, self.head.hash, number + 1, calls_root(()), self.digest.root())
        self.store.commit(self.head, (), changes)


@settings(max_examples=30, deadline=None)
@given(st.lists(_changes, max_size=12))
def test_every_state_can_be_read_back(tmp_path_factory: pytest.TempPathFactory, blocks: list[Changes]) -> None:
    path = tmp_path_factory.mktemp("store") / "ledger.db"
    writer = Writer(LedgerStore(path))
    for changes in blocks:
        writer.append(changes)
    writer.store.close()
    store = LedgerStore(path)
    assert store.head() == writer.head
    assert [store.entries(n) for n in range(len(writer.states))] == writer.states
    assert store.load_state(writer.head) == writer.states[-1]
    store.close()


def test_bonds_have_no_history(tmp_path: Path) -> None:
    writer = Writer(LedgerStore(tmp_path / "ledger.db"))
    for changes in ({"bonds/0": "1", "bonds/1": "1"}, {"bonds/0": "2", KEYS[0]: "1"}, {"bonds/1": None}):
        writer.append(dict(changes))
    store = writer.store
    assert store.entries(3) == writer.states[3] == {"bonds/0": "2", KEYS[0]: "1"}
    assert store.load_state(writer.head) == writer.states[3]
    assert store.entries(1) == {}
    store.close()


def test_old_history_goes_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEPT_BLOCKS", 10)
    writer = Writer(LedgerStore(tmp_path / "ledger.db"))
    for n in range(40):
        writer.append({KEYS[n % 2]: str(n), KEYS[2]: "same" if n < 3 else None if n == 3 else "late"})
    store = writer.store
    assert [store.entries(n) for n in range(30, 41)] == writer.states[30:]
    assert store.block(0) is not None and store.block(1) is None and store.block(30) is not None
    assert store.head() == writer.head
    store.close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert database.execute("SELECT count(*) FROM entries").fetchone()[0] < 40


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    writer = Writer(LedgerStore(path))
    with pytest.raises(TryAgain, match="another ledger"):
        LedgerStore(path)
    writer.store.close()
    again = LedgerStore(path)
    with pytest.raises(TryAgain, match="another ledger"):
        LedgerStore(path)
    again.close()


def test_a_failed_commit_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(LedgerStore(tmp_path / "ledger.db"))
    writer.append({KEYS[0]: "1"})
    again = LedgerBlock(2, writer.head.hash, 9, calls_root(()), writer.digest.root())
    with pytest.raises(sqlite3.Error):
        writer.store.commit(again, (), {KEYS[0]: "2", KEYS[1]: object()})  # type: ignore[dict-item]
    assert writer.store.head() == writer.head
    assert writer.store.entries(1) == {KEYS[0]: "1"}
    writer.append({KEYS[0]: "2"})
    writer.store.close()


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    with pytest.raises(ConfigError, match="not a ledger"):
        LedgerStore(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(ConfigError, match="not a ledger"):
        LedgerStore(tmp_path / "other.db")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE blocks SET timestamp_ms = timestamp_ms + 1 WHERE number = 1",
        "UPDATE entries SET value = '7'",
        "DELETE FROM entries",
    ],
)
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.db"
    writer = Writer(LedgerStore(path))
    writer.append({KEYS[0]: "1"})
    writer.store.close()
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    store = LedgerStore(path)
    with pytest.raises(CovenantError, match="damaged"):
        store.load_state(store.head())  # type: ignore[arg-type]
    store.close()
