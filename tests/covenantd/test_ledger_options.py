"""Options of the ledger process: finality that lags, limits for one address, weights that are hidden at first."""

from pathlib import Path
from typing import Any

import pytest
import trio
from ledger_fixture import StartLedger, included
from test_ledger_process import GENESIS, KEYS, name, rpc

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.ledger.hidden import HiddenWeights, RevealClock
from covenantd.chain.ledger.sealing import SealedWeights
from covenantd.chain.ledger.wire import MAX_RESPONSE_BYTES, LineStream
from covenantd.errors import ChainError, ChainRefused, ConfigError

LAG = 3


async def test_what_is_not_final_is_not_shown(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS, "--finality-blocks", str(LAG))
    chain = ledger.chain()
    assert (await chain.advance(2)).number == 0
    assert (await chain.advance(4)).number == 3
    with pytest.raises(ChainError, match="BlockNotFinalized"):
        await chain.block(4)
    with pytest.raises(ChainError, match="BlockNotFinalized"):
        await chain.metagraph(4)
    ledger.kill()
    ledger.start()
    assert ledger.ready["head"] == 3


async def test_a_write_is_acknowledged_when_it_is_final(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS, "--finality-blocks", str(LAG))
    driver, chain = ledger.chain(), ledger.chain(KEYS[0])
    blocks: list[int] = []

    async def write() -> None:
        blocks.append(await chain.publish_commitment([b"x"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await _until_pending(ledger)
        await driver.advance(LAG)
        fate = (await rpc(ledger, "fate", hotkey=KEYS[0].hotkey, nonce=1))["result"]
        assert fate["status"] == "pending" and not blocks
        await driver.advance(1)
    assert blocks == [1]
    assert (await driver.metagraph(1)).commitments[KEYS[0].hotkey].fields == (b"x",)


async def test_a_write_that_was_not_final_when_the_ledger_died_is_found_again(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS, "--finality-blocks", str(LAG))
    blocks: list[int] = []

    async def write() -> None:
        blocks.append(await ledger.chain(KEYS[0]).publish_commitment([b"x"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await _until_pending(ledger)
        await ledger.chain().advance(1)
        ledger.kill()
        ledger.start()
        await ledger.chain().advance(LAG)
    assert blocks == [1]
    assert (await rpc(ledger, "nonce", hotkey=KEYS[0].hotkey))["result"] == {"next": 2}


async def _until_pending(ledger: Any) -> None:
    while (await rpc(ledger, "fate", hotkey=KEYS[0].hotkey, nonce=1))["result"]["status"] == "unknown":
        await trio.testing.wait_all_tasks_blocked()


async def test_one_address_cannot_take_every_connection(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS, "--tcp", "127.0.0.1:0", "--connections-per-address", "3")
    host, _, port = str(ledger.ready["tcp"]).rpartition(":")

    async def connected(source: str) -> LineStream | None:
        """None if the ledger hung up."""
        stream = await trio.open_tcp_stream(host, int(port), local_address=source)
        lines = LineStream(stream, MAX_RESPONSE_BYTES)
        await lines.send_line(b'{"jsonrpc":"2.0","id":1,"method":"head"}')
        try:
            return lines if await lines.receive_line() else None
        except trio.BrokenResourceError:
            return None

    held = [await connected("127.0.0.1") for _ in range(3)]
    assert all(held)
    assert await connected("127.0.0.1") is None
    assert await connected("127.0.0.2") is not None
    assert (await ledger.chain().block()).number == 0  # by its socket
    for lines in held:
        assert lines is not None
        await lines.aclose()
    while await connected("127.0.0.1") is None:
        await trio.testing.wait_all_tasks_blocked()


def _weights(graph: Any, uid: int) -> dict[int, int]:
    return dict(graph.weights.get(uid, {}))


async def test_weights_set_once_an_epoch_are_shown_an_epoch_late(start_ledger: StartLedger) -> None:
    """What a daemon does on a ledger with commit-reveal: it just sets weights, as on any other."""
    ledger = start_ledger(GENESIS | {"commit_reveal": True})
    driver, chain = ledger.chain(), ledger.chain(KEYS[0])

    async def after(targets: dict[int, float]) -> dict[int, int]:
        block = await included(driver, lambda: chain.set_weights(targets))
        graph = await driver.metagraph(block)
        neuron = graph.neuron(KEYS[0].hotkey)
        assert neuron is not None and neuron.last_update_block == block
        return _weights(graph, 0)

    assert await after({1: 1.0}) == {}
    assert await after({2: 1.0}) == {}  # too early to reveal the first
    await driver.advance((await driver.epoch()).next_epoch_block - (await driver.block()).number)
    assert await after({3: 1.0}) == {2: 65535}
    await driver.advance(7)
    await driver.advance(7)
    assert await after({1: 1.0}) == {2: 65535}  # the third expired


async def test_hidden_weights_are_shown_after_a_restart_in_the_one_epoch_there_is_for_it(
    start_ledger: StartLedger, tmp_path: Path
) -> None:
    """Nobody sets weights again before they would have expired: rounds may be longer than two tempos."""
    ledger = start_ledger(GENESIS | {"commit_reveal": True, "reveal_period_epochs": 2})
    driver, path = ledger.chain(), tmp_path / "weights.json"
    await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).set_weights({1: 1.0}))
    for _ in range(2):
        chain = ledger.chain(KEYS[0], hidden=path)
        before = (await driver.block()).number
        due = await included(driver, chain.reveal_due)
        assert due == (await driver.epoch()).next_epoch_block
        graph = await driver.metagraph((await driver.block()).number)
        neuron = graph.neuron(KEYS[0].hotkey)
        assert neuron is not None and neuron.last_update_block <= before and _weights(graph, 0) == {}
        await driver.advance(due - graph.block)
    chain = ledger.chain(KEYS[0], hidden=path)
    assert await included(driver, chain.reveal_due) is None
    assert _weights(await driver.metagraph((await driver.block()).number), 0) == {1: 65535}
    assert await ledger.chain(KEYS[0], hidden=path).reveal_due() is None


async def test_a_commit_whose_fate_nobody_told_is_shown_too(start_ledger: StartLedger, tmp_path: Path) -> None:
    ledger, path = start_ledger(GENESIS | {"commit_reveal": True}), tmp_path / "weights.json"
    driver, sealed = ledger.chain(), SealedWeights.seal({1: 1.0}, 0)
    HiddenWeights(path).add(sealed)
    chain = ledger.chain(KEYS[0])
    await driver.advance((await driver.epoch()).next_epoch_block - (await driver.block()).number)
    await included(driver, lambda: chain.commit_weights(sealed))
    due = await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).reveal_due())
    assert due is not None
    await driver.advance(due - (await driver.block()).number)  # a block more or less, and it were in another epoch
    assert await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).reveal_due()) is None
    assert _weights(await driver.metagraph((await driver.block()).number), 0) == {1: 65535}


@pytest.mark.parametrize("others", [False, True], ids=["NoWeightsCommitFound", "InvalidRevealCommitHashNotMatch"])
async def test_weights_whose_commit_is_still_pending_are_kept_until_the_epoch_after(
    start_ledger: StartLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture, others: bool
) -> None:
    """Its daemon died while the commit was on its way; the next one looks for it before it is in a block."""
    ledger, path = start_ledger(GENESIS | {"commit_reveal": True, "reveal_period_epochs": 2}), tmp_path / "weights.json"
    driver, pending, lost = ledger.chain(), SealedWeights.seal({1: 1.0}, 0), SealedWeights.seal({2: 1.0}, 0)
    HiddenWeights(path).add(pending)
    if others:
        await included(driver, lambda: ledger.chain(KEYS[0]).commit_weights(SealedWeights.seal({0: 1.0}, 0)))
    due = await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).reveal_due())
    assert due is not None and len(HiddenWeights(path).items()) == 1
    await included(driver, lambda: ledger.chain(KEYS[0]).commit_weights(pending))  # now it is
    both = HiddenWeights(path)
    both.add(lost)  # and this one never will be
    for _ in range(2):
        await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).reveal_due())
        due = (await driver.epoch()).next_epoch_block
        await driver.advance(due - (await driver.block()).number)
    assert await included(driver, lambda: ledger.chain(KEYS[0], hidden=path).reveal_due()) is None
    assert _weights(await driver.metagraph((await driver.block()).number), 0) == {1: 65535}
    assert [one.levelname for one in caplog.records if "given up" in one.message] == ["WARNING"]


async def test_a_commit_that_was_refused_is_not_kept(start_ledger: StartLedger, tmp_path: Path) -> None:
    ledger, path = start_ledger(GENESIS | {"commit_reveal": True}), tmp_path / "weights.json"
    stranger = Hotkey.from_uri("//Stranger")
    with pytest.raises(ChainRefused, match="HotKeyNotRegisteredInSubNet"):
        await included(ledger.chain(), lambda: ledger.chain(stranger, hidden=path).set_weights({1: 1.0}))
    assert not HiddenWeights(path)


@pytest.mark.parametrize("text", ["[", "[1]", '[{"uids": [1], "values": [1], "version_key": 0, "salt": "00"}]', "7"])
def test_damaged_hidden_weights_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.json").write_text(text)
    with pytest.raises(ConfigError, match="damaged hidden weights"):
        HiddenWeights(tmp_path / "weights.json")


def test_the_epoch_of_a_reveal_follows_from_the_block_of_its_commit() -> None:
    clock = RevealClock(epochs=5, next_epoch_block=60, tempo_blocks=10, reveal_period_epochs=2)
    assert [clock.reveal_epoch(block) for block in (30, 39, 40, 49, 50, 59)] == [5, 5, 6, 6, 7, 7]


async def test_weights_can_be_committed_and_revealed_by_hand(start_ledger: StartLedger) -> None:
    ledger = start_ledger(GENESIS | {"commit_reveal": True})
    driver, chain = ledger.chain(), ledger.chain(KEYS[1])
    sealed = SealedWeights.seal({0: 1, 2: 3}, 0)
    await included(driver, lambda: chain.commit_weights(sealed))
    with pytest.raises(ChainRefused, match="RevealTooEarly"):
        await included(driver, lambda: chain.reveal_weights(sealed))
    await driver.advance(7)
    another = ledger.chain(KEYS[1])
    block = await included(driver, lambda: another.reveal_weights(sealed))
    assert _weights(await driver.metagraph(block), 1) == {0: 21845, 2: 65535}


async def test_an_outsider_is_kept_out_of_a_private_subnet(start_ledger: StartLedger) -> None:
    owner, guest = Hotkey.from_uri("//Owner"), Hotkey.from_uri("//Guest")
    ledger = start_ledger(GENESIS | {"private": True, "owner": owner.hotkey})
    driver, chain = ledger.chain(), ledger.chain(guest)
    with pytest.raises(ChainRefused, match="HotKeyNotAllowed"):
        await included(driver, chain.register)
    await included(driver, lambda: ledger.chain(owner).allow(guest.hotkey))
    await included(driver, chain.register)
    heir = Hotkey.from_uri("//Heir")
    block = await included(driver, lambda: chain.swap_hotkey(heir.hotkey))
    graph = await driver.metagraph(block)
    assert graph.neuron(guest.hotkey) is None and graph.neuron(heir.hotkey) is not None


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("swap_hotkey", {"to": "me"}),
        ("allow", {"who": 3}),
        ("commit_weights", {"hash": "0" * 63}),
        ("commit_weights", {"hash": "G" * 64}),
        ("reveal_weights", {"uids": [], "values": [], "version_key": 0, "salt": "0"}),
        ("reveal_weights", {"uids": [], "values": [], "version_key": 0}),
    ],
)
async def test_arguments_that_fit_no_call(start_ledger: StartLedger, method: str, args: dict[str, Any]) -> None:
    from covenantd.chain.ledger.signing import sign_call

    ledger = start_ledger(GENESIS)
    answer = await rpc(ledger, "submit", **sign_call(KEYS[0], ledger.ready["genesis"], 1, method, args))
    assert name(answer) == "InvalidArguments"


async def test_a_lag_cannot_be_negative(start_ledger: StartLedger) -> None:
    from covenantd.chain.ledger.__main__ import main

    command = start_ledger().command[3:]
    assert main([*command, "--finality-blocks", "-1"]) == 78
    assert main([*command, "--connections-per-address", "0"]) == 78


def test_the_reader_of_a_chain_has_no_key_to_commit_with() -> None:
    with pytest.raises(ChainRefused, match="no hotkey"):
        trio.run(LedgerChain("unix:///nowhere", 1).commit_weights, SealedWeights.seal({1: 1.0}, 0))
