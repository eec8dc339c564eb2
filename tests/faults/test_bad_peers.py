"""Peers that lie, forge, flood and rot: each is refused and counted, and the round goes on for the honest."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from arena import Arena, OpenArena
from rogue import Rogue, rogue, sign_commit, stranger
from scraping import scrape

from covenantd import commits
from covenantd.chain.keys import create_hotkey
from covenantd.metrics import CONTRIBUTION_RESULTS, REJECTION_SCOPES
from p2p.errors import BlobUnavailable

pytestmark = pytest.mark.swarm
HONEST = ("miner-0", "miner-1")
ROGUES = ("scale", "copied", "large", "unserved", "twice")
_HOTKEY_AT, _SCALES_AT = 120, 152  # in a contribution file


async def test_hostile_peers_are_counted_and_cost_only_themselves(new_arena: OpenArena, tmp_path: Path) -> None:
    async with new_arena(miners=2) as arena, AsyncExitStack() as stack:
        for name in ROGUES:
            arena.add(name)
        arena.start(*HONEST, "validator-0", "bootstrap")
        for name in ROGUES:
            await arena.register(arena.peers[name])
        await arena.ready(*HONEST, "validator-0")
        rogues = {n: await stack.enter_async_context(rogue(arena, arena.peers[n], "validator-0")) for n in ROGUES}
        hotkeys = {n: arena.peers[n].hotkey.hotkey for n in (*HONEST, *ROGUES)}
        await arena.until(
            lambda s: set(hotkeys.values()) <= {p.hotkey for p in s["validator-0"].peers if p.connected},
            "validator-0",
            what="the validator to know the rogues",
        )
        await arena.train(0, HONEST)
        model = _sealed(arena, "miner-0")
        await _bad_contributions(arena, rogues, model)
        await _bad_commits(arena, rogues["scale"], tmp_path, model)
        await arena.certify(0)
        await arena.finish(0, *HONEST, "validator-0")

        fates = {row["hotkey"]: row["fate"] for row in await _fates(arena, 0)}
        assert {n: fates.get(hotkeys[n]) for n in (*HONEST, *ROGUES)} == {
            "miner-0": "included",
            "miner-1": "included",
            "scale": "invalid",
            "copied": "invalid",
            "large": "invalid",
            "unserved": "missing",
            "twice": "equivocated",
        }
        assert len(set((await arena.state_hashes(0, *HONEST, "validator-0")).values())) == 1
        await _counted(arena)
        _logged(arena)
        for name in HONEST:
            assert "round work failed" not in arena.log(name), "an honest miner stumbled over a hostile one"
        await _rotten_disks(arena, rogues["scale"])


def _sealed(arena: Arena, name: str) -> dict[str, Any]:
    """What an honest miner has sealed, and the file itself."""
    state = arena.peers[name].directory / "state"
    sealed: dict[str, Any] = json.loads((state / "journal.json").read_text())["sealed"]
    return {**sealed, "bytes": (state / "blobs" / "complete" / sealed["blob_id"]).read_bytes()}


async def _bad_contributions(arena: Arena, rogues: dict[str, Rogue], model: dict[str, Any]) -> None:
    """Commits that are in order, to bytes that are not."""
    good, size, base = bytearray(model["bytes"]), model["size"], model["base_state_hash"]

    def own(name: str) -> bytearray:
        data = bytearray(good)
        data[_HOTKEY_AT : _HOTKEY_AT + 32] = bytes.fromhex(arena.peers[name].hotkey.public_key_hex)
        return data

    reserved = own("scale")
    reserved[_SCALES_AT : _SCALES_AT + 8] = b"\xff" * 8  # a scale code that means nothing: the codec has no NaN
    contents = {"scale": reserved, "copied": good, "large": own("large") * 3, "unserved": own("unserved")}
    for name, data in contents.items():
        one = rogues[name]
        blob_id = one.offer(arena.peers[name].directory, bytes(data))
        if name == "unserved":
            one.exchange.withhold(blob_id)
        signed = one.signed(blob_id, size, base, 0)
        assert await one.commit(signed) == "receipt"
        mirrored = {"commit": signed, "receipts": []} if name != "scale" else {"commit": "garbage"}
        assert await one.swarm.publish(commits.COMMITTED, 0, mirrored, 60)
    twice = rogues["twice"]
    assert await twice.commit(twice.signed("11" * 32, size, base, 0)) == "receipt"
    assert await twice.commit(twice.signed("22" * 32, size, base, 0)) == "equivocated"
    assert await twice.commit(twice.signed("11" * 32, size, base, 0)) == "equivocated"


async def _bad_commits(arena: Arena, member: Rogue, directory: Path, model: dict[str, Any]) -> None:
    """Commits that are not in order, and what is no commit at all; each costs the sender its welcome, or nothing."""
    nobody = create_hotkey(directory / "nobody.json")
    body = {"blob_id": "33" * 32, "size": model["size"], "base_state_hash": model["base_state_hash"], "inner_steps": 2}
    honest = arena.peers["miner-0"].hotkey.hotkey
    records = await member.swarm.lookup(commits.COMMITTED, 0)
    theirs = next(r.fields().raw("commit", max_bytes=4096) for r in records if r.hotkey == honest)

    async with stranger(arena, directory / "a", "validator-0") as a:
        me = a.transport.peer_id
        assert await a.commit(sign_commit(nobody, a.spec, me, 0, body)) == "stranger"
        assert await a.commit(sign_commit(nobody, a.spec, me, 0, body, run_id="5a" * 32)) == "run"
        assert await a.commit(sign_commit(nobody, a.spec, me, 7, body)) == "early"
        assert await a.commit(sign_commit(nobody, a.spec, me, 0, {**body, "size": -1})) == "malformed"
        assert await a.commit(sign_commit(nobody, a.spec, me, 0, body)) == "closed", "it is banned by now"
    async with stranger(arena, directory / "b", "validator-0") as b:
        assert await b.commit(theirs) == "peer"
        assert await b.commit(theirs) == "closed"
    async with stranger(arena, directory / "c", "validator-0") as c:
        forged = bytearray(sign_commit(nobody, c.spec, c.transport.peer_id, 0, body))
        forged[5] ^= 1
        assert await c.commit(bytes(forged)) == "signature"
        assert await c.commit(bytes(forged)) == "closed"
    for name, junk in {"d": b"\x7f\xff\xff\xff" + b"x" * 1000, "e": b"\x00\x00\x00\x08" + b"\xc1" * 8}.items():
        async with stranger(arena, directory / name, "validator-0") as one:
            assert await one.unheard(junk)
            assert await one.unheard(junk)


async def _fates(arena: Arena, round: int) -> list[dict[str, Any]]:
    answer = await arena.call("miner-0", "rounds", round=round)
    rows: list[dict[str, Any]] = answer["rounds"][0]["contributions"]
    return rows


async def _counted(arena: Arena) -> None:
    status = await arena.status("validator-0")
    assert status is not None
    seen = await scrape(status.http_address)
    expected = {"stranger": 1, "run": 1, "early": 1, "malformed": 2, "peer": 1, "signature": 1, "missing": 1}
    # malformed: a commit that was handed in, and what a registered peer put in the DHT in place of one
    expected |= {"invalid": 3, "included": 2, "equivocated": 2}
    assert {result: seen.value("contributions_total", result=result) for result in expected} == expected
    assert seen.value("limit_rejections_total", scope="violation") == 2
    assert seen.value("limit_rejections_total", scope="record-signature") == 1
    assert seen.value("peer_disconnects_total", reason="banned") == 5  # a to e
    assert seen.labels("contributions_total", "result") == set(CONTRIBUTION_RESULTS)
    assert seen.labels("limit_rejections_total", "scope") == set(REJECTION_SCOPES)
    assert seen.value("rounds_total", result="certified") == 1


def _logged(arena: Arena) -> None:
    """Who was refused, in which round, for what."""
    refused = arena.logged("validator-0", "commit refused")
    assert refused[0]["round"] == 0 and refused[0]["peer"].startswith(("12D3Koo", "Qm", "16Uiu2"))
    assert refused[0]["reason"] in CONTRIBUTION_RESULTS and refused[0]["level"] == "info"
    lines = [json.loads(line) for line in arena.log("validator-0").splitlines() if line.startswith("{")]
    banned = [one for one in lines if one["event"].startswith("banned ")]
    assert banned and all(one["peer"] in one["event"] and one["level"] == "warning" for one in banned)


async def _rotten_disks(arena: Arena, reader: Rogue) -> None:
    """A bit flips in one holder's copy, another's is cut short: neither spreads, and whoever asks gets it elsewhere."""
    contribution = _sealed(arena, "miner-1")
    rot = {"miner-0": (await arena.state_hashes(0, "miner-0"))["miner-0"], "miner-1": contribution["blob_id"]}
    peers = {}
    for name in (*HONEST, "validator-0"):
        status = await arena.status(name)
        assert status is not None
        peers[name] = status.peer_id
        await reader.transport.dial(status.addresses[0])
    for name, blob_id in rot.items():
        path = arena.peers[name].directory / "state" / "blobs" / "complete" / blob_id
        good = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(_flipped(good) if name == "miner-0" else good[:-100])
        with pytest.raises(BlobUnavailable):
            await reader.exchange.fetch(blob_id, lambda n=name: [peers[n]], max_bytes=1 << 24, deadline_seconds=3)
        with trio.fail_after(30):
            got = await reader.exchange.fetch(blob_id, lambda: tuple(peers.values()), max_bytes=1 << 24)
        assert got.read_bytes() == good
        assert not path.exists() or path.read_bytes() == good
        assert "damaged" in arena.log(name)


def _flipped(data: bytes) -> bytes:
    """One bit, in the middle."""
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)
