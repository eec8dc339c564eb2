"""Whether anybody listens at an address."""

import trio

from p2p.errors import PeerUnreachable


async def probe(address: str, timeout_seconds: float) -> None:
    """Raises PeerUnreachable if nobody listens there, so that p2pd need not find out.

    libp2p refuses an address that failed for 5 s, then 6, 9, 14... up to 5 minutes, whatever we ask: a
    bootstrap peer that was away for an hour would stay away for minutes more.
    """
    match address.split("/"):
        case ["", "ip4" | "ip6" | "dns" | "dns4" | "dns6", host, "tcp", port]:
            pass
        case _:
            return  # relayed, or not TCP: only p2pd can tell
    with trio.move_on_after(timeout_seconds) as scope:
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError as error:
            raise PeerUnreachable(f"{address}: {error}") from error
        await trio.aclose_forcefully(stream)
    if scope.cancelled_caught:
        raise PeerUnreachable(f"{address}: no connection within {timeout_seconds:g} s")
