"""What an operator gets wrong, met by `covenantd run` as a real process: a clear line, and the exit code for it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from arena import Arena, OpenArena
from scraping import checks

from covenantd.errors import EXIT_CONFIG
from covenantd.localpeers import LocalPeer, ledger_genesis, running_ledger

pytestmark = pytest.mark.swarm
_SECONDS = 40


async def _run(config: Path, *words: str) -> tuple[int, str]:
    """`covenantd run` to its end: exit code and stderr."""
    command = [sys.executable, "-m", "covenantd.cli", "run", "--config", str(config), *words]
    with trio.fail_after(_SECONDS):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode, done.stderr.decode()


def _complaint(said: str) -> str:
    """What it said for people: one line each, no traceback."""
    assert "Traceback" not in said, said
    return "\n".join(line for line in said.splitlines() if line.startswith("covenantd: "))


async def test_mistakes_in_the_config_are_named_before_anything_starts(new_arena: OpenArena) -> None:
    async with new_arena(miners=1) as arena:
        peer = arena.peers["miner-0"]
        good = peer.config.read_text()

        peer.config.write_text(good.replace("[network]\n", "[network]\nlisten_on = 5\n"))
        code, said = await _run(peer.config)
        assert code == EXIT_CONFIG and "listen_on" in _complaint(said) and str(peer.config) in _complaint(said)
        assert "network.listen" in _complaint(said), "the nearest known key"
        peer.config.write_text(good)

        hotkey = peer.directory / "hotkey.json"
        hotkey.rename(peer.directory / "elsewhere.json")
        code, said = await _run(peer.config)
        assert code == EXIT_CONFIG and f"{hotkey} does not exist" in _complaint(said)
        assert "covenantd init" in _complaint(said), "what to do"
        (peer.directory / "elsewhere.json").rename(hotkey)

        spec = arena.directory / "truncated.json"
        spec.write_bytes(arena.ground.spec.read_bytes()[:-40])
        code, said = await _run(peer.config, "--set", f"run.spec={spec}")
        assert code == EXIT_CONFIG and str(spec) in _complaint(said)
        other = ledger_genesis([peer], [], tempo_blocks=100)
        async with running_ledger(arena.directory / "other", arena.runtime / "other.sock", other, 0.5):
            code, said = await _run(peer.config, "--set", f"chain.endpoint=unix://{arena.runtime / 'other.sock'}")
        assert code == EXIT_CONFIG and "[chain] endpoint" in _complaint(said), "the wrong chain"
        _nothing_left(peer)


async def test_ports_in_use_are_named_with_the_setting_to_change(new_arena: OpenArena) -> None:
    async with new_arena(miners=1) as arena:
        config = arena.peers["miner-0"].config
        with _listener() as port:
            code, said = await _run(config, "--set", f"network.listen=/ip4/127.0.0.1/tcp/{port}")
            assert code == EXIT_CONFIG and f"port {port} on 127.0.0.1 is in use" in _complaint(said)
            code, said = await _run(config, "--set", f"http.listen=127.0.0.1:{port}")
            assert code == EXIT_CONFIG and f"http.listen 127.0.0.1:{port}" in _complaint(said)
            assert "[http]" in _complaint(said), "what to do"
        _nothing_left(arena.peers["miner-0"])


@contextmanager
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def _nothing_left(peer: LocalPeer) -> None:
    assert list(peer.runtime.iterdir()) == []
    found = subprocess.run(["pgrep", "-f", str(peer.runtime)], capture_output=True, check=False)
    assert found.stdout == b"", "a process outlived its daemon"


async def test_an_unreachable_bootstrap_is_said_and_joined_when_it_appears(new_arena: OpenArena) -> None:
    async with new_arena(miners=1) as arena:
        await arena.advance_to(1)
        arena.start("miner-0")
        await arena.until(lambda s: s["miner-0"].http_address != "", "miner-0", what="the daemon to be up")
        await _logged(arena, "miner-0", "cannot be reached")
        status = await arena.status("miner-0")
        assert status is not None and status.state == "syncing" and arena.bootstrap_dial in arena.log("miner-0")
        code, reasons = await checks(status.http_address, "/readyz")
        assert code == 503 and reasons["peers"] == "no peer connected"
        assert (await checks(status.http_address, "/healthz"))[0] == 200, "a restart would not help"

        arena.start("bootstrap")
        await arena.until(
            lambda s: s["miner-0"].state == "waiting" and s["miner-0"].connected_peers == 1,
            "miner-0",
            what="the miner to join and fetch the run's data",
        )
        assert (await checks(status.http_address, "/readyz"))[0] == 200


async def _logged(arena: Arena, name: str, words: str) -> None:
    await arena.until(lambda s: words in arena.log(name), name, what=f"{words!r} in the log")
