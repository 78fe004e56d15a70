"""Approvals of a plan file: written beside it, recorded in the ledger, and checked before the plan is carried out.

An approval lies at `<plan>.approvals/<keyid>.json`. `approve_plan` records its digest in the ledger; that event's time is what it's judged
by. One that was signed elsewhere and never recorded is judged by the time at which it's shown.
"""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError, VerificationError
from cdm_core.evidence.approvals import Approval, count_approvals, sign_approval, verify_approval
from cdm_core.evidence.envelopes import build_public_key
from cdm_core.evidence.key_registry import KeyRegistry
from tasks.evidence.judging import current_registry
from tasks.files import write_output
from tasks.ledger.store import Ledger
from tasks.plans.plan_documents import parse_plan_document
from tasks.workspace import Workspace


def approve_plan(ws: Workspace, plan: Path, key_file: Path, now: datetime) -> dict[str, Json]:
    """Sign a plan file with a person's private key; the same key again replaces its approval.

    Raises:
        InvalidInputError: a file can't be read, or isn't a private key.
        StateError: the key isn't registered in a role that approves, or doesn't count now.
        VerificationError: it isn't a plan.
    """
    content, key = _read(plan), _read_private_key(key_file)
    parse_plan_document(content, plan.name)
    registry, policy = current_registry(ws), ws.settings().approvals
    signer = CryptoSigner(key, build_public_key(key.public_key()))
    entry = registry.find(signer.public_key.keyid)
    roles = [role for role in entry.roles if role in policy.roles] if entry else []
    if entry is None or not roles:
        raise StateError(f"{key_file}: this key is registered in none of the roles that approve: {', '.join(policy.roles)}")
    if (problem := entry.why_invalid(now)) is not None:
        raise StateError(f"{key_file}: this key {problem}")
    digest = sha256_digest(content)
    approval = sign_approval(digest, signer, now)
    path = approvals_folder(plan) / f"{entry.keyid}.json"
    write_output(path, approval)
    Ledger(ws).append("approved", None, {"plan": digest, "approval": sha256_digest(approval), "keyid": entry.keyid, "roles": roles}, now)
    return {"plan_digest": digest, "keyid": entry.keyid, "roles": roles, "approval": str(path)}


def require_approvals(ws: Workspace, plan: Path, content: bytes, submitters: Collection[str], now: datetime) -> dict[str, Json]:
    """What the record keeps of a plan's approvals, if there are enough.

    Args:
        ws: whose policy and registry count.
        plan: the plan file, beside which the approvals lie.
        content: its bytes, as they were read and parsed.
        submitters: keyids of those who signed the requests.
        now: when an approval that the ledger doesn't know is judged.

    Raises:
        RequestRefusedError: `not_approved`.
        VerificationError: an approval beside the plan doesn't hold.
    """
    registry, policy, digest = current_registry(ws), ws.settings().approvals, sha256_digest(content)
    approvals = [_verify_file(ws, registry, path, digest, now) for path in sorted(approvals_folder(plan).glob("*.json"))]
    known = [registry.find(keyid) or keyid for keyid in submitters]
    counted = count_approvals(approvals, roles=policy.roles, distinct=policy.distinct, submitters=known)
    if len(counted) < policy.required:
        kind = "distinct roles of" if policy.distinct else "roles"
        raise RequestRefusedError(
            f"{plan.name}: {len(counted)} of {policy.required} approvals that count, in {kind} {', '.join(policy.roles)}, "
            "not by who signed the request; approve with: lethe approve",
            reason="not_approved",
        )
    at = {approval.keyid: approval.at.isoformat() for approval in approvals}
    return {"plan": digest, "approvers": [{"keyid": keyid, "role": role, "at": at[keyid]} for keyid, role in sorted(counted.items())]}


def approvals_folder(plan: Path) -> Path:
    """Where a plan's approvals lie."""
    return plan.with_name(f"{plan.name}.approvals")


def _verify_file(ws: Workspace, registry: KeyRegistry, path: Path, plan: Digest, now: datetime) -> Approval:
    content = _read(path)
    recorded = [event.at for event in Ledger(ws).events(kind="approved") if event.body.get("approval") == sha256_digest(content)]
    try:
        return verify_approval(content, plan, registry, min(recorded, default=now))
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error


def _read_private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path}: not an unencrypted private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(f"{path}: not an Ed25519 key")
    return key
