"""The order in which a request file is judged, whatever its form.

1. Its form, from its first bytes. 2. The signature, over bytes: beside the file (own, OpenDSR, fides, DROP) or in it (DRP, IAB), by a key
that counted at the recorded time of receipt; IAB's has two signers, and so two keys. 3. Strict parsing. 4. Policy: the stated sender is the
one who signed, the request is for us, and its times fit the recorded time of receipt.

A refusal says its reason in our words (`reason`) and, for a foreign form, in the sender's at the end of its message.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.detection import Format, detect_format, size_limit
from cdm_core.intake.drop import parse_drop
from cdm_core.intake.drp import check_drp, drp_reason, parse_drp, split_drp
from cdm_core.intake.encodings import decode_base64
from cdm_core.intake.fides import parse_fides
from cdm_core.intake.iab import check_iab, iab_result_code, parse_iab, read_identity_token, verify_token
from cdm_core.intake.opendsr import check_opendsr_time, opendsr_reason, parse_opendsr
from cdm_core.intake.requests import DeletionRequest, Syntax, check_size, parse_request
from cdm_core.intake.senders import SenderKey, find_signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What arrived: the bytes, the detached signature's text if there was one, and the processor domain that a header named."""

    content: bytes = field(repr=False)
    file_name: str
    signature: bytes | None = field(repr=False)
    domain: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A file whose requests are to be carried out; `notes` say what had to be tolerated or assumed.

    `first_party` is the second who signed, of IAB's identity token.
    """

    format: Format
    signer: SenderKey
    first_party: SenderKey | None = None
    requests: tuple[DeletionRequest, ...]
    notes: tuple[str, ...]


def judge(parcel: Parcel, keys: Sequence[SenderKey], *, business: str, now: datetime, form: Format | None = None) -> Accepted:
    """Steps 1 to 4; `form` says the form in place of step 1, `business` is the name by which senders know us.

    Raises:
        RequestRefusedError: at any step.
    """
    check_size(len(parcel.content), parcel.file_name, size_limit(parcel.content[:4]))
    form = form or detect_format(parcel.content)  # 1
    try:
        match form:
            case "drp":
                return _judge_drp(parcel, keys, business, now)
            case "iab":
                return _judge_iab(parcel, keys, now)
        signer = verify_detached(parcel, keys)  # 2
        if form == "opendsr" and parcel.domain not in (None, business):
            raise RequestRefusedError(f"{parcel.file_name}: the request is for another processor", reason="foreign")
        requests, notes = parse_any(parcel.content, parcel.file_name, form, business=business, issuer=signer.issuer, received_at=now)  # 3
        _check_senders(requests, signer.issuer, form, now)  # 4
        return Accepted(format=form, signer=signer, requests=tuple(requests), notes=tuple(notes))
    except RequestRefusedError as error:
        if (words := describe_refusal(form, error.reason)) is None:
            raise
        raise RequestRefusedError(f"{error} [{words}]", reason=error.reason) from error


def parse_any(
    content: bytes,
    source: str,
    form: Format | None,
    *,
    business: str,
    issuer: str = "",
    received_at: datetime | None = None,
    syntax: Syntax | None = None,
) -> tuple[list[DeletionRequest], list[str]]:
    """Step 3 alone: the requests in bytes whose signature was verified before, or of which nothing but a plan is made.

    `syntax` says how a file of our own form is written, in place of the suffix of `source`.

    Raises:
        RequestRefusedError: they aren't of that form.
    """
    match form or detect_format(content):
        case "opendsr":
            return parse_opendsr(content, source, issuer=issuer, business=business)
        case "fides":
            return parse_fides(content, source, issuer=issuer)
        case "drop":
            return parse_drop(content, source, issuer=issuer, received_at=received_at)
        case "drp":
            return [parse_drp(split_drp(content, source)[1], source).request], []
        case "iab":
            tokens, notes = parse_iab(content, source)
            return [tokens.request], notes
        case "own":
            return parse_request(content, source, syntax), []


def verify_detached(parcel: Parcel, keys: Sequence[SenderKey]) -> SenderKey:
    """Whose signature stands beside the file.

    Raises:
        RequestRefusedError: `unsigned`, `bad_signature_encoding`, `unknown_issuer` or `key_not_valid`.
    """
    if parcel.signature is None:
        raise RequestRefusedError("the request is not signed; a signature stands beside it in a .sig file", reason="unsigned")
    try:
        signature = decode_base64(parcel.signature)
    except InvalidInputError as error:
        raise RequestRefusedError(f"the signature is {error}", reason="bad_signature_encoding") from error
    if len(signature) < 64:  # RSA's are longer, and so are ECDSA's but for one in billions
        raise RequestRefusedError(f"the signature has {len(signature)} bytes, an Ed25519 signature has 64", reason="bad_signature_encoding")
    signer = find_signer(signature, parcel.content, keys)
    if signer is None:
        raise RequestRefusedError("the signature fits no registered issuer, or the file was changed after signing", reason="unknown_issuer")
    return _require_valid(signer)


def describe_refusal(form: Format, reason: str) -> str | None:
    """A refusal in the sender's own words and codes; None for our own form."""
    match form:
        case "drp":
            return "DRP: expired" if reason == "expired" else f"DRP: denied, {drp_reason(reason)}"
        case "iab":
            return f"IAB: raResultCode {iab_result_code(reason)}"
        case "opendsr":
            return f"OpenDSR: 400 {opendsr_reason(reason)}"
        case "fides":
            return "fides: denied"
        case "drop":
            return "DROP: no response file"
    return None


def _judge_drp(parcel: Parcel, keys: Sequence[SenderKey], business: str, now: datetime) -> Accepted:
    signature, message = split_drp(parcel.content, parcel.file_name)
    signer = find_signer(signature, message, keys)
    if signer is None:
        raise RequestRefusedError(f"{parcel.file_name}: the signature fits no registered agent", reason="unknown_issuer")
    _require_valid(signer)
    parsed = parse_drp(message, parcel.file_name)
    check_drp(parsed, agent=signer.issuer, business=business, now=now, source=parcel.file_name)
    return Accepted(format="drp", signer=signer, requests=(parsed.request,), notes=())


def _judge_iab(parcel: Parcel, keys: Sequence[SenderKey], now: datetime) -> Accepted:
    source = parcel.file_name
    signer = _require_valid(verify_token(parcel.content, keys, source))
    first_party = _require_valid(verify_token(read_identity_token(parcel.content, source), keys, f"{source}: idJWT"), "idJWT: ")
    tokens, notes = parse_iab(parcel.content, source)
    check_iab(tokens, requester=signer.issuer, first_party=first_party.issuer, now=now, source=source)
    return Accepted(format="iab", signer=signer, first_party=first_party, requests=(tokens.request,), notes=tuple(notes))


def _require_valid(key: SenderKey, where: str = "") -> SenderKey:
    if key.problem is not None:
        raise RequestRefusedError(f"{where}the key that signed, {key.keyid[:12]}, {key.problem}", reason="key_not_valid")
    return key


def _check_senders(requests: Sequence[DeletionRequest], signer: str, form: Format, now: datetime) -> None:
    for request in requests:
        if request.issuer != signer:
            raise RequestRefusedError(
                f"request {request.request_id}: issuer: states another issuer than the one who signed", reason="issuer_mismatch"
            )
        if form == "opendsr":
            check_opendsr_time(request, now)


def encode_drp(signature: bytes, message: bytes) -> bytes:
    """A DRP body, as an agent sends it."""
    return base64.b64encode(signature + message)
