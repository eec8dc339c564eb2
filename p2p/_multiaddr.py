"""Multiaddrs between text and bytes: the few protocols that p2pd listens on and dials.

Source: https://multiformats.io/multiaddr and its protocol table. hivemind carries a full implementation, behind
an import of torch.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from p2p.identity import base58
from p2p.protocols import PeerId

MAX_ADDRESS_CHARS = 512
MAX_PEER_ID_BYTES = 64
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}


class AddressError(ValueError):
    """Not a multiaddr we know."""


@dataclass(frozen=True)
class _Part:
    """One protocol. `size`: bytes of its value, 0 for none, -1 for a varint length in front."""

    code: int
    size: int
    encode: Callable[[str], bytes]
    decode: Callable[[bytes], str]


def peer_id_to_bytes(peer: PeerId) -> bytes:
    """The multihash behind a base58 peer id. Raises AddressError."""
    if not 0 < len(peer) <= 2 * MAX_PEER_ID_BYTES:
        raise AddressError(f"a peer id of {len(peer)} characters")
    number = 0
    for letter in peer:
        if letter not in _DIGITS:
            raise AddressError(f"{letter!r} in a peer id")
        number = number * 58 + _DIGITS[letter]
    zeros = len(peer) - len(peer.lstrip(_ALPHABET[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_from_bytes(raw: bytes) -> PeerId:
    """The base58 of a multihash. Raises AddressError."""
    if not 0 < len(raw) <= MAX_PEER_ID_BYTES:
        raise AddressError(f"a peer id of {len(raw)} bytes")
    return base58(raw)


def _port(text: str) -> bytes:
    if not (text.isascii() and text.isdigit() and int(text[:6]) < 1 << 16):
        raise AddressError(f"port {text!r}")
    return int(text).to_bytes(2, "big")


def _address_bytes(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def _address_text(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


def _no_value(text: str) -> bytes:
    return b""


def _text(raw: bytes) -> str:
    return raw.decode("ascii")


def _name(text: str) -> bytes:
    return text.encode("ascii")


_PARTS = {
    "ip4": _Part(0x04, 4, _address_bytes, _address_text),
    "ip6": _Part(0x29, 16, _address_bytes, _address_text),
    "tcp": _Part(0x06, 2, _port, lambda raw: str(int.from_bytes(raw, "big"))),
    "udp": _Part(0x0111, 2, _port, lambda raw: str(int.from_bytes(raw, "big"))),
    "quic-v1": _Part(0x01CD, 0, _no_value, lambda raw: ""),
    "dns": _Part(0x35, -1, _name, _text),
    "dns4": _Part(0x36, -1, _name, _text),
    "dns6": _Part(0x37, -1, _name, _text),
    "unix": _Part(0x0190, -1, lambda text: b"/" + _name(text), lambda raw: raw.decode("ascii").lstrip("/")),
    "p2p": _Part(0x01A5, -1, peer_id_to_bytes, peer_id_from_bytes),
    "p2p-circuit": _Part(0x0122, 0, _no_value, lambda raw: ""),
}
_BY_CODE = {part.code: name for name, part in _PARTS.items()}


def encode(address: str) -> bytes:
    """Bytes of a textual multiaddr such as /ip4/10.0.0.1/tcp/4001/p2p/12D3.... Raises AddressError."""
    if len(address) > MAX_ADDRESS_CHARS or not address.startswith("/"):
        raise AddressError(f"not a multiaddr: {address[:80]!r}")
    words, out = iter(address[1:].split("/")), bytearray()
    for name in words:
        part = _PARTS.get(name)
        if part is None:
            raise AddressError(f"unknown protocol {name[:40]!r} in {address!r}")
        # a unix path runs to the end: it has slashes of its own
        value = "/".join(words) if name == "unix" else next(words, "") if part.size else ""
        out += encode_varint(part.code) + _value_bytes(name, part, value)
    return bytes(out)


def _value_bytes(name: str, part: _Part, value: str) -> bytes:
    try:
        raw = part.encode(value)
    except ValueError as error:
        raise AddressError(f"/{name}/{value[:80]}: {error}") from error
    if part.size >= 0 and len(raw) != part.size or part.size < 0 and not raw:
        raise AddressError(f"/{name}/{value[:80]}: wrong length")
    return encode_varint(len(raw)) + raw if part.size < 0 else raw


def decode(raw: bytes) -> str:
    """Text of a binary multiaddr. Raises AddressError, also for protocols we do not know."""
    text, offset = "", 0
    while offset < len(raw):
        code, offset = varint_at(raw, offset)
        name = _BY_CODE.get(code)
        if name is None:
            raise AddressError(f"unknown protocol code {code:#x}")
        part = _PARTS[name]
        size, offset = varint_at(raw, offset) if part.size < 0 else (part.size, offset)
        if size > len(raw) - offset:
            raise AddressError("binary multiaddr cut short")
        text += f"/{name}"
        if part.size:
            text += "/" + _value_text(part, raw[offset : offset + size])
        offset += size
    return text


def _value_text(part: _Part, raw: bytes) -> str:
    try:
        return part.decode(raw)
    except ValueError as error:
        raise AddressError(f"value of protocol {part.code:#x}: {error}") from error


def split_peer(address: str) -> tuple[str, PeerId]:
    """(address without its last /p2p/ID, the ID). Raises AddressError."""
    head, found, peer = address.rpartition("/p2p/")
    if not found or not peer or "/" in peer:
        raise AddressError(f"{address[:80]!r} does not end in /p2p/PEER_ID")
    peer_id_to_bytes(peer)
    return head, peer


def encode_varint(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint_at(raw: bytes, offset: int) -> tuple[int, int]:
    number = 0
    for index in range(min(10, len(raw) - offset)):
        byte = raw[offset + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, offset + index + 1
    raise AddressError("binary multiaddr cut short")
