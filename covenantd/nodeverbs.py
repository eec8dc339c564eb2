"""Control verbs about a miner's or validator's part in the run: chain, why, snapshot."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import trio

from covenantd import opinions, revisions
from covenantd.control import Verb
from covenantd.controlwire import ControlError
from covenantd.node import Node
from covenantd.profiling import profile_verb
from covenantd.reasons import Known, Question, explain
from covenantd.specchange import MAX_CHANGE_BYTES
from covenantd.status import SCHEMA
from p2p.wire import Fields

Args = Mapping[str, Any]
Handler = Callable[[Args], Awaitable[object]]

_CHAIN_SECONDS = 8.0  # below what covenantctl waits for an answer
_MAX_HOTKEY_CHARS = 64


def node_verbs(node: Node) -> dict[str, Verb]:
    return {
        "chain": Verb(_chain(node)),
        "why": Verb(_why(node)),
        "change": Verb(_change(node), writes=True),
        "profile": profile_verb(node),
        "snapshots": Verb(_snapshots(node)),
        "snapshot-verify": Verb(_verify(node), writes=True),  # what is found bad is given up, so it changes things
    }


def _chain(node: Node) -> Handler:
    async def handler(args: Args) -> object:
        with trio.fail_after(_CHAIN_SECONDS):
            head, epoch = await node.chain.block(), await node.chain.epoch()
            metagraph = await node.chain.metagraph(head.number)
        neuron, timing = metagraph.neuron(node.hotkey.hotkey), node.spec.timing
        started = node.heads.number >= timing.start_block
        return {
            "schema": SCHEMA,
            "kind": node.config.chain.kind,
            "netuid": metagraph.netuid,
            "genesis": node.spec.chain.genesis,
            "block": head.number,
            "block_hash": head.hash,
            "block_timestamp": head.timestamp,
            "followed_block": node.heads.number,
            "tempo_blocks": epoch.tempo_blocks,
            "next_epoch_block": epoch.next_epoch_block,
            "weights_rate_limit_blocks": epoch.weights_rate_limit_blocks,
            "neurons": len(metagraph.neurons),
            "start_block": timing.start_block,
            "blocks_per_round": timing.blocks_per_round,
            "round_of_block": (head.number - timing.start_block) // timing.blocks_per_round if started else None,
            "neuron": None
            if neuron is None
            else {
                "uid": neuron.uid,
                "stake_rao": neuron.stake,
                "validator_permit": neuron.validator_permit,
                "incentive": neuron.incentive / 65535,
                "dividends": neuron.dividends / 65535,
                "emission_rao": neuron.emission,
                "registered_block": neuron.registered_block,
                "last_update_block": neuron.last_update_block,
            },
        }

    return handler


def _change(node: Node) -> Handler:
    """{"document": a signed change of the run spec}: the validators that can be reached propose it with their next
    roster."""

    async def handler(args: Args) -> object:
        if not node.validates:
            raise ControlError("failed", "only a validator proposes changes of the run spec")
        change = await revisions.offer(node, Fields(args).text("document", MAX_CHANGE_BYTES).encode())
        told = await revisions.hand_on(node)
        return {
            "schema": SCHEMA,
            "revision": change.revision,
            "first_round": change.first_round,
            "certifiers": 1 + told,
        }

    return handler


def _why(node: Node) -> Handler:
    """{"hotkey": one, or none for our own}. Of our own the validators are asked what they hold."""

    async def handler(args: Args) -> object:
        asked = args.get("hotkey") is not None
        hotkey = Fields(args).text("hotkey", _MAX_HOTKEY_CHARS) if asked else node.hotkey.hotkey
        with trio.fail_after(_CHAIN_SECONDS):
            head = await node.chain.block()
            metagraph = await node.chain.metagraph(head.number)
        scores = await trio.to_thread.run_sync(_scores, node)
        question = Question(hotkey, hotkey == node.hotkey.hotkey, node.config.node.role)
        told = await opinions.ask(node) if question.is_own and not node.validates else {}
        known = Known(node.board.rounds, scores.get(hotkey), {one: asdict(said) for one, said in told.items()})
        return {"schema": SCHEMA, **explain(question, metagraph, known)}

    return handler


def _scores(node: Node) -> Mapping[str, Any]:
    """A validator's own opinions, as it keeps them on disk; a miner has none."""
    import json

    try:
        found = json.loads((node.config.node.state_directory / "scores.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# Snapshots: the states of past rounds that are still here


def _states(node: Node) -> list[tuple[int, str]]:
    """(round, state hash), newest first: θ_round, which is θ before that round's outer step."""
    memory = node.journal.memory
    past = [(one.round + 1, one.state_hash) for one in reversed(memory.past)]
    return list(dict.fromkeys([(memory.round, memory.state_hash), *past]))


def _snapshots(node: Node) -> Handler:
    async def handler(args: Args) -> object:
        rows = [_row(node, round, state) for round, state in _states(node) if node.blobs.path(state) is not None]
        return {"schema": SCHEMA, "snapshots": rows, "blob_bytes": node.blobs.total_bytes}

    return handler


def _row(node: Node, round: int, state_hash: str) -> dict[str, Any]:
    manifest = node.blobs.manifest(state_hash)
    return {
        "round": round,
        "state_hash": state_hash,
        "bytes": manifest.size if manifest else 0,
        "piece_bytes": manifest.piece_bytes if manifest else 0,
        "current": state_hash == node.journal.memory.state_hash,
        "path": str(node.blobs.path(state_hash) or ""),
    }


def _verify(node: Node) -> Handler:
    """Hash them again: {"round": R}, or all of them. A bad one is fetched again from peers when it is needed."""

    async def handler(args: Args) -> object:
        wanted = Fields(args).number("round", 0, 2**53) if args.get("round") is not None else None
        states = [
            (round, state)
            for round, state in _states(node)
            if node.blobs.path(state) is not None and wanted in (None, round)
        ]
        if not states:
            raise ControlError("failed", "no such state here; `covenantctl snapshot list` says which there are")
        rows = []
        for round, state in states:
            ok = await trio.to_thread.run_sync(node.blobs.verify, state)
            rows.append({"round": round, "state_hash": state, "ok": ok})
        return {"schema": SCHEMA, "verified": rows, "ok": all(row["ok"] for row in rows)}

    return handler
