"""What the system did not let us do, in words an operator can act on: who we are, whose the file is, the remedy."""

import errno
import os
import pwd
from pathlib import Path

from covenantd.errors import PermissionRefused

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_refusal(error: BaseException) -> bool:
    """Of a named file, that is: a system call that is refused otherwise may well be our own mistake."""
    return isinstance(error, OSError) and error.errno in REFUSED and error.filename is not None


def refusal(error: OSError, remedy: str = "") -> PermissionRefused:
    """For an error of which `is_refusal` holds. `remedy` replaces the general one."""
    path = Path(os.fsdecode(error.filename))
    if error.errno == errno.EROFS:
        return PermissionRefused(
            f"{path}: it cannot be written from here: {error.strerror}; use another directory, or, as a systemd "
            f"service, let it in by a drop-in: ReadWritePaths={path.parent}"
        )
    seen = _nearest_visible(path)
    status = seen.stat()
    remedy = remedy or f"run as that user, or give {user_name(os.geteuid())} access to {seen}"
    return PermissionRefused(
        f"{path}: {error.strerror}: we run as {user_name(os.geteuid())}, and {seen} is {user_name(status.st_uid)}'s "
        f"with mode {status.st_mode & 0o7777:04o}; {remedy}"
    )


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _nearest_visible(path: Path) -> Path:
    for one in (path, *path.absolute().parents):
        try:
            one.stat()
        except OSError:
            continue
        return one
    return Path("/")
