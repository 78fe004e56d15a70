"""Key lists: what a hand-written one may not say."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdm_core.errors import InvalidInputError
from cdm_core.evidence.trusted_keys import SCHEMA, parse_key_list

KEYID = "a" * 64


def write_list(key_fields: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """A list of one key, as somebody writes it."""
    public_key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = {"name": "operator", "public_key": base64.b64encode(public_key).decode(), **(key_fields or {})}
    return json.dumps({"schema": SCHEMA, "keys": [key], **fields}).encode()


def test_a_party_that_is_listed_twice_is_refused() -> None:
    revoked = {"keyid": KEYID, "roles": ["issuer"], "revoked_at": "2020-01-01T00:00:00Z"}
    parsed = parse_key_list(write_list(parties=[revoked]), "keys.json")
    assert parsed.parties is not None
    assert parsed.parties[KEYID].validity.revoked_at is not None
    with pytest.raises(InvalidInputError, match=rf"^keys\.json: party {KEYID[:16]}: is listed twice$"):
        parse_key_list(write_list(parties=[revoked, {"keyid": KEYID, "roles": ["issuer"]}]), "keys.json")


@pytest.mark.parametrize("time", [20250101, 1735689600.0, "20250101", "1735689600", True])
def test_a_time_that_is_not_a_day_as_text_is_refused(time: object) -> None:
    assert parse_key_list(write_list({"revoked_at": "2025-01-01T00:00:00Z"}), "keys.json").validity
    with pytest.raises(InvalidInputError, match=r"^keys\.json: not a key list: keys\.0\.revoked_at: must be a time as text"):
        parse_key_list(write_list({"revoked_at": time}), "keys.json")


@pytest.mark.parametrize("threshold", [10**30, 2**53 + 2, 1001])
def test_a_threshold_beyond_any_list_is_refused(threshold: int) -> None:
    with pytest.raises(InvalidInputError, match=r"^keys\.json: not a key list: threshold: Input should be less than or equal to 1000$"):
        parse_key_list(write_list(threshold=threshold, digest=KEYID), "keys.json")
