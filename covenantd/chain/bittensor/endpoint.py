"""What `[chain] endpoint` may say for Bittensor. Needs no SDK, so that a config is checked without its import."""

from urllib.parse import urlsplit

NETWORKS = ("finney", "test", "archive", "devnet", "local")
"""Names that the SDK knows the addresses of; finney is Bittensor's main network."""


def bittensor_endpoint_problem(endpoint: str) -> str | None:
    """What is wrong with a network's name or a ws://HOST[:PORT][/PATH] or wss:// address, or None."""
    if endpoint in NETWORKS:
        return None
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme not in ("ws", "wss"):
        return f"is neither ws://HOST:PORT nor wss://HOST nor one of {', '.join(NETWORKS)}"
    if not host or any(c.isspace() or not c.isprintable() for c in endpoint):
        return "names no host, e.g. wss://entrypoint-finney.opentensor.ai:443"
    return None


def chain_kind(endpoint: str) -> str:
    """The `[chain] kind` that an address belongs to; one that is none is the ledger's to refuse."""
    return "bittensor" if bittensor_endpoint_problem(endpoint) is None else "ledger"


def shown(endpoint: str) -> str:
    """For logs and errors: a provider's address may carry a key in its user, path or query."""
    if endpoint in NETWORKS or endpoint.startswith(("unix:", "tcp:")):
        return endpoint
    try:
        parts = urlsplit(endpoint)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"
    except ValueError:
        return "the endpoint"
