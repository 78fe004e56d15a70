"""Receipts: made from what the ledger and the records say of a closed request, logged, signed and time-stamped.

The same request asked for again gives the same envelope, since all it says was written down at closing; its event is found by the
envelope's digest, and only checkpoint and time stamp are of today.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import InvalidInputError, StateError, VerificationError
from cdm_core.evidence.envelopes import build_statement, cosign_envelope
from cdm_core.evidence.key_registry import RECORDER_ROLE
from cdm_core.evidence.receipts import RECEIPT_EVENT, RECEIPT_PREDICATE, build_receipt, describe_acts, envelope_digest, seal_timestamp
from cdm_core.evidence.signed_note import verify_checkpoint
from cdm_core.evidence.trusted_keys import build_key_list
from tasks.clock import utc_now
from tasks.evidence.judging import current_registry, find_approvals, find_request_acts
from tasks.evidence.records import verify_record
from tasks.evidence.timestamping import load_authorities, request_timestamp
from tasks.keys import load_private_signer, load_record_keys, workspace_signer
from tasks.ledger.store import CLOSED, Ledger, StoredRequest
from tasks.workspace import Workspace

_ERASED = ("completed", "needs_review", "rejected")


def make_receipt(ws: Workspace, request_id: str, second_key: Path | None) -> bytes:
    """The receipt of a closed request, signed by the workspace and, where it's given, by a second private key.

    Raises:
        InvalidInputError: the second key is the workspace's own.
        StateError: no such request, not closed, or a key or the authority isn't there.
        VerificationError: the ledger or the request's records don't hold.
    """
    ledger = Ledger(ws)
    stored = ledger.request(request_id)
    if stored is None:
        raise StateError(f"{request_id}: no such request")
    if stored.answer is None or stored.status not in (*CLOSED, "needs_review"):
        raise StateError(f"{request_id}: is not closed; its status is {stored.status}")
    records = _records_of(ws, stored.answer)
    signed = describe_acts(find_request_acts(ledger, request_id), find_approvals(ledger, request_id))
    payload = build_statement(_subjects(stored, records), RECEIPT_PREDICATE, {**_describe(stored, records), **signed})
    signers: list[CryptoSigner] = [workspace_signer(ws)]
    if second_key is not None:
        signers.append(load_private_signer(second_key))
        if signers[0].public_key.keyid == signers[1].public_key.keyid:
            raise InvalidInputError(f"{second_key}: is the workspace's own key, which signs already")
    envelope = cosign_envelope(payload, signers)
    body = {"envelope": envelope_digest(envelope)}
    known = [event for event in ledger.events(request_id=request_id, kind=RECEIPT_EVENT) if event.body == body]
    event = known[0] if known else ledger.append(RECEIPT_EVENT, request_id, body, utc_now())
    proof = ledger.prove(event.seq)
    return build_receipt(envelope, ledger.open_event(event.seq), proof, _stamp(ws, proof.checkpoint))


def export_keys(ws: Workspace) -> bytes:
    """The key list that a stranger needs: the workspace's public keys, the time-stamp authority if there is one, and who signs what else.

    Those stand in it by keyid, role and validity as they are now; issuers' and approvers' names stay in the registry.
    """
    named = [(f"workspace {key.keyid[:16]}", key) for key in load_record_keys(ws.keys)]
    parties = [party for party in current_registry(ws).parties.values() if RECORDER_ROLE not in party.roles]
    return build_key_list(named, load_authorities(ws), parties=parties)


def _stamp(ws: Workspace, checkpoint: bytes) -> tuple[bytes, bytes] | None:
    """The authority's token and our seal of it."""
    token = request_timestamp(ws, checkpoint)
    if token is None:
        return None
    signer = workspace_signer(ws)
    return token, seal_timestamp(token, verify_checkpoint(checkpoint, load_record_keys(ws.keys)).origin, signer)


def _records_of(ws: Workspace, answer: Mapping[str, Json]) -> dict[str, Digest]:
    """The digests of the records that the answer names, by file name, each verified."""
    named = answer.get("audit_records", [])
    assert isinstance(named, Sequence), "we wrote it"
    digests = {}
    for name in [Path(str(path)).name for path in named]:
        path = ws.records / name  # the workspace may have been moved since
        verify_record(path)
        digests[name] = sha256_digest(path.read_bytes())
    return digests


def _subjects(stored: StoredRequest, records: Mapping[str, Digest]) -> dict[str, Digest]:
    """The request by its digest, and the records that say what was done."""
    return {f"request {stored.request_id}": stored.digest, **{f"record {name}": digest for name, digest in records.items()}}


def _describe(stored: StoredRequest, records: Mapping[str, Digest]) -> dict[str, Json]:
    answer = stored.answer or {}
    is_executed = stored.status in _ERASED
    if is_executed and not records:
        raise VerificationError(f"request {stored.request_id}: closed without a record")
    said = ("stopped_version", "model_version", "gate", "purged", "reason")
    return {
        "request_id": stored.request_id,
        "result": "executed" if is_executed else "refused",
        "status": stored.status,
        "received_at": stored.received_at.isoformat(),
        "records": list(records),
        **{name: answer[name] for name in said if name in answer},
    }
