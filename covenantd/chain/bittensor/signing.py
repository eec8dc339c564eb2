"""Our hotkey in the shape that the SDK signs with (`bittensor.Signer`)."""

from covenantd.chain.keys import public_key
from p2p.protocols import Signer

_SR25519 = 1


class SdkSigner:
    """Stands for a whole wallet: the SDK asks for a coldkey only where one signs, which is nowhere here."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.has_signed = False  # tells whether there is anything that could have been sent

    @property
    def ss58_address(self) -> str:
        return self._signer.hotkey

    @property
    def public_key(self) -> bytes:
        return public_key(self._signer.hotkey)

    @property
    def crypto_type(self) -> int:
        return _SR25519

    def sign(self, payload: bytes) -> bytes:
        self.has_signed = True
        return self._signer.sign(payload)
