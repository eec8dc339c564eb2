"""A Bittensor wallet's directory around the hotkey: NAME/coldkey beside NAME/hotkeys/HOTKEY.

The coldkey owns the funds and signs registrations, elsewhere; a daemon has no use for it. One that lies here
unencrypted is a prize for whoever breaks in, so a daemon that finds one does not start unless it is told to.
"""

import os
import stat
from pathlib import Path

import bittensor_core

from covenantd.chain.keys import MAX_KEY_FILE_BYTES
from covenantd.errors import ConfigError


def refuse_bare_coldkey(hotkey: Path, allowed: bool) -> None:
    """Raises ConfigError for a hotkey whose wallet holds a coldkey that anybody who can read the file can use."""
    coldkey = None if allowed else bare_coldkey(hotkey)
    if coldkey is not None:
        raise ConfigError(
            f"{coldkey}: the hotkey's wallet holds its coldkey unencrypted: whoever breaks into this host takes the "
            "wallet's funds, and covenantd never needs that key. Move it to another machine, or encrypt it, or copy "
            "the hotkey's file alone to where [identity] hotkey points; set [identity] allow_coldkey = true to run "
            "all the same"
        )


def bare_coldkey(hotkey: Path) -> Path | None:
    """The unencrypted coldkey of the wallet that a hotkey's file lies in, if there is one and we may read it.

    A file of the hotkey may be a link into the wallet: its own directory counts, and so does the one it leads to.
    """
    for place in dict.fromkeys((hotkey.absolute(), hotkey.resolve())):
        if place.parent.name == "hotkeys":
            coldkey = place.parent.parent / "coldkey"
            if _holds_bare_key(coldkey):
                return coldkey
    return None


def _holds_bare_key(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # not there, or not ours to read: then whoever breaks in as us cannot read it either
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        data = os.read(descriptor, MAX_KEY_FILE_BYTES)
    finally:
        os.close(descriptor)
    return bool(data.strip()) and not bittensor_core.keyfile_data_is_encrypted(data)
