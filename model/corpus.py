"""The text a swarm trains on when it is given none: 38 plays of Shakespeare, see assets/SOURCES.md."""

import lzma
from importlib import resources


def text() -> str:
    """About 5 MB of ASCII, the same everywhere."""
    packed = resources.files("model").joinpath("assets/shakespeare.txt.xz").read_bytes()
    return lzma.decompress(packed, format=lzma.FORMAT_XZ).decode("ascii")
