"""Packing of 12-bit indices, 2-bit codes and columns of 1 to 8 bits, lowest bits first; vectorised, exact."""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8)


def packed12_bytes(count: int) -> int:
    return (12 * count + 7) // 8


def packed2_bytes(count: int) -> int:
    return (count + 3) // 4


def pack12(values: NDArray[np.uint16]) -> Bytes:
    """uint16 [n] below 4096 -> uint8 [ceil(12 n / 8)]; two values take three bytes, unused bits are 0."""
    pairs = np.zeros((len(values) + 1) // 2 * 2, dtype=np.uint16)
    pairs[: len(values)] = values
    low, high = pairs[0::2], pairs[1::2]
    packed = np.empty((len(low), 3), dtype=np.uint8)
    packed[:, 0] = low & 0xFF
    packed[:, 1] = (low >> 8) | ((high & 0xF) << 4)
    packed[:, 2] = high >> 4
    return packed.reshape(-1)[: packed12_bytes(len(values))]


def unpack12(packed: Bytes, count: int) -> NDArray[np.uint16]:
    """The inverse of `pack12`. Raises ValueError on a wrong length or set unused bits."""
    _check(packed, packed12_bytes(count), unused_bits=4 * (count % 2))
    triples = np.zeros((count + 1) // 2 * 3, dtype=np.uint16)
    triples[: len(packed)] = packed
    first, middle, last = triples[0::3], triples[1::3], triples[2::3]
    values = np.empty(len(first) * 2, dtype=np.uint16)
    values[0::2] = first | ((middle & 0xF) << 8)
    values[1::2] = (middle >> 4) | (last << 4)
    return values[:count]


def pack2(codes: Bytes) -> Bytes:
    """uint8 [n] below 4 -> uint8 [ceil(n / 4)]; unused bits are 0."""
    padded = np.zeros(packed2_bytes(len(codes)) * 4, dtype=np.uint8)
    padded[: len(codes)] = codes
    quads = padded.reshape(-1, 4)
    packed: Bytes = np.bitwise_or.reduce(quads << _SHIFTS, axis=1)
    return packed


def unpack2(packed: Bytes, count: int) -> Bytes:
    """The inverse of `pack2`. Raises ValueError on a wrong length or set unused bits."""
    _check(packed, packed2_bytes(count), unused_bits=-2 * count % 8)
    codes: Bytes = (packed[:, None] >> _SHIFTS) & np.uint8(3)
    return codes.reshape(-1)[:count]


def packed_bytes(count: int, bits: int) -> int:
    return (bits * count + 7) // 8


def pack(values: Bytes, bits: int) -> Bytes:
    """uint8 [n] below 2^bits, bits 1..8 -> uint8 [ceil(bits n / 8)]; eight values take `bits` bytes, unused bits 0."""
    words = np.zeros((-(-len(values) // 8), 8), dtype=np.uint8)
    words.reshape(-1)[: len(values)] = values
    packed = words[:, 0].astype("<u8")
    for place in range(1, 8):
        packed |= words[:, place].astype("<u8") << np.uint64(bits * place)
    octets = np.ascontiguousarray(packed.view(np.uint8).reshape(-1, 8)[:, :bits])
    return octets.reshape(-1)[: packed_bytes(len(values), bits)]


def unpack(packed: Bytes, count: int, bits: int) -> Bytes:
    """The inverse of `pack`. Raises ValueError on a wrong length or set unused bits."""
    _check(packed, packed_bytes(count, bits), unused_bits=-bits * count % 8)
    octets = np.zeros((-(-count // 8), 8), dtype=np.uint8)
    whole = len(packed) // bits
    octets[:whole, :bits] = packed[: whole * bits].reshape(-1, bits)
    if whole < len(octets):
        octets[whole, : len(packed) - whole * bits] = packed[whole * bits :]
    words = octets.view("<u8")[:, 0]
    values = np.empty((len(octets), 8), dtype=np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for place in range(8):
        values[:, place] = (words >> np.uint64(bits * place)) & mask
    return values.reshape(-1)[:count]


def _check(packed: Bytes, wanted_bytes: int, unused_bits: int) -> None:
    if len(packed) != wanted_bytes:
        raise ValueError(f"{len(packed)} bytes where {wanted_bytes} belong")
    if unused_bits and packed[-1] >> (8 - unused_bits):
        raise ValueError("unused bits are set")
