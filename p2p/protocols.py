"""What the rest of covenantd may ask of the network, and nothing about how it is done."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from p2p.flows import Flow

PeerId = str
"""libp2p peer id in base58, as p2pd prints it."""


class Stream(Protocol):
    """One byte stream to an authenticated peer.

    EOF never means success: p2pd can turn a cut into a clean EOF, so every message on a stream is
    length-prefixed (`p2p.wire`) and every transfer ends with an explicit answer.
    """

    @property
    def remote(self) -> PeerId: ...

    async def send_all(self, data: bytes | memoryview) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes: ...

    async def aclose(self) -> None: ...


StreamHandler = Callable[[Stream], Awaitable[None]]


class Transport(Protocol):
    """Connections and streams. Errors: `p2p.errors.TransportError` and its children."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs others can dial, each ending in /p2p/PEER_ID."""
        ...

    async def dial(self, address: str) -> PeerId: ...

    async def open(self, peer: PeerId, protocol: str) -> Stream: ...

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serve `protocol`; each inbound stream runs `handler` in its own task. Once per protocol."""
        ...

    async def connected(self) -> tuple[PeerId, ...]: ...

    def flows(self) -> Sequence[Flow]:
        """Our connections as the kernel sees them. Raises OSError where it does not say."""
        ...


class RecordStore(Protocol):
    """Expiring records under a key; subkeys keep writers apart. What it returns is a hint, never a proof."""

    async def store(self, key: str, subkey: str, value: bytes, lifetime_seconds: float) -> bool: ...

    async def fetch(self, key: str) -> dict[str, bytes]: ...


class Signer(Protocol):
    """The hotkey's signing half."""

    @property
    def hotkey(self) -> str:
        """ss58 address."""
        ...

    def sign(self, message: bytes) -> bytes: ...


Verify = Callable[[str, bytes, bytes], bool]
"""(hotkey ss58, message, signature) -> whether the signature is good; never raises on hostile input."""
