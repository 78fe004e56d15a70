"""`lethe status --overdue` and `--due-in`, on requests that a gateway had for a while."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tiny_workspace import lethe

from tasks.clock import utc_now
from tasks.keys import add_issuer, create_keys, sign_file
from tasks.ledger.store import Ledger
from tasks.requests.intake import headers_file, receive_file
from tasks.workspace import Workspace

PARAMETERS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "ws")
    create_keys(made)
    add_issuer(made, "agency", None)
    shutil.copy(PARAMETERS, made.root / "params.yaml")
    for request_id, regulation, days in (
        ("late", "gdpr", 40),
        ("soon", "gdpr", 26),
        ("fresh", "gdpr", 1),
        ("ccpa-soon", "ccpa", 40),
        ("ccpa-late", "ccpa", 46),
        ("answered", "gdpr", 40),
    ):
        receive(made, request_id, regulation, utc_now() - timedelta(days=days))
    Ledger(made).set_status("answered", "completed", {"request_id": "answered"})
    return made


def receive(ws: Workspace, request_id: str, regulation: str, received_at: datetime) -> None:
    path = ws.root / f"{request_id}.csv"
    path.write_text(
        f"request_id,issuer,regulation,submitted_at,owner_id,sample_id\n{request_id},agency,{regulation},2026-01-01T00:00:00Z,johanna,\n"
    )
    sign_file(ws, path, "agency")
    headers_file(path).write_text(json.dumps({"Received-At": received_at.isoformat()}))
    receive_file(ws, Ledger(ws), path, utc_now())


def listed(ws: Workspace, *options: str) -> list[str]:
    return sorted(row["request_id"] for row in lethe(ws, "status", *options).document["requests"])


def test_what_is_late_and_what_is_due_soon(ws: Workspace) -> None:
    assert listed(ws, "--overdue") == ["ccpa-late", "late"]
    assert listed(ws, "--due-in", "7d") == ["ccpa-soon", "soon"]
    assert listed(ws, "--due-in", "36h") == []
    assert listed(ws, "--due-in", "60d") == ["ccpa-soon", "fresh", "soon"]
    assert listed(ws, "--overdue", "--due-in", "7d") == []
    assert listed(ws) == ["answered", "ccpa-late", "ccpa-soon", "fresh", "late", "soon"]
    by_id = {row["request_id"]: row for row in lethe(ws, "status").document["requests"]}
    assert {name for name, row in by_id.items() if row["overdue"]} == {"ccpa-late", "late"}
    assert all(datetime.fromisoformat(row["due_at"]).tzinfo for row in by_id.values())


def test_an_extension_moves_the_day(ws: Workspace) -> None:
    assert lethe(ws, "extend", "soon", "--reason", "many requests").document["extended"] is True
    assert listed(ws, "--due-in", "7d") == ["ccpa-soon"]
    refused = lethe(ws, "extend", "late", "--reason", "too late")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_a_span_that_is_none_gets_one_line(ws: Workspace) -> None:
    refused = lethe(ws, "status", "--due-in", "soon")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
