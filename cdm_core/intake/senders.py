"""Who may send requests: registered keys, and finding the one that a signature fits.

A signature states no key that could be trusted, so every registered key is tried. Ed25519 signs the message itself. What came through a
protocol that knows certificates may be signed by RSA (PKCS #1 v1.5) or ECDSA on P-256, both over the message's SHA-256.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

SenderPublicKey = Ed25519PublicKey | RSAPublicKey | EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderKey:
    """A registered issuer's public key."""

    issuer: str
    keyid: str
    public_key: SenderPublicKey


def is_signed_by(key: SenderKey, signature: bytes, message: bytes) -> bool:
    """Whether the signature over the message is that key's."""
    try:
        match key.public_key:
            case Ed25519PublicKey():
                key.public_key.verify(signature, message)
            case RSAPublicKey():
                key.public_key.verify(signature, message, PKCS1v15(), SHA256())
            case EllipticCurvePublicKey():
                key.public_key.verify(signature, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def find_signer(signature: bytes, message: bytes, keys: Iterable[SenderKey]) -> SenderKey | None:
    """The key that the signature fits."""
    return next((key for key in keys if is_signed_by(key, signature, message)), None)
