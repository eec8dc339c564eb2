"""What p2pd is told at its start."""

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2p._reach import CIRCUIT

_MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108
RELAY_CIRCUIT_BYTES = 1 << 40  # each way, before the relay ends a circuit
RELAY_CIRCUIT_SECONDS = 24 * 3600
RELAY_CIRCUITS_EACH = 128


@dataclass(frozen=True)
class P2pdSettings:
    """`identity`: the Ed25519 key file (`p2p.identity`). `listen_port` 0: any free port.

    `announce`: multiaddrs others should dial instead of the ones we listen on. `relays`: multiaddrs of relays
    to be reached through when we are behind a NAT; who has any counts as unreachable otherwise. `hole_punching`:
    a relayed connection is replaced by a direct one where both NATs let it. `runtime_directory`: where the
    sockets' directory is made; None, or a path too long for a socket: the system's temporary directory.
    """

    identity: Path
    listen_host: str = "0.0.0.0"
    listen_port: int = 0
    announce: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    relay_service: bool = False
    hole_punching: bool = True
    nat_port_map: bool = False
    runtime_directory: Path | None = None
    max_inbound_streams: int = 512
    max_inbound_streams_per_peer: int = 64
    start_seconds: float = 15.0
    request_seconds: float = 10.0


def p2pd_arguments(settings: P2pdSettings, directory: Path) -> list[str]:
    protocol = "ip6" if ":" in settings.listen_host else "ip4"
    public_relay = settings.relay_service and not settings.relays
    arguments = {
        "listen": f"/unix{directory}/control",
        "id": settings.identity,
        "hostAddrs": f"/{protocol}/{settings.listen_host}/tcp/{settings.listen_port}",
        "announceAddrs": ",".join(settings.announce),
        "trustedRelays": ",".join(settings.relays),
        "tls": 0,
        "noise": 1,
        # libp2p's DHT finds the addresses of peers that hivemind's DHT names by id alone. No -b: with it,
        # p2pd exits when no bootstrap answers. A public relay's is a server too, which it says once p2pd runs and not
        # before: see p2pd_environment.
        ("dht" if public_relay else "dhtServer"): 1,
        # Who has relays counts as unreachable, or its autorelay waits for strangers to say so; and only without
        # discovery does it ask the relays it is told. A relay counts as reachable, or p2pd never starts the relay
        # service that has the limits below.
        "relay": int(bool(settings.relays) or settings.relay_service),
        "autoRelay": int(bool(settings.relays)),
        "relayDiscovery": 0,
        "forceReachabilityPrivate": int(bool(settings.relays)),
        "forceReachabilityPublic": int(public_relay),
        "relayService": int(settings.relay_service),
        "relayDataLimit": RELAY_CIRCUIT_BYTES,
        "relayTimeLimit": f"{RELAY_CIRCUIT_SECONDS}s",
        "relayMaxCircuits": RELAY_CIRCUITS_EACH,
        "relayBufferSize": 256 << 10,
        "natPortMap": int(settings.nat_port_map),
        "autonat": int(settings.hole_punching),  # p2pd's switch for hole punching, on both sides of it
        "connManager": 1,
        "idleTimeout": "30s",
    }
    return [f"-{name}={value}" for name, value in arguments.items() if value != ""]


def p2pd_environment(settings: P2pdSettings) -> dict[str, str]:
    """What a Go program needs and no more: the daemon's environment may hold secrets.

    p2pd starts two relay services, in a goroutine the one with our limits and by itself one with libp2p's smallest (128
    KiB and two minutes a circuit), and whichever comes second counts. With one processor that is ours, if p2pd does not
    wait for anything between the two, as it does for a DHT that is a server at once (ours one time in four then). With
    more processors it is by chance, one time in two to thirteen: a relay that must pass on more than a core can sets
    GOMAXPROCS itself, and has our trial choose.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "GOMAXPROCS", "GOGC") if name in os.environ}
    one = {"GOMAXPROCS": "1"} if settings.relay_service else {}
    return one | kept | {"GOLOG_LOG_LEVEL": os.environ.get("GOLOG_LOG_LEVEL", "error")}


def sockets_parent(wanted: Path | None) -> Path:
    """A directory whose sockets fit into sun_path."""
    name = "/p2pd-12345678/control"
    if wanted is not None and len(os.fspath(wanted.absolute()) + name) <= _MAX_SOCKET_PATH_BYTES:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        return wanted.absolute()
    system = Path(tempfile.gettempdir())
    return system if len(os.fspath(system) + name) <= _MAX_SOCKET_PATH_BYTES else Path("/tmp")


def near_addresses(settings: P2pdSettings) -> tuple[str, ...]:
    """Where this machine reaches the p2pd, whatever it announces; none if its port is not known before it listens."""
    if not settings.listen_port:
        return ()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.listen_host, settings.listen_host)
    return (f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{settings.listen_port}",)


def listen_port(settings: P2pdSettings, addresses: Sequence[str]) -> int:
    """As set, or else of the nearest of its own addresses: a NAT shows farther ones with ports of its own. Raises
    OSError if p2pd says where others reach it alone."""
    if settings.listen_port:
        return settings.listen_port
    for address in [] if settings.announce else reversed(addresses):
        match address.split("/"):
            case ["", _, _, "tcp", port, *_] if CIRCUIT not in address:
                return int(port)
    raise OSError("p2pd does not say at which port it listens; set it in [network] listen")


def remove_stale_sockets(parent: Path) -> None:
    """Remove what p2pds of ours that were killed with their daemon left in `parent`: sockets nobody answers."""
    for directory in parent.glob("p2pd-*"):
        try:
            if directory.lstat().st_uid == os.geteuid() and _nobody_answers(directory):
                shutil.rmtree(directory)
        except OSError:
            continue  # gone meanwhile, or not for us to judge


def _nobody_answers(directory: Path) -> bool:
    """Whether p2pd and daemon are both gone, and not only about to be there."""
    answers = {_connect_error(directory / "control"), _connect_error(directory / "streams")}
    return errno.ECONNREFUSED in answers and answers <= {errno.ECONNREFUSED, errno.ENOENT}


def _connect_error(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path))
