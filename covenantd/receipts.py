"""A certifier's word that it saw a commit by some block: small, for many of them must fit beside the commit that they
prove. The digest of the signed commit binds it to run, round, author and peer. Pure."""

import struct
from dataclasses import dataclass

from covenantd.chain.keys import address, public_key, verify
from p2p.errors import RecordRejected
from p2p.protocols import Signer

_RECEIPT = struct.Struct("<32sQ64s")  # public key, block, signature
_SIGNED = struct.Struct("<32sQ")
_DOMAIN = b"covenantd receipt 1\n"
RECEIPT_BYTES = _RECEIPT.size


@dataclass(frozen=True)
class Receipt:
    hotkey: str  # who signed it
    block: int  # the head it had then


def sign_receipt(signer: Signer, digest: str, block: int) -> bytes:
    """`digest`: of the signed commit, as `commits.digest` gives it."""
    signature = signer.sign(_DOMAIN + _SIGNED.pack(bytes.fromhex(digest), block))
    return _RECEIPT.pack(public_key(signer.hotkey), block, signature)


def open_receipt(data: object, digest: str) -> Receipt:
    """Raises RecordRejected("malformed") for what is no receipt, "signature" for one of another commit or a forged
    one."""
    if not isinstance(data, bytes) or len(data) != RECEIPT_BYTES:
        raise RecordRejected("malformed", "receipt")
    key, block, signature = _RECEIPT.unpack(data)
    hotkey = address(key)
    if not verify(hotkey, _DOMAIN + _SIGNED.pack(bytes.fromhex(digest), block), signature):
        raise RecordRejected("signature", f"no receipt of {hotkey} for that commit")
    return Receipt(hotkey, block)
