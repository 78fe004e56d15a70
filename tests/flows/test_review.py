"""A gate that doesn't pass: the data is forgotten all the same, the stopped composition serves, and a person decides."""

from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import lethe, owners_of, set_parameters, signed_request
from workspace_snapshot import event_kinds, files_holding

from cdm_core.composition.document import parse_composition
from tasks.data.data_versions import is_up_to_date
from tasks.models import tracking
from tasks.models.model_registry import champion, composition_of
from tasks.workspace import Workspace


@pytest.fixture(scope="module")
def waiting(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, object]]:
    """A workspace with one request that waits for a review, and its answer."""
    folder = tmp_path_factory.mktemp("waiting")
    ws = copy_workspace(built.ws, folder / "ws")
    set_parameters(ws, margin=1e-9)
    request = signed_request(ws, folder, owner_ids=[owners_of(0, 1)[0].owner_id])
    return ws, lethe(ws, "submit", request).document


def test_the_stopped_composition_keeps_serving_and_the_data_is_gone(waiting: tuple[Workspace, dict[str, object]]) -> None:
    ws, answer = waiting
    assert answer["status"] == "needs_review"
    assert answer["gate"]["verdict"] == "inconclusive"  # type: ignore[index]
    assert answer["model_version"] == answer["stopped_version"] == champion(ws).version  # type: ignore[union-attr]
    assert event_kinds(ws)[-3:] == ["purged", "record", "closed"]
    owner = owners_of(0, 1)[0]
    assert files_holding(ws.root, [*owner.sample_ids, *(picture.png for picture in owner.pictures), owner.owner_id]) == {}
    assert is_up_to_date(ws)
    assert lethe(ws, "status").document["requests"][0]["status"] == "needs_review"


def test_accepting_promotes(waiting: tuple[Workspace, dict[str, object]], forgotten: Forgotten, tmp_path: Path) -> None:
    ws = copy_workspace(waiting[0], tmp_path / "ws")
    request_id = str(waiting[1]["request_id"])
    answer = lethe(ws, "review", request_id, "--accept", "--reason", "looked at both grids").document
    assert set(answer) >= {"request_id", "status", "model_version", "audit_records"}
    assert (answer["status"], answer["model_version"]) == ("completed", waiting[1]["candidate_version"])
    assert champion(ws).composition == champion(forgotten.ws).composition  # type: ignore[union-attr]
    assert Path(answer["audit_records"][-1]).name == "000005-review.json"
    assert lethe(None, "verify", answer["audit_records"][-1], "--workspace", ws.root).document["records_in_chain"] == 5
    run = tracking.client(ws).get_run(answer["mlflow_run_id"])
    assert run.data.tags["verdict"] == "accepted"
    assert lethe(ws, "status", request_id).document["requests"][0]["status"] == "completed"
    again = lethe(ws, "review", request_id, "--accept", "--reason", "again")
    assert (again.code, again.err) == (1, f"lethe: {request_id}: waits for no review; its status is completed\n")


def test_rejecting_keeps_what_serves(waiting: tuple[Workspace, dict[str, object]], tmp_path: Path) -> None:
    ws = copy_workspace(waiting[0], tmp_path / "ws")
    request_id = str(waiting[1]["request_id"])
    answer = lethe(ws, "review", request_id, "--reject", "--reason", "too coarse").document
    assert (answer["status"], answer["model_version"]) == ("rejected", waiting[1]["stopped_version"])
    assert champion(ws).version == waiting[1]["stopped_version"]  # type: ignore[union-attr]
    assert lethe(None, "verify", answer["audit_records"][-1]).document["valid"] is True
    assert lethe(ws, "review", request_id, "--accept", "--reason", "after all").code == 1
    # The data is gone either way, so building again gives the clean model.
    set_parameters(ws, margin=5.0)
    lethe(ws, "build")
    assert champion(ws).version > answer["model_version"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_accepting_later_undoes_nothing_that_came_since(waiting: tuple[Workspace, dict[str, object]], tmp_path: Path) -> None:
    ws = copy_workspace(waiting[0], tmp_path / "ws")
    set_parameters(ws, margin=5.0)
    other = owners_of(1, 1)[0]
    since = lethe(ws, "submit", signed_request(ws, tmp_path, owner_ids=[other.owner_id])).document
    between = {expert.shard: expert.adapter for expert in parse_composition(composition_of(ws, since["model_version"])).experts}
    ran = lethe(ws, "review", str(waiting[1]["request_id"]), "--accept", "--reason", "late")
    assert ran.code == 0, ran.err
    after = {expert.shard: expert.adapter for expert in parse_composition(composition_of(ws, ran.document["model_version"])).experts}
    assert set(after) == {0, 1, 2}
    assert after[1] == between[1]
    assert after[0] != between[0]
    assert files_holding(ws.root, [*other.sample_ids]) == {}


@pytest.mark.slow
def test_what_the_data_no_longer_makes_cannot_be_accepted(waiting: tuple[Workspace, dict[str, object]], tmp_path: Path) -> None:
    ws, request_id = copy_workspace(waiting[0], tmp_path / "ws"), str(waiting[1]["request_id"])
    set_parameters(ws, margin=5.0)
    since = lethe(ws, "submit", signed_request(ws, tmp_path, owner_ids=[owners_of(0, 1)[1].owner_id])).document
    assert since["status"] == "completed"
    ran = lethe(ws, "review", request_id, "--accept", "--reason", "late")
    assert (ran.code, ran.err) == (1, f"lethe: {request_id}: shard 0 has changed since; reject what waits, then run: lethe build\n")
    answer = lethe(ws, "review", request_id, "--reject", "--reason", "overtaken").document
    assert (answer["status"], answer["model_version"]) == ("rejected", since["model_version"])


def test_what_waits_for_no_review_is_refused(forgotten: Forgotten, tmp_path: Path) -> None:
    ws, request_id = copy_workspace(forgotten.ws, tmp_path / "ws"), forgotten.request.stem
    assert lethe(ws, "review", request_id, "--accept", "--reason", "x").err == (
        f"lethe: {request_id}: waits for no review; its status is completed\n"
    )
    assert lethe(ws, "review", "r-0", "--reject", "--reason", "x").err == "lethe: r-0: no such request\n"
    assert lethe(ws, "review", request_id, "--accept", "--reason", " ").err == "lethe: reason: must not be empty\n"
