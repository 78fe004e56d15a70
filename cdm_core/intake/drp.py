"""Data Rights Protocol 1.0: base64 of an Ed25519 signature and the JSON that it signs, and the exercise-status object.

The checks, in the protocol's order: 1 base64, 2 the signature fits a registered key, 3 `agent-id` is that key's holder, 4 `business-id` is
us, 5 now is after `issued-at`, 6 now is before `expires-at`. "Now" is the recorded time of receipt. The JSON is parsed after 2.

An e-mail address or a phone number counts only if the agent says that it verified it. Name and address find nobody here.

Reference: https://github.com/consumer-reports-innovation-lab/data-rights-protocol/blob/main/data-rights-protocol.md
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import Field

from cdm_core.digests import Json, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.case_status import CaseStatus, format_time
from cdm_core.intake.encodings import decode_base64
from cdm_core.intake.fields import Door, RequestId, Text, Time, load_document, validate
from cdm_core.intake.requests import DeletionRequest, Identifier

SIGNATURE_BYTES = 64


class _Address(Door):
    formatted: Text | None = None
    street_address: Text | None = None
    locality: Text | None = None
    region: Text | None = None
    postal_code: Text | None = None
    country: Text | None = None


class _Message(Door):
    agent_id: Text = Field(alias="agent-id")
    business_id: Text = Field(alias="business-id")
    issued_at: Time = Field(alias="issued-at")
    expires_at: Time = Field(alias="expires-at")
    agent_request_id: RequestId | None = Field(alias="agent-request-id", default=None)
    version: Literal["1.0"] = Field(alias="drp.version")
    exercise: Text
    regime: Literal["ccpa", "voluntary"] = "voluntary"
    relationships: list[Text] = Field(default=[], max_length=100)
    status_callback: Text | None = None
    name: Text | None = None
    email: Text | None = None
    email_verified: bool = False
    phone_number: Text | None = None
    phone_number_verified: bool = False
    address: _Address | Text | None = None
    address_verified: bool = False
    power_of_attorney: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrpMessage:
    """A parsed message: the request in it, and what its policy checks need."""

    request: DeletionRequest
    business: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime


def split_drp(content: bytes, source: str) -> tuple[bytes, bytes]:
    """(signature, JSON) of a body: check 1.

    Raises:
        RequestRefusedError: `bad_signature_encoding`.
    """
    try:
        decoded = decode_base64(content)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{source}: {error}", reason="bad_signature_encoding") from error
    if len(decoded) <= SIGNATURE_BYTES:
        raise RequestRefusedError(f"{source}: holds no message after its signature", reason="bad_signature_encoding")
    return decoded[:SIGNATURE_BYTES], decoded[SIGNATURE_BYTES:]


def parse_drp(message: bytes, source: str) -> DrpMessage:
    """The request in a verified message; its issuer is the agent that it states.

    Raises:
        RequestRefusedError: `not_text`, `malformed`, `bad_field`, `unsupported_right` or `unverified_identity`.
    """
    parsed = validate(_Message, load_document(message, source), source)
    if parsed.exercise != "deletion":
        raise RequestRefusedError(f"{source}: exercise: only deletion is done here", reason="unsupported_right")
    identifiers = []
    if parsed.email and parsed.email_verified:
        identifiers.append(Identifier(type="email", format="raw", value=parsed.email))
    if parsed.phone_number and parsed.phone_number_verified:
        identifiers.append(Identifier(type="phone", format="raw", value=parsed.phone_number))
    if not identifiers:
        raise RequestRefusedError(f"{source}: holds neither a verified email nor a verified phone_number", reason="unverified_identity")
    request = DeletionRequest(
        request_id=parsed.agent_request_id or f"drp-{sha256_digest(message)[:32]}",
        issuer=parsed.agent_id,
        regulation=parsed.regime,
        submitted_at=parsed.issued_at,
        owner_ids=(),
        sample_ids=(),
        image_files=(),
        captions_like=None,
        reason=None,
        identifiers=tuple(identifiers),
        callbacks=() if parsed.status_callback is None else (parsed.status_callback,),
    )
    return DrpMessage(request=request, business=parsed.business_id, issued_at=parsed.issued_at, expires_at=parsed.expires_at)


def check_drp(message: DrpMessage, *, agent: str, business: str, now: datetime, source: str) -> None:
    """Checks 3 to 6; `agent` is the holder of the key that signed.

    Raises:
        RequestRefusedError: `issuer_mismatch`, `foreign`, `issued_in_future` or `expired`.
    """
    if message.request.issuer != agent:
        raise RequestRefusedError(f"{source}: agent-id: states another agent than the one who signed", reason="issuer_mismatch")
    if message.business != business:
        raise RequestRefusedError(f"{source}: business-id: the request is for another business", reason="foreign")
    if now <= message.issued_at:
        raise RequestRefusedError(f"{source}: issued-at: lies in the future", reason="issued_in_future")
    if now >= message.expires_at:
        raise RequestRefusedError(f"{source}: expires-at: the request had expired when it was received", reason="expired")


def answer_drp(case: CaseStatus) -> dict[str, Json]:
    """The exercise-status object. `user_verification_url` and `expires_at` never stand in it: nobody is asked to verify here."""
    document: dict[str, Json] = {
        "request_id": case.ledger_id,
        "received_at": format_time(case.received_at),
        "expected_by": format_time(case.expected_by),
        "processing_details": _details(case),
    }
    if case.request_id is not None:
        document["agent_request_id"] = case.request_id
    match case.progress:
        case "done":
            return document | {"status": "fulfilled"}
        case "refused" if case.reason == "expired":
            return document | {"status": "expired"}
        case "refused":
            return document | {"status": "denied", "reason": drp_reason(case.reason or "other")}
    return document | {"status": "in_progress"}


def drp_reason(reason: str) -> str:
    """The `reason` of a denial."""
    match reason:
        case "no_match":
            return "no_match"
        case "unsupported_right":
            return "claim_not_covered"
        case "unverified_identity" | "ambiguous_identity":
            return "insuf_verification"
        case "bad_signature_encoding" | "unknown_issuer" | "key_not_valid" | "issuer_mismatch" | "request_id_reused" | "replayed":
            return "suspected_fraud"
    return "other"


def _details(case: CaseStatus) -> str:
    words = {
        "received": "received, not planned yet",
        "under_way": "the data is being removed from the model",
        "failed": "the removal was cut short and will be tried again",
        "held": "what is not exempt was removed from the model and erased" if case.is_closed else "all of the data is exempt for now",
        "done": "the data was removed from the model and erased",
        "refused": "see reason",
    }
    details = [words[case.progress]]
    if case.progress == "held":
        details += [f"exempt until {format_time(hold.until)}: {hold.ground.replace('_', ' ')}" for hold in case.holds]
    if case.extension is not None:
        details.append(f"the period was extended: {case.extension}")
    return "; ".join(details)
