"""`python -m tests.fuzz.contributions COUNT SEED [CODEC]`: hostile contribution files, thrown at `contribution.parse`.

Valid files of all codecs, of small chunks and now and then of full ones, damaged in ways that keep most of them
plausible. Each must be refused with a ContributionError, or be exactly what an honest peer would have written, and
then a roster of three must give a finite θ. The process may not grow by more than MAX_GROWTH_BYTES meanwhile: the
kernel refuses what is beyond. Prints how many of each codec were accepted.
"""

import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from model import contribution
from model.compress import compress
from model.config import CODECS, CompressionConfig
from model.contribution import HEADER_BYTES, Expected, Header
from model.errors import ContributionError
from model.layout import Layout, Shapes
from model.outer import outer_step
from model.sparse import Sparse

MAX_GROWTH_BYTES = 4 << 20
FULL_SHARE = 0.1  # of inputs with chunks of 4096, of which 64 are kept: ranks of nine limbs, columns of six bits
ALPHA = 2.0
HEADER = Header("01" * 32, 7, "23" * 32, "45" * 32)
EXPECTED = Expected(HEADER.run_id, HEADER.round, HEADER.base_state_hash, HEADER.hotkey)
SMALL = (("w", (6, 5)), ("n", (19,))), 16, 4  # whole, partly and mostly padded chunks of 16
FULL = (("w", (64, 70)), ("n", (100,))), 4096, 64
INTERESTING = (0, 1, 2, 3, 0x0F, 0x7F, 0x80, 0xC0, 0xF0, 0xF1, 0xFE, 0xFF)

Random = random.Random
Damage = Callable[[Random, bytearray, list[bytes]], None]


def valid_files(layout: Layout) -> list[bytes]:
    generator = torch.Generator().manual_seed(1)
    flats = [torch.zeros(layout.parameters), *(torch.randn(layout.parameters, generator=generator) for _ in range(6))]
    header = contribution.pack_header(layout, HEADER)
    return [header + contribution.encode_body(layout, compress(layout, flat)) for flat in flats]


def place(chance: Random, data: bytearray) -> int:
    """Mostly in the body."""
    start = HEADER_BYTES if chance.random() < 0.85 and len(data) > HEADER_BYTES else 0
    return chance.randrange(start, len(data))


def flip(chance: Random, data: bytearray, _: list[bytes]) -> None:
    data[place(chance, data)] ^= 1 << chance.randrange(8)


def put(chance: Random, data: bytearray, _: list[bytes]) -> None:
    data[place(chance, data)] = chance.choice(INTERESTING)


def fill(chance: Random, data: bytearray, _: list[bytes]) -> None:
    start, length = place(chance, data), chance.randrange(1, 12)
    stop = min(start + length, len(data))
    byte = chance.choice(INTERESTING)
    data[start:stop] = bytes([byte]) * (stop - start) if chance.random() < 0.5 else chance.randbytes(stop - start)


def splice(chance: Random, data: bytearray, others: list[bytes]) -> None:
    other, start = chance.choice(others), place(chance, data)
    stop = min(start + chance.randrange(1, 40), len(data), len(other))
    if start < stop:
        data[start:stop] = other[start:stop]


def resize(chance: Random, data: bytearray, _: list[bytes]) -> None:
    if chance.random() < 0.5:
        del data[chance.randrange(len(data)) :]
    else:
        data += chance.randbytes(chance.choice((1, 2, 8, 1000)))


DAMAGES: tuple[Damage, ...] = (flip, flip, flip, put, put, fill, splice, splice)


def hostile(chance: Random, own: list[bytes], others: list[bytes]) -> bytes:
    data = bytearray(chance.choice(others) if chance.random() < 0.01 else chance.choice(own))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if data:
            (resize if chance.random() < 0.02 else chance.choice(DAMAGES))(chance, data, others)
    return bytes(data)


class Target:
    """A layout of each codec, and what it takes and refuses."""

    def __init__(self, codec: str, shapes: Shapes, chunk: int, kept: int) -> None:
        layouts = {name: Layout.of(shapes, CompressionConfig(name, chunk, kept)) for name in CODECS}
        files = {name: valid_files(layout) for name, layout in layouts.items()}
        self.layout, self.own = layouts[codec], files[codec]
        self.others = [file for of_codec in files.values() for file in of_codec]
        self.theta = torch.zeros(self.layout.parameters)
        self.honest = [contribution.parse(file, self.layout, EXPECTED) for file in self.own[1:3]]
        self.accepted = 0
        self.step(self.honest[0])  # all is loaded now

    def throw(self, chance: Random) -> None:
        """One more. Raises AssertionError if it is accepted and not canonical, or does harm."""
        data = hostile(chance, self.own, self.others)
        try:
            sparse = contribution.parse(data, self.layout, EXPECTED)
        except ContributionError:
            return
        self.accepted += 1
        assert contribution.encode_body(self.layout, sparse) == data[HEADER_BYTES:], data.hex()
        if self.accepted % 20 == 0:
            assert torch.isfinite(self.step(sparse)).all(), data.hex()

    def step(self, sparse: Sparse) -> torch.Tensor:
        return outer_step(self.layout, self.theta, [self.honest[0], sparse, self.honest[1]], ALPHA).theta


def fuzz(codec: str, count: int, seed: int) -> tuple[int, int]:
    """Returns how many of `count` were accepted, of small chunks and of full ones."""
    small, full, chance = Target(codec, *SMALL), Target(codec, *FULL), Random(f"{codec} {seed}")
    limit_memory()
    for _ in range(count):
        (full if chance.random() < FULL_SHARE else small).throw(chance)
    return small.accepted, full.accepted


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:] or CODECS:
        print(name, *fuzz(name, int(sys.argv[1]), int(sys.argv[2])))
