"""Addresses, waits and limits of the swarm."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SwarmSettings:
    """`bootstrap`: multiaddrs that end in /p2p/PEER_ID. Discovery starts at `discover_first_seconds` and slows down
    to `discover_seconds` while nobody new shows up."""

    run_id: str
    role: str
    bootstrap: tuple[str, ...] = ()
    announce_seconds: float = 60.0
    record_lifetime_seconds: float = 180.0
    discover_first_seconds: float = 0.5
    discover_seconds: float = 10.0
    refresh_seconds: float = 1.0
    retry_first_seconds: float = 0.5
    retry_last_seconds: float = 15.0
    bootstrap_retry_seconds: float = 3.0
    lonely_seconds: float = 5.0  # without any peer, before other addresses are tried
    explore_seconds: float = 60.0  # between tries of known addresses whose peers we have not met
    remember_seconds: float = 30.0
    dial_seconds: float = 10.0
    hello_seconds: float = 10.0
    answer_seconds: float = 60.0
    max_dials: int = 8
    max_peers: int = 1024
