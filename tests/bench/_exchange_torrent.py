"""One peer of the exchange benchmark on libtorrent: seeds its payload, leeches all others. See `_exchange_node`."""

import argparse
import os
import sys
import time
from pathlib import Path

import libtorrent

from tests.bench._cpu import cpu_seconds
from tests.bench._exchange_node import say
from tests.bench._exchange_payload import payload

_PORT = 6881
_SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,  # uTP yields to everything; TCP has the kernel's bbr
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "active_limit": -1,
    "active_downloads": -1,
    "active_seeds": -1,
    "unchoke_slots_limit": -1,
    "close_redundant_connections": False,
    "suggest_mode": 1,
    "connection_speed": 500,
    "peer_connect_timeout": 5,
    "min_reconnect_time": 1,
}


def torrent_of(directory: Path, index: int, size_bytes: int, piece_bytes: int) -> "libtorrent.torrent_info":
    file = directory / f"payload-{index}"
    file.write_bytes(payload(index, size_bytes))
    storage = libtorrent.file_storage()
    storage.add_file(file.name, size_bytes)
    power_of_two = max(1 << piece_bytes.bit_length() - 1, 16 << 10)
    torrent = libtorrent.create_torrent(storage, power_of_two, libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(torrent, str(directory))
    file.unlink()
    return libtorrent.torrent_info(torrent.generate())


def play(args: argparse.Namespace) -> None:
    listen = f"{args.host}:{_PORT}"
    own = {"listen_interfaces": listen, "outgoing_interfaces": args.host}
    session = libtorrent.session({**_SETTINGS, **own, "upload_rate_limit": int(args.up_mbit * 1e6 / 8)})
    session.set_peer_class_filter(libtorrent.ip_filter())  # or peers on private networks would have no limit
    infos = [torrent_of(args.directory, index, args.bytes, args.piece_bytes) for index in range(args.count)]
    (args.directory / f"payload-{args.index}").write_bytes(payload(args.index, args.bytes))
    say({"address": args.host})
    sys.stdin.readline()
    network = args.host.rpartition(".")[0]
    handles = []
    for index, info in enumerate(infos):
        parameters = libtorrent.add_torrent_params()
        parameters.ti, parameters.save_path = info, str(args.directory)
        parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
        if index == args.index:
            parameters.flags |= libtorrent.torrent_flags.seed_mode
        handles.append(session.add_torrent(parameters))
    say({"ready": True})
    sys.stdin.readline()
    start, cpu = time.monotonic(), cpu_seconds(os.getpid())
    for handle in handles:
        for other in range(args.count):
            if other != args.index:
                handle.connect_peer((f"{network}.{other + 1}", _PORT))
    while not all(handle.status().is_seeding for handle in handles):
        time.sleep(0.05)
    received = sum(handle.status().total_payload_download for handle in handles)
    say({"seconds": time.monotonic() - start, "received_bytes": received})
    sys.stdin.readline()
    say({"cpu_seconds": cpu_seconds(os.getpid()) - cpu})
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--piece-bytes", type=int, required=True)
    parser.add_argument("--up-mbit", type=float, required=True)
    play(parser.parse_args())


if __name__ == "__main__":
    main()
