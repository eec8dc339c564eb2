"""Runs a script on a machine whose first process is systemd; see systemd_machine.sh."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CGROUPS = Path("/sys/fs/cgroup")
_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--net", "--kill-child"]
_SYSTEMD = Path("/usr/lib/systemd/systemd")


def why_not() -> str | None:
    """Why there can be no such machine here."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    if not _SYSTEMD.exists() or shutil.which("ip") is None:
        return "needs systemd and ip (Debian: systemd, iproute2)"
    try_out = "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && mkdir $d/u $d/w $d/r && "
    try_out += "mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/r; code=$?; "
    done = subprocess.run(
        [*_NAMESPACES, "bash", "-c", f"{try_out} umount -l $d; rmdir $d; exit $code"], capture_output=True, text=True
    )
    return f"may not mount or make namespaces: {done.stderr.strip()}" if done.returncode else None


def run(work: Path, out: Path, script: str, timeout_seconds: float) -> None:
    """What the script writes below /out is in `out` afterwards. Raises TimeoutExpired, CalledProcessError."""
    (out / "script").write_text(script)
    python = Path(sys.executable).resolve()
    places = [work, out, ROOT, python.parents[1], python.name, sysconfig.get_path("purelib")]
    command = [*_NAMESPACES, "bash", str(ROOT / "tests" / "systemd_machine.sh"), *map(str, places)]
    with _cgroups(f"covenantd-test-{os.getpid()}") as joined:
        subprocess.run(["bash", "-c", f'{joined} exec "$@"', "machine", *command], timeout=timeout_seconds, check=True)


@contextmanager
def _cgroups(name: str) -> Iterator[str]:
    """A command that puts a shell into a cgroup of its own: systemd's are below that. All are gone afterwards."""
    hierarchies = [one for one in (_CGROUPS / "unified", _CGROUPS / "systemd") if one.is_dir()] or [_CGROUPS]
    ours = [one / name for one in hierarchies]
    for one in ours:
        one.mkdir()
    try:
        yield " ".join(f"echo $$ > {one}/cgroup.procs;" for one in ours)
    finally:
        for one in ours:
            for inner in sorted(one.rglob("*"), key=lambda path: len(path.parts), reverse=True):
                if inner.is_dir():
                    inner.rmdir()
            one.rmdir()
