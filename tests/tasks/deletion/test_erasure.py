import hashlib
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc_data.hashfile import hash as hashing
from small_workspace import SECRET, sample, stored_objects, train

from cdm_core.digests import sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_history import references_now
from tasks.data.data_versions import commit_data, commit_training, is_committed, is_up_to_date, open_repo, site_cache
from tasks.data.git import run_git
from tasks.data.manifest_store import load_manifest, load_manifests, save_manifest
from tasks.data.packs import write_pack
from tasks.data.samples import add_samples, pack_name, remove_samples
from tasks.deletion import erasure
from tasks.deletion.erasure import erase_objects, objects_to_erase, verify_absence
from tasks.workspace import Workspace

ANNA = compute_owner_key(SECRET, "anna")  # shard 0 with Cleo; Ben and Dora are in shard 1
CLEO = compute_owner_key(SECRET, "cleo")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def commit(ws: Workspace, shards: list[int], message: str) -> None:
    commit_data(ws, shards, message)
    train(ws, shards)
    commit_training(ws, shards, message)


@pytest.fixture
def forgotten(small: Workspace) -> tuple[Workspace, pd.DataFrame, dict[str, bytes]]:
    """Anna came twice and left; with the hits, and with the files that held her samples at any time."""
    tainted = {"pack 1": (small.packs(0) / pack_name(ANNA)).read_bytes(), "manifest 1": small.manifest(0).read_bytes()}
    add_samples(small, ANNA, 0, 1, [sample(200)])
    commit(small, [0], "Arrival")
    tainted |= {"pack 2": (small.packs(0) / pack_name(ANNA)).read_bytes(), "manifest 2": small.manifest(0).read_bytes()}
    hits = find_samples(load_manifests(small), owner_keys={ANNA})
    remove_samples(small, hits)
    commit(small, [0], "Forget")
    return small, hits, tainted


def test_everything_that_held_the_owners_samples_is_erased_and_nothing_of_today(
    forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]], tmp_path: Path
) -> None:
    ws, hits, tainted = forgotten
    before = stored_objects(ws)
    object_ids = objects_to_erase(ws, hits)
    assert {md5(content) for content in tainted.values()} < object_ids
    assert len(object_ids) == 4 + 2  # and two folders of packs
    assert sum(object_id.endswith(".dir") for object_id in object_ids) == 2
    assert erase_objects(ws, object_ids) == {"dvc_cache": 6, "dvc_remote": 6}
    after = stored_objects(ws)
    assert after == {store: objects - object_ids for store, objects in before.items()}
    for store in (ws.dvc_cache, ws.dvc_remote):
        assert not set(tainted.values()) & {path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert is_up_to_date(ws)
    # Today's revision is still whole: a clone gets all of it.
    run_git(tmp_path, "clone", "--quiet", str(ws.root), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    with open_repo(clone) as repo, repo.config.edit("local") as config:
        config["remote"]["local"] = {"url": str(ws.dvc_remote)}
    with open_repo(clone) as repo:
        repo.pull()
    assert is_up_to_date(clone)


def test_erasing_twice_finds_nothing(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, _ = forgotten
    object_ids = objects_to_erase(ws, hits)
    erase_objects(ws, object_ids)
    assert erase_objects(ws, object_ids) == {"dvc_cache": 0, "dvc_remote": 0}
    verify_absence(ws, object_ids)
    after = stored_objects(ws)
    erase_objects(ws, objects_to_erase(ws, hits))
    assert stored_objects(ws) == after


def test_what_went_is_told_before_anything_else_may_be_cut_short(
    forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    ws, hits, _ = forgotten
    object_ids, told = objects_to_erase(ws, hits), []
    monkeypatch.setattr(erasure, "verify_absence", cut)
    with pytest.raises(KeyboardInterrupt):
        erase_objects(ws, object_ids, on_erased=told.append)
    assert told == [{"dvc_cache": 4}, {"dvc_remote": 4}, {"dvc_cache": 2}, {"dvc_remote": 2}]


def test_dvc_keeps_no_note_of_what_is_gone_and_need_not_hash_again_what_is_there(
    forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, hits, _ = forgotten
    object_ids = objects_to_erase(ws, hits)
    noted = [object_id for object_id in object_ids if object_id.encode() in read_notes(ws)]
    assert noted
    erase_objects(ws, object_ids)
    assert not [object_id for object_id in object_ids if object_id.encode() in read_notes(ws)]
    for folder in (ws.packs(0), ws.packs(1)):
        for pack in folder.iterdir():
            assert md5(pack.read_bytes()).encode() in read_notes(ws)

    hashed: list[str] = []
    really_hash = hashing._hash_file

    def record(path: str, *arguments: Any, **options: Any) -> Any:
        hashed.append(path)
        return really_hash(path, *arguments, **options)

    monkeypatch.setattr(hashing, "_hash_file", record)
    assert is_committed(ws, [0, 1])
    assert {path.partition(":")[0] for path in hashed} == {"memory"}  # the lists that name a folder's files


def read_notes(ws: Workspace) -> bytes:
    return b"".join(path.read_bytes() for path in site_cache(ws).rglob("*") if path.is_file())


def test_an_erasure_cut_short_can_be_planned_again(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, tainted = forgotten
    object_ids = objects_to_erase(ws, hits)
    held = md5(tainted["pack 1"])
    (ws.dvc_cache / "files" / "md5" / held[:2] / held[2:]).unlink()
    manifest = md5(tainted["manifest 1"])
    for store in (ws.dvc_cache, ws.dvc_remote):
        (store / "files" / "md5" / manifest[:2] / manifest[2:]).unlink()
    assert objects_to_erase(ws, hits) == object_ids
    assert erase_objects(ws, object_ids) == {"dvc_cache": 4, "dvc_remote": 5}


def test_adapters_found_clean_stay(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, tainted = forgotten
    # In this workspace an adapter is a copy of its manifest.
    clean = tainted["manifest 1"]
    object_ids = objects_to_erase(ws, hits, clean_adapters={sha256_digest(clean)})
    assert objects_to_erase(ws, hits) - object_ids == {md5(clean)}


def test_untouched_shards_keep_their_history(small: Workspace) -> None:
    other = small.manifest(1).read_bytes()
    add_samples(small, compute_owner_key(SECRET, "emil"), 1, 0, [sample(77)])
    commit(small, [1], "Arrival")
    hits = find_samples(load_manifests(small), owner_keys={ANNA})
    remove_samples(small, hits)
    commit(small, [0], "Forget")
    erase_objects(small, objects_to_erase(small, hits))
    assert md5(other) in stored_objects(small)["cache"] & stored_objects(small)["remote"]


def test_one_sample_takes_the_pack_that_held_it(small: Workspace) -> None:
    old = (small.packs(0) / pack_name(ANNA)).read_bytes()
    hits = find_samples(load_manifests(small), sample_ids={sample(1).sample_id})
    remove_samples(small, hits)
    commit(small, [0], "Forget")
    object_ids = objects_to_erase(small, hits)
    erase_objects(small, object_ids)
    assert md5(old) in object_ids
    stored = stored_objects(small)
    assert md5((small.packs(0) / pack_name(ANNA)).read_bytes()) in stored["cache"] & stored["remote"]


def test_what_a_crash_left_in_the_cache_goes_but_strangers_in_a_remote_stay(
    forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]],
) -> None:
    ws, hits, _ = forgotten
    orphan = md5(b"added, never committed")
    for store in (ws.dvc_cache, ws.dvc_remote):
        (store / "files" / "md5" / orphan[:2]).mkdir(exist_ok=True)
        (store / "files" / "md5" / orphan[:2] / orphan[2:]).write_bytes(b"added, never committed")
    (ws.dvc_cache / "tmp").mkdir()
    (ws.dvc_cache / "tmp" / "upload").write_bytes(b"half a pack")
    object_ids = objects_to_erase(ws, hits)
    assert {orphan, "tmp/upload"} < object_ids
    (ws.packs(0) / ".half.tar.partial").write_bytes(b"half a pack")
    erase_objects(ws, object_ids - {orphan})
    assert not (ws.dvc_cache / "tmp" / "upload").exists()
    assert not (ws.packs(0) / ".half.tar.partial").exists()
    assert orphan in stored_objects(ws)["remote"]


def test_runs_that_mention_erased_objects_go(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, tainted = forgotten
    kept, gone = (store / "runs" / "ab" / "abc" for store in (ws.dvc_cache, ws.dvc_remote))
    for run, object_id in ((kept, md5(b"another")), (gone, md5(tainted["manifest 1"]))):
        run.mkdir(parents=True)
        (run / "0").write_text(f"outs:\n- path: adapters/shard-0.safetensors\n  md5: {object_id}\n")
    object_ids = objects_to_erase(ws, hits)
    erase_objects(ws, object_ids)
    assert (kept / "0").exists()
    assert not (gone / "0").exists()


def test_every_remote_is_searched(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]], tmp_path: Path) -> None:
    ws, hits, _ = forgotten
    shutil.copytree(ws.dvc_remote, tmp_path / "backup")
    with open_repo(ws) as repo, repo.config.edit("local") as config:
        config["remote"]["backup"] = {"url": str(tmp_path / "backup")}
    assert erase_objects(ws, objects_to_erase(ws, hits)) == {"dvc_cache": 6, "dvc_remote": 12}


def test_absence_is_not_claimed_of_what_is_there(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, tainted = forgotten
    object_ids = objects_to_erase(ws, hits)
    with pytest.raises(VerificationError, match=r"cache: 6 erased objects are still there, "):
        verify_absence(ws, object_ids)
    erase_objects(ws, object_ids)
    (ws.dvc_remote / "runs" / "ab").mkdir(parents=True)
    (ws.dvc_remote / "runs" / "ab" / "0").write_text(md5(tainted["pack 1"]))
    with pytest.raises(VerificationError, match=r"remote: the run cache still mentions an erased object"):
        verify_absence(ws, object_ids)
    (ws.dvc_remote / "runs" / "ab" / "0").unlink()
    (ws.packs(1) / "copy").write_bytes(tainted["pack 1"])
    with pytest.raises(VerificationError, match=r"shard-1/copy: a copy of an erased object"):
        verify_absence(ws, object_ids)


def test_nothing_is_erased_before_today_is_clean(small: Workspace) -> None:
    hits = find_samples(load_manifests(small), owner_keys={ANNA})
    pack = small.packs(0) / pack_name(ANNA)
    with pytest.raises(StateError, match=r"shard-0.parquet: still lists samples that are to be erased"):
        objects_to_erase(small, hits)
    remove_samples(small, hits)
    with pytest.raises(StateError, match=r"have changes that aren't committed; commit them before erasing"):
        objects_to_erase(small, hits)
    commit_data(small, [0], "Forget")
    with pytest.raises(StateError, match=r"shard-0\S*: changed since its shard was trained; commit the training before erasing"):
        objects_to_erase(small, hits)
    train(small, [0])
    commit_training(small, [0], "Forget")
    write_pack(pack, [sample(1)])
    commit(small, [0], "Mistake")
    with pytest.raises(StateError, match=r"[0-9a-f]{16}.tar: still holds samples that are to be erased"):
        objects_to_erase(small, hits)


def test_a_workspace_that_was_never_trained_can_be_purged(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, _ = forgotten
    run_git(ws.root, "rm", "--quiet", "dvc.lock")
    run_git(ws.root, "commit", "--quiet", "--message=Untrained")
    assert len(objects_to_erase(ws, hits)) >= 6


def test_a_directory_object_that_today_needs_must_be_readable(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, _ = forgotten
    # The folder of the shard that was not hit, which would keep its packs from being erased.
    (folder,) = {reference.object_id for reference in references_now(ws) if reference.path == "data_packs/shard-1"}
    for store in (ws.dvc_cache, ws.dvc_remote):
        (store / "files" / "md5" / folder[:2] / folder[2:]).unlink()
    with pytest.raises(StateError, match=r"^data object [0-9a-f]{32}.dir: named by today's revision, but neither in"):
        objects_to_erase(ws, hits)


def test_an_owner_who_came_back_is_erased_again(forgotten: tuple[Workspace, pd.DataFrame, dict[str, bytes]]) -> None:
    ws, hits, tainted = forgotten
    erase_objects(ws, objects_to_erase(ws, hits))
    add_samples(ws, ANNA, 0, 1, [sample(grey, f"grey {grey}") for grey in range(3)])
    commit(ws, [0], "Back")
    stored = stored_objects(ws)
    assert md5(tainted["pack 1"]) in stored["cache"] & stored["remote"], "the remote must be asked, not remembered"
    remove_samples(ws, hits)
    commit(ws, [0], "Forget again")
    erase_objects(ws, objects_to_erase(ws, hits))
    assert md5(tainted["pack 1"]) not in stored_objects(ws)["cache"] | stored_objects(ws)["remote"]


def test_saved_manifests_of_untouched_shards_are_not_read_as_changed(small: Workspace) -> None:
    save_manifest(small, 1, load_manifest(small, 1))
    assert is_up_to_date(small)
