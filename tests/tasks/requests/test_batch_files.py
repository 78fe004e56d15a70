"""What else waits in the inbox is taken in with a request, and what of it is refused is recorded once, by its own run."""

import shutil
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError, StateError
from tasks.clock import utc_now
from tasks.keys import add_issuer, create_keys, sign_file
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.plans.planning import Resolved
from tasks.requests import batches
from tasks.requests.batches import receive_waiting
from tasks.requests.inbox import create_inbox, scan_inbox
from tasks.requests.intake import receive_file
from tasks.workspace import Workspace

PARAMETERS = Path(__file__).resolve().parents[3] / "params.yaml"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "ws")
    create_keys(made)
    add_issuer(made, "agency", None)
    shutil.copy(PARAMETERS, made.root / "params.yaml")
    create_inbox(made)
    return made


def put(ws: Workspace, request_id: str) -> Path:
    path = ws.inbox / "requests" / f"{request_id}.csv"
    path.write_text(
        "request_id,issuer,regulation,submitted_at,owner_id,sample_id\n" + f"{request_id},agency,gdpr,2026-01-01T00:00:00Z,johanna,\n"
    )
    sign_file(ws, path, "agency")
    return path


def test_a_hold_that_comes_before_the_plan_is_not_passed_over(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is closed as a whole, so nobody in it may have a rest that waits."""
    ledger, row = Ledger(ws), pd.DataFrame({"owner_key": ["k"], "sample_id": ["s"], "shard": [0], "stage": [0]})
    ledger.receive("@batch-x", "batch", sha256_digest(b"batch"), b"batch", utc_now())
    for request_id in ("r-1", "r-2"):
        receive_file(ws, ledger, put(ws, request_id), utc_now())
        ledger.append("batched", request_id, {"batch": "@batch-x"}, utc_now())
    held = {"r-1": row.iloc[:0], "r-2": row}
    for name in ("require_committed", "refuse_resurrected"):
        monkeypatch.setattr(batches, name, lambda *_: None)
    monkeypatch.setattr(batches, "champion_composition", lambda ws: (1, None))
    monkeypatch.setattr(
        batches,
        "_resolve",
        lambda ws, stored: batches._Member(
            stored=stored, resolved=Resolved(hits=row, held=held[stored.request_id], holds=(), num_included=0)
        ),
    )
    with pytest.raises(StateError, match=r"^request r-2: a hold came in between; run the same command again$"):
        batches.plan_batch(Case(ws, "@batch-x"))
    assert Case(ws, "@batch-x").find("planned") is None


def test_what_is_refused_is_recorded_once(ws: Workspace) -> None:
    first, second, forged = put(ws, "r-1"), put(ws, "r-2"), put(ws, "r-3")
    forged.write_text(forged.read_text().replace("johanna", "penelope"))
    later = utc_now() + timedelta(seconds=20)
    names = {item.path: item.name for item in scan_inbox(ws, later)}
    ledger = Ledger(ws)
    receive_file(ws, ledger, first, later)
    for _ in range(3):  # a run may be started again
        receive_waiting(ws, names[first], later)
    assert sorted(stored.request_id for stored in ledger.requests()) == ["r-1", "r-2"]
    assert ledger.events(kind="refused") == []
    with pytest.raises(RequestRefusedError):  # the forged file's own run
        receive_file(ws, ledger, forged, later)
    receive_waiting(ws, names[second], later)
    assert [event.body["reason"] for event in ledger.events(kind="refused")] == ["unknown_issuer"]
    assert len(ledger.events(kind="received")) == 2
