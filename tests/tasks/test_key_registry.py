"""The key registry of a workspace: intervals, revocation, the older index, and that no byte of it can be changed."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError, VerificationError
from cdm_core.evidence.approvals import sign_approval, verify_approval
from cdm_core.evidence.envelopes import build_public_key
from cdm_core.evidence.key_registry import sign_registry
from tasks.keys import add_issuer, add_key, create_keys, load_registry, revoke_key, verify_file, workspace_signer
from tasks.workspace import Workspace

JANUARY, JUNE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    create_keys(ws)
    return ws


def write_key(path: Path, seed: int) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def test_a_signature_is_judged_at_its_trusted_time(ws: Workspace, tmp_path: Path) -> None:
    key = write_key(tmp_path / "a.pem", 1)
    entry = add_key(ws, "agency", tmp_path / "a.pem", ["issuer"], valid_from=JANUARY, valid_until=JUNE)
    signature = base64.b64encode(key.sign(b"content"))
    assert verify_file(ws, b"content", signature, JANUARY).keyid == entry.keyid
    for at, message in ((JANUARY - timedelta(seconds=1), "is valid only from"), (JUNE, "expired at")):
        with pytest.raises(RequestRefusedError, match=message) as caught:
            verify_file(ws, b"content", signature, at)
        assert caught.value.reason == "key_not_valid"
    march = datetime(2026, 3, 1, tzinfo=UTC)
    revoke_key(ws, entry.keyid, since=march, reason="stolen")
    assert verify_file(ws, b"content", signature, march - timedelta(seconds=1)).issuer == "agency"
    with pytest.raises(RequestRefusedError, match="was revoked since 2026-03-01"):
        verify_file(ws, b"content", signature, march)


def test_an_issuers_rsa_key_does_not_disturb_approvals(ws: Workspace, tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    (tmp_path / "rsa.pem").write_bytes(rsa_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    issuer = add_key(ws, "processor", tmp_path / "rsa.pem", ["issuer"], valid_from=JANUARY, valid_until=None)
    key = write_key(tmp_path / "a.pem", 1)
    entry = add_key(ws, "Dora", tmp_path / "a.pem", ["model_owner"], valid_from=JANUARY, valid_until=JUNE)
    plan = sha256_digest(b"plan")
    approval = sign_approval(plan, CryptoSigner(key, build_public_key(key.public_key())), JANUARY)
    registry = load_registry(ws)
    assert verify_approval(approval, plan, registry, JANUARY).keyid == entry.keyid
    for at, message in ((JANUARY - timedelta(seconds=1), "is valid only from"), (JUNE, "expired at")):
        with pytest.raises(VerificationError, match=message):
            verify_approval(approval, plan, registry, at)
    found = registry.find(issuer.keyid)
    assert found is not None
    with pytest.raises(InvalidInputError, match="not an Ed25519 key"):
        found.key()
    with pytest.raises(VerificationError, match="the entry holds another key"):
        replace(found, keyid=entry.keyid).sender_key(JANUARY)


def test_a_revocation_moves_back_only(ws: Workspace, tmp_path: Path) -> None:
    write_key(tmp_path / "a.pem", 1)
    entry = add_key(ws, "agency", tmp_path / "a.pem", ["issuer"], valid_from=JANUARY, valid_until=None)
    revoke_key(ws, entry.keyid[:12], since=JUNE, reason="superseded")
    revoke_key(ws, entry.keyid[:12], since=JANUARY, reason="stolen")
    with pytest.raises(StateError, match="was revoked since 2026-01-01"):
        revoke_key(ws, entry.keyid[:12], since=JUNE, reason="superseded")
    with pytest.raises(StateError, match="this key was revoked"):
        add_key(ws, "agency", tmp_path / "a.pem", ["issuer"], valid_from=JANUARY, valid_until=None)
    with pytest.raises(StateError, match="this key was revoked"):
        add_issuer(ws, "agency", tmp_path / "a.pem")


def test_unusable_keys(ws: Workspace, tmp_path: Path) -> None:
    write_key(tmp_path / "a.pem", 1)
    for roles in ([], ["recorder"], ["a b"]):
        with pytest.raises(InvalidInputError, match="role: must be a word"):
            add_key(ws, "agency", tmp_path / "a.pem", roles, valid_from=JANUARY, valid_until=None)
    with pytest.raises(InvalidInputError, match="valid until: must be later"):
        add_key(ws, "agency", tmp_path / "a.pem", ["issuer"], valid_from=JUNE, valid_until=JANUARY)
    add_key(ws, "agency", tmp_path / "a.pem", ["issuer"], valid_from=JANUARY, valid_until=None)
    with pytest.raises(StateError, match="this key already belongs to another name"):
        add_key(ws, "other", tmp_path / "a.pem", ["issuer"], valid_from=JANUARY, valid_until=None)
    with pytest.raises(InvalidInputError, match="names no key"):
        revoke_key(ws, "0" * 12, since=JUNE, reason="x")
    with pytest.raises(InvalidInputError, match="reason: must not be empty"):
        revoke_key(ws, "0" * 12, since=JUNE, reason=" ")
    own = load_registry(ws).with_role("recorder")[0]
    with pytest.raises(StateError, match="the workspace's own key"):
        revoke_key(ws, own.keyid, since=JUNE, reason="x")


def test_the_workspaces_own_key_keeps_its_role(ws: Workspace) -> None:
    own, path = load_registry(ws).with_role("recorder")[0], ws.keys / "workspace.pem"
    for name in (own.name, "agency"):
        with pytest.raises(StateError, match=r"workspace\.pem: this is the workspace's own key"):
            add_key(ws, name, path, ["issuer"], valid_from=None, valid_until=None)
        with pytest.raises(StateError, match=r"workspace\.pem: this is the workspace's own key"):
            add_issuer(ws, name, path)
    assert load_registry(ws).find(own.keyid) == own


def test_the_workspaces_own_key_is_not_revoked_where_an_older_release_let_it_lose_its_role(ws: Workspace) -> None:
    own = load_registry(ws).with_role("recorder")[0]
    lost = load_registry(ws).replace(replace(own, roles=("issuer",), past_roles=("recorder",)))
    (ws.keys / "registry.json").write_bytes(sign_registry(lost, workspace_signer(ws)))
    with pytest.raises(StateError, match="the workspace's own key"):
        revoke_key(ws, own.keyid, since=JUNE, reason="x")


def test_an_older_index_is_taken_over(ws: Workspace, tmp_path: Path) -> None:
    key = write_key(tmp_path / "a.pem", 1)
    issuer = add_issuer(ws, "agency", tmp_path / "a.pem")
    (ws.keys / "registry.json").unlink()
    (ws.keys / "issuers.json").write_text(json.dumps({"agency": issuer.keyid}))
    assert verify_file(ws, b"content", base64.b64encode(key.sign(b"content"))).issuer == "agency"
    add_issuer(ws, "owner:johanna", None)
    assert {entry.name for entry in load_registry(ws).entries} == {"agency", "owner:johanna", "workspace"}
    assert not (ws.keys / "issuers.json").exists()


def test_no_byte_of_the_registry_can_be_changed(ws: Workspace, tmp_path: Path) -> None:
    add_issuer(ws, "agency", None)
    path = ws.keys / "registry.json"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(StateError, match="the registry of keys is damaged"):
            load_registry(ws)
    path.write_bytes(content)
    assert load_registry(ws).revision == 1
