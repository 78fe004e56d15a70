"""RFC 3161 time stamps: what an authority said of when some bytes existed.

Checked with Trail of Bits' rfc3161-client, which parses and verifies in Rust. The time counts only under an authority whose certificate
the reader trusts; the certificate must stand in the token (`certReq`). A token has bytes that nobody signed, such as its list of digest
algorithms: whoever needs it unchanged to the byte signs it (`cdm_core.evidence.receipts`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.x509 import DuplicateExtension, InvalidVersion, load_pem_x509_certificate
from rfc3161_client import TimestampRequestBuilder, VerifierBuilder, decode_timestamp_response
from rfc3161_client import VerificationError as TokenError

from cdm_core.errors import InvalidInputError, VerificationError


def build_timestamp_request(message: bytes) -> bytes:
    """The DER request that asks for a token over `message`'s SHA-512, with the authority's certificate."""
    return bytes(TimestampRequestBuilder().data(message).nonce(nonce=False).cert_request(cert_request=True).build().as_bytes())


def verify_timestamp(response: bytes, message: bytes, authorities: Sequence[str]) -> datetime:
    """When one of the authorities, given by root certificates in PEM, saw `message`.

    Raises:
        InvalidInputError: a certificate isn't one.
        VerificationError: the response isn't a token over the message by one of them.
    """
    builder = VerifierBuilder(roots=[])
    for certificate in authorities:
        try:
            builder = builder.add_root_certificate(load_pem_x509_certificate(certificate.encode()))
        except ValueError as error:
            raise InvalidInputError("time-stamp authority: not a certificate in PEM, or given twice") from error
    try:
        decoded = decode_timestamp_response(response)
        builder.build().verify_message(decoded, message)
    except (TokenError, ValueError, InvalidVersion, DuplicateExtension) as error:
        raise VerificationError(f"time stamp: {' '.join(str(error).split()) or 'not verifiable'}") from error
    return decoded.tst_info.gen_time.astimezone(UTC)
