"""Signed transfers at a ledger process, from many connections."""

import json
from pathlib import Path
from typing import Any

import trio

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.connection import LedgerConnections
from covenantd.chain.ledger.signing import sign_call
from tests.bench._cpu import cpu_seconds
from tests.ledger_fixture import LedgerProcess

BLOCK_SECONDS = 0.1
NETUID = 1


async def writes_per_second(directory: Path, writers: int, seconds: float) -> dict[str, Any]:
    """Transfers acknowledged in blocks of 0.1 s, each writer one at a time over its own connection."""
    keys = [Hotkey.from_uri(f"//W{i}") for i in range(writers)]
    genesis = {"balances": {key.hotkey: 10**9 for key in keys}, "tempo_blocks": 1000}
    ledger = LedgerProcess(directory, genesis, block_seconds=BLOCK_SECONDS).start()
    done = [0] * writers
    waited = [0.0]
    try:
        calls = {key.hotkey: _signed(key, ledger.ready["genesis"], seconds) for key in keys}
        began = trio.current_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for index, key in enumerate(keys):
                    nursery.start_soon(_write, ledger, calls[key.hotkey], done, index, waited)
        took = trio.current_time() - began
        cpu = cpu_seconds(ledger.process.pid)
    finally:
        ledger.kill()
    return {
        "writers": writers,
        "writes_per_second": sum(done) / took,
        "mean_seconds_to_answer": waited[0] / max(1, sum(done)),
        "ledger_cpu_share": cpu / took,
    }


def _signed(key: Hotkey, genesis: str, seconds: float) -> list[dict[str, str]]:
    count = int(seconds / BLOCK_SECONDS) + 1  # a writer gets one into a block
    return [
        sign_call(key, genesis, nonce, "transfer", {"to": key.hotkey, "amount": 1}) for nonce in range(1, count + 1)
    ]


async def _write(
    ledger: LedgerProcess, calls: list[dict[str, str]], done: list[int], index: int, waited: list[float]
) -> None:
    connections = LedgerConnections(ledger.endpoint, NETUID)
    for call in calls:
        began = trio.current_time()
        fate = await connections.request("submit", dict(call))
        if fate["error"] is not None:
            raise RuntimeError(json.dumps(fate))
        done[index] += 1
        waited[0] += trio.current_time() - began
