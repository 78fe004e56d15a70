"""The forget flow end to end: the owner is stopped from being served at once, forgotten bit for bit, and found nowhere afterwards."""

import base64
import json
from pathlib import Path

import pandas as pd
import pytest
from built_workspace import Built, Forgotten, copy_workspace, generate_cells
from jsonschema import Draft202012Validator
from tiny_workspace import DOMAIN, OWNERS, lethe, make_workspace, owners_of, signed_request
from workspace_snapshot import event_kinds, files_holding, files_with_digest, read_adapters, tree_digests

from cdm_core.composition.document import parse_composition
from cdm_core.digests import sha256_digest
from cdm_core.evidence.audit_record import SCHEMA_PATH
from tasks.data.data_versions import is_up_to_date
from tasks.data.manifest_store import load_manifest
from tasks.ledger.store import Ledger
from tasks.models import tracking
from tasks.models.compositions import load_composition
from tasks.models.model_registry import champion, composition_of
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import plan_chain


def test_the_answer_has_what_was_promised(forgotten: Forgotten) -> None:
    answer = forgotten.answer
    assert answer["status"] == "completed"
    assert answer["request_id"] == forgotten.request.stem
    assert 0 < answer["stop_seconds"] < answer["total_seconds"]
    assert answer["stopped_version"] < answer["model_version"]
    assert set(answer["gate"]) >= {"verdict", "fd_before", "fd_after"}
    assert answer["purged"]["dvc_cache"] == answer["purged"]["dvc_remote"] > 0
    for store in ("checkpoints", "compositions", "generated_pictures", "mlflow_versions", "mlflow_logged_models", "mlflow_artifacts"):
        assert answer["purged"][store] > 0, store
    serving = champion(forgotten.ws)
    assert serving is not None
    assert serving.version == answer["model_version"]


def test_the_plan_foretold_it(forgotten: Forgotten) -> None:
    plan = forgotten.plan
    assert plan["owners"] == [forgotten.owner.key]
    assert plan["samples"] == len(forgotten.owner.pictures)
    (shard,) = plan["shards"]
    assert (shard["shard"], shard["first_tainted_stage"]) == (0, 1)
    assert 0 < plan["steps"] == shard["steps"] < plan["steps_full_build"]
    assert plan["request_digest"] == sha256_digest(forgotten.request.read_bytes())


def test_serving_was_stopped_before_anything_was_retrained(forgotten: Forgotten) -> None:
    kinds = event_kinds(forgotten.ws, forgotten.request.stem)
    assert kinds.index("purged") - kinds.index("decided") - 1 == kinds.count("erased") > 0
    assert [kind for kind in kinds if kind != "erased"] == [
        "received",
        "planned",
        "promotion_prepared",
        "promotion_committed",
        "stopped",
        "training",
        "removed",
        "retrained",
        "promotion_prepared",
        "promotion_committed",
        "decided",
        "purged",
        "closed",
    ]
    assert Ledger(forgotten.ws).verify()


def test_what_served_meanwhile_was_composed_of_checkpoints_that_never_saw_the_owner(forgotten: Forgotten, built: Built) -> None:
    composition = parse_composition(composition_of(forgotten.ws, forgotten.answer["stopped_version"]))
    store = CheckpointStore(built.ws.checkpoints)
    of_first_stage = plan_chain(load_manifest(built.ws, 0), 0, built.ws.settings())[0]
    stopped = {expert.shard: expert for expert in composition.experts}
    assert stopped[0].adapter == store.digest(of_first_stage)
    assert stopped[0].samples == sum(len(owner.pictures) for owner in owners_of(0, 0))
    for shard in (1, 2):
        assert stopped[shard].adapter == sha256_digest(forgotten.adapters_before[shard])


def test_the_result_is_what_a_workspace_builds_that_never_had_the_owner(forgotten: Forgotten, built: Built, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "ws", without=[forgotten.owner])
    answer = lethe(other, "build").document
    assert read_adapters(other) == read_adapters(forgotten.ws)
    served = load_composition(forgotten.ws, champion(forgotten.ws).composition)  # type: ignore[union-attr]
    assert answer["composition"] == served.digest != built.answer["composition"]
    assert generate_cells(other, tmp_path / "other.png") == generate_cells(forgotten.ws, tmp_path / "ours.png")


def test_untouched_shards_keep_their_bytes_and_their_pictures(forgotten: Forgotten, tmp_path: Path) -> None:
    after = read_adapters(forgotten.ws)
    assert [after[shard] == forgotten.adapters_before[shard] for shard in (0, 1, 2)] == [False, True, True]
    pictures = generate_cells(forgotten.ws, tmp_path / "after.png")
    compared = [shard for shard, _ in forgotten.pictures_before if shard != 0]
    assert set(compared) == {1, 2}
    for (shard_before, before), (shard_after, made) in zip(forgotten.pictures_before, pictures, strict=True):
        if shard_before != 0:
            assert (shard_after, made) == (shard_before, before)
    hit = [
        (before, made) for (shard, before), (other, made) in zip(forgotten.pictures_before, pictures, strict=True) if shard == other == 0
    ]
    assert hit
    assert all(before != made for before, made in hit)


def test_every_record_holds(forgotten: Forgotten) -> None:
    kinds = []
    for number, path in enumerate(forgotten.answer["audit_records"], start=2):
        verified = lethe(None, "verify", path).document
        assert verified["valid"] is True
        assert verified["records_in_chain"] == number
        kinds.append(Path(path).stem.partition("-")[2])
    assert kinds == ["stop", "decision", "closing"]


def test_every_record_fits_the_schema_and_states_what_is_known(forgotten: Forgotten) -> None:
    stated: dict[str, set[str]] = {}
    for path in sorted(forgotten.ws.records.glob("*.json")):
        payload = base64.b64decode(json.loads(path.read_bytes())["payload"])
        Draft202012Validator(json.loads(SCHEMA_PATH.read_bytes())).validate(json.loads(payload))
        predicate = json.loads(payload)["predicate"]
        stated[path.stem.partition("-")[2]] = {name for name, value in predicate.items() if value is not None}
    request = {"request_digest", "affected_shards", "dvc_revision_before", "manifests_before", "code", "environment", "hardware", "seed"}
    for kind in ("stop", "decision", "closing"):
        assert request - stated[kind] == set(), kind
    assert {"request_format", "issuer_key", "identity", "regulation", "clean_checkpoints", "why_clean"} <= stated["stop"] & stated[
        "decision"
    ]
    assert {"adapters_replaced", "untouched_shards", "frechet_distance", "promotion", "manifests_after"} <= stated["decision"]
    assert {"purged", "kept", "suppression_commitment", "manifests_after"} <= stated["closing"]


def test_a_receipt_of_a_forgotten_owner(forgotten: Forgotten, tmp_path: Path) -> None:
    ws = copy_workspace(forgotten.ws, tmp_path / "ws")
    made = lethe(ws, "receipt", forgotten.request.stem, "--out", tmp_path / "receipt.json").document
    lethe(ws, "keys", "export", "--out", tmp_path / "keys.json")
    document = lethe(None, "verify", tmp_path / "receipt.json", "--trust", tmp_path / "keys.json").document
    assert document["grade"] == made["grade"] == "executed, logged"
    assert document["request_id"] == forgotten.request.stem
    assert lethe(None, "verify", ws.ledger / "ledger.sqlite").document["records"] == len(list(ws.records.glob("*.json")))


def test_the_run_shows_a_reviewer_everything(forgotten: Forgotten) -> None:
    store = tracking.client(forgotten.ws)
    run = store.get_run(forgotten.answer["mlflow_run_id"])
    tags = run.data.tags
    assert tags["kind"] == "forget"
    assert tags["verdict"] == "pass"
    note = tags["mlflow.note.content"]
    assert f"{len(forgotten.owner.pictures)} samples removed" in note
    assert "| Hit | shard 0 |" in note
    assert "shards 1, 2, byte for byte" in note
    assert run.data.metrics.keys() >= {"before/frechet_distance", "after/frechet_distance", "frechet_distance"}
    assert run.data.metrics["after/frechet_distance"] == pytest.approx(forgotten.answer["gate"]["fd_after"])
    assert run.info.status == "FINISHED"
    files = {
        str(path.relative_to(forgotten.ws.mlflow / "artifacts" / run.info.run_id / "artifacts"))
        for path in (forgotten.ws.mlflow / "artifacts" / run.info.run_id).rglob("*")
        if path.is_file()
    }
    records = {f"records/{Path(path).name}" for path in forgotten.answer["audit_records"]}
    assert files == {"pictures/before/before.png", "pictures/after/after.png", "charts/frechet_distance.png", *records}
    for path in forgotten.answer["audit_records"]:
        kept = forgotten.ws.mlflow / "artifacts" / run.info.run_id / "artifacts" / "records" / Path(path).name
        assert kept.read_bytes() == Path(path).read_bytes()


def test_a_decision_was_logged_before_the_alias_moved(forgotten: Forgotten) -> None:
    """By the time at which the file system last changed the logged copy, which copying can't set back."""
    prepared = [event.at.timestamp() for event in Ledger(forgotten.ws).events(request_id=forgotten.request.stem, kind="promotion_prepared")]
    run = forgotten.ws.mlflow / "artifacts" / forgotten.answer["mlflow_run_id"] / "artifacts" / "records"
    for path, moved in zip(forgotten.answer["audit_records"][:2], prepared, strict=True):
        assert (run / Path(path).name).stat().st_ctime < moved


def test_nothing_of_the_owner_is_left_in_any_file(forgotten: Forgotten, built: Built) -> None:
    pictures = [picture.png for picture in forgotten.owner.pictures]
    gone = [*forgotten.owner.sample_ids, *pictures, f"{forgotten.owner.key}.tar", forgotten.owner.owner_id]
    # It is found where it was, or the search would find nothing anywhere.
    before = files_holding(built.ws.root, gone)
    assert {hit for hits in before.values() for hit in hits} >= {*forgotten.owner.sample_ids, f"{forgotten.owner.key}.tar"}
    assert files_holding(forgotten.ws.root, gone) == {}


def test_no_tainted_adapter_is_left_in_any_file(forgotten: Forgotten, built: Built) -> None:
    tainted = sha256_digest(forgotten.adapters_before[0])
    assert len(files_with_digest(built.ws.root, [tainted])) >= 4  # adapters, checkpoints, DVC's cache and remote, MLflow
    assert files_with_digest(forgotten.ws.root, [tainted]) == []
    # Its name stays where it is evidence, and in nothing that could be served.
    records = (".lethe/ledger/records/", ".lethe/mlflow/artifacts/")
    for name in files_holding(forgotten.ws.root, [tainted]):
        assert name.startswith(records) or name == ".lethe/ledger/ledger.sqlite", name
        assert "models/" not in name


def test_no_picture_that_a_tainted_adapter_drew_is_left(forgotten: Forgotten, built: Built) -> None:
    serving = parse_composition(composition_of(forgotten.ws, forgotten.answer["model_version"]))
    allowed = {serving.restricted_to([shard]).digest for shard in serving.shards}
    left = {path.stem for path in (forgotten.ws.cache / "generated").iterdir()}
    assert left == allowed
    run_id = built.answer["mlflow_run_id"]
    for ws, drawn in ((built.ws, ["after.png", "before.png"]), (forgotten.ws, [])):
        pictures = (ws.mlflow / "artifacts" / run_id / "artifacts" / "pictures").rglob("*.png")
        assert sorted(path.name for path in pictures) == drawn
    assert list((forgotten.ws.cache).rglob("grids/*")) == []


def test_what_is_left_is_what_dvc_names(forgotten: Forgotten) -> None:
    assert is_up_to_date(forgotten.ws)


def test_the_same_file_again_gives_the_first_answer_and_does_nothing(forgotten: Forgotten) -> None:
    before = tree_digests(forgotten.ws.root)
    assert lethe(forgotten.ws, "submit", forgotten.request).document == forgotten.answer
    assert tree_digests(forgotten.ws.root) == before


def test_status_lists_it(forgotten: Forgotten) -> None:
    (row,) = lethe(forgotten.ws, "status").document["requests"]
    assert row == lethe(forgotten.ws, "status", forgotten.request.stem).document["requests"][0]
    assert (row["request_id"], row["status"]) == (forgotten.request.stem, "completed")
    assert row["request_digest"] == sha256_digest(forgotten.request.read_bytes())
    ran = lethe(forgotten.ws, "status", "r-unknown")
    assert (ran.code, ran.err) == (1, "lethe: r-unknown: no such request\n")


def test_planning_changes_nothing(built: Built, tmp_path: Path) -> None:
    request = signed_request(built.ws, tmp_path, owner_ids=[OWNERS[1].owner_id])
    before = tree_digests(built.ws.root)
    document = lethe(built.ws, "plan", request).document
    assert set(document) >= {"request_digest", "owners", "samples", "shards", "steps", "steps_full_build"}
    assert set(document["shards"][0]) >= {"shard", "first_tainted_stage", "steps"}
    assert tree_digests(built.ws.root) == before


@pytest.mark.slow
def test_a_bulk_request_over_two_shards_may_empty_one(built: Built, tmp_path: Path) -> None:
    """A CSV that names one owner of shard 1's first stage, and every sample of shard 2."""
    ws, first = copy_workspace(built.ws, tmp_path / "ws"), owners_of(1, 0)[0]
    columns = {"request_id": "bulk-1", "issuer": "officer:penelope", "regulation": "ccpa", "submitted_at": "2026-01-01T00:00:00Z"}
    samples = [sample_id for owner in owners_of(2) for sample_id in owner.sample_ids]
    rows = [{**columns, "owner_id": first.owner_id, "sample_id": ""}]
    rows += [{**columns, "owner_id": "", "sample_id": sample_id} for sample_id in samples]
    request = tmp_path / "bulk.csv"
    pd.DataFrame(rows).to_csv(request, index=False)
    lethe(ws, "sign", request, "--issuer", "officer:penelope")
    answer = lethe(ws, "submit", request).document
    assert answer["status"] == "completed"

    stopped = parse_composition(composition_of(ws, answer["stopped_version"]))
    assert stopped.shards == (0,)  # neither has a checkpoint that never saw what is to go
    composition = parse_composition(composition_of(ws, answer["model_version"]))
    assert composition.shards == (0, 1)
    assert len(load_manifest(ws, 2)) == 0
    assert list(ws.packs(2).iterdir()) == []
    assert is_up_to_date(ws)
    erased = [png for owner in (first, *owners_of(2)) for png in (picture.png for picture in owner.pictures)]
    assert files_holding(ws.root, [*samples, *first.sample_ids, *erased]) == {}

    document = lethe(ws, "generate", "--num", "8", "--out", tmp_path / "grid.png").document
    assert {picture["shard"] for picture in document["per_image"]} <= {0, 1}
    ran = lethe(ws, "generate", "--num", "8", "--shards", "2", "--out", tmp_path / "grid.png")
    assert (ran.code, ran.err) == (1, "lethe: shard 2 is not in the composition; it has [0, 1]\n")
    assert lethe(ws, "build").document["composition"] == composition.digest


@pytest.mark.slow
def test_a_composition_without_a_shard_is_one_that_never_had_it(built: Built, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "ws", without=owners_of(2))
    answer = lethe(other, "build").document
    assert [shard["samples"] for shard in answer["shards"]][2] == 0
    ours = generate_cells(built.ws, tmp_path / "ours.png", "--shards", "0,1")
    assert ours == generate_cells(other, tmp_path / "theirs.png")
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()
    assert ours != generate_cells(built.ws, tmp_path / "all.png")


def test_names_are_kept_nowhere_but_with_the_keys(forgotten: Forgotten) -> None:
    assert DOMAIN in forgotten.request.read_text()
    assert files_holding(forgotten.ws.root, [DOMAIN]) == {}
    found = files_holding(forgotten.ws.root, ["penelope"])
    assert found == {}  # the key registry has it inside base64


def test_the_answer_is_one_json_document_without_a_name(forgotten: Forgotten) -> None:
    assert DOMAIN not in json.dumps(forgotten.answer)
