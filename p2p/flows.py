"""What the kernel knows of TCP connections of ours: how long bytes are on their way, and what had to be sent again.

Asked over a sock_diag netlink socket, which anybody on Linux may of their own network namespace; see sock_diag(7), and
struct tcp_info in linux/tcp.h for the offsets.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
_ESTABLISHED = 1 << 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, -, states
_PORT = struct.Struct("!H38xQ")  # inet_diag_sockid: the local port, addresses and interface of any kind, no cookie
_NO_COOKIE = (1 << 64) - 1
_ANSWER_BYTES = 72  # inet_diag_msg
_COOKIE = struct.Struct("=44xQ")
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TCP_INFO = struct.Struct("=24xI16xI20xI76xI56xQ")
_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Flow:
    """One connection. `key` tells it from all others of this boot. `acknowledged`: nothing of it is on its way."""

    key: int
    acknowledged: bool
    quiet_seconds: float  # since it sent something last
    round_trip_seconds: float  # smoothed
    least_round_trip_seconds: float  # in the last minutes
    sent_again_bytes: int


def tcp_flows(host: str, port: int) -> list[Flow]:
    """The established connections whose local port is `port`, of `host`'s family: also those that p2pd dialled, for it
    dials from the port it listens on. Raises OSError where the kernel does not say."""
    if sys.platform != "linux":
        raise OSError("only Linux tells of its connections this way")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ESTABLISHED)
    question += _PORT.pack(port, _NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_SECONDS)
        kernel.send(_HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + question)
        return [_flow(answer) for answer in _answers(kernel)]


def _answers(kernel: socket.socket) -> Iterator[bytes]:
    while True:
        data = kernel.recv(1 << 16)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                (error,) = struct.unpack_from("=i", body)
                if error < 0:
                    raise OSError(-error, "the kernel does not tell of its connections")
                return
            yield body


def _flow(answer: bytes) -> Flow:
    attributes = answer[_ANSWER_BYTES:]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _TCP_INFO.size:
            unacked, quiet_ms, round_trip_us, least_us, sent_again = _TCP_INFO.unpack_from(attributes, _ATTRIBUTE.size)
            (key,) = _COOKIE.unpack_from(answer)
            return Flow(key, not unacked, quiet_ms * 1e-3, round_trip_us * 1e-6, least_us * 1e-6, sent_again)
        attributes = attributes[max((length + 3) & ~3, _ATTRIBUTE.size) :]
    raise OSError("this kernel says too little of its connections")
