"""Memory of a process and all its descendants, shared pages counted once."""

from pathlib import Path

KINDS = {
    "engines": "model.worker",
    "p2pd": "p2pd",
    "ledger": "covenantd.chain.ledger",
    "daemons": "covenantd.cli run",
    "making the run": "model.genesis",
    "covenantd swarm": "covenantd.cli swarm",
}


def descendants(root: int) -> list[int]:
    """With `root` itself; processes that end meanwhile are left out."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        text = _read(path)
        if text:
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def pss_bytes(root: int) -> dict[str, int]:
    """Proportional set size by kind of process. Private to us where /proc says so; needs the same user or root."""
    totals: dict[str, int] = {}
    for pid in descendants(root):
        rollup = _read(Path(f"/proc/{pid}/smaps_rollup"))
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                kind = _kind(_read(Path(f"/proc/{pid}/cmdline")).replace("\0", " "))
                totals[kind] = totals.get(kind, 0) + int(line.split()[1]) * 1024
    return totals


def _kind(command: str) -> str:
    return next((kind for kind, words in KINDS.items() if words in command), "other")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it ended while we looked
