"""The DHT adapter on real p2pds, its asyncio thread, and hivemind's light import."""

import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from p2p._asyncio_thread import asyncio_thread
from p2p._hivemind import LIGHT_VERSION, key_id, load
from p2p._p2pd import P2pdSettings, open_p2pd
from p2p.dht import DhtSettings, Placement, open_dht
from p2p.errors import TransportError, TransportTimeout
from p2p.identity import create_identity

DEADLINE_SECONDS = 60


def settings(directory: Path, name: str) -> P2pdSettings:
    create_identity(directory / name)
    return P2pdSettings(directory / name, listen_host="127.0.0.1")


async def test_alone_it_keeps_its_own_records(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(tmp_path, "a")) as a, open_dht(a) as dht:
            assert await dht.fetch("key") == {}
            assert await dht.store("key", "me", b"one", 60)
            assert await dht.store("key", "you", b"two", 60)
            assert await dht.fetch("key") == {"me": b"one", "you": b"two"}
            with pytest.raises(ValueError, match="10241 bytes"):
                await dht.store("key", "me", bytes(10 * 1024 + 1), 60)


async def test_what_one_stores_the_others_find_also_from_before_they_met(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        async with (
            open_p2pd(settings(tmp_path, "a")) as a,
            open_p2pd(settings(tmp_path, "b")) as b,
            open_dht(a) as dht_a,
            open_dht(b) as dht_b,
        ):
            assert await dht_b.store("key", "early", b"1", 60)
            await b.dial(a.addresses[0])
            assert await dht_b.store("key", "late", bytes(10 << 10), 60)
            assert await dht_a.fetch("key") == {"early": b"1", "late": bytes(10 << 10)}
            assert await dht_a.size() == await dht_b.size() == 1


async def test_an_entry_goes_where_its_author_wants_it_or_nowhere(tmp_path: Path) -> None:
    expires_at = time.time() + 60

    def place(subkey: str, value: bytes) -> Placement | None:
        return Placement("key", expires_at) if value.startswith(subkey.encode()) else None

    with trio.fail_after(DEADLINE_SECONDS):
        async with open_p2pd(settings(tmp_path, "a")) as a, open_dht(a, place) as dht:
            assert await dht.store("key", "me", b"me: x", 1)
            for key, value in (("other", b"me: x"), ("key", b"you: x")):
                with pytest.raises(ValueError, match="does not belong"):
                    await dht.store(key, "me", value, 1)
            assert await dht.fetch("key") == {"me": b"me: x"}


async def test_nothing_is_stored_for_who_is_not_admitted(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        async with (
            open_p2pd(settings(tmp_path, "a")) as a,
            open_p2pd(settings(tmp_path, "b")) as b,
            open_dht(a) as dht_a,
        ):
            dht_a.admit = {"friend"}.__contains__
            async with open_dht(b) as dht_b:
                await b.dial(a.addresses[0])
                await dht_b.store("key", "friend", b"1", 60)
                await dht_b.store("key", "stranger", b"2", 60)
                assert set(await dht_b.fetch("key")) == {"friend", "stranger"}  # b has both itself
            assert await dht_a.fetch("key") == {"friend": b"1"}


async def test_a_frozen_p2pd_costs_a_deadline_and_no_more(tmp_path: Path) -> None:
    impatient = DhtSettings(call_seconds=1.0)
    with trio.fail_after(DEADLINE_SECONDS):
        async with (
            open_p2pd(settings(tmp_path, "a")) as a,
            open_p2pd(settings(tmp_path, "b")) as b,
            open_dht(a, settings=impatient) as dht,
            open_dht(b),
        ):
            await a.dial(b.addresses[0])
            await dht.join()
            os.kill(a.process_id, 19)
            try:
                with pytest.raises(TransportTimeout):
                    await dht.store("key", "me", b"x", 60)
            finally:
                os.kill(a.process_id, 18)
            assert await dht.store("key", "me", b"x", 60)


async def test_the_thread_ends_with_the_context_and_on_cancel(tmp_path: Path) -> None:
    async with open_p2pd(settings(tmp_path, "a")) as a:
        async with open_dht(a):
            assert "dht" in [thread.name for thread in threading.enumerate()]
        with trio.move_on_after(DEADLINE_SECONDS) as scope:
            async with open_dht(a):  # again on the same p2pd
                scope.cancel()
                await trio.sleep_forever()
        assert "dht" not in [thread.name for thread in threading.enumerate()]


async def test_calls_into_the_thread_return_raise_and_end_in_time() -> None:
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def fail() -> None:
        raise LookupError("from asyncio")

    async def answer() -> int:
        return 7

    async with asyncio_thread("test") as thread:
        assert await thread.call(answer, 10) == 7
        with pytest.raises(LookupError, match="from asyncio"):
            await thread.call(fail, 10)
        with pytest.raises(TransportTimeout):
            await thread.call(hang, 0.05)
        assert await trio.to_thread.run_sync(cancelled.wait, 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.call, hang, 3600)
            await thread.call(answer, 10)
            nursery.cancel_scope.cancel()
    with pytest.raises(TransportError, match="ended"):
        await thread.call(answer, 10)


LIGHT = """
import json, sys
from p2p._hivemind import load
node = load()
real = {"torch": "torch" in sys.modules, "node": node.DHTNode.__module__}
if "--torch" in sys.argv:
    import torch
    real["tensor"] = torch.zeros(2).shape[0]
print(json.dumps(real))
"""


def run_light(*arguments: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_hivemind_comes_without_torch() -> None:
    """When this fails, hivemind was upgraded: see what its DHT node imports, then change LIGHT_VERSION."""
    assert importlib.metadata.version("hivemind") == LIGHT_VERSION
    assert run_light() == {"torch": False, "node": "hivemind.dht.node"}


def test_torch_can_still_be_imported_afterwards() -> None:
    assert run_light("--torch")["tensor"] == 2


def test_key_ids_are_hiveminds() -> None:
    dht_id = load().DHTID
    for key in ("", "key", "5a" * 32 + "/peer/-1", "ü"):
        assert dht_id.generate(source=key).to_bytes() == key_id(key)
