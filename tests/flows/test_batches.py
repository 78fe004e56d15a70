"""Requests that wait together: one retrain for each hit shard, one answer, record and receipt for each request."""

from pathlib import Path

import pandas as pd
import pytest
from built_workspace import Built, copy_workspace
from tiny_workspace import ISSUER, lethe, make_workspace, owners_of, set_parameters
from workspace_snapshot import files_holding, read_adapters

from tasks.clock import utc_now
from tasks.data.data_versions import is_up_to_date
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.models.deciding import review
from tasks.models.tracking import client
from tasks.requests import reviewing
from tasks.requests.batches import coalesce
from tasks.requests.intake import receive_file
from tasks.workspace import Workspace

ASKING = [*owners_of(0, 1), owners_of(1, 1)[0]]
"""Two owners of one shard and one of another."""


def bulk_request(ws: Workspace, folder: Path, owners: dict[str, str]) -> Path:
    """A CSV of one request an owner, by request id, signed."""
    path = folder / "bulk.csv"
    rest = {"issuer": ISSUER, "regulation": "ccpa", "submitted_at": "2026-01-01T00:00:00Z", "sample_id": ""}
    pd.DataFrame([{"request_id": name, "owner_id": owner, **rest} for name, owner in owners.items()]).to_csv(path, index=False)
    assert lethe(ws, "sign", path, "--issuer", ISSUER).code == 0
    return path


def by_id(document: dict[str, list[dict[str, object]]]) -> dict[str, dict[str, object]]:
    return {str(answer["request_id"]): answer for answer in document["requests"]}


@pytest.fixture(scope="module")
def batched(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path, dict[str, dict[str, object]]]:
    folder = tmp_path_factory.mktemp("batched")
    ws = copy_workspace(built.ws, folder / "ws")
    owners = {f"bulk-{number}": owner.owner_id for number, owner in enumerate(ASKING)} | {"bulk-nobody": "who is this"}
    request = bulk_request(ws, folder, owners)
    return ws, request, by_id(lethe(ws, "submit", request).document)


def test_the_flow_ran_once_for_all(batched: tuple[Workspace, Path, dict[str, dict[str, object]]], built: Built) -> None:
    ws, _, answers = batched
    ledger = Ledger(ws)
    for kind in ("planned", "stopped", "removed", "decided", "purged"):
        assert len(ledger.events(kind=kind)) == 1, kind
    planned = ledger.events(kind="planned")[0].body
    assert [shard["shard"] for shard in planned["shards"]] == [0, 1]  # type: ignore[union-attr, index, call-overload]
    assert len({answer["model_version"] for name, answer in answers.items() if name != "bulk-nobody"}) == 1


@pytest.mark.slow
def test_the_result_is_what_a_workspace_builds_that_never_had_them(
    batched: tuple[Workspace, Path, dict[str, dict[str, object]]], tmp_path: Path
) -> None:
    never = make_workspace(tmp_path / "never", without=ASKING)
    lethe(never, "build")
    assert read_adapters(batched[0]) == read_adapters(never)


def test_each_request_has_an_answer_a_record_and_a_receipt_of_its_own(
    batched: tuple[Workspace, Path, dict[str, dict[str, object]]], tmp_path: Path
) -> None:
    ws, _, answers = batched
    keys = tmp_path / "keys.json"
    lethe(ws, "keys", "export", "--out", keys)
    closing = set()
    for number in range(len(ASKING)):
        answer = answers[f"bulk-{number}"]
        assert answer["status"] == "completed"
        records = answer["audit_records"]
        assert isinstance(records, list)
        closing.add(records[-1])
        assert lethe(None, "verify", records[-1]).document["valid"]
        receipt = tmp_path / f"{number}.json"
        assert lethe(ws, "receipt", f"bulk-{number}", "--out", receipt).code == 0
        assert lethe(None, "verify", receipt, "--trust", keys).document["grade"].startswith("executed, logged")
    assert len(closing) == len(ASKING)


def test_what_names_nobody_is_refused_and_holds_nobody_up(batched: tuple[Workspace, Path, dict[str, dict[str, object]]]) -> None:
    assert (batched[2]["bulk-nobody"]["status"], batched[2]["bulk-nobody"]["reason"]) == ("refused", "no_match")


def test_nothing_of_them_is_left(batched: tuple[Workspace, Path, dict[str, dict[str, object]]]) -> None:
    ws = batched[0]
    traces = [trace for owner in ASKING for trace in (*owner.sample_ids, *(picture.png for picture in owner.pictures), owner.owner_id)]
    request_file = {batched[1]}
    assert {path for path in files_holding(ws.root, traces) if path not in request_file} == set()
    assert is_up_to_date(ws)


def test_the_same_file_again_does_nothing(batched: tuple[Workspace, Path, dict[str, dict[str, object]]]) -> None:
    ws, request, answers = batched
    events, runs = len(Ledger(ws).events()), len(client(ws).search_runs(["0", "1"]))
    assert by_id(lethe(ws, "submit", request).document) == answers
    assert (len(Ledger(ws).events()), len(client(ws).search_runs(["0", "1"]))) == (events, runs)


def test_status_lists_the_requests_and_no_batch(batched: tuple[Workspace, Path, dict[str, dict[str, object]]]) -> None:
    listed = [str(row["request_id"]) for row in lethe(batched[0], "status").document["requests"]]
    assert sorted(listed) == sorted(batched[2])


@pytest.mark.slow
def test_a_batch_that_was_cut_short_is_gone_on_with(copied: Workspace, tmp_path: Path) -> None:
    """As if killed after the batch was made and before it was planned, and another request came meanwhile."""
    request = bulk_request(copied, tmp_path, {f"bulk-{number}": owner.owner_id for number, owner in enumerate(ASKING)})
    ledger = Ledger(copied)
    receive_file(copied, ledger, request, utc_now())
    batch = coalesce(copied, "bulk-1", utc_now())
    assert batch == coalesce(copied, "bulk-0", utc_now())
    Case(copied, batch).finish("noticed", {})
    answers = by_id(lethe(copied, "submit", request).document)
    assert {answer["status"] for answer in answers.values()} == {"completed"}
    assert {answer["batch"] for answer in answers.values()} == {batch}


def reviewed_in_part(case: Case, members: object, *, accept: bool, reason: str) -> None:
    """As an earlier release did it when it was killed: the batch has its answer, its requests have none."""
    review(case, [], accept=accept, reason=reason)
    raise ConnectionAbortedError


@pytest.mark.slow
def test_a_review_of_one_is_the_review_of_all(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, margin=1e-9)
    request = bulk_request(copied, tmp_path, {f"bulk-{number}": owner.owner_id for number, owner in enumerate(ASKING)})
    answers = by_id(lethe(copied, "submit", request).document)
    assert {answer["status"] for answer in answers.values()} == {"needs_review"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reviewing, "review", reviewed_in_part)
        with pytest.raises(ConnectionAbortedError):
            lethe(copied, "review", "bulk-1", "--accept", "--reason", "looked at the grids")
    answer = lethe(copied, "review", "bulk-1", "--accept", "--reason", "looked at the grids").document
    assert (answer["request_id"], answer["status"]) == ("bulk-1", "completed")
    rows = lethe(copied, "status").document["requests"]
    assert {(row["status"], row["model_version"]) for row in rows} == {("completed", answers["bulk-0"]["candidate_version"])}
    assert all(str(row["audit_records"][-1]).endswith("-review.json") for row in rows)
