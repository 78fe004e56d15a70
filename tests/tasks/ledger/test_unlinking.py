"""A closed request is unlinked: nothing in the ledger leads to it, everything still verifies, and it can't be sent again."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.evidence.merkle import verify_consistency
from cdm_core.evidence.signed_note import verify_checkpoint
from flows.receipts import run_export_keys, run_receipt, run_verify
from flows.unlink import run_unlink
from tasks.evidence.records import append_record
from tasks.keys import add_issuer, create_keys, load_record_keys, sign_file
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.plans.kept_files import plan_file
from tasks.requests.inbox import create_inbox
from tasks.requests.intake import receive_file
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
PARAMETERS = Path(__file__).resolve().parents[3] / "params.yaml"
MODEL = {"composed-model@3": sha256_digest(b"model")}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "ws")
    create_keys(made)
    add_issuer(made, "agency", None)
    shutil.copy(PARAMETERS, made.root / "params.yaml")
    create_inbox(made)
    return made


def receive(ws: Workspace, *request_ids: str) -> Path:
    """A signed CSV of these requests, taken in."""
    path = ws.root / f"{request_ids[0]}.csv"
    rows = [f"{request_id},agency,gdpr,2026-11-24T08:00:00Z,johanna,\n" for request_id in request_ids]
    path.write_text("request_id,issuer,regulation,submitted_at,owner_id,sample_id\n" + "".join(rows))
    sign_file(ws, path, "agency")
    receive_file(ws, Ledger(ws), path, NOW)
    return path


def close(ws: Workspace, request_id: str) -> None:
    ledger = Ledger(ws)
    Case(ws, request_id).finish("planned", {"shards": [0]}, status="planned")
    record = append_record(ws, "closing", MODEL, {"step_key": f"{request_id}:close"})
    ledger.append("closed", request_id, {"record": record.name}, NOW)
    answer = {"request_id": request_id, "status": "completed", "model_version": 3, "audit_records": [str(record)]}
    ledger.set_status(request_id, "completed", answer)  # type: ignore[arg-type]  # a list of texts
    ledger.forget_content(request_id)


def test_all_that_was_proved_still_holds(ws: Workspace, tmp_path: Path) -> None:
    path, ledger = receive(ws, "r-1"), Ledger(ws)
    close(ws, "r-1")
    record = next(ws.records.glob("*-closing.json"))
    run_export_keys(ws.root, tmp_path / "keys.json")
    run_receipt(ws.root, "r-1", tmp_path / "receipt.json", None)
    before = verify_checkpoint(ledger.sign_checkpoint(), load_record_keys(ws.keys))
    num_linked = len(ledger.events(request_id="r-1"))
    salts = [ledger.open_event(event.seq).salt for event in ledger.events(request_id="r-1")]

    assert run_unlink(ws.root, "r-1") == {"request_id": "r-1", "unlinked": True, "events": num_linked, "batch_unlinked": False}

    content = ledger.path.read_bytes()
    assert b"r-1" not in content
    assert sha256_digest(path.read_bytes()).encode() not in content
    assert not [salt for salt in salts if salt in content]
    assert ledger.events(kind="unlinked")[0].body == {"events": num_linked}
    assert run_verify(ledger.path, None, None)["valid"] is True
    assert run_verify(tmp_path / "receipt.json", None, tmp_path / "keys.json")["valid"] is True
    assert run_verify(record, ws.root, None)["valid"] is True
    after = verify_checkpoint(ledger.sign_checkpoint(), load_record_keys(ws.keys))
    verify_consistency(before.size, after.size, ledger.prove_consistency(before.size, after.size), before.root, after.root)
    with pytest.raises(StateError, match="r-1: no such request"):
        run_receipt(ws.root, "r-1", tmp_path / "again.json", None)


def test_an_unlinked_request_is_not_carried_out_again(ws: Workspace) -> None:
    path = receive(ws, "r-1")
    close(ws, "r-1")
    run_unlink(ws.root, "r-1")
    for _ in range(2):
        with pytest.raises(RequestRefusedError, match="request r-1: was carried out before and unlinked") as caught:
            receive_file(ws, Ledger(ws), path, NOW + timedelta(days=1))
        assert caught.value.reason == "replayed"
    assert Ledger(ws).request("r-1") is None
    assert Ledger(ws).verify()
    # Another body under the free id is another request.
    path.write_text(path.read_text() + "r-2,agency,gdpr,2026-11-24T08:00:00Z,johanna,\n")
    sign_file(ws, path, "agency")
    assert len(receive_file(ws, Ledger(ws), path, NOW).requests) == 2


def test_one_of_a_bulk_file(ws: Workspace) -> None:
    """The other request of the file stays as it was, with its answer in the inbox; the batch goes with its last request."""
    path, ledger = receive(ws, "r-1", "r-2"), Ledger(ws)
    digest = sha256_digest(path.read_bytes())
    told = ws.inbox / "done" / f"request-{digest[:16]}.json"
    told.write_text(json.dumps({"item": told.stem, "requests": [{"request_id": "r-1"}, {"request_id": "r-2"}]}))
    ledger.receive("@batch-x", "batch", sha256_digest(b"batch"), b"batch", NOW)
    ledger.append("planned", "@batch-x", {"requests": [{"request_id": "r-1"}, {"request_id": "r-2"}]}, NOW)
    ledger.set_status("@batch-x", "completed", {})
    for request_id in ("r-1", "r-2"):
        ledger.append("batched", request_id, {"batch": "@batch-x"}, NOW)
        close(ws, request_id)
    assert run_unlink(ws.root, "r-1")["batch_unlinked"] is False
    assert json.loads(told.read_bytes())["requests"] == [{"request_id": "r-2"}]
    assert ledger.request("r-2") is not None
    assert ledger.last("planned", "@batch-x") is not None
    assert run_unlink(ws.root, "r-2")["batch_unlinked"] is True
    assert not told.exists()
    assert b"r-1" not in ledger.path.read_bytes()
    assert b"r-2" not in ledger.path.read_bytes()
    assert b"@batch-x" not in ledger.path.read_bytes()
    assert [stored.request_id for stored in ledger.requests()] == []
    assert ledger.verify()


@pytest.mark.parametrize("cut", ["unlink", "sign_checkpoint"])
def test_a_crash_leaves_nothing_that_a_second_try_does_not_find(ws: Workspace, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    digest = sha256_digest(receive(ws, "r-1").read_bytes())
    close(ws, "r-1")
    told = ws.inbox / "done" / f"request-{digest[:16]}.json"
    for path in (told, plan_file(ws, "r-1")):  # the plan: as a crash at closing leaves it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"request_id": "r-1"}))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, cut, crash)
        with pytest.raises(KeyboardInterrupt):
            run_unlink(ws.root, "r-1")
    assert run_unlink(ws.root, "r-1")["unlinked"] is True
    assert not told.exists()
    assert not plan_file(ws, "r-1").exists()
    assert Ledger(ws).verify()


def test_what_cannot_be_unlinked(ws: Workspace) -> None:
    receive(ws, "r-1")
    ledger = Ledger(ws)
    ledger.receive("arrival-1", "arrival", sha256_digest(b"arrival"), b"", NOW)
    ledger.receive("r-3", "agency", sha256_digest(b"r-3"), b"r-3", NOW)
    ledger.receive("r-3@tag", "other", sha256_digest(b"other"), b"other", NOW)
    ledger.receive("r-4@a", "agency", sha256_digest(b"a"), b"a", NOW)
    ledger.receive("r-4@b", "other", sha256_digest(b"b"), b"b", NOW)
    ledger.receive("@batch-x", "batch", sha256_digest(b"batch"), b"batch", NOW)
    size = len(ledger.events())
    for request_id, message in (
        ("r-1", "r-1: is not closed; its status is received"),
        ("r-9", "r-9: no such request"),
        ("@batch-x", "@batch-x: no such request"),
        ("arrival-1", "arrival-1: is an arrival, not a deletion request"),
        ("r-4", "r-4: came from several issuers; say which: r-4@a, r-4@b"),
    ):
        with pytest.raises((StateError, InvalidInputError), match=message):
            run_unlink(ws.root, request_id)
    assert len(ledger.events()) == size
