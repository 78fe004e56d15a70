"""The learn flow: one owner's new pictures, one shard retrained."""

import shutil
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import DOMAIN, draw_picture, lethe, set_parameters, signed_request
from workspace_snapshot import event_kinds, files_holding, read_adapters, tree_digests

from cdm_core.composition.document import parse_composition
from cdm_core.digests import sha256_digest
from tasks.data.data_versions import is_up_to_date
from tasks.data.manifest_store import load_manifest
from tasks.ledger.store import Ledger
from tasks.models import tracking
from tasks.models.model_registry import champion, composition_of
from tasks.workspace import Workspace

NEWCOMER = f"newcomer{DOMAIN}"


def _folder(path: Path, number: int, num: int = 3) -> Path:
    path.mkdir()
    for index in range(num):
        (path / f"blue-thing_{index}.png").write_bytes(draw_picture(number, index))
    (path / "captions.csv").write_text("file,caption\nblue-thing_0.png,the first one\n")
    return path


def test_a_new_owner_is_learnt(copied: Workspace, built: Built, tmp_path: Path) -> None:
    folder, before = _folder(tmp_path / "mine", 20), read_adapters(copied)
    answer = lethe(copied, "learn", folder, "--owner", NEWCOMER, "--tier", "1").document
    assert set(answer) >= {"shard", "samples", "model_version", "gate", "audit_records", "mlflow_run_id"}
    assert (answer["status"], answer["samples"], answer["stage"]) == ("completed", 3, 1)
    shard, after = answer["shard"], read_adapters(copied)
    assert {number for number in after if after[number] != before[number]} == {shard}
    serving = parse_composition(composition_of(copied, answer["model_version"]))
    assert champion(copied).version == answer["model_version"] == built.answer["model_version"] + 1  # type: ignore[union-attr]
    assert {expert.shard: expert.adapter for expert in serving.experts} == {
        number: sha256_digest(content) for number, content in after.items()
    }
    captions = load_manifest(copied, shard).set_index("sample_id").loc[sha256_digest(draw_picture(20, 0)), "caption"]
    assert captions == "the first one"
    assert "blue thing 1" in set(load_manifest(copied, shard)["caption"])
    assert is_up_to_date(copied)
    assert [lethe(None, "verify", path).document["valid"] for path in answer["audit_records"]] == [True]
    tags = tracking.client(copied).get_run(answer["mlflow_run_id"]).data.tags
    assert tags["kind"] == "learn"
    assert "3 samples added" in tags["mlflow.note.content"]
    assert event_kinds(copied, answer["request_id"]) == ["planned", "stored", "promotion_prepared", "promotion_committed", "decided"]
    assert files_holding(copied.root, [DOMAIN]) == {}

    events = len(Ledger(copied).events())
    assert lethe(copied, "learn", folder, "--owner", NEWCOMER, "--tier", "1").document == answer
    assert len(Ledger(copied).events()) == events
    assert lethe(copied, "build").document["composition"] == serving.digest


def test_what_was_forgotten_does_not_come_back(forgotten: Forgotten, tmp_path: Path) -> None:
    ws = copy_workspace(forgotten.ws, tmp_path / "ws")
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "old.png").write_bytes(forgotten.owner.pictures[0].png)
    (folder / "new.png").write_bytes(draw_picture(21, 0))
    before = tree_digests(ws.root)
    ran = lethe(ws, "learn", folder, "--owner", "somebody else")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "lethe: 1 of 2 pictures were erased on request and may not come back\n"
    assert tree_digests(ws.root) == before


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("", ("--tier", "2"), "tier 2 is not between 0 and 1"),
        ("", ("--tier", "-1"), "tier -1 is not between 0 and 1"),
        ("", ("--tier", "cold"), "tier: must be one of contract, opt-in, opt-out, contested, or a stage's number from 0 to 1"),
        ("torn", (), "blue-thing_1.png: not a readable PNG or JPEG picture"),
        ("captions", (), "captions.csv: line 2: no such picture in the folder"),
        ("empty", (), "no PNG or JPEG file in it"),
        ("missing", (), "no such folder"),
    ],
)
def test_what_cannot_be_learnt_is_told_in_one_line_and_changes_nothing(
    built: Built, tmp_path: Path, change: str, options: tuple[str, ...], message: str
) -> None:
    folder = _folder(tmp_path / "mine", 20, 0 if change == "empty" else 3)
    if change == "torn":
        (folder / "blue-thing_1.png").write_bytes(draw_picture(20, 1)[:90])
    if change == "captions":
        (folder / "captions.csv").write_text("file,caption\nother.png,x\n")
    before = tree_digests(built.ws.root)
    ran = lethe(built.ws, "learn", folder / "gone" if change == "missing" else folder, "--owner", NEWCOMER, *options)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert message in ran.err
    assert DOMAIN not in ran.err
    assert tree_digests(built.ws.root) == before


def test_a_gate_that_does_not_pass_asks_a_person(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, margin=1e-9)
    answer = lethe(copied, "learn", _folder(tmp_path / "mine", 20), "--owner", NEWCOMER).document
    assert answer["status"] == "needs_review"
    assert champion(copied).version == answer["model_version"] == 1  # type: ignore[union-attr]
    reviewed = lethe(copied, "review", answer["request_id"], "--accept", "--reason", "fine").document
    assert (reviewed["status"], reviewed["model_version"]) == ("completed", answer["candidate_version"])
    assert champion(copied).version == answer["candidate_version"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_learnt_owner_can_be_forgotten_again(copied: Workspace, built: Built, tmp_path: Path) -> None:
    learnt = lethe(copied, "learn", _folder(tmp_path / "mine", 20), "--owner", NEWCOMER, "--tier", "contested").document
    assert (learnt["model_version"], learnt["stage"]) == (2, 1)
    answer = lethe(copied, "submit", signed_request(copied, tmp_path, owner_ids=[NEWCOMER])).document
    assert answer["status"] == "completed"
    assert champion(copied).composition == built.answer["composition"]  # type: ignore[union-attr]
    assert files_holding(copied.root, [*(sha256_digest(draw_picture(20, index)) for index in range(3)), DOMAIN]) == {}


@pytest.mark.slow
def test_without_the_cache_nothing_is_begun(copied: Workspace, tmp_path: Path) -> None:
    shutil.rmtree(copied.dvc_cache)
    ran = lethe(copied, "learn", _folder(tmp_path / "mine", 20), "--owner", NEWCOMER)
    assert ran.code == 1
    assert "packs or manifests are missing in the DVC cache; put them there with: lethe build" in ran.err
    assert lethe(copied, "build").code == 0
    assert lethe(copied, "learn", tmp_path / "mine", "--owner", NEWCOMER).document["status"] == "completed"
