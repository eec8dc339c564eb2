"""Machines on one machine: each a network namespace that lives as long as its holder process, so nothing is left."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2p.child import Child

SETUP_SECONDS = 20
COMMAND_SECONDS = 120


def why_not() -> str | None:
    """The reason why there can be no machines here, if so."""
    if missing := [one for one in ("ip", "unshare", "nsenter") if shutil.which(one) is None]:
        return f"needs {', '.join(missing)} (Debian: iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"may not make network namespaces: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Machine:
    """Commands run in `directory` with the programs of this very environment first on the PATH."""

    directory: Path
    holder: int  # pid
    environment: dict[str, str]
    daemons: list[Child] = field(default_factory=list)

    def _command(self, line: str) -> list[str]:
        enter = ["nsenter", f"--target={self.holder}", "--net", f"--wdns={self.directory}"]
        return [*enter, "bash", "-euc", line]

    async def run(self, line: str) -> str:
        """To its end; returns stdout."""
        with trio.fail_after(COMMAND_SECONDS):
            done = await trio.run_process(
                self._command(line), capture_stdout=True, capture_stderr=True, check=False, env=self.environment
            )
        assert done.returncode == 0, f"{line}\n{done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()

    async def ask(self, line: str) -> Any:
        return json.loads(await self.run(line))

    def start(self, line: str) -> Child:
        """A command that goes on; its output is in a log in `directory`."""
        with (self.directory / f"{len(self.daemons)}.log").open("wb") as log:
            self.daemons.append(Child(self._command(f"exec {line}"), output=log, environment=self.environment))
        return self.daemons[-1]

    def logs(self) -> str:
        tails = [path.read_text(errors="replace")[-3000:] for path in sorted(self.directory.glob("*.log"))]
        return f"{self.directory.name}:\n" + "\n---\n".join(tails)


@contextmanager
def _namespace() -> Iterator[int]:
    """Gone with its last process; the kernel takes the holder away if we die."""
    holder = Child(["unshare", "--net", "sleep", "infinity"])
    try:
        yield holder.pid
    finally:
        holder.send_signal(9)


@asynccontextmanager
async def two_machines(directory: Path, addresses: tuple[str, str], **environment: str) -> AsyncIterator[list[Machine]]:
    """Joined by a cable, with these addresses (/24). Every process started on them is gone afterwards."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, **environment, "PATH": path}
    with ExitStack() as stack:
        machines = []
        for name in ("a", "b"):
            (directory / name).mkdir()
            machines.append(Machine(directory / name, stack.enter_context(_namespace()), variables))
        await until(lambda: _apart([one.holder for one in machines]), SETUP_SECONDS)
        await _connect(machines, addresses)
        try:
            yield machines
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for one in machines:
                        for daemon in one.daemons:
                            nursery.start_soon(daemon.stop, 10)


async def until(holds: Callable[[], bool], seconds: float) -> None:
    with trio.fail_after(seconds):
        while True:
            if holds():
                return
            await trio.sleep(0.02)


def _apart(holders: list[int]) -> bool:
    own = Path("/proc/self/ns/net").readlink()
    return all(Path(f"/proc/{holder}/ns/net").readlink() != own for holder in holders)


async def _connect(machines: list[Machine], addresses: tuple[str, str]) -> None:
    a, b = machines
    await a.run(f"ip link add cable type veth peer name cable netns {b.holder}")
    for one, address in zip(machines, addresses, strict=True):
        await one.run(f"ip link set lo up; ip address add {address}/24 dev cable; ip link set cable up")
