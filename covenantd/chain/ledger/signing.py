"""A write as it travels: canonical JSON, signed by the hotkey, good for one ledger and one nonce.

The signature covers the bytes that were sent and is checked before anything parses them.
"""

import json
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from covenantd.chain.keys import verify
from covenantd.chain.ledger.arguments import check_arguments
from covenantd.chain.ledger.state import Refusal, canonical_json
from p2p.protocols import Signer

DOMAIN = b"covenantd ledger call 1\0"
MAX_NONCE = (1 << 63) - 1
MAX_CALL_CHARACTERS = 60 << 10
_SIGNATURE_HEX_DIGITS = 128
_KEYS = {"args", "genesis", "hotkey", "method", "nonce"}


@dataclass(frozen=True)
class Call:
    """A verified write."""

    hotkey: str
    nonce: int
    method: str
    args: dict[str, Any]
    body: str  # the canonical JSON that was signed
    signature: str  # hex

    @property
    def digest(self) -> str:
        return call_digest(self.body)


def call_digest(body: str) -> str:
    """BLAKE3 of what was signed, 64 hex digits: names the call whatever its signature."""
    return blake3(DOMAIN + body.encode("ascii")).hexdigest()


def sign_call(signer: Signer, genesis: str, nonce: int, method: str, args: dict[str, Any]) -> dict[str, str]:
    """The parameters of `submit`: {"hotkey", "call", "signature"}."""
    body = canonical_json({"args": args, "genesis": genesis, "hotkey": signer.hotkey, "method": method, "nonce": nonce})
    signature = signer.sign(DOMAIN + body.encode("ascii"))
    return {"hotkey": signer.hotkey, "call": body, "signature": signature.hex()}


def open_call(hotkey: str, body: str, signature: str, genesis: str) -> Call:
    """Check a submission.

    Raises Refusal: BadSignature, MalformedCall, WrongGenesis, UnknownMethod, InvalidArguments.
    """
    if len(body) > MAX_CALL_CHARACTERS or not body.isascii():
        raise Refusal("MalformedCall", f"not at most {MAX_CALL_CHARACTERS} characters of ASCII")
    if len(signature) != _SIGNATURE_HEX_DIGITS or not _is_hex(signature):
        raise Refusal("BadSignature", f"not {_SIGNATURE_HEX_DIGITS} hex digits")
    if not verify(hotkey, DOMAIN + body.encode("ascii"), bytes.fromhex(signature)):
        raise Refusal("BadSignature")
    fields = _parse(body)
    if fields["hotkey"] != hotkey:
        raise Refusal("BadSignature", "signed for another hotkey")
    if fields["genesis"] != genesis:
        raise Refusal("WrongGenesis", "signed for another ledger")
    nonce = fields["nonce"]
    if type(nonce) is not int or not 0 < nonce <= MAX_NONCE:
        raise Refusal("MalformedCall", "nonce out of range")
    args = check_arguments(fields["method"], fields["args"])
    return Call(hotkey, nonce, fields["method"], args, body, signature)


def _parse(body: str) -> dict[str, Any]:
    try:
        fields = json.loads(body)
        # One call, one text: otherwise a call could be included under two digests.
        canonical = canonical_json(fields) == body
    except (ValueError, RecursionError):
        raise Refusal("MalformedCall", "not JSON") from None
    if not canonical or not isinstance(fields, dict) or set(fields) != _KEYS:
        raise Refusal("MalformedCall", "not the canonical JSON of a call")
    return fields


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)
