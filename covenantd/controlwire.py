"""What goes over the control socket; shared by the server and both clients. No trio.

Frames: u32 big-endian length, msgpack body. Both ends first send {"hello": {"protocol": 1, "version": "0.1.0"}};
then the client sends {"verb": name, "args": {...}} any number of times, one at a time, and gets {"ok": result} or
{"error": {"code": one of CODES, "message": text}} for each.
"""

from collections.abc import Mapping
from typing import Any

from covenantd import __version__
from covenantd.errors import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_PERMISSION, EXIT_TIMEOUT, EXIT_USAGE

PROTOCOL = 1
SOCKET_NAME = "control.sock"
MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 1 << 20

EXIT_OF_CODE = {
    "usage": EXIT_USAGE,
    "permission": EXIT_PERMISSION,
    "timeout": EXIT_TIMEOUT,
    "failed": EXIT_FAILED,
    "protocol": EXIT_FAILED,
    "busy": EXIT_FAILED,
    "bug": EXIT_FAILED,
    "not running": EXIT_NOT_RUNNING,  # said by clients only
}
CODES = tuple(EXIT_OF_CODE)


class ControlError(Exception):
    """A verb that could not be done; `code` is one of CODES."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:
        return EXIT_OF_CODE.get(self.code, EXIT_FAILED)


def hello() -> dict[str, Any]:
    return {"hello": {"protocol": PROTOCOL, "version": __version__}}


def check_hello(message: object, who: str) -> str:
    """The other end's version. Raises ControlError of code "protocol" on a mismatch."""
    greeting = message.get("hello") if isinstance(message, Mapping) else None
    if not isinstance(greeting, Mapping):
        raise ControlError("protocol", f"the {who} did not say hello; is it covenantd at all?")
    protocol, version = greeting.get("protocol"), str(greeting.get("version", "?"))[:40]
    if protocol != PROTOCOL:
        raise ControlError(
            "protocol",
            f"the {who} ({version}) speaks control protocol {protocol!r:.20}, this is {PROTOCOL} ({__version__}); "
            "use the covenantctl that was installed with the daemon",
        )
    return version


def error_message(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message[:4000]}}


def result_of(message: object) -> Any:
    """The result in a reply. Raises ControlError."""
    if isinstance(message, Mapping) and "ok" in message:
        return message["ok"]
    error = message.get("error") if isinstance(message, Mapping) else None
    if not isinstance(error, Mapping):
        raise ControlError("protocol", "the daemon's answer is neither a result nor an error")
    raise ControlError(str(error.get("code", "failed")), str(error.get("message", "no reason given")))
