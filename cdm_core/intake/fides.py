"""fides' privacy-request import: a JSON array of at most 50 requests, signed as a file by the operator who exported it.

The policy key must speak of erasure: fides' own are `default_erasure_policy`, `default_access_policy` and so on. The form states no
regulation; a location in the United States means the CCPA, everything else the GDPR's shorter clock, and the receipt says so.

Reference: https://ethyca.com/docs (privacy requests)
"""

import re
from typing import Annotated

from pydantic import Field

from cdm_core.digests import Json, sha256_digest
from cdm_core.errors import RequestRefusedError
from cdm_core.intake.case_status import CaseStatus, format_time
from cdm_core.intake.fields import Door, RequestId, Text, Time, load_document, validate
from cdm_core.intake.requests import DeletionRequest, Identifier

MAX_REQUESTS = 50
ASSUMED_REGULATION = "the form states no regulation: ccpa for locations in the US, else gdpr"

_TYPES = {"phone_number": "phone", "external_id": "controller_customer_id"}


class _Custom(Door):
    label: Text
    value: Text


class _Entry(Door):
    external_id: RequestId | None = None
    requested_at: Time
    identity: Annotated[dict[Text, Text | _Custom | None], Field(max_length=50)]
    policy_key: Text
    custom_privacy_request_fields: dict[str, object] | None = None
    location: Text | None = None
    property_id: Text | None = None
    source: Text | None = None


class _Import(Door):
    entries: list[_Entry] = Field(min_length=1, max_length=MAX_REQUESTS)


def parse_fides(content: bytes, source: str, *, issuer: str) -> tuple[list[DeletionRequest], list[str]]:
    """The requests of an import, in its order, and what had to be assumed.

    Raises:
        RequestRefusedError: `not_text`, `malformed`, `bad_field`, `unsupported_right`, `empty_subject` or `repeated_id`.
    """
    parsed = validate(_Import, {"entries": load_document(content, source)}, source)
    digest = sha256_digest(content)
    requests = [
        _build(entry, f"fides-{digest[:24]}-{number}", issuer, f"{source}: {number}") for number, entry in enumerate(parsed.entries)
    ]
    if len({request.request_id for request in requests}) < len(requests):
        raise RequestRefusedError(f"{source}: external_id: given twice", reason="repeated_id")
    return requests, [ASSUMED_REGULATION]


def _build(entry: _Entry, own_id: str, issuer: str, source: str) -> DeletionRequest:
    if not re.search("erasure|delet", entry.policy_key):
        raise RequestRefusedError(f"{source}: policy_key: only erasure is done here", reason="unsupported_right")
    identifiers = {
        Identifier(type=_TYPES.get(name, name), format="raw", value=found.value if isinstance(found, _Custom) else found)
        for name, found in entry.identity.items()
        if found is not None
    }
    if not identifiers:
        raise RequestRefusedError(f"{source}: identity: names nobody", reason="empty_subject")
    return DeletionRequest(
        request_id=entry.external_id or own_id,
        issuer=issuer,
        regulation="ccpa" if (entry.location or "").upper().startswith("US") else "gdpr",
        submitted_at=entry.requested_at,
        owner_ids=(),
        sample_ids=(),
        image_files=(),
        captions_like=None,
        reason=None,
        identifiers=tuple(sorted(identifiers)),
    )


def answer_fides(case: CaseStatus) -> dict[str, Json]:
    """A privacy request as fides lists it."""
    words = {
        "received": "pending",
        "under_way": "in_processing",
        "held": "paused",
        "failed": "error",
        "done": "complete",
        "refused": "denied",
    }
    return {
        "id": case.ledger_id,
        "external_id": case.request_id,
        "created_at": format_time(case.received_at),
        "due_date": format_time(case.expected_by),
        "status": words[case.progress],
        "reason": case.reason,
    }
