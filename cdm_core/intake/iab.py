"""IAB Tech Lab Data Deletion Request Framework 1.0: a signed request token (rqJWT) around a signed identity token (idJWT).

1. Both signatures are verified before either payload is parsed, with the registered key of the party that the token is from: the 1st
   party for the idJWT, the requester for the rqJWT. Whose keys fit is found by trying, then compared with `iss`.
2. The algorithm follows from the key: EdDSA, RS256 or ES256. A header that states another one is refused, `none` among them.
3. `version` is 1.0 in both, `iat` isn't in the future, and the request isn't older than the identity in it. The framework has no
   expiry; the registered claims `exp` and `nbf` are obeyed where they stand.
4. What is deleted is the rqJWT's `sub`, which may be an intermediary's name for the idJWT's.

The form states no regulation: the GDPR's shorter clock runs, and the receipt says so. Refusals have the acknowledgement's result codes.

Reference: https://github.com/InteractiveAdvertisingBureau/Data-Subject-Rights (Data Deletion Request Framework.md)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BeforeValidator, Field

from cdm_core.digests import Json
from cdm_core.documents import load_json
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.encodings import decode_base64url, strip_line_end
from cdm_core.intake.fields import Door, RequestId, Text, load_document, validate
from cdm_core.intake.requests import DeletionRequest, Identifier
from cdm_core.intake.senders import SenderKey

ASSUMED_REGULATION = "the form states no regulation: gdpr assumed"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_CHARACTERS = 100_000
"""Characters of a token: what is longer isn't a token."""

_jws = jwt.PyJWS(options={"verify_signature": True})


def _load_subject(value: object) -> object:
    """The framework's tables call `sub` a string, its examples have an object: both are taken."""
    if not isinstance(value, str):
        return value
    try:
        return load_json(value)
    except InvalidInputError as error:
        raise ValueError("must be an object, or one as JSON text") from error


class _Header(Door):
    typ: Literal["JWT"] = "JWT"
    alg: Literal["EdDSA", "RS256", "ES256"]
    kid: Text | None = None


class _Subject(Door):
    identifier_value: Text = Field(alias="identifierValue")
    identifier_type: Text = Field(alias="identifierType")
    identifier_format: Literal["plaintext", "raw", "sha1", "md5", "sha256"] = Field(alias="identifierFormat")


_Date = Annotated[int, Field(ge=0, le=32_503_680_000)]


class _Token(Door):
    version: Literal["1.0"]
    jti: RequestId
    iss: Text
    sub: Annotated[_Subject, BeforeValidator(_load_subject)]
    iat: _Date
    exp: _Date | None = None
    nbf: _Date | None = None


class _RequestToken(_Token):
    id_jwt: str = Field(alias="idJWT", min_length=1)
    optional_parameters: dict[str, object] | str | None = Field(alias="optionalParameters", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IabTokens:
    """The parsed tokens: the request, the two issuers that they state, and their times."""

    request: DeletionRequest
    first_party: str
    identity_at: datetime
    request_at: datetime
    not_before: datetime | None
    expires_at: datetime | None


def verify_token(token: bytes, keys: Sequence[SenderKey], source: str) -> SenderKey:
    """Whose token it is; one line end after it is tolerated.

    Raises:
        RequestRefusedError: `invalid_token`, or `unknown_issuer` if it is signed by none of the keys.
    """
    token = strip_line_end(token)
    header = _read_header(token, source)
    for key in keys:
        if _algorithm_of(key) != header.alg:
            continue
        try:
            _jws.decode(token, key=key.public_key, algorithms=[header.alg])
        except jwt.InvalidTokenError:
            continue
        return key
    raise RequestRefusedError(f"{source}: the signature fits no registered issuer, or the token was changed", reason="unknown_issuer")


def read_identity_token(content: bytes, source: str) -> bytes:
    """The idJWT in a verified rqJWT.

    Raises:
        RequestRefusedError: the payload isn't a request's.
    """
    return _parse_request_token(content, source).id_jwt.encode()


def parse_iab(content: bytes, source: str) -> tuple[IabTokens, list[str]]:
    """The request in a token pair, and what had to be assumed.

    Raises:
        RequestRefusedError: `not_text`, `malformed`, `bad_field` or `invalid_token`.
    """
    outer = _parse_request_token(content, source)
    inner = validate(_Token, load_document(_payload(outer.id_jwt.encode(), f"{source}: idJWT"), f"{source}: idJWT"), f"{source}: idJWT")
    found = outer.sub
    kind = {"phone": "phone", "phone_number": "phone", "email": "email"}.get(found.identifier_type, found.identifier_type)
    form: Literal["raw", "sha1", "md5", "sha256"] = "raw" if found.identifier_format == "plaintext" else found.identifier_format
    request_at = _date(outer.iat)
    ends = [token.exp for token in (outer, inner) if token.exp is not None]
    starts = [token.nbf for token in (outer, inner) if token.nbf is not None]
    request = DeletionRequest(
        request_id=outer.jti,
        issuer=outer.iss,
        regulation="gdpr",
        submitted_at=request_at,
        owner_ids=(),
        sample_ids=(),
        image_files=(),
        captions_like=None,
        reason=None,
        identifiers=(Identifier(type=kind, format=form, value=found.identifier_value),),
    )
    tokens = IabTokens(
        request=request,
        first_party=inner.iss,
        identity_at=_date(inner.iat),
        request_at=request_at,
        not_before=_date(max(starts)) if starts else None,
        expires_at=_date(min(ends)) if ends else None,
    )
    return tokens, [ASSUMED_REGULATION]


def check_iab(tokens: IabTokens, *, requester: str, first_party: str, now: datetime, source: str) -> None:
    """The tokens' issuers are those who signed them, and their times fit.

    Raises:
        RequestRefusedError: `issuer_mismatch`, `issued_in_future`, `bad_order` or `expired`.
    """
    if tokens.request.issuer != requester:
        raise RequestRefusedError(f"{source}: iss: states another requester than the one who signed", reason="issuer_mismatch")
    if tokens.first_party != first_party:
        raise RequestRefusedError(f"{source}: idJWT: iss: states another party than the one who signed", reason="issuer_mismatch")
    # NumericDate is in whole seconds, and a token may be sent in the second in which it is made.
    limit = now + timedelta(seconds=1)
    if max(tokens.request_at, tokens.identity_at) > limit or (tokens.not_before or now) > now:
        raise RequestRefusedError(f"{source}: iat: lies in the future", reason="issued_in_future")
    if tokens.request_at < tokens.identity_at:
        raise RequestRefusedError(f"{source}: iat: the request is older than the identity in it", reason="bad_order")
    if tokens.expires_at is not None and now >= tokens.expires_at:
        raise RequestRefusedError(f"{source}: exp: the request had expired when it was received", reason="expired")


def iab_result_code(reason: str) -> int:
    """The acknowledgement's `raResultCode`; 0 is success."""
    match reason:
        case "unknown_issuer" | "key_not_valid" | "issuer_mismatch" | "unsigned":
            return 2
        case "invalid_token" | "bad_signature_encoding" | "request_id_reused" | "replayed":
            return 3
        case "issued_in_future" | "expired" | "bad_order":
            return 6
    return 1


def _date(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _algorithm_of(key: SenderKey) -> str:
    if isinstance(key.public_key, Ed25519PublicKey):
        return "EdDSA"
    return "ES256" if isinstance(key.public_key, EllipticCurvePublicKey) else "RS256"


def _split(token: bytes, source: str) -> tuple[bytes, bytes, bytes]:
    parts = token.split(b".")
    if len(parts) != 3 or len(token) > _MAX_CHARACTERS:
        raise RequestRefusedError(f"{source}: not a signed JSON Web Token", reason="invalid_token")
    try:
        header, payload, signature = (decode_base64url(part) for part in parts)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{source}: {error}", reason="invalid_token") from error
    return header, payload, signature


def _read_header(token: bytes, source: str) -> _Header:
    header, _, _ = _split(token, source)
    try:
        return validate(_Header, load_document(header, f"{source}: header"), f"{source}: header")
    except RequestRefusedError as error:
        raise RequestRefusedError(str(error), reason="invalid_token") from error


def _payload(token: bytes, source: str) -> bytes:
    return _split(token, source)[1]


def _parse_request_token(content: bytes, source: str) -> _RequestToken:
    document: Json = load_document(_payload(strip_line_end(content), source), source)
    return validate(_RequestToken, document, source)
