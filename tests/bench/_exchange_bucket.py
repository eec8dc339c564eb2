"""One peer of the exchange benchmark on a bucket: uploads its payload piece by piece, downloads what others did.

The bucket is a WebDAV server; pieces are its objects, fetched as soon as they are there. See `_exchange_node`.
"""

import argparse
import http.client
import os
import sys
import threading
import time

from tests.bench._exchange_node import cpu_seconds, say
from tests.bench._exchange_payload import payload

_POLL_SECONDS = 0.1


def upload(args: argparse.Namespace) -> None:
    connection = http.client.HTTPConnection(args.bucket)
    data = payload(args.index, args.bytes)
    for number, start in enumerate(range(0, args.bytes, args.piece_bytes)):
        connection.request("PUT", f"/{args.index}-{number}", data[start : start + args.piece_bytes])
        if connection.getresponse().read() is None:
            raise OSError("no answer")


def download(args: argparse.Namespace, index: int, received: list[int]) -> None:
    connection, data = http.client.HTTPConnection(args.bucket), b""
    for number in range(-(-args.bytes // args.piece_bytes)):
        while True:
            connection.request("GET", f"/{index}-{number}")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                break
            time.sleep(_POLL_SECONDS)
        data += body
    if data != payload(index, args.bytes):
        raise OSError(f"payload {index} is damaged")
    received.append(len(data))


def play(args: argparse.Namespace) -> None:
    say({"address": args.host})
    sys.stdin.readline()
    say({"ready": True})
    sys.stdin.readline()
    start, cpu, received = time.monotonic(), cpu_seconds(os.getpid()), list[int]()
    others = [index for index in range(args.count) if index != args.index]
    threads = [threading.Thread(target=download, args=(args, index, received)) for index in others]
    threads.append(threading.Thread(target=upload, args=(args,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.monotonic() - start, cpu_seconds(os.getpid()) - cpu
    if len(received) < len(others):
        sys.exit("a download failed")
    say({"seconds": seconds, "cpu_seconds": cpu, "received_bytes": sum(received)})
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
