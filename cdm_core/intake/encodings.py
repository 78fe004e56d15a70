"""Base64 in its one spelling, and the standardised hash of California's DROP.

A base64 decoder ignores the unused bits of the last character, so that two texts give the same bytes. A signature over the decoded bytes
wouldn't show that the text was changed; hence what doesn't encode to the same text again is refused.

Reference: https://privacy.ca.gov/drop-for-data-brokers/technical-specifications/
"""

import base64
import binascii
import hashlib
import re

from cdm_core.errors import InvalidInputError


def strip_line_end(text: bytes) -> bytes:
    """Without the one line end that editors and shells put after a text."""
    return text.removesuffix(b"\n").removesuffix(b"\r")


def decode_base64(text: bytes) -> bytes:
    """The bytes of standard base64; one line end after it is tolerated.

    Raises:
        InvalidInputError: not base64, or not its one spelling.
    """
    body = strip_line_end(text)
    try:
        content = base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise InvalidInputError("not base64") from error
    if base64.b64encode(content) != body:
        raise InvalidInputError("not base64 in its one spelling")
    return content


def decode_base64url(text: bytes) -> bytes:
    """The bytes of base64url without padding, as JSON Web Tokens have it.

    Raises:
        InvalidInputError: not base64url, or not its one spelling.
    """
    if not re.fullmatch(rb"[A-Za-z0-9_-]*", text):
        raise InvalidInputError("not base64url")
    try:
        content = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error as error:
        raise InvalidInputError("not base64url") from error
    if base64.urlsafe_b64encode(content).rstrip(b"=") != text:
        raise InvalidInputError("not base64url in its one spelling")
    return content


def standardise_email(value: str) -> str:
    """Without surrounding spaces, in lower case."""
    return value.strip().lower()


def standardise_phone(value: str) -> str:
    """The digits, of which the last ten at most."""
    return re.sub(r"[^0-9]", "", value)[-10:]


def compute_drop_hash(standardised: str) -> str:
    """DROP's hash of a standardised value: base64 of its SHA-256."""
    return base64.b64encode(hashlib.sha256(standardised.encode()).digest()).decode()
