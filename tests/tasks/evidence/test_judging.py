"""Records, receipts and the ledger are judged by the keys that counted at the trusted time: revoked before or after it, not yet valid."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from test_receipts import PARAMETERS, add_authority

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, StateError, VerificationError
from cdm_core.evidence.key_validity import Validity
from flows.policy import record_key_change
from flows.receipts import run_export_keys, run_receipt, run_verify
from tasks.evidence.records import append_record
from tasks.keys import add_key, create_keys, revoke_key
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

RECEIVED, APPROVED = datetime(2026, 3, 1, 9, tzinfo=UTC), datetime(2026, 3, 2, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROLE = "model_owner"


def make_key(ws: Workspace, name: str, role: str, **interval: datetime | None) -> str:
    key = Ed25519PrivateKey.from_private_bytes(sha256_digest(name.encode()).encode()[:32])
    path = ws.root / f"{name}.pem"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    times: dict[str, datetime | None] = {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "valid_until": None, **interval}
    return add_key(ws, name, path, [role], valid_from=times["valid_from"], valid_until=times["valid_until"]).keyid


def carry_out(root: Path, **interval: datetime | None) -> tuple[Workspace, Path, str, str]:
    """A workspace in which r-1 was received, approved and closed in March; its record, and the issuer's and the approver's keyid."""
    ws = Workspace(root)
    create_keys(ws)
    (root / "params.yaml").write_bytes(PARAMETERS.read_bytes())
    issuer, approver = make_key(ws, "agency", "issuer", **interval), make_key(ws, "dora", ROLE, **interval)
    ledger, digest = Ledger(ws), sha256_digest(b"request")
    ledger.receive("r-1", "agency", digest, b"request", RECEIVED)
    ledger.append("received", "r-1", {"digest": digest, "issuer_key": issuer, "format": "own", "regulation": "gdpr"}, RECEIVED)
    ledger.append("approved", None, {"plan": "p", "approval": "a", "keyid": approver, "roles": [ROLE]}, APPROVED)
    approvers = [{"keyid": approver, "role": ROLE, "at": APPROVED.isoformat()}]
    ledger.append("plan_accepted", "r-1", {"plan": "p", "approvers": approvers}, APPROVED + HOUR)
    content = {"step_key": "r-1:close", "request_digest": digest, "issuer_key": issuer, "approvers": approvers}
    record = append_record(ws, "closing", {"composed-model@3": sha256_digest(b"model")}, content)
    ledger.append("closed", "r-1", {"record": record.name}, APPROVED + HOUR)
    ledger.set_status("r-1", "completed", {"audit_records": [str(record)]})
    record_key_change(ws)
    return ws, record, issuer, approver


def revoke(ws: Workspace, keyid: str, since: datetime) -> None:
    revoke_key(ws, keyid, since=since, reason="stolen")
    record_key_change(ws)


def check_receipt(ws: Workspace) -> dict[str, object]:
    """As a stranger does, with today's key list."""
    run_export_keys(ws.root, ws.root / "keys.json")
    run_receipt(ws.root, "r-1", ws.root / "receipt.json", None)
    return run_verify(ws.root / "receipt.json", None, ws.root / "keys.json")


CHECKS: dict[str, Callable[[Workspace, Path], dict[str, object]]] = {
    "record": lambda ws, record: run_verify(record, None, None),
    "receipt": lambda ws, record: check_receipt(ws),
    "ledger": lambda ws, record: run_verify(ws.ledger / "ledger.sqlite", None, None),
}


@pytest.mark.parametrize("check", CHECKS)
def test_valid_at_its_time(tmp_path: Path, check: str) -> None:
    ws, record, _, _ = carry_out(tmp_path / "ws")
    document = CHECKS[check](ws, record)
    assert document["valid"] is True
    assert document["judged"] == {"request": 1, "approval": 1}
    if check != "ledger":
        assert document["trusted_time"]["source"] == "ledger"  # type: ignore[index]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("who", ["request", "approval"])
def test_revoked_before_is_refused_and_after_is_valid(tmp_path: Path, check: str, who: str) -> None:
    ws, record, issuer, approver = carry_out(tmp_path / "ws")
    keyid, at = (issuer, RECEIVED) if who == "request" else (approver, APPROVED)
    revoke(ws, keyid, at + timedelta(microseconds=1))
    assert CHECKS[check](ws, record)["valid"] is True
    revoke(ws, keyid, at)
    with pytest.raises(VerificationError, match=f"{who}: key {keyid[:12]} was revoked since {at.isoformat()[:16]}.*as the ledger recorded"):
        CHECKS[check](ws, record)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("interval", "message"),
    [({"valid_from": RECEIVED + HOUR}, "is valid only from 2026-03-01"), ({"valid_until": RECEIVED}, "expired at 2026-03-01")],
)
def test_outside_its_interval_is_refused(tmp_path: Path, check: str, interval: dict[str, datetime], message: str) -> None:
    ws, record, issuer, _ = carry_out(tmp_path / "ws", **interval)
    with pytest.raises(VerificationError, match=f"request: key {issuer[:12]} {message}"):
        CHECKS[check](ws, record)


def test_an_unregistered_key_and_another_role_are_refused(tmp_path: Path) -> None:
    ws, record, issuer, _ = carry_out(tmp_path / "ws")
    Ledger(ws).append("received", "r-2", {"digest": "d", "issuer_key": "0" * 64}, RECEIVED)
    with pytest.raises(VerificationError, match="request: signed with key 000000000000, which is registered in no role issuer"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)
    add_key(ws, "agency", ws.root / "agency.pem", [ROLE], valid_from=None, valid_until=None)
    assert run_verify(record, None, None)["valid"] is True  # it had that role, and counts from when it did
    run_export_keys(ws.root, ws.root / "keys.json")
    listed = json.loads((ws.root / "keys.json").read_bytes())
    assert "agency" not in json.dumps(listed)
    parties = [party for party in listed["parties"] if party["keyid"] != issuer]
    (ws.root / "mine.json").write_text(json.dumps({"schema": listed["schema"], "keys": listed["keys"], "parties": parties}))
    with pytest.raises(VerificationError, match=f"request: signed with key {issuer[:12]}, which is registered in no role issuer"):
        run_verify(record, None, ws.root / "mine.json")


def auditors_list(ws: Workspace, *, revoked_at: datetime, name: str = "mine.json") -> Path:
    """A list in which the workspace's own key was revoked, as only an auditor can say."""
    run_export_keys(ws.root, ws.root / "keys.json")
    listed = json.loads((ws.root / "keys.json").read_bytes())
    del listed["digest"]
    listed["keys"][0]["revoked_at"] = revoked_at.isoformat()
    (ws.root / name).write_text(json.dumps(listed))
    return ws.root / name


def test_the_workspaces_own_key_is_judged_by_an_auditors_list(tmp_path: Path) -> None:
    ws, record, _, _ = carry_out(tmp_path / "ws")
    check_receipt(ws)
    now = datetime.now(UTC)
    for path in (record, ws.root / "receipt.json"):
        document = run_verify(path, None, auditors_list(ws, revoked_at=now + HOUR))
        assert document["trusted_time"]["source"] == "ledger"  # type: ignore[index]
        with pytest.raises(VerificationError, match=r"was revoked since .*as the ledger recorded it at"):
            run_verify(path, None, auditors_list(ws, revoked_at=now - HOUR))
    alone = tmp_path / "alone.json"
    alone.write_bytes(record.read_bytes())
    with pytest.raises(VerificationError, match=r"was revoked since .*no trusted time is at hand; as of"):
        run_verify(alone, None, auditors_list(ws, revoked_at=now))


def test_an_authoritys_time_is_trusted_before_the_ledgers(tmp_path: Path) -> None:
    ws, _, _, _ = carry_out(tmp_path / "ws")
    add_authority(ws)
    document = check_receipt(ws)
    assert document["trusted_time"] == {"at": document["stamped_at"], "source": "rfc3161"}
    stamped_at = datetime.fromisoformat(str(document["stamped_at"]))
    after = auditors_list(ws, revoked_at=stamped_at + timedelta(seconds=1))
    assert run_verify(ws.root / "receipt.json", None, after)["valid"] is True
    with pytest.raises(VerificationError, match=r"0 signatures count, where 1 are asked for: .*as time-stamped at"):
        run_verify(ws.root / "receipt.json", None, auditors_list(ws, revoked_at=stamped_at))


def test_of_two_signatures_one_that_does_not_count_is_one_too_few(tmp_path: Path) -> None:
    ws, _, _, _ = carry_out(tmp_path / "ws")
    key = Ed25519PrivateKey.generate()
    private = ws.root / "second.private.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    run_receipt(ws.root, "r-1", ws.root / "receipt.json", private)
    run_export_keys(ws.root, ws.root / "keys.json")
    listed = json.loads((ws.root / "keys.json").read_bytes())
    del listed["digest"]
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    second = {"name": "second", "public_key": pem, "valid_from": "2999-01-01T00:00:00Z"}
    for threshold in (1, 2):
        (ws.root / "two.json").write_text(json.dumps({**listed, "keys": [*listed["keys"], second], "threshold": threshold}))
        if threshold == 1:
            assert len(run_verify(ws.root / "receipt.json", None, ws.root / "two.json")["keyids"]) == 1  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=r"1 signatures count, where 2 are asked for: key .* is valid only from 2999"):
        run_verify(ws.root / "receipt.json", None, ws.root / "two.json")


def test_an_older_or_another_registry_is_seen_by_the_ledger_check(tmp_path: Path) -> None:
    ws, _, issuer, _ = carry_out(tmp_path / "ws")
    path = ws.keys / "registry.json"
    old = path.read_bytes()
    revoke(ws, issuer, RECEIVED + HOUR)
    new = path.read_bytes()
    path.write_bytes(old)
    with pytest.raises(StateError, match="the ledger knows revision"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)
    path.write_bytes(old)
    revoke_key(ws, issuer, since=RECEIVED + 2 * HOUR, reason="other")
    assert path.read_bytes() != new
    with pytest.raises(VerificationError, match="isn't the registry that the ledger knows as such"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)


def test_times_need_a_zone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need a time zone"):
        Validity(valid_from=datetime(2026, 1, 1))
    ws, record, _, _ = carry_out(tmp_path / "ws")
    listed = json.loads(auditors_list(ws, revoked_at=RECEIVED).read_bytes())
    listed["keys"][0]["revoked_at"] = "2026-03-01T09:00:00"
    (ws.root / "mine.json").write_text(json.dumps(listed))
    with pytest.raises(InvalidInputError, match="not a key list"):
        run_verify(record, None, ws.root / "mine.json")
