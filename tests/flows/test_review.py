"""A gate that doesn't pass: the data is forgotten all the same, the stopped composition serves, and a person decides."""

from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import lethe, owners_of, set_parameters, signed_request
from workspace_snapshot import event_kinds, files_holding

from cdm_core.composition.document import parse_composition
from flows.resume import finish_interrupted
from tasks.data.data_versions import is_up_to_date
from tasks.deletion import forgetting, purging
from tasks.evidence.records import load_records, read_predicate
from tasks.ledger.store import Ledger
from tasks.models import deciding, tracking
from tasks.models.model_registry import CHAMPION, champion, composition_of
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


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


def cut(*arguments: object, **named: object) -> None:
    raise PowerCut


def cut_short(ws: Workspace, place: tuple[object, str], *command: str | Path) -> None:
    """Run a command that is killed where it comes to a function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*place, cut)
        with pytest.raises(PowerCut):
            lethe(ws, *command)


@pytest.fixture
def undecided(waiting: tuple[Workspace, dict[str, object]], tmp_path: Path) -> tuple[Workspace, str]:
    """A workspace of the test's own in which a request waits for a review, and the request's id."""
    return copy_workspace(waiting[0], tmp_path / "ws"), str(waiting[1]["request_id"])


@pytest.mark.parametrize(
    "place", [(deciding, "log_review"), (deciding, "promote_version"), (Ledger, "set_status")], ids=lambda place: place[1]
)
def test_a_decision_that_was_cut_short_stands_and_the_same_command_finishes_it(
    undecided: tuple[Workspace, str], waiting: tuple[Workspace, dict[str, object]], place: tuple[object, str]
) -> None:
    ws, request_id = undecided
    cut_short(ws, place, "review", request_id, "--accept", "--reason", "fine")
    refused = lethe(ws, "review", request_id, "--reject", "--reason", "no")
    assert (refused.code, refused.err) == (
        1,
        f"lethe: {request_id}: was accepted, which was cut short; finish that with: lethe review --accept\n",
    )
    answer = lethe(ws, "review", request_id, "--accept", "--reason", "asked again").document
    assert (answer["status"], answer["model_version"]) == ("completed", waiting[1]["candidate_version"])
    assert champion(ws).version == answer["model_version"]  # type: ignore[union-attr]
    (reviewed,) = Ledger(ws).events(kind="reviewed", request_id=request_id)
    said = read_predicate(ws, str(reviewed.body["record"]))
    assert (said["decision"], said["reason"], Path(answer["audit_records"][-1]).name) == ("accepted", "fine", reviewed.body["record"])
    assert len(load_records(ws)) == 5


def test_a_decision_that_was_cut_short_is_finished_before_a_flow(undecided: tuple[Workspace, str]) -> None:
    ws, request_id = undecided
    cut_short(ws, (deciding, "promote_version"), "review", request_id, "--accept", "--reason", "fine")
    finish_interrupted(ws)
    row = lethe(ws, "status", request_id).document["requests"][0]
    assert (row["status"], row["model_version"]) == ("completed", champion(ws).version)  # type: ignore[union-attr]
    finish_interrupted(ws)
    assert len(Ledger(ws).events(kind="reviewed")) == 1


def test_a_decision_whose_promotion_can_no_longer_be_made_holds_no_flow_up(undecided: tuple[Workspace, str]) -> None:
    ws, request_id = undecided
    cut_short(ws, (deciding, "promote_version"), "review", request_id, "--accept", "--reason", "fine")
    tracking.client(ws).delete_registered_model_alias(tracking.MODEL, CHAMPION)
    finish_interrupted(ws)
    assert lethe(ws, "status", request_id).document["requests"][0]["status"] == "needs_review"


@pytest.mark.slow
def test_while_a_deletion_is_cut_short_nothing_else_is_decided(undecided: tuple[Workspace, str], tmp_path: Path) -> None:
    ws, request_id = undecided
    set_parameters(ws, margin=5.0)
    other = signed_request(ws, tmp_path, owner_ids=[owners_of(1, 1)[0].owner_id])
    cut_short(ws, (forgetting, "remove_samples"), "submit", other)
    refused = lethe(ws, "review", request_id, "--accept", "--reason", "fine")
    assert (refused.code, refused.err) == (
        1,
        f"lethe: request {other.stem}: was cut short and comes first; run the lethe submit or lethe learn that began it again\n",
    )
    assert lethe(ws, "submit", other).document["status"] == "completed"
    assert lethe(ws, "review", request_id, "--accept", "--reason", "fine").document["status"] == "completed"


@pytest.mark.slow
def test_what_waits_for_a_review_and_was_never_erased_is_erased_first(copied: Workspace, tmp_path: Path) -> None:
    """Cut short between the verdict and the purge: neither a review nor another flow takes it for done."""
    owner, other = owners_of(0, 1)[0], owners_of(1, 1)[0]
    set_parameters(copied, margin=1e-9)
    request = signed_request(copied, tmp_path, owner_ids=[owner.owner_id])
    cut_short(copied, (purging, "erase_objects"), "submit", request)
    assert lethe(copied, "review", request.stem, "--accept", "--reason", "fine").err == (
        f"lethe: request {request.stem}: was cut short and comes first; run the lethe submit or lethe learn that began it again\n"
    )
    lethe(copied, "submit", signed_request(copied, tmp_path, owner_ids=[other.owner_id]))
    assert files_holding(copied.root, [*owner.sample_ids, *(picture.png for picture in owner.pictures)]) == {}
    assert "closed" in event_kinds(copied, request.stem)


@pytest.mark.slow
def test_what_was_held_is_erased_though_the_hold_ended_before_the_review(copied: Workspace, tmp_path: Path) -> None:
    owner, hold = owners_of(0, 1)[0], ("--ground", "legal_claim", "--until", "2999-01-01")
    set_parameters(copied, margin=1e-9)
    hold_id = lethe(copied, "hold", "add", "--sample", owner.sample_ids[0], *hold).document["hold_id"]
    request = signed_request(copied, tmp_path, owner_ids=[owner.owner_id])
    assert lethe(copied, "submit", request).document["status"] == "needs_review"
    assert lethe(copied, "hold", "release", hold_id).document["requeued"] == []
    set_parameters(copied, margin=5.0)
    assert lethe(copied, "review", request.stem, "--accept", "--reason", "fine").document["status"] == "held"
    assert lethe(copied, "submit", request).document["status"] == "completed"
    assert files_holding(copied.root, [*owner.sample_ids, *(picture.png for picture in owner.pictures)]) == {}
