"""The embedded chain: a small process that owns a SQLite file."""
