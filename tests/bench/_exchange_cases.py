"""What the exchange benchmark measures: cases, their physical bound, and one run of one method on one case."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.netlab.lab import Lab, Link, open_lab

ROOT = Path(__file__).parents[2]
UP_MBIT, DOWN_MBIT = 20.0, 100.0
FEW_PEERS = 12  # each of more has too small a share of these cores
MBIT_PER_CORE, MBIT_PER_CORE_OF_MANY = 50.0, 25.0
_MODULES = {"libtorrent": "_exchange_torrent", "bucket": "_exchange_bucket", "hivemind": "_exchange_hivemind"}
_BUCKET_CONF = """
worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; client_max_body_size 1g; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s; keepalive_requests 1000000;
  server {{ listen {address}:8080; location / {{ root {directory}/files; dav_methods PUT DELETE; }} }}
}}
"""


@dataclass(frozen=True)
class Case:
    name: str
    links: tuple[Link, ...]
    payload_bytes: int
    piece_bytes: int
    scale: float = 1.0

    @property
    def loss(self) -> float:
        return self.links[0].loss_percent

    @property
    def bound_seconds(self) -> float:
        """max(P/U_min, (N-1)P/D_min, N(N-1)P/sum U): no protocol without outside help can be faster."""
        bits, count = self.payload_bytes * 8e-6, len(self.links)
        ups = [link.up_mbit for link in self.links]
        down = min(link.down_mbit for link in self.links)
        return max(bits / min(ups), (count - 1) * bits / down, count * (count - 1) * bits / sum(ups))


def scale_for(links: Sequence[Link]) -> float:
    """By how much rates are cut so that the machine can carry them: shaping in software costs CPU by the packet, and
    every peer by the message."""
    per_core = MBIT_PER_CORE if len(links) <= FEW_PEERS else MBIT_PER_CORE_OF_MANY
    return min(1.0, per_core * (os.cpu_count() or 1) / sum(link.up_mbit for link in links))


def uniform(count: int, seconds: float, loss_percent: float = 0.0, one_way_ms: float = 12.5) -> Case:
    """`one_way_ms` is of each access link: the round trip between two peers is four of them."""
    links = [Link(UP_MBIT, DOWN_MBIT, one_way_ms, loss_percent)] * count
    name = f"uniform-{count}" + (f"-loss{loss_percent:g}" if loss_percent else "")
    return _sized(name, links, seconds)


def mixed(count: int, seconds: float, loss_percent: float = 0.0, one_way_ms: float = 12.5) -> Case:
    """A quarter of the peers have five times the uplink."""
    links = [Link(UP_MBIT, DOWN_MBIT, one_way_ms, loss_percent)] * count
    for index in range(max(count // 4, 1)):
        links[index] = replace(links[index], up_mbit=5 * UP_MBIT)
    return _sized(f"mixed-{count}" + (f"-loss{loss_percent:g}" if loss_percent else ""), links, seconds)


def _sized(name: str, links: Sequence[Link], seconds: float) -> Case:
    scale = scale_for(links)
    scaled = tuple(replace(one, up_mbit=one.up_mbit * scale, down_mbit=one.down_mbit * scale) for one in links)
    size = int(1_000_000 * seconds / Case(name, scaled, 1_000_000, 1, scale).bound_seconds)
    # the processors, which all peers share here, pay by the piece: fewer, where there are too many peers for them
    least_pieces = 24 if len(links) <= FEW_PEERS else 16
    piece_bytes = max(min(128 << 10, size // least_pieces >> 12 << 12), 16 << 10)
    return Case(name, scaled, size, piece_bytes, scale)


def run_method(method: str, case: Case, timeout_seconds: float, verbose: bool = False) -> dict[str, Any]:
    """{seconds, over_bound, cpu_seconds_per_gb, excess}: excess is what was received beyond what was needed."""
    links = list(case.links) + ([Link(one_way_ms=case.links[0].one_way_ms)] if method == "bucket" else [])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xb-", dir="/tmp")))
        lab = stack.enter_context(open_lab(links, "bbr"))
        extra: list[str] = []
        if method == "bucket":
            extra = ["--bucket", stack.enter_context(_bucket(lab, len(case.links), directory))]
        said = _play(lab, method, case, directory, extra + (["--verbose"] if verbose else []), timeout_seconds)
    needed = len(case.links) * (len(case.links) - 1) * case.payload_bytes
    seconds = max(one["seconds"] for one in said)
    return {
        "seconds": round(seconds, 2),
        "over_bound": round(seconds / case.bound_seconds, 3),
        "cpu_seconds_per_gb": round(sum(one["cpu_seconds"] for one in said) / needed * 1e9, 2),
        "excess": round(sum(one["received_bytes"] for one in said) / needed - 1, 4),
    }


def _play(
    lab: Lab, method: str, case: Case, directory: Path, extra: list[str], timeout_seconds: float
) -> list[dict[str, Any]]:
    module = _MODULES.get(method, "_exchange_node")
    if method == "mesh":
        extra = [*extra, "--mesh"]
    peers: list[subprocess.Popen[str]] = []
    try:
        for index in range(len(case.links)):
            (directory / str(index)).mkdir()
            command = [sys.executable, "-m", f"tests.bench.{module}", "--directory", str(directory / str(index))]
            command += ["--host", lab.address(index), "--index", str(index), "--count", str(len(case.links))]
            command += ["--bytes", str(case.payload_bytes), "--piece-bytes", str(case.piece_bytes)]
            if method != "bucket":
                command += ["--up-mbit", str(case.links[index].up_mbit)]  # as operators set it, whoever's peer it is
            if index == len(case.links) - 1 or "--verbose" not in extra:
                command += extra
            peers.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *lab.command(index, command)],  # also when we are killed
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    start_new_session=True,
                )
            )
        addresses = [_hear(peer)["address"] for peer in peers]
        _tell(peers, {"addresses": addresses})
        for peer in peers:
            _hear(peer)
        deadline = time.monotonic() + timeout_seconds
        _tell(peers, {"go": True})
        said = [_hear(peer, deadline) for peer in peers]
        _tell(peers, {"all": "done"})  # who was done early has served on: its processor time is read now
        return [one | _hear(peer) for one, peer in zip(said, peers, strict=True)]
    finally:
        for peer in peers:
            with suppress(ProcessLookupError):
                os.killpg(peer.pid, signal.SIGKILL)  # with the processes it may have started
        for peer in peers:
            peer.communicate()


def _tell(peers: list["subprocess.Popen[str]"], message: dict[str, Any]) -> None:
    for peer in peers:
        assert peer.stdin is not None
        peer.stdin.write(json.dumps(message) + "\n")
        peer.stdin.flush()


def _hear(peer: "subprocess.Popen[str]", deadline: float | None = None) -> dict[str, Any]:
    assert peer.stdout is not None
    left = 120.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
    if not select.select([peer.stdout], [], [], left)[0]:
        raise TimeoutError("a peer of the benchmark did not finish in time")
    line = peer.stdout.readline()
    if not line:
        raise OSError("a peer of the benchmark failed")
    message: dict[str, Any] = json.loads(line)
    return message


@contextmanager
def _bucket(lab: Lab, index: int, directory: Path) -> Iterator[str]:
    """nginx on the last peer, whose link has no limits."""
    for name in ("files", "body"):
        (directory / name).mkdir()
    directory.chmod(0o755)
    for name in ("files", "body"):
        (directory / name).chmod(0o777)
    (directory / "nginx.conf").write_text(_BUCKET_CONF.format(directory=directory, address=lab.address(index)))
    command = [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(directory / "nginx.conf")]
    with subprocess.Popen(lab.command(index, command), cwd=directory) as server:
        try:
            time.sleep(0.5)
            yield f"{lab.address(index)}:8080"
        finally:
            server.terminate()


def yardstick_mbit(case: Case) -> float:
    """What plain TCP bbr carries over one such link, Mbit/s of payload."""
    receiver = (
        "import socket,time;l=socket.create_server(('0.0.0.0',9));print('up',flush=True);s,_=l.accept();n=0;t=0\n"
        "while d:=s.recv(1<<20):\n n+=len(d);t=t or time.monotonic();e=time.monotonic()\nprint(n*8e-6/(e-t))"
    )
    size = int(case.links[-1].up_mbit * 1e6 / 8 * 10)
    sender = f"import socket;s=socket.create_connection(('{{}}',9));s.sendall(bytes({size}))"
    with open_lab([case.links[-1], case.links[-1]], "bbr") as lab:
        command = lab.command(0, [sys.executable, "-c", receiver])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
            assert listening.stdout is not None
            listening.stdout.readline()
            lab.run(1, sys.executable, "-c", sender.format(lab.address(0)))
            return float(listening.communicate(timeout=60)[0])
