"""`lethe build` and what it leaves; building again from less."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from built_workspace import Built, copy_workspace, generate_cells
from tiny_workspace import OWNERS, lethe, make_workspace, owners_of, set_parameters
from workspace_snapshot import read_adapters

from cdm_core.digests import sha256_digest
from tasks.data.data_versions import is_up_to_date
from tasks.models.model_registry import champion
from tasks.workspace import Workspace


def test_the_answer_tells_what_was_made(built: Built) -> None:
    answer = built.answer
    assert set(answer) >= {"model_version", "composition", "shards", "gate", "audit_record", "seconds"}
    assert [shard["shard"] for shard in answer["shards"]] == [0, 1, 2]
    for shard in answer["shards"]:
        assert shard["samples"] == sum(len(owner.pictures) for owner in owners_of(shard["shard"]))
        assert shard["steps"] == shard["steps_full"] > 0
        assert shard["loss_adapter"] != shard["loss_backbone"]
        assert shard["adapter"] == sha256_digest(read_adapters(built.ws)[shard["shard"]])
    serving = champion(built.ws)
    assert serving is not None
    assert (serving.version, serving.composition) == (answer["model_version"], answer["composition"])
    assert answer["gate"]["verdict"] == "pass"
    assert lethe(None, "verify", answer["audit_record"]).document["artifacts_matching"] == 6


def test_data_and_adapters_are_as_dvc_names_them(built: Built) -> None:
    assert is_up_to_date(built.ws)


@pytest.mark.slow
def test_all_but_keys_and_ledger_can_be_deleted_and_is_built_again(copied: Workspace, built: Built, tmp_path: Path) -> None:
    for path in copied.private.iterdir():
        if path not in (copied.keys, copied.ledger):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copied.adapter(0).parent)
    answer = lethe(copied, "build").document
    assert answer["composition"] == built.answer["composition"]
    assert generate_cells(copied, tmp_path / "after.png") == generate_cells(built.ws, tmp_path / "before.png")
    assert is_up_to_date(copied)
    assert lethe(None, "verify", answer["audit_record"]).document["valid"] is True
    assert champion(copied).composition == answer["composition"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_an_earlier_model_can_be_built_again(copied: Workspace, built: Built) -> None:
    """There and back and there: each time what was asked for serves, with a record of its own."""
    records = []
    for steps in (3, 2, 3, 3):
        set_parameters(copied, steps=steps)
        answer = lethe(copied, "build").document
        assert champion(copied).composition == answer["composition"]  # type: ignore[union-attr]
        assert (answer["composition"] == built.answer["composition"]) == (steps == 2)
        assert lethe(None, "verify", answer["audit_record"]).document["valid"] is True
        records.append(Path(answer["audit_record"]).name)
    assert records == [f"00000{number}-build.json" for number in (2, 3, 4, 4)]


def test_building_again_trains_nothing_and_changes_no_adapter(copied: Workspace, built: Built) -> None:
    before = read_adapters(copied)
    answer = lethe(copied, "build").document
    assert [shard["steps"] for shard in answer["shards"]] == [0, 0, 0]
    assert answer["composition"] == built.answer["composition"]
    assert read_adapters(copied) == before


@pytest.mark.slow
def test_a_moved_workspace_uses_nothing_of_the_old_place(copied: Workspace, built: Built, tmp_path: Path) -> None:
    first = copy_workspace(copied, tmp_path / "first")
    before = generate_cells(first, tmp_path / "before.png")
    (tmp_path / "second").mkdir()
    first.root.rename(tmp_path / "second" / "ws")
    moved = Workspace(tmp_path / "second" / "ws")
    assert generate_cells(moved, tmp_path / "after.png") == before
    assert lethe(moved, "build").document["composition"] == built.answer["composition"]
    assert not first.root.exists()
    with closing(sqlite3.connect(moved.mlflow / "mlflow.db")) as database:
        assert not [line for line in database.iterdump() if str(first.root) in line or str(built.ws.root) in line]


def test_without_a_sample_there_is_nothing_to_build(tmp_path: Path) -> None:
    ran = lethe(make_workspace(tmp_path / "ws", without=OWNERS), "build")
    assert ran.code == 1
    assert "there is no sample to build from" in ran.err
    assert ran.out == ""


@pytest.mark.slow
def test_init_renders_openmoji(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    document = lethe(None, "init", directory, "--shards", "2", "--stages", "3").document
    assert set(document) >= {"workspace", "samples", "owners", "shards", "dvc_revision"}
    assert document["owners"] == 121
    assert document["workspace"] == str(directory)
    assert [set(shard) >= {"shard", "samples", "owners"} for shard in document["shards"]] == [True, True]
    assert sum(shard["samples"] for shard in document["shards"]) == document["samples"] > 4000
    assert sum(shard["owners"] for shard in document["shards"]) == 121
    again = lethe(None, "init", directory)
    assert (again.code, again.err) == (1, f"lethe: {directory}: is a workspace already\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    full = lethe(None, "init", tmp_path / "used")
    assert full.code == 1
    assert "is not empty, notes.txt is there; give a new folder" in full.err
