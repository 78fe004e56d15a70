"""Weights, pictures and versions of a tainted adapter are gone, and nothing else is."""

import sqlite3
from pathlib import Path

import pytest
from composition_maker import CompositionMaker
from PIL import Image

import tasks.deletion.mlflow_erasure
from cdm_core.digests import sha256_digest
from cdm_core.errors import StateError, VerificationError
from tasks.deletion.mlflow_erasure import erase_versions, verify_erased
from tasks.evidence.audit_log import Picture, log_audit, open_run
from tasks.models import tracking
from tasks.models.model_registry import CHAMPION, composition_of
from tasks.workspace import Workspace


@pytest.fixture
def forgotten(maker: CompositionMaker) -> CompositionMaker:
    """Version 1 holds "tainted" and "kept"; 2 the stopped and 3 the retrained composition, which is the champion. One run shows 1 and 3."""
    maker.register("tainted", "kept", step_key="build")
    maker.register("stopped", "kept", step_key="stop", purpose="stop")
    maker.register("clean", "kept", step_key="forget", purpose="forget")
    _promote(maker, 3)
    picture = maker.ws.root / "grid.png"
    Image.new("RGB", (4, 4), "red").save(picture)
    drawn_by = {"before": maker.composition("tainted", "kept").digest, "after": maker.composition("clean", "kept").digest}
    log_audit(
        maker.ws,
        open_run(maker.ws, name="forget", step_key="forget", tags={}),
        note="the note",
        model_version=3,
        tags={},
        metrics_before={"frechet_distance": 400.0},
        metrics_after={"frechet_distance": 410.0},
        pictures={name: Picture(path=picture, composition=digest) for name, digest in drawn_by.items()},
        records=[],
    )
    return maker


def _promote(maker: CompositionMaker, version: int) -> None:
    tracking.client(maker.ws).set_registered_model_alias(tracking.MODEL, CHAMPION, str(version))


def _versions(ws: Workspace) -> list[int]:
    return sorted(int(version.version) for version in tracking.client(ws).search_model_versions(f"name = '{tracking.MODEL}'"))


def _contents(ws: Workspace) -> set[bytes]:
    return {path.read_bytes() for path in ws.mlflow.rglob("*") if path.is_file() and path.name != "mlflow.db"}


def _rows(ws: Workspace, table: str, column: str) -> set[str]:
    with sqlite3.connect(ws.mlflow / "mlflow.db") as connection:
        return {str(value) for (value,) in connection.execute(f"SELECT {column} FROM {table}")}


def test_the_tainted_version_goes_and_the_others_stay(forgotten: CompositionMaker) -> None:
    ws, tainted = forgotten.ws, {forgotten.adapter("tainted")}
    store = tracking.client(ws)
    gone = store.get_model_version(tracking.MODEL, "1").tags["logged_model"]
    assert b"tainted" in _contents(ws)
    counts = erase_versions(ws, keep_versions={3}, tainted=tainted)
    num_model_files = 10
    assert counts == {"mlflow_versions": 1, "mlflow_logged_models": 1, "mlflow_artifacts": num_model_files + 1}
    assert _versions(ws) == [2, 3]
    assert b"tainted" not in _contents(ws)
    assert {b"stopped", b"clean", b"kept"} <= _contents(ws)
    assert composition_of(ws, 3) == forgotten.composition("clean", "kept").to_bytes()
    for table in ("logged_models", "logged_model_tags"):
        assert gone not in _rows(ws, table, "model_id")
        assert len(_rows(ws, table, "model_id")) == 2


def test_no_run_points_to_an_erased_model(forgotten: CompositionMaker) -> None:
    store = tracking.client(forgotten.ws)
    runs = [store.get_model_version(tracking.MODEL, version).run_id for version in ("1", "2")]
    erase_versions(forgotten.ws, keep_versions=(), tainted={forgotten.adapter("tainted")})
    outputs = [store.get_run(run_id).outputs for run_id in runs]
    assert [len(output.model_outputs) if output else 0 for output in outputs] == [0, 1]


def test_the_pictures_of_the_tainted_model_go_and_the_run_stays(forgotten: CompositionMaker) -> None:
    ws = forgotten.ws
    erase_versions(ws, keep_versions={3}, tainted={forgotten.adapter("tainted")})
    run_id = open_run(ws, name="forget", step_key="forget", tags={})
    run = tracking.client(ws).get_run(run_id)
    assert run.data.tags["picture/before"] == "erased"
    assert run.data.tags["picture/after"] == forgotten.composition("clean", "kept").digest
    assert run.data.metrics["before/frechet_distance"] == 400.0
    pictures = ws.mlflow / "artifacts" / run_id / "artifacts" / "pictures"
    assert [path.name for path in pictures.iterdir()] == ["after"]


def test_erasing_again_finds_nothing(forgotten: CompositionMaker) -> None:
    tainted = {forgotten.adapter("tainted")}
    erase_versions(forgotten.ws, keep_versions=(), tainted=tainted)
    assert set(erase_versions(forgotten.ws, keep_versions=(), tainted=tainted).values()) == {0}


@pytest.mark.parametrize("step", ["_erase_pictures", "_erase_loose_adapters", "_erase_rows", "_erase_folder"])
def test_an_erasure_that_was_cut_short_is_finished(step: str, forgotten: CompositionMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(tasks.deletion.mlflow_erasure, step)

    def dying(*arguments: object) -> None:
        original(*arguments)
        raise ConnectionAbortedError

    tainted = {forgotten.adapter("tainted")}
    with monkeypatch.context() as patch:
        patch.setattr(tasks.deletion.mlflow_erasure, step, dying)
        with pytest.raises(ConnectionAbortedError):
            erase_versions(forgotten.ws, keep_versions=(), tainted=tainted)
    erase_versions(forgotten.ws, keep_versions=(), tainted=tainted)
    test_erasing_again_finds_nothing(forgotten)
    assert _versions(forgotten.ws) == [2, 3]
    assert len(_rows(forgotten.ws, "logged_models", "model_id")) == 2
    assert len(list((forgotten.ws.mlflow / "artifacts" / "models").iterdir())) == 2


def test_a_model_that_someone_hid_is_erased_too(forgotten: CompositionMaker) -> None:
    store = tracking.client(forgotten.ws)
    hidden = store.get_model_version(tracking.MODEL, "1").tags["logged_model"]
    store.delete_logged_model(hidden)
    store.delete_model_version(tracking.MODEL, "1")
    erase_versions(forgotten.ws, keep_versions=(), tainted={forgotten.adapter("tainted")})
    assert hidden not in _rows(forgotten.ws, "logged_models", "model_id")
    assert b"tainted" not in _contents(forgotten.ws)


def test_what_a_crash_left_staged_and_what_lies_in_a_run_goes(forgotten: CompositionMaker) -> None:
    ws = forgotten.ws
    staged = ws.mlflow / "staging-x" / "copy.bin"
    staged.parent.mkdir()
    staged.write_bytes(b"tainted")
    run_id = open_run(ws, name="forget", step_key="forget", tags={})
    tracking.client(ws).log_artifact(run_id, str(forgotten.paths[forgotten.adapter("tainted")]), "adapters")
    counts = erase_versions(ws, keep_versions=(), tainted={forgotten.adapter("tainted")})
    assert counts["mlflow_artifacts"] == 10 + 1 + 2
    assert b"tainted" not in _contents(ws)


def test_a_shared_adapter_takes_every_version_that_names_it(forgotten: CompositionMaker) -> None:
    forgotten.register("clean", "new", step_key="learn")
    _promote(forgotten, 4)
    assert erase_versions(forgotten.ws, keep_versions=(), tainted={forgotten.adapter("kept")})["mlflow_versions"] == 3
    assert _versions(forgotten.ws) == [4]


def test_the_champion_is_never_erased(forgotten: CompositionMaker) -> None:
    before = _contents(forgotten.ws)
    _promote(forgotten, 1)
    with pytest.raises(
        StateError, match="model version 1 is the champion and contains an adapter to be erased; promote a clean version first"
    ):
        erase_versions(forgotten.ws, keep_versions=(), tainted={forgotten.adapter("tainted")})
    assert _contents(forgotten.ws) == before
    assert _versions(forgotten.ws) == [1, 2, 3]


def test_a_version_to_keep_is_never_erased(forgotten: CompositionMaker) -> None:
    with pytest.raises(StateError, match="model version 2 is to be kept and contains an adapter to be erased"):
        erase_versions(forgotten.ws, keep_versions={2}, tainted={forgotten.adapter("stopped")})
    assert _versions(forgotten.ws) == [1, 2, 3]


def test_what_is_left_is_found(forgotten: CompositionMaker, tmp_path: Path) -> None:
    verify_erased(forgotten.ws, {sha256_digest(b"never seen")})
    with pytest.raises(VerificationError, match=r"shard-0\.safetensors: an erased adapter is still in the MLflow store"):
        verify_erased(forgotten.ws, {forgotten.adapter("tainted")})
    with pytest.raises(VerificationError, match="a composition in the MLflow store still names an erased adapter"):
        verify_erased(forgotten.ws, {forgotten.adapter("centroids of tainted")})


def test_what_a_crash_left_half_written_goes_though_no_digest_tells_what_it_was(forgotten: CompositionMaker) -> None:
    ws, store = forgotten.ws, tracking.client(forgotten.ws)
    staged = ws.mlflow / "staging-x" / "model" / "artifacts" / "adapters" / "shard-0.safetensors"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"taint")
    pending = store.create_logged_model(tracking.experiment_id(store), "lethe-stop", tags={"step_key": "cut short"}).model_id
    rest = ws.mlflow / "artifacts" / "models" / "m-of-no-row" / "artifacts" / "shard-1.safetensors"
    for path in (ws.mlflow / "artifacts" / "models" / pending / "artifacts" / "shard-0.safetensors", rest):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"taint")
    counts = erase_versions(ws, keep_versions={3}, tainted={sha256_digest(b"never seen")})
    assert counts == {"mlflow_versions": 0, "mlflow_logged_models": 2, "mlflow_artifacts": 3}
    assert b"taint" not in _contents(ws)
    assert not (ws.mlflow / "staging-x").exists()
    assert pending not in _rows(ws, "logged_models", "model_id")
    assert _versions(ws) == [1, 2, 3]


def test_a_half_written_model_costs_no_picture_of_the_same_composition(forgotten: CompositionMaker) -> None:
    """A step that was cut short may have been to register what another step has registered."""
    ws, store = forgotten.ws, tracking.client(forgotten.ws)
    pending = store.create_logged_model(tracking.experiment_id(store), "lethe-forget", tags={"step_key": "cut short"}).model_id
    path = ws.mlflow / "artifacts" / "models" / pending / "artifacts" / "artifacts" / "composition.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(forgotten.composition("clean", "kept").to_bytes())
    erase_versions(ws, keep_versions={3}, tainted={sha256_digest(b"never seen")})
    run = store.get_run(open_run(ws, name="forget", step_key="forget", tags={}))
    assert not path.exists()
    assert run.data.tags["picture/after"] == forgotten.composition("clean", "kept").digest


def test_half_written_files_that_stay_are_found(forgotten: CompositionMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    (forgotten.ws.mlflow / "staging-x").mkdir()
    monkeypatch.setattr(tasks.deletion.mlflow_erasure, "_erase_folder", lambda folder: 0)
    with pytest.raises(VerificationError, match="staging-x: what a crash left half written is still in the MLflow store"):
        erase_versions(forgotten.ws, keep_versions={3}, tainted=())
