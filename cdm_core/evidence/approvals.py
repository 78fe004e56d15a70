"""Approvals: a person's signature over a plan, and whether there are enough of them.

1. An approval is an in-toto Statement in a DSSE envelope whose subject is the plan file by its digest, so it fits no other plan.
2. Its key must be in the registry, and have counted at the approval's trusted time: when the ledger recorded it.
3. Who signed the request doesn't approve its plan, by key or by name.
4. `required` approvals of different people in the allowed roles are asked for; `distinct` asks that they are in different roles too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest
from cdm_core.errors import VerificationError
from cdm_core.evidence.envelopes import build_statement, sign_envelope, verify_envelope
from cdm_core.evidence.key_registry import KeyEntry, KeyRegistry

APPROVAL_PREDICATE = "https://lethe.dev/attestation/plan-approval/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A valid approval: whose, with which key, and when the ledger recorded it."""

    name: str
    keyid: str
    roles: tuple[str, ...]
    at: datetime


def sign_approval(plan_digest: Digest, signer: Signer, now: datetime) -> bytes:
    """The approval of the plan with that digest; the time it states is for people, nothing is decided by it."""
    return sign_envelope(build_statement({"plan": plan_digest}, APPROVAL_PREDICATE, {"stated_at": now.isoformat()}), signer)


def verify_approval(content: bytes, plan_digest: Digest, registry: KeyRegistry, at: datetime) -> Approval:
    """Steps 1 and 2.

    Args:
        content: the approval file's bytes.
        plan_digest: of the plan that is to be carried out.
        registry: who may approve.
        at: the approval's trusted time.

    Raises:
        VerificationError: it isn't an approval of this plan by a key that counted.
    """
    statement = verify_envelope(content, [entry.key() for entry in registry.entries if entry.is_ed25519])
    if statement.statement["predicateType"] != APPROVAL_PREDICATE:
        raise VerificationError("signed, but not as an approval")
    if statement.statement["subject"] != [{"name": "plan", "digest": {"sha256": plan_digest}}]:
        raise VerificationError("approves another plan")
    entry = registry.find(statement.keyid)
    assert entry is not None, "it was verified with one of the registry's keys"
    if (problem := entry.why_invalid(at)) is not None:
        raise VerificationError(f"the key that signed, {entry.keyid[:12]}, {problem}")
    return Approval(name=entry.name, keyid=entry.keyid, roles=entry.roles, at=at)


def count_approvals(
    approvals: Sequence[Approval], *, roles: Collection[str], distinct: bool, submitters: Collection[KeyEntry | str]
) -> Mapping[str, str]:
    """Steps 3 and 4: the role in which each approver's approval counts, by keyid; as many as can be counted.

    Args:
        approvals: valid ones.
        roles: in which an approval counts.
        distinct: whether each role counts once.
        submitters: the keyids, or the entries, of those who signed the requests.
    """
    keyids = {submitter if isinstance(submitter, str) else submitter.keyid for submitter in submitters}
    names = {submitter.name for submitter in submitters if isinstance(submitter, KeyEntry)}
    by_name = {each.name: each for each in approvals if each.keyid not in keyids and each.name not in names}
    candidates = {each.keyid: [role for role in each.roles if role in roles] for each in by_name.values()}
    if not distinct:
        return {keyid: own[0] for keyid, own in candidates.items() if own}
    holder: dict[str, str] = {}
    for keyid in sorted(candidates):
        _seat(keyid, candidates, holder, set())
    return {keyid: role for role, keyid in holder.items()}


def _seat(keyid: str, candidates: Mapping[str, Sequence[str]], holder: dict[str, str], tried: set[str]) -> bool:
    """Find the approver a role, moving others to another of theirs where needed (Kuhn's augmenting paths)."""
    for role in candidates[keyid]:
        if role not in tried:
            tried.add(role)
            if role not in holder or _seat(holder[role], candidates, holder, tried):
                holder[role] = keyid
                return True
    return False
