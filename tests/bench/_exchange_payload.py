"""The made-up payloads of the exchange benchmark: the same bytes in every process."""

from blake3 import blake3


def payload(index: int, size_bytes: int) -> bytes:
    return blake3(index.to_bytes(4, "little")).digest(size_bytes)
