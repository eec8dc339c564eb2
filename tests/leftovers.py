"""What is left of processes that should be gone: looked for in /proc, by the directories they were told to use."""

import os
from pathlib import Path

import trio


def processes(*directories: Path) -> dict[int, str]:
    """Pid -> command line, of every living process other than us that names one of these directories."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            if any(str(directory) in line for directory in directories):
                found[int(entry.name)] = line
    return found


async def none_left(*directories: Path, seconds: float = 5.0) -> None:
    """Within `seconds`: the kernel takes a moment to end a family."""
    left: dict[int, str] = {}
    with trio.move_on_after(seconds):
        while left := processes(*directories):  # noqa: ASYNC110 - they are no children of ours
            await trio.sleep(0.05)
    assert not left, left
