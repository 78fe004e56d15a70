"""A receipt: what a stranger needs to check, offline, that a request was carried out and that this was logged.

It holds a DSSE envelope around a Statement about the request's closing; the ledger's event that names the envelope's digest, with the salt
that opens its leaf; the log proof of that leaf; and the time stamp over the log's checkpoint, if an authority gave one. Checked in order:

1. the receipt's one spelling, so that a changed byte anywhere is a changed value;
2. the envelope, by as many trusted keys as the list asks for;
3. the event names this envelope;
4. the log proof shows the event's leaf under a checkpoint that a trusted key signed;
5. the time stamp is the one that the log's operator received (its seal, a signed note of its digest: a token alone has bytes that can be
   changed unnoticed), and covers that checkpoint, where the list trusts an authority; where it trusts none, the grade is silent on time;
6. the keys counted at the trusted time, the stamp's or else the logged event's (`cdm_core.evidence.key_validity`): those that signed, of
   which enough must be left, and those that signed the request and the approvals that the receipt names, if the list speaks of them.

The grade says what was shown: "executed" (or "refused"), "logged", "time-stamped".
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, canonical_json, json_digest, sha256_digest
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.evidence.commitments import OpenedEvent
from cdm_core.evidence.envelopes import CosignedStatement, verify_cosigned
from cdm_core.evidence.key_validity import Act, TrustedTime, find_problem, judge_acts
from cdm_core.evidence.signed_note import Checkpoint, LogProof, parse_log_proof, sign_note, verify_log_proof, verify_note
from cdm_core.evidence.timestamps import verify_timestamp
from cdm_core.evidence.trusted_keys import TrustedKeys

SCHEMA = "lethe/receipt/v1"
RECEIPT_PREDICATE = "https://lethe.dev/attestation/receipt/v1"
RECEIPT_EVENT = "receipt"
SEAL_HEADER = "lethe/timestamp-seal/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReceipt:
    """A receipt that holds; `stamped_at` is None where no trusted authority says when, and then the ledger's time is the trusted one.

    `judged` counts what others had signed, by what it is; it's empty where the key list doesn't speak of them.
    """

    statement: CosignedStatement
    grade: str
    checkpoint: Checkpoint
    index: int
    stamped_at: datetime | None
    trusted_time: TrustedTime
    judged: Mapping[str, int]


class _EventShape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    seq: int = Field(ge=1, le=2**53)
    at: str
    kind: str
    request_id: str
    body: dict[str, Any]


class _StampShape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    token: str
    seal: str


class _ReceiptShape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Literal["lethe/receipt/v1"] = Field(alias="schema")
    envelope: dict[str, Any]
    event: _EventShape
    salt: str
    proof: str
    timestamp: _StampShape | None


def seal_timestamp(token: bytes, origin: str, signer: Signer) -> bytes:
    """The note by which the operator of the log `origin` says that this is the token received."""
    return sign_note(_seal_text(token), origin, signer)


def build_receipt(envelope: Json, event: OpenedEvent, proof: LogProof, timestamp: tuple[bytes, bytes] | None) -> bytes:
    """The receipt's bytes; `timestamp` is a token and its seal."""
    stamp: Json = None if timestamp is None else {"token": base64.b64encode(timestamp[0]).decode(), "seal": timestamp[1].decode()}
    document: dict[str, Json] = {
        "schema": SCHEMA,
        "envelope": envelope,
        "event": {"seq": event.seq, "at": event.at, "kind": event.kind, "request_id": event.request_id, "body": event.body},
        "salt": event.salt.hex(),
        "proof": proof.to_bytes().decode(),
        "timestamp": stamp,
    }
    return canonical_json(document) + b"\n"


def verify_receipt(content: bytes, trusted: TrustedKeys) -> VerifiedReceipt:
    """Check a receipt against a key list.

    Raises:
        VerificationError: says what doesn't hold.
    """
    document, shape = _parse(content)  # 1
    statement = verify_cosigned(shape.envelope, trusted.keys, trusted.threshold)  # 2
    if statement.statement["predicateType"] != RECEIPT_PREDICATE:
        raise VerificationError("signed, but not as a receipt")
    event = _open(shape)
    if event.kind != RECEIPT_EVENT or event.body != {"envelope": envelope_digest(document["envelope"])}:  # 3
        raise VerificationError("the logged event names another envelope")
    predicate = statement.statement["predicate"]
    assert isinstance(predicate, dict)  # verified with the statement
    if predicate.get("request_id") != event.request_id or predicate.get("result") not in ("executed", "refused"):
        raise VerificationError("the envelope and the logged event speak of different requests, or of no result")
    proof = parse_log_proof(shape.proof.encode())
    if proof.index != event.seq - 1:
        raise VerificationError("the log proof is one of another event")
    checkpoint = verify_log_proof(proof, bytes.fromhex(event.commitment), trusted.keys)  # 4
    stamped_at = _read_time(shape.timestamp, proof.checkpoint, checkpoint.origin, trusted)  # 5
    time = TrustedTime(at=stamped_at or _parse_time(event.at), source="rfc3161" if stamped_at else "ledger")
    statement = _require_counted(statement, shape, event, proof, trusted, time)  # 6
    judged = {} if trusted.parties is None else judge_acts(_read_acts(predicate), trusted.parties)
    grade = f"{predicate['result']}, logged{', time-stamped' if stamped_at else ''}"
    return VerifiedReceipt(
        statement=statement,
        grade=grade,
        checkpoint=checkpoint,
        index=proof.index,
        stamped_at=stamped_at,
        trusted_time=time,
        judged=judged,
    )


def is_receipt(content: bytes) -> bool:
    """Whether the bytes say that they are a receipt."""
    try:
        document = load_json(decode_text(content))
    except InvalidInputError:
        return False
    return isinstance(document, dict) and "envelope" in document


def envelope_digest(envelope: Json) -> Digest:
    """What the ledger's event names."""
    return json_digest(envelope)


def describe_acts(requests: Sequence[Act], approvals: Sequence[Act]) -> dict[str, Json]:
    """What a receipt says of who signed the request and approved its plan; all times are the ledger's."""
    described: dict[str, Json] = {}
    if requests:
        described["signed_by"] = [_describe_act(act) for act in requests]
    if approvals:
        described["approvers"] = [_describe_act(act) for act in approvals]
    return described


def _describe_act(act: Act) -> dict[str, Json]:
    return {"keyid": act.keyid, "role": act.role, "at": act.time.at.isoformat()}


def _read_acts(predicate: Mapping[str, Json]) -> list[Act]:
    """What `describe_acts` wrote; a receipt of an earlier release says nothing."""
    acts = []
    for name, what in (("signed_by", "request"), ("approvers", "approval")):
        described = predicate.get(name, [])
        for act in described if isinstance(described, list) else [None]:
            match act:
                case {"keyid": str(keyid), "role": str(role), "at": str(at)}:
                    time = TrustedTime(at=_parse_time(at), source="ledger")
                    acts.append(Act(what=what, keyid=keyid, role=role, time=time))
                case _:
                    raise VerificationError(f"signed, but not as a receipt: {name}")
    return acts


def _require_counted(
    statement: CosignedStatement, shape: _ReceiptShape, event: OpenedEvent, proof: LogProof, trusted: TrustedKeys, time: TrustedTime
) -> CosignedStatement:
    """The statement with the signatures that count; checkpoint and seal must have one too."""
    problems = {keyid: find_problem(keyid, validity, time) for keyid, validity in trusted.validity.items()}
    problems = {keyid: problem for keyid, problem in problems.items() if problem is not None}
    if not problems:
        return statement
    counted = tuple(keyid for keyid in statement.keyids if keyid not in problems)
    if len(counted) < trusted.threshold:
        told = next(problems[keyid] for keyid in statement.keyids if keyid in problems)
        raise VerificationError(f"{len(counted)} signatures count, where {trusted.threshold} are asked for: {told}")
    keys = [key for key in trusted.keys if key.keyid not in problems]
    checkpoint = verify_log_proof(proof, bytes.fromhex(event.commitment), keys)
    if shape.timestamp is not None:
        verify_note(shape.timestamp.seal.encode(), checkpoint.origin, keys)
    return CosignedStatement(statement=statement.statement, keyids=counted)


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise VerificationError("signed, but with a time that is none") from error
    if time.tzinfo is None:
        raise VerificationError("signed, but with a time that has no zone")
    return time


def _parse(content: bytes) -> tuple[dict[str, Json], _ReceiptShape]:
    try:
        document = load_json(decode_text(content))
        shape = _ReceiptShape.model_validate(document)
        spelled = canonical_json(document) + b"\n"
    except ValidationError as error:
        raise VerificationError(f"not a receipt: {describe_problem(error)}") from error
    except (InvalidInputError, ValueError) as error:
        raise VerificationError(f"not a receipt: {error}") from error
    assert isinstance(document, dict), "the shape is a mapping's"
    if spelled != content:
        raise VerificationError("not a receipt as it was written")
    return document, shape


def _open(shape: _ReceiptShape) -> OpenedEvent:
    try:
        event = OpenedEvent(**shape.event.model_dump(), salt=bytes.fromhex(shape.salt))
    except ValueError as error:
        raise VerificationError(f"not a receipt: salt: {error}") from error
    if event.salt.hex() != shape.salt:
        raise VerificationError("not a receipt: salt: not in its one spelling")
    return event


def _read_time(stamp: _StampShape | None, checkpoint: bytes, origin: str, trusted: TrustedKeys) -> datetime | None:
    if stamp is None:
        return None
    try:
        token = base64.b64decode(stamp.token, validate=True)
    except ValueError as error:
        raise VerificationError("time stamp: not base64") from error
    if base64.b64encode(token).decode() != stamp.token:
        raise VerificationError("time stamp: not base64 in its one spelling")
    if verify_note(stamp.seal.encode(), origin, trusted.keys).text != _seal_text(token):
        raise VerificationError("time stamp: its seal is another token's")
    return verify_timestamp(token, checkpoint, trusted.authorities) if trusted.authorities else None


def _seal_text(token: bytes) -> str:
    return f"{SEAL_HEADER}\n{sha256_digest(token)}\n"
