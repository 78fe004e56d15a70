"""Published vectors of DROP's hash, and base64 in its one spelling."""

import base64
from contextlib import suppress

import pytest

from cdm_core.errors import InvalidInputError
from cdm_core.intake.encodings import compute_drop_hash, decode_base64, decode_base64url, standardise_email, standardise_phone

# https://privacy.ca.gov/drop-for-data-brokers/technical-specifications/
PHONES = {
    "+1(415)555-9317": ("4155559317", "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="),
    "+84(90)123 4567": ("4901234567", "ptzVkgbv9DonwvPCHmXmJ2SEOaolSh37z3ZzY/Gmm+U="),
}


@pytest.mark.parametrize("given", PHONES)
def test_the_published_phone_hashes(given: str) -> None:
    standardised, hashed = PHONES[given]
    assert standardise_phone(given) == standardised
    assert compute_drop_hash(standardised) == hashed


def test_an_address_keeps_its_dots_and_tags() -> None:
    assert standardise_email(" A.lice+Tag@Co.COM ") == "a.lice+tag@co.com"


def test_one_line_end_is_tolerated() -> None:
    assert decode_base64(b"AAEC") == decode_base64(b"AAEC\n") == decode_base64(b"AAEC\r\n") == b"\x00\x01\x02"


@pytest.mark.parametrize("text", [b"AA==\n\n", b" AA==", b"AA=", b"AB==", b"A-==", b"\xff", b"AA==\x0b"])
def test_another_spelling_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^not base64"):
        decode_base64(text)


@pytest.mark.parametrize("text", [b"AB", b"AA==", b"A+", b"A", b"A A"])
def test_another_spelling_of_base64url_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^not base64url"):
        decode_base64url(text)


def test_every_last_bit_counts() -> None:
    text = base64.b64encode(bytes(64))
    for place in range(len(text)):
        for bit in range(8):
            changed = text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :]
            with suppress(InvalidInputError):
                assert decode_base64(changed) != bytes(64)
