"""The ledger as a process: killed, cut off, crowded, lied to."""

import json
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from ledger_fixture import LedgerProcess, StartLedger, included

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.__main__ import main
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.listeners import open_unix_listener
from covenantd.chain.ledger.signing import sign_call
from covenantd.chain.ledger.wire import MAX_RESPONSE_BYTES, LineStream
from covenantd.chain.protocol import Block
from covenantd.errors import ChainError, ChainRefused, ConfigError

KEYS = [Hotkey.from_uri(f"//Writer{i}") for i in range(4)]
GENESIS = {"tempo_blocks": 7, "neurons": [{"hotkey": k.hotkey, "stake": 10**12} for k in KEYS]}


async def rpc(ledger: LedgerProcess, method: str, **params: Any) -> Any:
    """The raw answer object."""
    stream = await trio.open_unix_socket(str(ledger.socket))
    lines = LineStream(stream, MAX_RESPONSE_BYTES)
    await lines.send_line(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    answer = json.loads(await lines.receive_line() or b"null")
    await lines.aclose()
    return answer


def name(answer: Any) -> str:
    return str(answer["error"]["data"]["name"])


async def test_heads_go_on_over_a_restart(start_ledger: StartLedger) -> None:
    ledger = start_ledger()
    chain = ledger.chain()
    heads = chain.heads()
    await chain.advance(5)
    assert (await anext(heads)).number == 5
    ledger.kill()
    got: list[Block] = []

    async def wait() -> None:
        got.append(await anext(heads))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        ledger.start()
        await chain.advance(1)
    assert got[0].number == 6


async def test_another_ledger_at_the_same_place_is_refused(start_ledger: StartLedger) -> None:
    ledger = start_ledger()
    chain = ledger.chain()
    heads = chain.heads()
    await anext(heads)
    ledger.kill()
    ledger.database.unlink()
    ledger.start()
    for ask in (chain.block, lambda: anext(heads)):
        with pytest.raises(ChainRefused, match="WrongGenesis"):
            await ask()


async def test_a_ledger_that_forgot_blocks_is_refused(start_ledger: StartLedger, tmp_path: Path) -> None:
    """Restored from an older copy, it makes other blocks with the same numbers."""
    ledger = start_ledger()
    assert ledger.stop() == 0
    copy = ledger.database.read_bytes()
    ledger.start()
    chain = ledger.chain()
    await chain.advance(5)
    heads = chain.heads()
    assert (await anext(heads)).number == 5
    assert ledger.stop() == 0
    ledger.database.write_bytes(copy)
    ledger.start()
    await chain.block()
    await ledger.chain().advance(7)
    with pytest.raises(ChainRefused, match="HeadWentBack"):
        await anext(heads)


class Proxy:
    """Between a client and the ledger; cuts the client off at requests of `method`, `cuts` times."""

    def __init__(self, ledger: LedgerProcess, method: str, cuts: int, forward: bool) -> None:
        self.socket = ledger.directory / "proxy.sock"
        self._ledger = ledger
        self._method = method
        self.cuts = cuts
        self._forward = forward

    async def serve(self, client: trio.SocketStream) -> None:
        lines = LineStream(client, MAX_RESPONSE_BYTES)
        server = LineStream(await trio.open_unix_socket(str(self._ledger.socket)), MAX_RESPONSE_BYTES)
        while (request := await lines.receive_line()) is not None:
            cut = self.cuts > 0 and json.loads(request)["method"] == self._method
            if cut:
                self.cuts -= 1
                await lines.aclose()
                if not self._forward:
                    break
            await server.send_line(request)
            answer = await server.receive_line()
            if cut or answer is None:
                break
            await lines.send_line(answer)
        await server.aclose()
        await lines.aclose()


@asynccontextmanager
async def proxied(ledger: LedgerProcess, method: str, cuts: int, forward: bool) -> AsyncIterator[Proxy]:
    proxy = Proxy(ledger, method, cuts, forward)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, proxy.serve, [open_unix_listener(proxy.socket)])
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("forward", [True, False], ids=["after", "before"])
async def test_a_write_cut_off_happens_once(start_ledger: StartLedger, forward: bool) -> None:
    """Whether or not the ledger saw the write: a transfer done twice would show in the balance."""
    genesis = GENESIS | {"balances": {KEYS[0].hotkey: 100}, "tempo_blocks": 1000}
    ledger = start_ledger(genesis)
    driver = ledger.chain()
    async with proxied(ledger, "submit", 3, forward) as proxy:
        chain = LedgerChain(f"unix://{proxy.socket}", 1, KEYS[0])
        await included(driver, lambda: chain.transfer(KEYS[1].hotkey, 10))
        assert proxy.cuts < 3
        assert await driver.balance(KEYS[1].hotkey) == 10
    assert (await rpc(ledger, "nonce", hotkey=KEYS[0].hotkey))["result"] == {"next": 2}


async def test_a_write_survives_the_ledgers_death(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS)
    done = trio.Event()

    async def write() -> None:
        await ledger.chain(KEYS[0]).publish_commitment([b"still here"])
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while (await rpc(ledger, "fate", hotkey=KEYS[0].hotkey, nonce=1))["result"]["status"] == "unknown":
            await trio.testing.wait_all_tasks_blocked()
        ledger.kill()
        ledger.start()
        while not done.is_set():
            await ledger.chain().advance(1)
    graph = await ledger.chain().metagraph((await ledger.chain().block()).number)
    assert graph.commitments[KEYS[0].hotkey].fields == (b"still here",)


async def test_replays_and_forgeries(start_ledger: StartLedger) -> None:
    ledger, other = start_ledger(GENESIS), start_ledger(GENESIS)
    driver = ledger.chain()
    genesis = ledger.ready["genesis"]
    assert genesis != other.ready["genesis"]
    submission = sign_call(KEYS[0], genesis, 5, "set_commitment", {"fields": ["00"]})
    answer = await included(driver, lambda: rpc(ledger, "submit", **submission))
    assert answer["result"]["error"] is None
    assert name(await rpc(ledger, "submit", **submission)) == "StaleNonce"
    assert name(await rpc(other, "submit", **submission)) == "WrongGenesis"
    older = sign_call(KEYS[0], genesis, 4, "set_commitment", {"fields": ["01"]})
    assert name(await rpc(ledger, "submit", **older)) == "StaleNonce"
    forged = sign_call(KEYS[1], genesis, 6, "set_commitment", {"fields": ["01"]})
    assert name(await rpc(ledger, "submit", **(forged | {"hotkey": KEYS[0].hotkey}))) == "BadSignature"


async def test_one_hotkey_cannot_fill_the_pool(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS)
    names: list[str] = []

    async def submit(nonce: int) -> None:
        call = sign_call(KEYS[0], ledger.ready["genesis"], nonce, "register", {})
        answer = await rpc(ledger, "submit", **call)
        names.append(name(answer) if "error" in answer else answer["result"]["error"])

    async with trio.open_nursery() as nursery:
        for nonce in range(1, 21):
            nursery.start_soon(submit, nonce)
        while len(names) < 4:
            await trio.testing.wait_all_tasks_blocked()
        await ledger.chain().advance(1)
    assert sorted(names) == ["HotKeyAlreadyRegisteredInSubNet"] * 16 + ["PoolFull"] * 4


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"hello", "ParseError"),
        (b"[" * 60_000, "ParseError"),
        (b"[]", "InvalidRequest"),
        (b'{"jsonrpc":"2.0","id":1,"method":"mint"}', "UnknownRequest"),
        (b'{"jsonrpc":"2.0","id":1,"method":"block","params":{"number":-1}}', "InvalidParams"),
        (b'{"jsonrpc":"2.0","id":1,"method":"block","params":{"number":true}}', "InvalidParams"),
        (b'{"jsonrpc":"2.0","id":1,"method":"block"}', "InvalidParams"),
        (b'{"jsonrpc":"2.0","id":1,"method":"balance","params":{"hotkey":[]}}', "InvalidParams"),
        (b'{"jsonrpc":"2.0","id":1,"method":"nonce","params":{"hotkey":"\\ud800"}}', ""),
        (b'{"jsonrpc":"2.0","id":1,"method":"fate","params":{"hotkey":"\\ud800","nonce":1}}', ""),
        (b'{"jsonrpc":"2.0","id":1,"method":"metagraph","params":{"block":99}}', "BlockNotFinalized"),
        (b'{"jsonrpc":"2.0","id":1,"method":"advance","params":{"blocks":1000000}}', "InvalidParams"),
        (b"x" * 70_000, "InvalidRequest"),
    ],
)
async def test_bad_requests_hurt_nobody_else(shared_ledger: LedgerProcess, line: bytes, error: str) -> None:
    lines = LineStream(await trio.open_unix_socket(str(shared_ledger.socket)), MAX_RESPONSE_BYTES)
    await lines.send_line(line)
    answer = await lines.receive_line()
    if error:
        assert name(json.loads(answer or b"null")) == error
    await lines.aclose()
    assert (await shared_ledger.chain().block()).number == 0


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ledger = LedgerProcess(tmp_path_factory.mktemp("shared")).start()
    yield ledger
    ledger.kill()


async def test_advance_needs_leave(start_ledger: StartLedger) -> None:
    ledger = LedgerProcess(start_ledger().directory / "strict", block_seconds=5)
    ledger.command.remove("--allow-advance")
    ledger.start()
    try:
        with pytest.raises(ChainRefused, match="AdvanceNotAllowed"):
            await ledger.chain().advance(1)
    finally:
        ledger.kill()


async def test_tcp_is_the_same_ledger(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS, "--tcp", "127.0.0.1:0")
    chain = LedgerChain(f"tcp://{ledger.ready['tcp']}", 1, KEYS[0])
    block = await included(chain, lambda: chain.publish_commitment([b"by tcp"]))
    assert (await ledger.chain().metagraph(block)).commitments[KEYS[0].hotkey].fields == (b"by tcp",)
    with pytest.raises(ChainRefused, match="SubnetNotExists"):
        await LedgerChain(f"tcp://{ledger.ready['tcp']}", 2).block()


async def test_stopping_leaves_no_socket_and_killing_a_stale_one(start_ledger: StartLedger) -> None:
    ledger = start_ledger()
    assert ledger.socket.stat().st_mode & 0o777 == 0o660
    assert ledger.stop() == 0
    assert not ledger.socket.exists()
    ledger.start()
    ledger.kill()
    assert ledger.socket.exists()
    ledger.start()
    assert (await ledger.chain().block()).number == 0


def _command(ledger: LedgerProcess) -> list[str]:
    return ledger.command[3:]


def test_what_keeps_it_from_starting(
    start_ledger: StartLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = start_ledger({"tempo_blocks": 7})
    command = _command(ledger)

    def says(code: int, text: str, *arguments: str) -> None:
        caplog.clear()
        assert main([*command, *arguments]) == code
        assert text in caplog.text

    says(75, "another ledger has the database open")
    says(75, "another process listens there", "--database", str(tmp_path / "new.db"))
    busy = socket.create_server(("127.0.0.1", 0))
    there = f"127.0.0.1:{busy.getsockname()[1]}"
    fresh = ("--database", str(tmp_path / "new.db"), "--socket", str(tmp_path / "new.sock"))
    says(75, f"{there}: cannot listen", *fresh, "--tcp", there)
    assert not (tmp_path / "new.sock").exists()
    says(78, "is not HOST:PORT", *fresh, "--tcp", "nowhere")
    says(78, "at most 107 bytes", *fresh, "--socket", str(tmp_path / ("x" * 100)))
    says(78, "something else than a socket", *fresh, "--socket", str(ledger.database))
    says(78, "cannot read the genesis file", *fresh, "--genesis", str(tmp_path / "absent.json"))
    says(78, "--block-seconds must be", *fresh, "--block-seconds", "nan")
    assert ledger.stop() == 0
    says(78, "tempo_blocks 7, asked for 8", "--tempo-blocks", "8")
    busy.close()


async def test_a_full_disk_stops_it_and_loses_nothing(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS)
    ledger.kill()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    ledger.start(limit)
    chain = ledger.chain(read_seconds=0.5)
    last = 0
    with pytest.raises(ChainError):
        while last < 10_000:
            last = (await chain.advance(1)).number
    assert ledger.process.wait(30) == 75
    assert "cannot use the database" in (ledger.directory / "ledger.log").read_text()
    ledger.start()
    assert last > 0 and (await ledger.chain().block()).number == last
    await ledger.chain().advance(1)


async def test_the_clock_makes_blocks_and_goes_on_after_a_restart(start_ledger: StartLedger) -> None:
    ledger = start_ledger(block_seconds=0.05)
    heads = ledger.chain().heads()
    first = await anext(heads)
    while (last := await anext(heads)).number < first.number + 3:
        pass
    ledger.kill()
    ledger.start()
    assert (await anext(heads)).number > last.number


@pytest.mark.parametrize("endpoint", ["", "unix://relative", "http://x:1", "tcp://x", "tcp://x:99999", "tcp://:1"])
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        LedgerChain(endpoint, 1)


async def test_a_reader_cannot_write(start_ledger: StartLedger) -> None:
    chain = start_ledger(GENESIS).chain()
    writes: list[Callable[[], Any]] = [chain.register, lambda: chain.publish_commitment([])]
    for write in writes:
        with pytest.raises(ChainRefused, match="no hotkey"):
            await write()
