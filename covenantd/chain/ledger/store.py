"""The ledger on disk: one SQLite file, one transaction a block.

An entry is valid over blocks [block, until); the state at any kept block is the entries valid there, but for tables
that nobody reads back, of which only the newest rows are kept. What a commit returned from survives kill -9 and loss
of power (WAL, synchronous FULL).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covenantd.chain.ledger.blocks import Included, LedgerBlock
from covenantd.chain.ledger.state import UNREAD_TABLES, StateDigest
from covenantd.errors import ConfigError, CovenantError, TryAgain

KEPT_BLOCKS = 20_000
_OPEN_END = (1 << 63) - 1
_APPLICATION_ID = 0x436F7631
_FORMAT = 2  # 1 had bonds as lists of numbers
_SCHEMA = """
CREATE TABLE blocks (number INTEGER PRIMARY KEY, hash TEXT NOT NULL, parent TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL, calls_root TEXT NOT NULL, state_digest TEXT NOT NULL);
CREATE TABLE entries (key TEXT NOT NULL, block INTEGER NOT NULL, until INTEGER NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (key, block)) WITHOUT ROWID;
CREATE INDEX entries_until ON entries (until);
CREATE TABLE calls (hotkey TEXT NOT NULL, nonce INTEGER NOT NULL, block INTEGER NOT NULL, digest TEXT NOT NULL,
    body TEXT NOT NULL, signature TEXT NOT NULL, error TEXT, PRIMARY KEY (hotkey, nonce)) WITHOUT ROWID;
CREATE INDEX calls_block ON calls (block);
"""


@dataclass(frozen=True)
class CallFate:
    """Where a call ended: its block, and the error name it came to there."""

    block: int
    digest: str
    error: str | None


class LedgerStore:
    """Owns the file; a second owner is refused. Errors of the disk surface as `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises ConfigError if it is no ledger database, TryAgain if another process has it."""
        self._path = path
        # Autocommit: transactions are opened by hand, one a block.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._open_format()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if "locked" in str(error):
                raise TryAgain(f"{path}: another ledger has the database open") from None
            raise ConfigError(f"{path}: not a ledger database: {error}") from None
        except ConfigError:
            self._db.close()
            raise

    def _open_format(self) -> None:
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        if application == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            script = f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={_FORMAT};"
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {script} COMMIT;")
            return
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (_APPLICATION_ID, _FORMAT):
            raise ConfigError(f"{self._path}: not a ledger database of format {_FORMAT}")
        # The first write takes the lock; take it now, or a second owner is found out only at its first block.
        self._db.executescript("BEGIN IMMEDIATE; COMMIT;")

    def close(self) -> None:
        self._db.close()

    def commit(self, block: LedgerBlock, included: Sequence[Included], changes: dict[str, str | None]) -> None:
        """Append one block, all of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write(block, included, changes)
            self._prune(block.number - KEPT_BLOCKS)  # at every block, so that none has much of it
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write(self, block: LedgerBlock, included: Sequence[Included], changes: dict[str, str | None]) -> None:
        number = block.number
        self._db.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)",
            (number, block.hash, block.parent, block.timestamp_ms, block.calls_root, block.state_digest),
        )
        unread = [key for key in changes if key.startswith(UNREAD_TABLES)]
        self._db.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in unread])
        self._db.executemany(
            "UPDATE entries SET until = ? WHERE key = ? AND until = ?", [(number, key, _OPEN_END) for key in changes]
        )
        self._db.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            [(key, number, _OPEN_END, value) for key, value in changes.items() if value is not None],
        )
        self._db.executemany(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (i.call.hotkey, i.call.nonce, number, i.call.digest, i.call.body, i.call.signature, i.error)
                for i in included
            ],
        )

    def _prune(self, floor: int) -> None:
        self._db.execute("DELETE FROM entries WHERE until <= ?", (floor,))
        self._db.execute("DELETE FROM blocks WHERE number < ? AND number > 0", (floor,))
        self._db.execute("DELETE FROM calls WHERE block < ?", (floor,))

    def block(self, number: int) -> LedgerBlock | None:
        row = self._db.execute(
            "SELECT number, parent, timestamp_ms, calls_root, state_digest, hash FROM blocks WHERE number = ?",
            (number,),
        ).fetchone()
        return self._checked(row)

    def head(self) -> LedgerBlock | None:
        """The last block; None in a new file."""
        row = self._db.execute(
            "SELECT number, parent, timestamp_ms, calls_root, state_digest, hash FROM blocks "
            "ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return self._checked(row)

    def _checked(self, row: tuple[int, str, int, str, str, str] | None) -> LedgerBlock | None:
        if row is None:
            return None
        block = LedgerBlock(*row[:5])
        if block.hash != row[5]:
            raise CovenantError(f"{self._path}: block {block.number} does not have its hash: the file is damaged")
        return block

    def entries(self, number: int) -> dict[str, str]:
        """The state after block `number`, whole only at the head. The caller knows that the block is kept."""
        rows = self._db.execute("SELECT key, value FROM entries WHERE until > ? AND block <= ?", (number, number))
        return dict(rows.fetchall())

    def load_state(self, head: LedgerBlock) -> dict[str, str]:
        """The state after the head. Raises CovenantError if it is not what the head's hash says."""
        entries = self.entries(head.number)
        if StateDigest(entries).root() != head.state_digest:
            raise CovenantError(f"{self._path}: the state is not that of block {head.number}: the file is damaged")
        return entries

    def fate(self, hotkey: str, nonce: int) -> CallFate | None:
        """What became of a call; None if no kept block holds it."""
        row = self._db.execute(
            "SELECT block, digest, error FROM calls WHERE hotkey = ? AND nonce = ?", (hotkey, nonce)
        ).fetchone()
        return CallFate(*row) if row else None
