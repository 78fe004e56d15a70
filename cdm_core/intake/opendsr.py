"""OpenDSR 2.0: a JSON request, its signature in a header, and the status document.

The header `X-OpenDSR-Signature` is base64 of a signature over the SHA-256 of the raw body, verified before this module runs. Only `erasure`
starts anything. The specification's own example lacks `regulation`, which it requires: that is tolerated, the GDPR's shorter clock runs,
and the receipt says so.

Reference: https://github.com/opengdpr/OpenDSR/blob/master/specification.md
"""

import base64
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from cdm_core.digests import Digest, Json
from cdm_core.errors import RequestRefusedError
from cdm_core.intake.case_status import CaseStatus, format_time
from cdm_core.intake.fields import Door, Text, Time, load_document, validate
from cdm_core.intake.requests import DeletionRequest, Identifier, normalise_sample_id

SIGNATURE_HEADER = "X-OpenDSR-Signature"
DOMAIN_HEADER = "X-OpenDSR-Processor-Domain"
NO_REGULATION = "regulation missing: gdpr assumed"

_Uuid4 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z")]


class _Identity(Door):
    identity_type: Literal[
        "controller_customer_id",
        "android_advertising_id",
        "android_id",
        "email",
        "phone_number",
        "fire_advertising_id",
        "ios_advertising_id",
        "ios_vendor_id",
        "microsoft_advertising_id",
        "microsoft_publisher_id",
        "roku_publisher_id",
        "roku_advertising_id",
    ]
    identity_value: Text
    identity_format: Literal["raw", "sha1", "md5", "sha256"]


class _Request(Door):
    regulation: Literal["gdpr", "ccpa"] | None = None
    subject_request_id: _Uuid4
    subject_request_type: Literal["erasure", "access", "portability"]
    submitted_time: Time
    subject_identities: list[_Identity] = Field(default=[], max_length=1000)
    api_version: Annotated[str, StringConstraints(pattern=r"\A[0-9]{1,3}(\.[0-9]{1,3}){0,2}\z")] | None = None
    status_callback_urls: list[Text] = Field(default=[], max_length=100)
    # A processor's own extension is parsed below; another's is none of our business.
    extensions: dict[str, dict[str, object]] = Field(default={}, max_length=100)


class _OurExtension(Door):
    sample_ids: list[str] = Field(default=[], max_length=100_000)


def parse_opendsr(content: bytes, source: str, *, issuer: str, business: str) -> tuple[list[DeletionRequest], list[str]]:
    """The one request in a body, and what had to be tolerated; `business` is our domain.

    Raises:
        RequestRefusedError: `not_text`, `malformed`, `bad_field`, `unsupported_right` or `empty_subject`.
    """
    parsed = validate(_Request, load_document(content, source), source)
    if parsed.subject_request_type != "erasure":
        raise RequestRefusedError(f"{source}: subject_request_type: only erasure is done here", reason="unsupported_right")
    ours: Json = parsed.extensions.get(business, {})  # type: ignore[assignment]  # it came from JSON
    sample_ids = validate(_OurExtension, ours, f"{source}: extensions").sample_ids
    if not (parsed.subject_identities or sample_ids):
        raise RequestRefusedError(f"{source}: subject_identities: names nobody", reason="empty_subject")
    identifiers = {
        Identifier(type=found.identity_type, format=found.identity_format, value=found.identity_value)
        for found in parsed.subject_identities
    }
    request = DeletionRequest(
        request_id=parsed.subject_request_id,
        issuer=issuer,
        regulation=parsed.regulation or "gdpr",
        submitted_at=parsed.submitted_time,
        owner_ids=(),
        sample_ids=_normalise(sample_ids, source),
        image_files=(),
        captions_like=None,
        reason=None,
        identifiers=tuple(sorted(identifiers)),
        callbacks=tuple(parsed.status_callback_urls),
    )
    return [request], [] if parsed.regulation else [NO_REGULATION]


def answer_opendsr(case: CaseStatus) -> dict[str, Json]:
    """The status document, with the receipt's own fields while the body is kept, and how many samples were erased once they were."""
    words = {"received": "pending", "done": "completed", "refused": "cancelled"}
    document: dict[str, Json] = {
        "controller_id": case.issuer,
        "expected_completion_time": format_time(case.expected_by),
        "received_time": format_time(case.received_at),
        "subject_request_id": case.request_id,
        "request_status": words.get(case.progress, "in_progress"),
        "api_version": "2.0",
    }
    if case.content is not None:
        document["encoded_request"] = base64.b64encode(case.content).decode()
    if case.num_erased is not None and case.progress == "done":
        document["results_count"] = case.num_erased
    return document


def opendsr_reason(reason: str) -> str:
    """The `reason` in the error object of a refusal, which has HTTP status 400 throughout."""
    is_signature = reason in ("unsigned", "unknown_issuer", "key_not_valid", "bad_signature_encoding")
    return "Unauthorized" if is_signature else "IllegalArgumentException"


def check_opendsr_time(request: DeletionRequest, now: datetime) -> None:
    """A request can't have been submitted after it arrived.

    Raises:
        RequestRefusedError: `issued_in_future`.
    """
    if request.submitted_at > now:
        raise RequestRefusedError(f"request {request.request_id}: submitted_time: lies in the future", reason="issued_in_future")


def _normalise(sample_ids: list[str], source: str) -> tuple[Digest, ...]:
    try:
        return tuple(sorted({normalise_sample_id(sample_id) for sample_id in sample_ids}))
    except ValueError as error:
        raise RequestRefusedError(f"{source}: extensions: sample_ids: {error}", reason="bad_field") from error
