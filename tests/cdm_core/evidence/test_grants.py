from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from cdm_core.digests import Digest
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.evidence.envelopes import build_public_key, build_statement, sign_envelope, verify_envelope
from cdm_core.evidence.grants import Grant, grant_of, parse_grant, require_valid

END = datetime(2027, 1, 1, tzinfo=UTC)
WORKSPACE = "a" * 64
GRANT = Grant(workspace=WORKSPACE, subject="studio", shards=(0, 3), expires_at=END)


@given(
    subject=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    shards=st.sets(st.integers(0, 999), min_size=1, max_size=5),
    expires_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_both_forms_round_trip(subject: str, shards: set[int], expires_at: datetime) -> None:
    made = Grant(workspace=WORKSPACE, subject=subject, shards=tuple(sorted(shards)), expires_at=expires_at)
    assert parse_grant(made.to_bytes()) == made
    private_key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public_key = build_public_key(private_key.public_key())
    envelope = sign_envelope(made.to_statement(), CryptoSigner(private_key, public_key))
    assert grant_of(verify_envelope(envelope, [public_key])) == made


def test_a_grant_holds_until_its_end() -> None:
    require_valid(GRANT, WORKSPACE, END - timedelta(microseconds=1))
    with pytest.raises(RequestRefusedError, match=r"^it expired at 2027-01-01T00:00:00Z$"):
        require_valid(GRANT, WORKSPACE, END)


def test_a_grant_for_another_workspace_is_refused() -> None:
    with pytest.raises(RequestRefusedError, match=r"^it is for another workspace$"):
        require_valid(GRANT, "b" * 64, END - timedelta(days=1))


def test_another_statement_is_no_grant() -> None:
    private_key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public_key = build_public_key(private_key.public_key())
    payload = build_statement({"x": Digest(WORKSPACE)}, "https://lethe.dev/attestation/unlearning/v1", GRANT.to_document())
    with pytest.raises(InvalidInputError, match=r"^signed, but not a grant$"):
        grant_of(verify_envelope(sign_envelope(payload, CryptoSigner(private_key, public_key)), [public_key]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"lethe/grant/v1", b"lethe/grant/v2", "schema: Input should be"),
        (b'"shards":[0,3]', b'"shards":[]', "shards: List should have at least 1 item"),
        (b'"shards":[0,3]', b'"shards":["0"]', "shards.0: Input should be a valid integer"),
        (b'"shards":[0,3]', b'"shards":[true]', "shards.0: Input should be a valid integer"),
        (b'"shards":[0,3]', b'"shards":[-1]', "shards.0: Input should be greater than or equal to 0"),
        (b"00:00:00Z", b"00:00:00", "expires_at: Input should have timezone info"),
        (b'"subject"', b'"also":1,"subject"', "also: Extra inputs are not permitted"),
        (b'"subject":"studio"', b'"subject":""', "subject: String should have at least 1 character"),
    ],
)
def test_what_is_no_grant_is_refused(old: bytes, new: bytes, message: str) -> None:
    content = GRANT.to_bytes()
    assert old in content
    with pytest.raises(InvalidInputError, match=f"^not a grant: {message}"):
        parse_grant(content.replace(old, new))


def test_a_list_is_no_grant() -> None:
    with pytest.raises(InvalidInputError, match="not a grant: must be a JSON object"):
        parse_grant(b"[]")
