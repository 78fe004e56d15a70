"""`lethe replay`: a stranger's re-execution of a record, from a clone and the DVC remote, and what it says where one isn't possible."""

import hmac
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import DOMAIN, draw_picture, lethe, owners_of, signed_request
from workspace_snapshot import flip_byte, tree_digests

from cdm_core.digests import Digest, sha256_digest
from tasks.data.git import run_git
from tasks.evidence.records import append_record, read_record
from tasks.keys import load_record_keys
from tasks.workspace import Workspace

DECISION = "000003-decision.json"
Change = Callable[[dict[str, Any]], object]


def make_clone(ws: Workspace, folder: Path, *, with_remote: bool = True) -> Workspace:
    """A clone that is told where the remote is, since the tests' workspaces were moved after they were made."""
    run_git(folder, "clone", "--quiet", str(ws.root), "clone")
    clone = Workspace(folder / "clone")
    url = ws.dvc_remote if with_remote else folder / "nowhere"
    (clone.root / ".dvc" / "config.local").write_text(f"['remote \"local\"']\n    url = {url}\n")
    return clone


def sign_altered(ws: Workspace, name: str, change: Change) -> Path:
    """A record like that one, but for `change`: what an operator who holds the key might sign."""
    statement = read_record(ws.records / name).statement
    predicate = json.loads(json.dumps(statement.predicate))
    del predicate["previous_record"]
    change(predicate)
    subjects = {str(subject["name"]): Digest(subject["digest"]["sha256"]) for subject in statement.statement["subject"]}  # type: ignore
    return append_record(ws, "decision", subjects, predicate | {"step_key": "altered"})


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


@pytest.fixture
def forgot(forgotten: Forgotten, tmp_path: Path) -> Workspace:
    """A workspace that forgot, of the test's own."""
    return copy_workspace(forgotten.ws, tmp_path / "ws")


def test_a_clone_makes_every_digest_of_a_decision(forgotten: Forgotten, tmp_path: Path) -> None:
    clone = make_clone(forgotten.ws, tmp_path)
    before = tree_digests(clone.root, but=[".dvc", ".lethe"])
    record = forgotten.ws.records / DECISION
    document = lethe(None, "replay", record, "--workspace", str(clone.root)).document
    assert document["grade"] == "re-executed and equal"
    assert document["differing"] == document["missing_inputs"] == document["not_comparable"] == []
    assert document["compared"] == len(document["equal"])
    assert (document["shards"], document["shards_retrained"]) == ([0], [0])
    assert document["steps"] > 0
    how = {entry["name"]: entry["how"] for entry in document["equal"]}
    assert how == {
        **{f"adapters.{shard}": "retrained" if shard == 0 else "stored" for shard in range(3)},
        **{f"artifacts.adapters/shard-{shard}.safetensors": "retrained" if shard == 0 else "stored" for shard in range(3)},
        **{f"artifacts.data_manifests/shard-{shard}.parquet": "stored" for shard in range(3)},
        "adapters.0.centroids": "recomputed",
        "checkpoints.0.0": "recomputed",
        "checkpoints.0.1": "recomputed",
        "clean_checkpoints.0": "recomputed",
        "composition": "recomputed",
        "subject.composed-model@3": "recomputed",
    }
    composition = next(entry for entry in document["equal"] if entry["name"] == "composition")
    statement = read_record(record).statement
    assert composition["replay"] == composition["record"] == statement.predicate["composition"]
    assert tree_digests(clone.root, but=[".dvc", ".lethe"]) == before
    assert not clone.checkpoints.exists()


def test_a_build_is_replayed_in_its_own_workspace(built: Built) -> None:
    document = lethe(None, "replay", built.ws.records / "000001-build.json").document
    assert document["grade"] == "re-executed and equal"
    assert document["shards_retrained"] == [0, 1, 2]
    assert {"adapters.2", "checkpoints.1.1", "composition"} <= set(names(document["equal"]))


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (
            lambda predicate: predicate["adapters"]["0"].update(adapter="0" * 64),
            ["adapters.0"],
        ),
        (lambda predicate: predicate["checkpoints"]["0"].append("1" * 64), ["checkpoints.0.2"]),
        (lambda predicate: predicate["clean_checkpoints"].update({"0": "2" * 64}), ["clean_checkpoints.0"]),
        (lambda predicate: predicate["adapters"]["1"].update(samples=999), ["composition", "subject.composed-model@3"]),
        (lambda predicate: predicate["artifacts"][0].update(digest="3" * 64), ["artifacts.data_manifests/shard-0.parquet"]),
    ],
    ids=["adapter", "stage", "clean checkpoint", "sample count", "manifest"],
)
def test_an_altered_digest_is_found(forgot: Workspace, tmp_path: Path, change: Change, differing: list[str]) -> None:
    """Signed by the operator's own key, so that nothing but doing it again can tell."""
    record = sign_altered(forgot, DECISION, change)
    ran = lethe(None, "replay", record, "--workspace", str(make_clone(forgot, tmp_path).root))
    document = json.loads(ran.out)
    assert ran.code == 1
    assert document["grade"] == "re-executed and different"
    assert names(document["differing"]) == differing
    assert document["compared"] == len(document["equal"]) + len(differing)


def test_a_changed_byte_is_no_record(forgot: Workspace, tmp_path: Path) -> None:
    flip_byte(forgot.records / DECISION, 300)
    ran = lethe(None, "replay", forgot.records / DECISION)
    assert (ran.code, ran.out) == (1, "")
    assert DECISION in ran.err


def test_under_another_fingerprint_nothing_is_compared(forgot: Workspace, tmp_path: Path) -> None:
    def change(predicate: dict[str, Any]) -> None:
        predicate["fingerprint"] |= {"instruction_set": "ANOTHER", "processor": {"name": "another"}, "threads": 2}
        predicate["adapters"]["0"]["adapter"] = "0" * 64  # which would be a difference here

    record = sign_altered(forgot, DECISION, change)
    document = lethe(None, "replay", record, "--workspace", str(make_clone(forgot, tmp_path).root)).document
    assert document["grade"] == "not comparable"
    assert document["equal"] == document["differing"] == document["missing_inputs"] == []
    assert (document["compared"], document["steps"]) == (0, 0)
    assert document["fingerprint"]["differs_in"] == ["instruction_set", "processor", "threads"]
    assert {"adapters.0", "checkpoints.0.1", "composition"} <= set(names(document["not_comparable"]))
    assert all("another fingerprint" in entry["reason"] for entry in document["not_comparable"])


@pytest.mark.slow
def test_what_a_later_deletion_erased_is_reported_as_such(forgot: Workspace, tmp_path: Path) -> None:
    owner = owners_of(0, 0)[0]
    answer = lethe(forgot, "submit", signed_request(forgot, tmp_path / "requests", owner_ids=[owner.owner_id])).document
    clone, closing = make_clone(forgot, tmp_path), Path(answer["audit_records"][-1]).name
    document = lethe(None, "replay", forgot.records / DECISION, "--workspace", str(clone.root)).document
    assert document["grade"] == "inconclusive"
    assert {entry["path"] for entry in document["missing_inputs"]} == {"data_packs/shard-0", "data_manifests/shard-0.parquet"}
    assert {entry["erased_by"] for entry in document["missing_inputs"]} == {closing}
    assert document["differing"] == []
    assert "composition" in names(document["not_comparable"])
    # Of a build record, the other shards can still be made again.
    document = lethe(None, "replay", forgot.records / "000001-build.json", "--workspace", str(clone.root)).document
    assert (document["grade"], document["shards_retrained"]) == ("inconclusive", [1, 2])
    assert {"adapters.1", "adapters.2"} <= set(names(document["equal"]))
    assert {"adapters.0", "composition"} <= set(names(document["not_comparable"]))
    # A record that was handed over alone: the clone's history tells.
    copy = shutil.copy(forgot.records / DECISION, tmp_path / "handed-over.json")
    options = ["--workspace", str(clone.root), "--keys", str(forgot.keys / "workspace.pem")]
    document = lethe(None, "replay", copy, *options).document
    removal = run_git(clone.root, "log", "-1", "--format=%H", "--grep=^Remove").strip()
    assert {entry["erased_by"] for entry in document["missing_inputs"]} == {f"revision {removal}"}
    # And its own later records replay.
    assert lethe(None, "replay", answer["audit_records"][1], "--workspace", str(clone.root)).document["grade"] == "re-executed and equal"


@pytest.mark.slow
def test_an_emptied_shard_and_a_learnt_owner_are_replayed(forgot: Workspace, tmp_path: Path) -> None:
    request = signed_request(forgot, tmp_path / "requests", owner_ids=[owner.owner_id for owner in owners_of(2)])
    emptied = lethe(forgot, "submit", request).document["audit_records"][1]
    (tmp_path / "mine").mkdir()
    for index in range(3):
        (tmp_path / "mine" / f"thing_{index}.png").write_bytes(draw_picture(20, index))
    learnt = lethe(forgot, "learn", tmp_path / "mine", "--owner", f"newcomer{DOMAIN}").document
    clone = make_clone(forgot, tmp_path)
    for record, shard in ((emptied, 2), (learnt["audit_records"][0], learnt["shard"])):
        document = lethe(None, "replay", record, "--workspace", str(clone.root)).document
        assert (document["grade"], document["shards_retrained"]) == ("re-executed and equal", [shard])
        assert {f"checkpoints.{shard}.1", "composition"} <= set(names(document["equal"]))
    assert "adapters.2" not in names(lethe(None, "replay", emptied, "--workspace", str(clone.root)).document["equal"])


def test_records_of_version_0_1_name_no_centroids(forgot: Workspace, tmp_path: Path) -> None:
    def change(predicate: dict[str, Any]) -> None:
        for part in predicate["adapters"].values():
            del part["centroids"]

    record = sign_altered(forgot, DECISION, change)
    document = lethe(None, "replay", record, "--workspace", str(make_clone(forgot, tmp_path).root)).document
    assert document["grade"] == "re-executed and equal"
    assert names(document["not_comparable"]) == ["composition", "subject.composed-model@3"]
    assert {entry["reason"] for entry in document["not_comparable"]} == {
        "the record names no centroids, which a composition's digest covers"
    }


def test_without_a_remote_it_is_inconclusive(forgotten: Forgotten, tmp_path: Path) -> None:
    clone = make_clone(forgotten.ws, tmp_path, with_remote=False)
    document = lethe(None, "replay", forgotten.ws.records / DECISION, "--workspace", str(clone.root)).document
    assert (document["grade"], document["equal"]) == ("inconclusive", [])
    assert {entry["reason"] for entry in document["missing_inputs"]} == {"in no store that this clone knows"}
    assert {entry["erased_by"] for entry in document["missing_inputs"]} == {None}


def test_a_stale_clone_lacks_the_revision(built: Built, forgotten: Forgotten, tmp_path: Path) -> None:
    clone = make_clone(built.ws, tmp_path)
    document = lethe(None, "replay", forgotten.ws.records / DECISION, "--workspace", str(clone.root)).document
    assert document["grade"] == "inconclusive"
    assert [entry["reason"] for entry in document["missing_inputs"]] == ["the clone has no such revision; get it with: git fetch"]


def test_a_damaged_object_is_not_trained_on(forgot: Workspace, tmp_path: Path) -> None:
    clone = make_clone(forgot, tmp_path)
    for path in (forgot.dvc_remote / "files").rglob("*"):
        if path.is_file() and path.read_bytes() == forgot.manifest(0).read_bytes():
            path.chmod(0o644)
            flip_byte(path, 700)
    document = lethe(None, "replay", forgot.records / DECISION, "--workspace", str(clone.root)).document
    assert document["grade"] == "inconclusive"
    assert [(entry["path"], entry["reason"]) for entry in document["missing_inputs"]] == [
        ("data_manifests/shard-0.parquet", "damaged in the stores that this clone knows")
    ]


def test_the_auditors_word_picks(forgot: Workspace, tmp_path: Path) -> None:
    clone = make_clone(forgot, tmp_path)
    document = lethe(None, "replay", forgot.records, "--workspace", str(clone.root), "--sample", "a", "--count", "2").document
    assert document["candidates"] == 2
    order = sorted((forgot.records / name for name in ("000001-build.json", DECISION)), key=lambda path: _hmac("a", path))
    assert [Path(replay["record"]) for replay in document["records"]] == order
    # The build's shard 0 was erased by this very request.
    assert document["grade"] == "inconclusive"
    assert {entry["in_record"] for entry in document["missing_inputs"]} == {"000001-build.json"}
    assert {entry["in_record"] for entry in document["equal"]} == {"000001-build.json", DECISION}


@pytest.mark.parametrize("withheld", ["000001-build.json", "000002-stop.json"])
def test_nothing_is_drawn_where_a_record_is_withheld(forgot: Workspace, tmp_path: Path, withheld: str) -> None:
    handed_over = tmp_path / "handed-over"
    shutil.copytree(forgot.records, handed_over, ignore=shutil.ignore_patterns(withheld))
    options = ["--workspace", str(forgot.root), "--keys", str(forgot.keys), "--sample", "a"]
    ran = lethe(None, "replay", handed_over, *options)
    assert (ran.code, ran.out) == (1, "")
    assert "records are missing from the chain; a draw is only fair among all of them" in ran.err


def _hmac(key: str, path: Path) -> str:
    return hmac.new(key.encode(), sha256_digest(path.read_bytes()).encode(), "sha256").hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["000002-stop.json"], "a stop record names no retraining; replay a build or decision record"),
        (["000009-decision.json"], "cannot be read: No such file or directory"),
        ([DECISION, "--sample", ""], "sample: the key must not be empty"),
        ([DECISION, "--workspace", "/"], "/: no clone of a workspace"),
        ([DECISION, "--keys", "nowhere.pem"], "nowhere.pem: cannot be read"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_a_line(forgotten: Forgotten, arguments: list[str], message: str) -> None:
    ran = lethe(None, "replay", forgotten.ws.records / arguments[0], *arguments[1:])
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert message in ran.err


def test_another_key_is_not_trusted(forgotten: Forgotten, tmp_path: Path) -> None:
    issuers = forgotten.ws.keys / "issuers"
    assert load_record_keys(issuers)
    ran = lethe(None, "replay", forgotten.ws.records / DECISION, "--keys", str(issuers))
    assert ran.code == 1
    assert "signed by none of the trusted keys" in ran.err
