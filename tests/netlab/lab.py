"""A network of shaped access links on this machine: each peer a network namespace, `router.c` in their middle.

    with open_lab([Link(up_mbit=20, down_mbit=100)] * 4, "bbr") as lab:
        lab.command(0, ["python", "-m", ...])      # to be run in peer 0's namespace
        lab.set(1, replace(lab.links[1], down=True))

Nothing is left behind, however we go: namespaces live as long as a `sleep` each, which the kernel kills with us, and
the router ends with its standard input.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from p2p.child import Child

HERE = Path(__file__).parent
NETWORK = "10.77.0"
_SETUP_SECONDS = 20.0


@dataclass(frozen=True)
class Link:
    """One peer's access link. `loss_percent` is of what it sends; `queue_ms` the length of the queue at each end.

    Mbit/s count whole IP packets; 0 is no limit. The way between two peers takes both their one-way delays.
    """

    up_mbit: float = 0.0
    down_mbit: float = 0.0
    one_way_ms: float = 1.0
    loss_percent: float = 0.0
    queue_ms: float = 150.0
    down: bool = False  # carries nothing
    inbound: bool = True  # False: nobody can connect to it, as behind a NAT

    def order(self, index: int) -> str:
        flags = int(self.down) + 2 * int(not self.inbound)
        numbers = (self.up_mbit, self.down_mbit, self.one_way_ms, self.loss_percent, self.queue_ms)
        return " ".join(["set", str(index), *(f"{number:g}" for number in numbers), str(flags)]) + "\n"


def why_not() -> str | None:
    """The reason why there can be no lab here, if so."""
    if missing := [one for one in ("ip", "unshare", "nsenter", "cc") if shutil.which(one) is None]:
        return f"netlab needs {', '.join(missing)} (Debian: iproute2, util-linux, gcc and libc6-dev)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "netlab needs /dev/net/tun"
    for what, command in (
        ("make network namespaces", ["true"]),
        ("make TUN devices", ["ip", "tuntap", "add", "dev", "nl0", "mode", "tun"]),
    ):
        tried = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, check=False)
        if tried.returncode:
            return f"netlab may not {what}: {tried.stderr.strip()}"
    try:
        _built()
    except subprocess.CalledProcessError as error:
        return f"netlab's router does not compile (Debian: gcc and libc6-dev): {error.stderr.strip()[-200:]}"
    return None


class Lab:
    """Peer i has `address(i)`; `set` changes its link at any time."""

    def __init__(self, links: Sequence[Link], holders: Sequence[int], orders: IO[str]) -> None:
        self.links = list(links)
        self._holders = holders
        self._orders = orders

    def address(self, index: int) -> str:
        return f"{NETWORK}.{index + 1}"

    def command(self, index: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in peer `index`'s namespace."""
        return ["nsenter", f"--target={self._holders[index]}", "--net", "--", *command]

    def run(self, index: int, *command: str, timeout_seconds: float = 60.0) -> str:
        """To its end; returns stdout. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(
            self.command(index, command), capture_output=True, text=True, timeout=timeout_seconds, check=True
        )
        return done.stdout

    def set(self, index: int, link: Link) -> None:
        self.links[index] = link
        self._orders.write(link.order(index))
        self._orders.flush()


@contextmanager
def open_lab(links: Sequence[Link], congestion_control: str = "") -> Iterator[Lab]:
    """`congestion_control`: bbr, reno...; empty: the system's. Call from the main thread."""
    with ExitStack() as stack:
        middle = stack.enter_context(_namespace())
        holders = [stack.enter_context(_namespace()) for _ in links]
        router = stack.enter_context(_router(middle, len(links)))
        for index, holder in enumerate(holders):
            _attach(middle, holder, index, congestion_control)
        assert router.stdin is not None
        lab = Lab(links, holders, router.stdin)
        for index, link in enumerate(links):
            lab.set(index, link)
        yield lab


@contextmanager
def _namespace() -> Iterator[int]:
    """The pid of a process that is all there is in a new namespace."""
    holder = Child(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()  # it is in the namespace now
        yield holder.pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder._popen.wait()


@contextmanager
def _router(middle: int, count: int) -> Iterator["subprocess.Popen[str]"]:
    command = ["nsenter", f"--target={middle}", "--net", "--", str(_built()), str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise OSError("the router of the netlab did not start")
            yield process
        finally:
            process.kill()


def _attach(middle: int, holder: int, index: int, congestion_control: str) -> None:
    """Give the TUN to the peer. A long transmit queue there: ours is the only one that drops."""
    name = f"nl{index}"
    subprocess.run(
        ["nsenter", f"--target={middle}", "--net", "--", "ip", "link", "set", name, "netns", str(holder)], check=True
    )
    lines = [
        "ip link set lo up",
        f"ip address add {NETWORK}.{index + 1}/24 dev {name}",
        f"ip link set {name} up txqueuelen 20000",
    ]
    if congestion_control:
        lines.append(f"sysctl -qw net.ipv4.tcp_congestion_control={congestion_control}")
    script = " && ".join(lines)
    subprocess.run(
        ["nsenter", f"--target={holder}", "--net", "--", "sh", "-c", script], check=True, timeout=_SETUP_SECONDS
    )


def _built() -> Path:
    """The router, compiled once for this source."""
    source = HERE / "router.c"
    program = Path(tempfile.gettempdir()) / f"netlab-router-{os.geteuid()}-{source.stat().st_mtime_ns}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-o", fresh, source], capture_output=True, text=True, check=True)
        with suppress(FileNotFoundError):
            fresh.rename(program)
    return program


if __name__ == "__main__":
    sys.exit(why_not())
