"""Evidence: an in-toto Statement in a DSSE envelope, and the chain that such records form.

1. The payload is the Statement's RFC 8785 form; the signature covers DSSE's pre-authentication encoding of payload type and payload.
2. `keyid` is unauthenticated. Every trusted key is tried, whatever the envelope names, and the result names the key that fitted.
3. A record has one byte string: after the signature holds, the envelope is written again from the verified parts, and bytes that differ
   (spaces, another `keyid`, a second signature, loose base64) are refused. Records name each other by the digest of their bytes, so two
   spellings of one record would be two records.
4. A record's predicate carries `previous_record`, the digest of the record before it, null in the first. This shows a change, a
   reordering, a repetition and a gap. It cannot show that the newest records were cut off: compare with the ledger for that.

A keyid is the SHA-256 of the key's DER SubjectPublicKeyInfo: it follows from the key alone, and `openssl pkey -pubin -outform DER |
sha256sum` computes it.

References: https://github.com/secure-systems-lab/dsse, https://github.com/in-toto/attestation/tree/main/spec/v1
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer, SSlibKey  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, canonical_json, sha256_digest
from cdm_core.documents import describe_problem
from cdm_core.errors import InvalidInputError, VerificationError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
UNLEARNING_PREDICATE = "https://lethe.dev/attestation/unlearning/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStatement:
    """A Statement whose signature holds. `payload` is what was signed, `keyid` the key that it was signed with."""

    payload: bytes
    statement: Mapping[str, Json]
    keyid: str

    @property
    def predicate(self) -> Mapping[str, Json]:
        """What the record says; its shape is the predicate type's matter."""
        predicate = self.statement["predicate"]
        assert isinstance(predicate, Mapping)  # verified with the statement
        return predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignedStatement:
    """A Statement that enough of the trusted keys signed; `keyids` are theirs, in the envelope's order."""

    statement: Mapping[str, Json]
    keyids: tuple[str, ...]


class _StatementShape(BaseModel):
    """What every Statement has; unknown fields are allowed, as in-toto asks of consumers."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[dict[str, object]] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType", min_length=1)
    predicate: dict[str, object]


class _SignatureShape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keyid: str
    sig: str


class _EnvelopeShape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_SignatureShape] = Field(min_length=1, max_length=1)


class _CosignedShape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_SignatureShape] = Field(min_length=1, max_length=16)


def build_public_key(public_key: Ed25519PublicKey) -> SSlibKey:
    """The key under our keyid."""
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(public_key, keyid=sha256_digest(der))


def parse_public_key(pem: bytes, source: str) -> SSlibKey:
    """An Ed25519 public key from its SubjectPublicKeyInfo PEM; `source` names it in errors.

    Raises:
        InvalidInputError: not PEM, not a public key, or of another algorithm.
    """
    try:
        public_key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{source}: not a public key in PEM") from error
    if not isinstance(public_key, Ed25519PublicKey):
        raise InvalidInputError(f"{source}: not an Ed25519 key")
    return build_public_key(public_key)


def build_statement(subjects: Mapping[str, Digest], predicate_type: str, predicate: Mapping[str, Json]) -> bytes:
    """The payload: a Statement that says `predicate` of the named artifacts, in their names' order.

    Raises:
        ValueError: no subjects; in-toto wants at least one.
    """
    if not subjects:
        raise ValueError("a statement needs at least one subject")
    subject: Json = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
    return canonical_json({"_type": STATEMENT_TYPE, "subject": subject, "predicateType": predicate_type, "predicate": predicate})


def sign_envelope(payload: bytes, signer: Signer) -> bytes:
    """The record: a DSSE envelope around `payload`, in its one spelling."""
    signature = Envelope(payload, PAYLOAD_TYPE, {}).sign(signer)
    return _spell(payload, signature)


def verify_envelope(content: bytes, keys: Sequence[Key]) -> VerifiedStatement:
    """Check a record against the trusted keys.

    Raises:
        VerificationError: not an envelope, signed by none of the keys, not the bytes that were written, or not a Statement.
    """
    return _verify_envelope(content, tuple(keys))


@cache
def _verify_envelope(content: bytes, keys: tuple[Key, ...]) -> VerifiedStatement:
    """A function of bytes and keys alone, and a flow asks of the whole chain with each record that it signs: what held is remembered."""
    try:
        shape = _EnvelopeShape.model_validate_json(content)
        payload = base64.b64decode(shape.payload, validate=True)
        signature_hex = base64.b64decode(shape.signatures[0].sig, validate=True).hex()
    except ValidationError as error:
        raise VerificationError(f"not a DSSE envelope: {describe_problem(error)}") from error
    except ValueError as error:
        raise VerificationError("not a DSSE envelope: payload or signature is not base64") from error
    signature = _find_signature(payload, signature_hex, keys)
    if _spell(payload, signature) != content:
        raise VerificationError("the signature holds, but the envelope around it is not the one that was written")
    return VerifiedStatement(payload=payload, statement=_parse_statement(payload), keyid=signature.keyid)


def cosign_envelope(payload: bytes, signers: Sequence[Signer]) -> dict[str, Json]:
    """A DSSE envelope with a signature of each signer, as JSON; any DSSE library checks it.

    Raises:
        ValueError: no signer, or one twice.
    """
    if not signers or len({signer.public_key.keyid for signer in signers}) < len(signers):
        raise ValueError("an envelope needs signers, each once")
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    document: dict[str, Json] = envelope.to_dict()
    return document


def verify_cosigned(document: Json, keys: Sequence[Key], threshold: int) -> CosignedStatement:
    """Check an envelope against trusted keys, of which `threshold` different ones must have signed.

    Signatures of unknown keys are ignored, as DSSE asks; so other envelopes than the one that was written may pass, and whoever holds
    its digest compares that too.

    Raises:
        VerificationError: not an envelope, signed by too few, or not a Statement.
    """
    try:
        shape = _CosignedShape.model_validate(document)
        payload = base64.b64decode(shape.payload, validate=True)
        signatures = [base64.b64decode(signature.sig, validate=True).hex() for signature in shape.signatures]
    except ValidationError as error:
        raise VerificationError(f"not a DSSE envelope: {describe_problem(error)}") from error
    except ValueError as error:
        raise VerificationError("not a DSSE envelope: payload or signature is not base64") from error
    keyids: list[str] = []
    for signature in signatures:
        try:
            keyids.append(_find_signature(payload, signature, keys).keyid)
        except VerificationError:
            continue
    distinct = tuple(dict.fromkeys(keyids))
    if not distinct:
        raise VerificationError("signed by none of the trusted keys")
    if len(distinct) < threshold:
        raise VerificationError(f"signed by {len(distinct)} of the trusted keys, where {threshold} are asked for")
    return CosignedStatement(statement=_parse_statement(payload), keyids=distinct)


def verify_chain(records: Sequence[bytes], keys: Sequence[Key], previous: Digest | None = None) -> list[VerifiedStatement]:
    """Check records, oldest first: each one's signature, and that it follows the one before.

    Args:
        records: The bytes of consecutive records.
        keys: Whose signatures to trust.
        previous: The digest of the record before the first of these; None says that the chain begins here.

    Raises:
        VerificationError: names the first record, counted from 1, that doesn't hold.
    """
    statements = []
    for number, content in enumerate(records, start=1):
        try:
            statement = verify_envelope(content, keys)
        except VerificationError as error:
            raise VerificationError(f"record {number} of {len(records)}: {error}") from error
        if statement.predicate.get("previous_record", "absent") != previous:
            raise VerificationError(f"record {number} of {len(records)}: doesn't follow the record before it")
        statements.append(statement)
        previous = sha256_digest(content)
    return statements


def _spell(payload: bytes, signature: Signature) -> bytes:
    return canonical_json(Envelope(payload, PAYLOAD_TYPE, {signature.keyid: signature}).to_dict())


def _find_signature(payload: bytes, signature_hex: str, keys: Sequence[Key]) -> Signature:
    """The signature under the keyid of the key that it fits."""
    signed_bytes = Envelope(payload, PAYLOAD_TYPE, {}).pae()
    for key in keys:
        signature = Signature(key.keyid, signature_hex)
        try:
            key.verify_signature(signature, signed_bytes)
        except UnverifiedSignatureError:
            continue
        return signature
    raise VerificationError("signed by none of the trusted keys")


def _parse_statement(payload: bytes) -> Mapping[str, Json]:
    try:
        _StatementShape.model_validate_json(payload)
    except ValidationError as error:
        raise VerificationError(f"signed, but not an in-toto Statement: {describe_problem(error)}") from error
    statement: Mapping[str, Json] = json.loads(payload)
    return statement
