"""The shape of each write's arguments, checked before the call may wait for a block."""

from collections.abc import Callable
from typing import Any

from covenantd.chain.keys import public_key
from covenantd.chain.ledger.state import MAX_AMOUNT, Refusal
from covenantd.chain.protocol import MAX_FIELD_BYTES

_U16_MAX = 65535
_MAX_UIDS = 4096
_MAX_SENT_FIELDS = 16  # more than the chain takes: its own error name is the better answer


def _amount(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_AMOUNT


def _u16_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_UIDS
        and all(type(v) is int and 0 <= v <= _U16_MAX for v in value)
    )


def _hotkey(value: Any) -> bool:
    try:
        public_key(value)
    except (ValueError, TypeError):
        return False
    return True


def _field(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= 2 * MAX_FIELD_BYTES
        and len(value) % 2 == 0
        and all(c in "0123456789abcdef" for c in value)
    )


def _fields(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_SENT_FIELDS and all(map(_field, value))


def _hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)


_WEIGHTS: dict[str, Callable[[Any], bool]] = {"uids": _u16_list, "values": _u16_list, "version_key": _amount}
ARGUMENTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "register": {},
    "swap_hotkey": {"to": _hotkey},
    "allow": {"who": _hotkey},
    "disallow": {"who": _hotkey},
    "add_stake": {"amount": _amount},
    "transfer": {"to": _hotkey, "amount": _amount},
    "set_commitment": {"fields": _fields},
    "set_weights": _WEIGHTS,
    "commit_weights": {"hash": _hash},
    "reveal_weights": _WEIGHTS | {"salt": _field},
}


def check_arguments(method: Any, args: Any) -> dict[str, Any]:
    """`args` if they fit `method`. Raises Refusal: UnknownMethod, InvalidArguments."""
    checks = ARGUMENTS.get(method) if isinstance(method, str) else None
    if checks is None:
        raise Refusal("UnknownMethod", f"known: {', '.join(ARGUMENTS)}")
    if not isinstance(args, dict) or set(args) != set(checks):
        raise Refusal("InvalidArguments", f"{method} takes {', '.join(checks) or 'nothing'}")
    for name, check in checks.items():
        if not check(args[name]):
            raise Refusal("InvalidArguments", name)
    return args
