"""What an audit record holds, item by item, in the closing record of one deletion that has it all: an approved plan, a hold on a part, an
extension, a sender that wants to be called back.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from built_workspace import Built, copy_workspace
from callback_server import CallbackServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tiny_requests import opendsr_content
from tiny_workspace import ISSUER, lethe, owners_of, set_parameters
from workspace_snapshot import files_holding

from cdm_core.digests import canonical_json, sha256_digest
from cdm_core.evidence.audit_record import REASONS, check_statement
from tasks.ledger.store import Ledger
from tasks.models import tracking
from tasks.workspace import Workspace

EMAIL = "somebody@withdrawn.example"

ITEMS: Mapping[str, str] = {
    "request digest": "request_digest",
    "format": "request_format",
    "issuer key": "issuer_key",
    "how identity was established": "identity",
    "regime": "regulation",
    "clock": "clock",
    "extension": "extension",
    "decision": "decision",
    "approvers": "approvers",
    "exemption": "exemption",
    "suppression commitment": "suppression_commitment",
    "affected shards": "affected_shards",
    "DVC revision before": "dvc_revision_before",
    "DVC revision after": "dvc_revision_after",
    "manifest digests before": "manifests_before",
    "manifest digests after": "manifests_after",
    "clean checkpoint": "clean_checkpoints",
    "why it is clean": "why_clean",
    "code digest": "code",
    "environment digest": "environment",
    "seed": "seed",
    "hardware digest": "hardware",
    "adapters replaced": "adapters_replaced",
    "untouched ones proved byte-identical": "untouched_adapters",
    "kNN before and after": "nearest_neighbours",
    "Fréchet distance before and after": "frechet_distance",
    "membership inference before and after": "membership_inference",
    "purge ledger per store": "purged",
    "what was kept and why": "kept",
    "notifications": "notifications",
    "promotion": "promotion",
    "time": "signed_at",
    "index": "ledger",
}
"""The list's words, and where they stand; signatures stand around the record, in its envelope."""


@pytest.fixture(scope="module")
def told(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any], CallbackServer, str]:
    """The workspace after the deletion, its closing record, the sender's server, the request's id."""
    folder = tmp_path_factory.mktemp("told")
    ws, owner = copy_workspace(built.ws, folder / "ws"), owners_of(0, 1)[0]
    set_parameters(ws, required=1, callbacks="true", membership_samples=3)
    lethe(ws, "identities", "add", owner.owner_id, "--email", EMAIL)
    lethe(ws, "hold", "add", "--sample", owner.sample_ids[0], "--ground", "legal_claim", "--until", "2999-01-01")
    with CallbackServer() as server:
        request_id, content = opendsr_content(EMAIL, [server.url("/told")])
        request, plan = folder / "request.json", folder / "plan.json"
        request.write_bytes(content)
        assert lethe(ws, "sign", request, "--issuer", ISSUER).code == 0
        assert lethe(ws, "submit", request).code == 1  # received, and not approved
        assert lethe(ws, "extend", request_id, "--reason", "many requests").code == 0
        assert lethe(ws, "plan", request, "--out", plan).code == 0
        assert lethe(ws, "approve", plan, "--key", _make_key(ws, folder)).code == 0
        answer = lethe(ws, "submit", request, "--plan", plan).document
    envelope = json.loads(Path(answer["audit_records"][-1]).read_bytes())
    assert envelope["signatures"]
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    check_statement(canonical_json(statement))
    return ws, statement["predicate"], server, request_id


def _make_key(ws: Workspace, folder: Path) -> Path:
    key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    public, private = folder / "dora.pem", folder / "dora.private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert lethe(ws, "keys", "add", "Dora", "--public-key", public, "--role", "data_protection_officer").code == 0
    return private


def test_every_item_of_the_list_stands_in_the_closing_record(told: tuple[Workspace, dict[str, Any], CallbackServer, str]) -> None:
    predicate = told[1]
    assert {item: name for item, name in ITEMS.items() if predicate[name] in (None, {}, [], "")} == {}
    assert predicate["not_stated"] == {}
    assert set(REASONS) - set(predicate) == set()
    assert (predicate["kind"], predicate["request_format"], predicate["affected_shards"]) == ("closing", "opendsr", [0])
    assert predicate["approvers"][0]["role"] == "data_protection_officer" if "role" in predicate["approvers"][0] else predicate["approvers"]
    assert predicate["exemption"]["held_samples"] == 1
    assert predicate["extension"]["reason"] == "many requests"
    assert any("held" in each["what"] for each in predicate["kept"])


def test_untouched_adapters_are_those_that_served_before(told: tuple[Workspace, dict[str, Any], CallbackServer, str], built: Built) -> None:
    assert told[1]["untouched_adapters"] == {str(shard): sha256_digest(built.ws.adapter(shard).read_bytes()) for shard in (1, 2)}
    assert set(told[1]["adapters_replaced"]) == {"0"}


def test_membership_inference_is_evidence_in_record_and_run(told: tuple[Workspace, dict[str, Any], CallbackServer, str]) -> None:
    ws, predicate, _, request_id = told
    found = predicate["membership_inference"]
    assert (found["verdict"], found["num_erased"], found["num_null"]) == ("inconclusive", 3, 3)
    assert "too few" in found["reason"]
    assert found["before"]["low"] <= found["before"]["value"] <= found["before"]["high"]
    decided = Ledger(ws).last("decided", request_id)
    assert decided is not None
    metrics = tracking.client(ws).get_run(str(decided.body["run_id"])).data.metrics
    assert metrics["before/membership_auc"] == found["before"]["value"]
    assert metrics["after/membership_auc"] == found["after"]["value"]
    assert metrics["after/nearest_is_erased"] == predicate["nearest_neighbours"]["after"]["rate"]


def test_the_sender_was_told_and_the_record_says_so(told: tuple[Workspace, dict[str, Any], CallbackServer, str]) -> None:
    ws, predicate, server, request_id = told
    entries = predicate["notifications"]
    assert [(entry["stage"], entry["how"]) for entry in entries] == [
        ("received", "left"),
        ("stopped", "left"),
        ("closed", "left"),
        ("stopped", "callback"),
    ]
    assert [json.loads(received.body)["request_status"] for received in server.received] == ["in_progress", "in_progress"]  # held in part
    assert entries[3]["digest"] == sha256_digest(server.received[0].body)
    assert (entries[3]["result"], entries[3]["http_status"]) == ("sent", 202)
    assert entries[3]["url"] == sha256_digest(server.url("/told").encode())
    assert entries[2]["digest"] == sha256_digest(canonical_json(lethe(ws, "status", request_id, "--as", "opendsr").document))
    events = [event.body["stage"] for event in Ledger(ws).events(request_id=request_id, kind="notified")]
    assert events == ["stopped", "closed"]
    assert files_holding(ws.records, [EMAIL, server.url("/told")]) == {}
