"""What the verbs of `ctlnodeverbs` print for people."""

import json
import time
from typing import Any

from covenantd.ctloutput import aligned, clean, duration, paint, size, table

_RAO = 10**9


def why_text(data: dict[str, Any]) -> str:
    head = f"{clean(data['hotkey'])}, uid {_or_dash(data['uid'])}, at block {data['block']}"
    return "\n".join([paint(head, "bold"), *(clean(line) for line in data["lines"])])


def snapshots_text(data: dict[str, Any]) -> str:
    rows = [
        (str(one["round"]), size(one["bytes"]), clean(one["state_hash"]), "in use" if one["current"] else "")
        for one in data["snapshots"]
    ]
    shown = table(("round", "size", "state hash", ""), rows, right={0, 1}) if rows else "no model state is here yet"
    return f"{shown}\nall blobs together: {size(data['blob_bytes'])}"


def verified_text(data: dict[str, Any]) -> str:
    rows = [
        (str(one["round"]), clean(one["state_hash"]), paint("ok", "green") if one["ok"] else paint("DAMAGED", "red"))
        for one in data["verified"]
    ]
    shown = table(("round", "state hash", ""), rows, right={0})
    if data["ok"]:
        return shown
    return f"{shown}\nA damaged state is fetched again from other peers when it is needed; check the disk."


def saved_text(data: dict[str, Any]) -> str:
    return (
        f"{clean(data['path'])}: the parameters before round {data['round']}, {size(data['bytes'])}, verified\n"
        f"float32, little-endian, in the order of the layout; state hash {clean(data['state_hash'])}"
    )


def chain_text(data: dict[str, Any]) -> str:
    behind = max(0.0, time.time() - data["block_timestamp"])
    rows = [
        ("chain", f"{clean(data['kind'])}, subnet {data['netuid']}, {data['neurons']} neurons"),
        ("block", f"{data['block']}, {duration(behind)} old; we follow {data['followed_block']}"),
        ("epoch", f"every {data['tempo_blocks']} blocks, next at {data['next_epoch_block']}"),
        ("weights", f"at most every {data['weights_rate_limit_blocks']} blocks"),
        ("rounds", f"{data['blocks_per_round']} blocks each since block {data['start_block']}; {_round(data)}"),
        ("genesis", clean(data["genesis"])),
    ]
    neuron = data["neuron"]
    if neuron is None:
        return aligned([*rows, ("we", paint("not registered; `covenantd register`", "red"))])
    permit = ", validator permit" if neuron["validator_permit"] else ""
    since = f"registered at {neuron['registered_block']}, last update at {neuron['last_update_block']}"
    return aligned(
        [
            *rows,
            ("we", f"uid {neuron['uid']}, stake {neuron['stake_rao'] / _RAO:.4f}{permit}; {since}"),
            ("incentive", f"{neuron['incentive']:.4f}   dividends {neuron['dividends']:.4f}"),
            ("emission", f"{neuron['emission_rao'] / _RAO:.9f} in the last epoch"),
        ]
    )


def _round(data: dict[str, Any]) -> str:
    return "not begun" if data["round_of_block"] is None else f"round {data['round_of_block']} now"


def identity_text(data: dict[str, Any]) -> str:
    return aligned(
        [
            ("role", clean(data["role"])),
            ("hotkey", f"{clean(data['hotkey'])}   uid {_or_dash(data['uid'])}"),
            ("peer id", clean(data["peer_id"])),
            ("addresses", "\n".join(map(clean, data["addresses"])) or "-"),
            ("run", f"{clean(data['run_name'])} {clean(data['run_id'])}"),
            ("hotkey file", clean(data["hotkey_file"])),
            ("p2p key file", clean(data["p2p_identity_file"])),
        ]
    )


def config_text(data: dict[str, Any], origin: bool) -> str:
    rows = []
    for one in data["settings"]:
        name, value = clean(one["name"]), clean(json.dumps(one["value"], ensure_ascii=False))
        rows.append((name, value, clean(one["origin"]), "" if one["reloadable"] else "needs a restart"))
    if origin:
        return table(("setting", "value", "from", "to change it"), rows, right=set())
    return "\n".join(f"{name} = {value}" for name, value, _, _ in rows)


def reloaded_text(data: dict[str, Any]) -> str:
    applied, restart = data["applied"], data["needs_restart"]
    lines = [f"taken up: {', '.join(map(clean, applied))}"] if applied else []
    lines += [paint(f"only after a restart: {', '.join(map(clean, restart))}", "yellow")] if restart else []
    return "\n".join(lines) or "nothing has changed"


def peer_text(data: dict[str, Any]) -> str:
    return aligned(
        [
            ("role", clean(data["role"])),
            ("hotkey", clean(data["hotkey"])),
            ("peer id", clean(data["peer_id"])),
            ("connected", "yes" if data["connected"] else "no"),
            ("traffic", f"{size(data['sent_bytes'])} sent, {size(data['received_bytes'])} received"),
            ("addresses", "\n".join(map(clean, data["addresses"])) or "-"),
        ]
    )


def bans_text(data: dict[str, Any]) -> str:
    rows = [(clean(one["peer_id"]), duration(one["seconds_left"]), clean(one["reason"])) for one in data["bans"]]
    return table(("peer id", "for", "reason"), rows, right={1}) if rows else "nobody is banned"


def banned_text(data: dict[str, Any]) -> str:
    return f"{clean(data['peer_id'])}: {'banned' if data['banned'] else 'no longer banned'}"


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)
