"""Processor time of a process that still runs."""

import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
