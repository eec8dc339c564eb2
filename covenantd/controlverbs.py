"""The verbs every daemon answers, from a StatusBoard and a few orders the composition root supplies."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import trio

from covenantd import __version__
from covenantd.board import StatusBoard
from covenantd.conditions import BadCondition, parse_condition
from covenantd.control import Verb
from covenantd.controlwire import PROTOCOL, ControlError
from covenantd.status import SCHEMA
from p2p.wire import Fields

MAX_WAIT_SECONDS = 7 * 86400.0
_MAX_ROUNDS_SHOWN = 200
_MAX_ROUND = 2**53

Order = Callable[[], Awaitable[None]]
Args = Mapping[str, Any]


def standard_verbs(board: StatusBoard, orders: Mapping[str, Order]) -> dict[str, Verb]:
    """status, peers, rounds, wait, version, and each of `orders` (pause, resume, drain) as a write verb.

    An order returns once it has been taken, not once it is done: `wait` waits.
    """
    return {
        "status": Verb(_status(board)),
        "peers": Verb(_peers(board)),
        "rounds": Verb(_rounds(board)),
        "wait": Verb(_wait(board)),
        "version": Verb(_version),
        **{name: Verb(_order(name, order, board), writes=True) for name, order in orders.items()},
    }


Handler = Callable[[Args], Awaitable[object]]


async def _version(args: Args) -> object:
    return {"schema": SCHEMA, "version": __version__, "protocol": PROTOCOL}


def _status(board: StatusBoard) -> Handler:
    async def handler(args: Args) -> object:
        return board.status.as_dict()

    return handler


def _peers(board: StatusBoard) -> Handler:
    async def handler(args: Args) -> object:
        return {"schema": SCHEMA, "peers": board.status.as_dict()["peers"]}

    return handler


def _rounds(board: StatusBoard) -> Handler:
    """All of the last rounds, or with {"round": R} that one."""

    async def handler(args: Args) -> object:
        # who sent what is for the one round asked for: all together would not fit a frame
        rounds = tuple(replace(one, contributions=()) for one in board.rounds[-_MAX_ROUNDS_SHOWN:])
        if args.get("round") is not None:
            wanted = Fields(args).number("round", 0, _MAX_ROUND)
            rounds = tuple(one for one in board.rounds if one.round == wanted)
            if not rounds:
                raise ControlError("failed", f"nothing is known here of round {wanted}")
        return {"schema": SCHEMA, "rounds": [one.as_dict() for one in rounds]}

    return handler


def _wait(board: StatusBoard) -> Handler:
    """{"for": CONDITION, "timeout_seconds": S or None}: the status that met the condition."""

    async def handler(args: Args) -> object:
        fields = Fields(args)
        timeout = fields.real("timeout_seconds", 0, MAX_WAIT_SECONDS) if fields.has("timeout_seconds") else None
        try:
            condition = parse_condition(fields.text("for", 80))
        except BadCondition as error:
            raise ControlError("usage", str(error)) from None
        with trio.move_on_after(MAX_WAIT_SECONDS if timeout is None else timeout):
            return (await board.wait_for(condition.holds)).as_dict()
        raise ControlError("timeout", f"{condition.text} was not met in {timeout or MAX_WAIT_SECONDS:g} s")

    return handler


def _order(name: str, order: Order, board: StatusBoard) -> Handler:
    async def handler(args: Args) -> object:
        await order()
        return {"schema": SCHEMA, "verb": name, "state": board.status.state}

    return handler
