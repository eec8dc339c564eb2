"""What systemd/covenantd.service makes of a process, as far as it can be had without systemd: environment, seccomp.

Where systemd's list of system calls or libseccomp is missing, no call is filtered; `can_filter` says so.
"""

import ctypes
import ctypes.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

UNIT = Path(__file__).parents[1] / "systemd" / "covenantd.service"

# seccomp.h, linux/prctl.h
_ALLOW, _ERRNO, _EPERM = 0x7FFF0000, 0x00050000, 1
_PR_SET_NO_NEW_PRIVILEGES = 38


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def environment(credentials: Path) -> dict[str, str]:
    """Environment=, with the specifiers that it uses; CREDENTIALS_DIRECTORY, as LoadCredential= sets it."""
    known = {"%d": str(credentials)}
    pairs = [re.sub("%.", lambda found: known[found[0]], one).partition("=") for one in values("Environment")]
    return {name: value for name, _, value in pairs} | {"CREDENTIALS_DIRECTORY": str(credentials)}


def can_filter() -> bool:
    return shutil.which("systemd-analyze") is not None and ctypes.util.find_library("seccomp") is not None


@cache
def allowed() -> frozenset[str]:
    """Names of the system calls that SystemCallFilter= leaves."""
    names: set[str] = set()
    for line in values("SystemCallFilter"):
        words = {call for word in line.removeprefix("~").split() for call in _expanded(word)}
        names = names - words if line.startswith("~") else names | words
    return frozenset(names)


@cache
def _expanded(word: str) -> frozenset[str]:
    if not word.startswith("@"):
        return frozenset({word})
    listed = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    inner = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return frozenset(call for one in inner if one and not one.startswith("#") for call in _expanded(one))


def restrict() -> None:
    """NoNewPrivileges=, SystemCallFilter= and SystemCallErrorNumber= for this process and all it will start."""
    assert values("SystemCallErrorNumber") == ["EPERM"] and values("NoNewPrivileges") == ["yes"]
    calls = allowed()
    seccomp, libc = ctypes.CDLL(ctypes.util.find_library("seccomp")), ctypes.CDLL(None)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_ERRNO | _EPERM)))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # of this architecture
            _checked(seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0))
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(seccomp.seccomp_load(context))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(-result, "seccomp")
