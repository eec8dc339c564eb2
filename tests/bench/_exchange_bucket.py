"""One peer of the exchange benchmark on a bucket: uploads its payload piece by piece, downloads what others did.

The bucket is a WebDAV server; pieces are its objects, fetched as soon as they are there. See `_exchange_node`.
"""

import argparse
import http.client
import os
import sys
import threading
import time
from collections.abc import Iterator

from tests.bench._cpu import cpu_seconds
from tests.bench._exchange_node import say
from tests.bench._exchange_payload import payload

_POLL_SECONDS = 0.1
_PUTS = 4  # at once: one alone waits a round trip for each answer
_GETS_EACH = 2  # at once, from each origin


def upload(args: argparse.Namespace, numbers: Iterator[int]) -> None:
    connection = http.client.HTTPConnection(args.bucket)
    data = payload(args.index, args.bytes)
    for number in numbers:
        start = number * args.piece_bytes
        connection.request("PUT", f"/{args.index}-{number}", data[start : start + args.piece_bytes])
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise OSError(f"PUT: {answer.status}")


def download(args: argparse.Namespace, index: int, numbers: Iterator[int], data: bytearray) -> None:
    connection = http.client.HTTPConnection(args.bucket)
    for number in numbers:
        while True:
            connection.request("GET", f"/{index}-{number}")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                break
            time.sleep(_POLL_SECONDS)
        start = number * args.piece_bytes
        data[start : start + len(body)] = body


def pieces(args: argparse.Namespace) -> Iterator[int]:
    """For the workers of one payload to share: each number goes to one of them."""
    return iter(list(range(-(-args.bytes // args.piece_bytes))))


def play(args: argparse.Namespace) -> None:
    say({"address": args.host})
    sys.stdin.readline()
    got = {index: bytearray(args.bytes) for index in range(args.count) if index != args.index}
    threads = []
    for index, data in got.items():
        numbers = pieces(args)
        threads += [
            threading.Thread(target=download, args=(args, index, numbers, data), daemon=True) for _ in range(_GETS_EACH)
        ]
    numbers = pieces(args)
    threads += [threading.Thread(target=upload, args=(args, numbers), daemon=True) for _ in range(_PUTS)]
    say({"ready": True})
    sys.stdin.readline()
    start, cpu = time.monotonic(), cpu_seconds(os.getpid())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.monotonic() - start, cpu_seconds(os.getpid()) - cpu
    if any(bytes(data) != payload(index, args.bytes) for index, data in got.items()):
        sys.exit("a download failed")
    say({"seconds": seconds, "received_bytes": sum(map(len, got.values()))})
    sys.stdin.readline()
    say({"cpu_seconds": cpu})  # the peers serve nobody: the bucket's own time is its owner's
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--bucket", required=True, metavar="HOST:PORT")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--piece-bytes", type=int, required=True)
    play(parser.parse_args())


if __name__ == "__main__":
    main()
