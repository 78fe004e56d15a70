"""Who may send requests: registered public keys, how one is read, and finding the key that a signature fits.

A signature states no key that could be trusted, so every registered key is tried. The algorithm follows from the key that was registered,
never from what was sent: Ed25519 over the message itself, RSA (PKCS #1 v1.5, OpenDSR's) and ECDSA on P-256 over the message's SHA-256.

A key comes as PEM: SubjectPublicKeyInfo, or an X.509 certificate, whose validity bounds the key's. Whoever registers a certificate vouches
for it: neither its chain nor its signature is looked at, as they would prove nothing that the registry's own signature doesn't.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import DuplicateExtension, InvalidVersion, load_pem_x509_certificates

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import InvalidInputError

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""A larger one makes each verification slow, and every key is tried on every request."""
MIN_RSA_EXPONENT = 65537

SenderPublicKey = Ed25519PublicKey | RSAPublicKey | EllipticCurvePublicKey

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderKey:
    """A registered issuer's public key; `problem` says why it doesn't count at the time for which it was looked up, None if it does."""

    issuer: str
    keyid: str
    public_key: SenderPublicKey
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """What a key file holds; `pem` is the key alone, and the times are those of a certificate, None where there is none."""

    public_key: SenderPublicKey
    pem: str
    keyid: Digest
    valid_from: datetime | None = None
    valid_until: datetime | None = None


def parse_key_file(content: bytes, source: str) -> KeyFile:
    """The key in a PEM file; `source` names it in errors. The keyid is the SHA-256 of its DER SubjectPublicKeyInfo.

    Raises:
        InvalidInputError: neither a public key nor one certificate in PEM, a weak key, or one of another algorithm.
    """
    valid_from = valid_until = None
    try:
        if _CERTIFICATE in content:
            certificates = load_pem_x509_certificates(content)
            if len(certificates) != 1:
                raise InvalidInputError(f"{source}: holds {len(certificates)} certificates; give the signer's alone")
            public_key: object = certificates[0].public_key()
            valid_from, valid_until = certificates[0].not_valid_before_utc, certificates[0].not_valid_after_utc
        else:
            public_key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm, InvalidVersion, DuplicateExtension) as error:
        raise InvalidInputError(f"{source}: not a public key in PEM") from error
    checked = _require_strong(public_key, source)
    der = checked.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = checked.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return KeyFile(public_key=checked, pem=pem, keyid=sha256_digest(der), valid_from=valid_from, valid_until=valid_until)


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


def _require_strong(public_key: object, source: str) -> SenderPublicKey:
    match public_key:
        case Ed25519PublicKey():
            return public_key
        case RSAPublicKey():
            if not MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS:
                raise InvalidInputError(f"{source}: an RSA key of {public_key.key_size:,} bits, not {MIN_RSA_BITS:,} to {MAX_RSA_BITS:,}")
            if public_key.public_numbers().e < MIN_RSA_EXPONENT:
                raise InvalidInputError(f"{source}: an RSA key with an exponent below {MIN_RSA_EXPONENT:,}")
            return public_key
        case EllipticCurvePublicKey():
            if not isinstance(public_key.curve, SECP256R1):
                raise InvalidInputError(f"{source}: an elliptic curve other than P-256")
            return public_key
    raise InvalidInputError(f"{source}: not an Ed25519, RSA or EC P-256 key")
