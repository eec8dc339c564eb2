"""An engine process that does as it is told, for tests: `python scripted_engine.py SOCKET BEHAVIOUR`.

It answers Hash with `Hashed(BEHAVIOUR)`, Train with two Progress and Trained, Settle by refusing; at Evaluate it does
what BEHAVIOUR says. No torch: it starts in the time of a bare interpreter.
"""

import os
import socket
import sys
import time

from model import messages as m

WHOLE = m.encode(m.Evaluated(1.0, 1))
SAID = {
    "die": b"",
    "hang": b"",
    "close": b"",
    "die-within": WHOLE[:7],
    "hang-within": WHOLE[:7],
    "garbage": b"\x00\x00\x00\x05hello",
    "oversized": b"\xff\xff\xff\xff",
    "wrong": m.encode(m.Hashed("?")),
    "bug": m.encode(m.Failed("bug", "list index out of range")),
    "full": m.encode(m.Failed("memory", "Evaluate: CUDA out of memory. End what else uses the GPU")),
    "twice": 2 * WHOLE,
}
"""What each behaviour sends instead of `WHOLE`."""


def receive(sock: socket.socket) -> m.Message:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = sock.recv(count - len(data))
            if not part:
                sys.exit(0)
            data += part
        return data

    return m.decode(exactly(m.frame_length(exactly(4))))


wanted: list[m.Profile] = []


def answer(sock: socket.socket, request: m.Message, behaviour: str) -> None:
    match request:
        case m.Profile():
            wanted.append(request)
        case m.Hash():
            sock.sendall(m.encode(m.Hashed(behaviour)))
        case m.Train(round, _, steps):
            for step in range(steps):
                sock.sendall(m.encode(m.Progress(round, step, 5.0, 1.0, 1.0, 1.0, 1)))
            while wanted:
                one = wanted.pop()
                sock.sendall(m.encode(m.Traced(one.path, one.steps)))
            sock.sendall(m.encode(m.Trained(round, steps, 100, 5.0, 0.1, 0)))
        case m.Settle():
            sock.sendall(m.encode(m.Failed("input", "no such round")))
        case m.Evaluate():
            misbehave(sock, behaviour)
        case m.Stop():
            print("stop", flush=True)


def misbehave(sock: socket.socket, behaviour: str) -> None:
    said = SAID.get(behaviour, WHOLE)
    for _ in range(15 if behaviour == "slow" else 0):
        sock.sendall(m.encode(m.Alive()))
        time.sleep(0.1)
    for part in [bytes([byte]) for byte in said] if behaviour == "byte-by-byte" else [said]:
        sock.sendall(part)
        time.sleep(0.001)
    if behaviour.startswith("die"):
        os._exit(1)
    if behaviour == "close":
        sock.close()
    if behaviour == "close" or behaviour.startswith("hang"):
        time.sleep(1000)


def main() -> None:
    path, behaviour = sys.argv[1:]
    if behaviour == "never-connect":
        time.sleep(1000)
    if behaviour == "exit":
        sys.exit(3)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    while True:
        answer(sock, receive(sock), behaviour)


if __name__ == "__main__":
    main()
