"""A subnet on a screen."""

import re
from typing import Any

from covenantd.chain.ledger.amounts import amount_text

_U16_MAX = 65535
_SS58 = re.compile("[1-9A-HJ-NP-Za-km-z]{1,64}")
_COLUMNS = ("uid", "hotkey", "permit", "stake", "balance", "incentive", "dividends", "trust", "earned", "weights at")


def inspection_text(shown: dict[str, Any]) -> str:
    """Of `LedgerChain.inspect`; what a strange ledger says is cleaned before it is printed."""
    subnet, epoch, metagraph = shown["subnet"], shown["epoch"], shown["metagraph"]
    totals, settings = subnet["totals"], subnet["settings"]
    left = epoch["next_epoch_block"] - shown["head"]
    facts = [
        ("block", f"{metagraph['block']} (head {shown['head']})"),
        ("epoch", f"{epoch['epochs']} done, the next in {left} blocks, every {epoch['tempo_blocks']}"),
        ("supply", f"{amount_text(subnet['balance'])} free, {amount_text(subnet['stake'])} staked"),
        ("since genesis", f"{amount_text(totals['issued'])} emitted, {amount_text(totals['burned'])} burned"),
        ("registration", _registration(settings, len(subnet["allowed"]))),
        ("weights", "committed, revealed later" if settings["commit_reveal"] else "open"),
        ("commitments", str(len(metagraph["commitments"]))),
    ]
    rows = [_row(neuron) for neuron in metagraph["neurons"]]
    header = [f"{name:14}{value}" for name, value in facts]
    return "\n".join([f"netuid        {metagraph['netuid']}", *header, "", *_table([_COLUMNS, *rows])]) + "\n"


def _registration(settings: dict[str, Any], allowed: int) -> str:
    if not settings["registration_allowed"]:
        return "closed"
    who = f"{allowed} allowed hotkeys" if settings["private"] else "anybody"
    return f"{who}, burns {amount_text(settings['registration_burn'])}"


def _row(neuron: dict[str, Any]) -> tuple[str, ...]:
    shares = (neuron[name] / _U16_MAX for name in ("incentive", "dividends", "vtrust"))
    return (
        str(neuron["uid"]),
        clean_hotkey(neuron["hotkey"]),
        "yes" if neuron["validator_permit"] else "-",
        amount_text(neuron["stake"]),
        amount_text(neuron["balance"]),
        *(f"{share:.4f}" if share else "-" for share in shares),
        amount_text(neuron["emission"]),
        str(neuron["last_update_block"] or "-"),
    )


def clean_hotkey(value: str) -> str:
    return value if _SS58.fullmatch(value) else "(not a hotkey)"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = _COLUMNS.index("hotkey")
    return [
        "  ".join(
            cell.ljust(width) if i == left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
