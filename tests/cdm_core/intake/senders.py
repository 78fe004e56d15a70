"""Senders with keys of their own, and a well-formed, well-signed request file of each form."""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cdm_core.intake.detection import Format
from cdm_core.intake.reception import Parcel, encode_drp
from cdm_core.intake.senders import SenderKey

BUSINESS = "lethe.example"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
OPERATOR, AGENT, PUBLISHER, VENDOR, STRANGER = "operator:drop", "agent-7", "publisher1.com", "vendor1.com", "stranger"
PRIVATE = {
    name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    for name in (OPERATOR, AGENT, PUBLISHER, VENDOR, STRANGER)
}
KEYS = [SenderKey(issuer=name, keyid=name, public_key=key.public_key()) for name, key in PRIVATE.items() if name != STRANGER]

OPENDSR_EXAMPLE = b"""{
  "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
  "subject_request_type": "erasure",
  "submitted_time": "2018-10-02T15:00:00Z",
  "subject_identities": [
    {
      "identity_type": "email",
      "identity_value": "johndoe@example.com",
      "identity_format": "raw"
    }
  ],
  "api_version": "2.0",
  "status_callback_urls": [
    "https://examplecontroller.com/opengdpr_callbacks"
  ],
  "extensions": {
    "example-processor.com": {
      "foo-processor-custom-id": 123456,
      "property_id": "123456"
    },
    "example-other-processor.com": {
      "foo-other-processor-custom-id": 654321
    }
  }
}
"""
"""The specification's example (section 7.2), which lacks `regulation`, without the comma that makes it no JSON; version as of 2.0."""

DRP_MESSAGE: Mapping[str, object] = {
    "agent-id": AGENT,
    "business-id": BUSINESS,
    "issued-at": "2026-11-24T08:59:00Z",
    "expires-at": "2026-11-24T09:09:00Z",
    "agent-request-id": "foo",
    "drp.version": "1.0",
    "exercise": "deletion",
    "regime": "ccpa",
    "relationships": ["customer", "marketing"],
    "status_callback": "https://dsr-agent.example.com/update_status",
    "name": "J. Doe",
    "email": "johndoe@example.com",
    "email_verified": True,
    "phone_number": "+14155559317",
    "phone_number_verified": True,
    "address": {"street_address": "1 Main St", "locality": "Yonkers", "region": "NY", "postal_code": "10701"},
    "address_verified": False,
}

FIDES_ENTRY: Mapping[str, object] = {
    "external_id": "ext-1",
    "requested_at": "2026-11-01T10:00:00Z",
    "identity": {"email": "johndoe@example.com", "phone_number": "+14155559317", "loyalty": {"label": "Loyalty", "value": "L-1"}},
    "policy_key": "default_erasure_policy",
    "custom_privacy_request_fields": {},
    "location": "US-CA",
    "property_id": "FDS-1",
    "source": "Request Manager",
}

DROP_PHONE = "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="
DROP_LISTS = {"20260801_42_Phone.csv": f"ID,Hash\nw-1,{DROP_PHONE}\nw-2,ptzVkgbv9DonwvPCHmXmJ2SEOaolSh37z3ZzY/Gmm+U=\n"}

OWN = b"""schema: lethe/deletion-request/v1
request_id: r-1
issuer: operator:drop
regulation: gdpr
submitted_at: 2026-11-24T09:00:00Z
subject:
  owner_ids: [johanna]
"""
OWN_DOCUMENT: Mapping[str, object] = {
    "schema": "lethe/deletion-request/v1",
    "request_id": "r-1",
    "issuer": OPERATOR,
    "regulation": "gdpr",
    "submitted_at": "2026-11-24T09:00:00Z",
    "subject": {"owner_ids": ["johanna"], "sample_ids": [], "image_files": []},
    "reason": "withdrawn",
}


def sign(content: bytes, sender: str = OPERATOR) -> bytes:
    """What a `.sig` file holds."""
    return base64.b64encode(PRIVATE[sender].sign(content)) + b"\n"


def parcel(content: bytes, sender: str | None = OPERATOR, name: str = "request") -> Parcel:
    return Parcel(content=content, file_name=name, signature=None if sender is None else sign(content, sender))


def drp(message: Mapping[str, object] = DRP_MESSAGE, sender: str = AGENT) -> bytes:
    text = json.dumps(message).encode()
    return encode_drp(PRIVATE[sender].sign(text), text)


def fides(*entries: Mapping[str, object]) -> bytes:
    return json.dumps(entries or [FIDES_ENTRY]).encode()


def drop(lists: Mapping[str, str] = DROP_LISTS) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in lists.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def identity_claims(**changes: object) -> dict[str, object]:
    subject = {
        "identifierValue": hashlib.sha256(b"johndoe@example.com").hexdigest(),
        "identifierType": "email",
        "identifierFormat": "sha256",
    }
    return {"version": "1.0", "jti": "id-1", "iss": PUBLISHER, "sub": subject, "iat": int(NOW.timestamp()) - 60} | changes


def token(claims: Mapping[str, object], sender: str, **header: object) -> bytes:
    payload = json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, PRIVATE[sender], algorithm="EdDSA", headers={"kid": "abc123"} | header).encode()


def iab(*, identity: bytes | None = None, sender: str = VENDOR, **changes: object) -> bytes:
    inner = identity or token(identity_claims(), PUBLISHER)
    return token(identity_claims(jti="rq-1", iss=VENDOR, idJWT=inner.decode(), iat=int(NOW.timestamp()) - 10) | changes, sender)


def good_files() -> dict[Format, bytes]:
    return {"own": OWN, "opendsr": OPENDSR_EXAMPLE, "drp": drp(), "fides": fides(), "iab": iab(), "drop": drop()}
