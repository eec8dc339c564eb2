"""What can go wrong between peers, by whose fault it is."""

import errno


class P2pError(Exception):
    """Everything the p2p package raises on purpose."""


class TransportError(P2pError):
    """The network's fault: a later try, or another peer, can help."""


class PeerUnreachable(TransportError):
    """No connection to the peer, or it does not speak the protocol."""


class StreamClosed(TransportError):
    """The stream ended: between messages or in the middle of one. Never a sign of success."""


class TransportTimeout(TransportError):
    """An answer did not come in time."""


class Busy(TransportError):
    """The peer refused politely: it is at a limit; ask again later."""


class Refused(TransportError):
    """The peer understood and said no; the message is its reason."""


class TransportDied(TransportError):
    """Our own transport is gone; nothing goes on without a new one."""


class PortInUse(TransportError):
    """Somebody else listens where we were told to."""


class ProtocolViolation(P2pError):
    """The peer misbehaved: malformed, oversized or forged. Ends the connection and bans."""


class RecordRejected(ProtocolViolation):
    """A record that is not what it should be. `reason` is a stable word, see `p2p.records`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"record rejected: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason


class IdentityError(P2pError):
    """The identity file is missing, broken, or readable by others; the message says what to do."""


class BlobError(P2pError):
    """Something about a blob here or among its holders."""


class BlobCorrupt(BlobError):
    """Bytes do not match their hash."""


class BlobTooLarge(BlobError):
    """The blob is larger than its reader allows, whoever holds it."""


class BlobUnavailable(BlobError):
    """No holder gave us the whole blob before the deadline."""


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a disk, or our share of it, is full."""


class DiskFull(BlobError):
    """The disk has no room; the message names the path and what to do."""
