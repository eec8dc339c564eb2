"""`covenantctl snapshot save`: a model state of the daemon's as a file of one's own, verified."""

import os
import shutil
from pathlib import Path
from typing import Any

from covenantd.controlwire import ControlError


def choose(snapshots: list[dict[str, Any]], round: int | None) -> dict[str, Any]:
    """That of θ_round, without a round the newest. Raises ControlError."""
    wanted = [one for one in snapshots if round in (None, one["round"])]
    if not wanted:
        what = "no model state is here yet" if round is None else f"the state of round {round} is not here"
        raise ControlError("failed", f"{what}; `covenantctl snapshot list` says which are")
    return max(wanted, key=lambda one: int(one["round"]))


def save(snapshot: dict[str, Any], target: Path) -> None:
    """Copy it, never over an existing file; what does not match its hash is removed again. Raises ControlError."""
    part = target.with_name(target.name + ".part")
    source = Path(snapshot["path"])
    try:
        with source.open("rb") as file:
            _copy(file, part)
            if _hash(part, snapshot["piece_bytes"]) != snapshot["state_hash"]:
                raise ControlError("failed", f"{source} is damaged; `covenantctl snapshot verify` has it repaired")
            os.link(part, target)  # unlike a rename, it takes no existing file's place
    except FileExistsError as error:
        raise ControlError("failed", f"{error.filename2 or error.filename} exists already") from None
    except PermissionError as error:
        raise ControlError("permission", f"{error.filename}: {error.strerror}; be the daemon's user or root") from None
    except OSError as error:
        raise ControlError("failed", f"{error.filename or target}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Any, part: Path) -> None:
    with part.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _hash(path: Path, piece_bytes: int) -> str:
    from p2p.manifest import manifest_of  # here, not above: --help needs none of it

    with path.open("rb", buffering=0) as file:
        return manifest_of(file.fileno(), piece_bytes).blob_id
