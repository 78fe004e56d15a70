"""Requests in foreign forms that name addresses to call back."""

import base64
import json
from datetime import timedelta
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.clock import utc_now

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def opendsr_content(email: str, callbacks: list[str]) -> tuple[str, bytes]:
    """(id, body) of an erasure."""
    request_id = str(uuid4())
    document = {
        "regulation": "gdpr",
        "subject_request_id": request_id,
        "subject_request_type": "erasure",
        "submitted_time": "2018-10-02T15:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": email, "identity_format": "raw"}],
        "status_callback_urls": callbacks,
    }
    return request_id, json.dumps(document).encode()


def drp_content(email: str, callback: str | None) -> bytes:
    """A signed message of agent-7."""
    now = utc_now()
    message = {
        "agent-id": "agent-7",
        "business-id": "lethe.example",
        "issued-at": (now - timedelta(seconds=1)).isoformat(),
        "expires-at": (now + timedelta(minutes=10)).isoformat(),
        "agent-request-id": "foo",
        "drp.version": "1.0",
        "exercise": "deletion",
        "regime": "ccpa",
        "email": email,
        "email_verified": True,
        **({"status_callback": callback} if callback else {}),
    }
    text = json.dumps(message).encode()
    return base64.b64encode(KEY.sign(text) + text)
