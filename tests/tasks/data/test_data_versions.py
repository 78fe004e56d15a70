import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_workspace import SECRET, make_small_workspace, sample, stored_objects, train

from cdm_core.errors import StateError
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_versions import (
    commit_data,
    commit_training,
    committed_last,
    data_revision,
    init_repository,
    is_committed,
    is_up_to_date,
    open_repo,
    restore_committed,
)
from tasks.data.git import run_git
from tasks.data.manifest_store import load_manifest
from tasks.data.samples import add_samples, remove_samples
from tasks.workspace import Workspace

ANNA = compute_owner_key(SECRET, "anna")  # shard 0


def dvc(root: Path, *arguments: str) -> str:
    """The DVC command as a user or auditor runs it, with its state kept out of the system's folders."""
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(root.parent / "site"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_moved_workspace_is_up_to_date(small: Workspace) -> None:
    assert is_up_to_date(small)
    assert "up to date" in dvc(small.root, "status")
    assert run_git(small.root, "status", "--porcelain") == ""


def test_every_object_lies_in_the_remote_too(small: Workspace) -> None:
    stored = stored_objects(small)
    assert stored["cache"] == stored["remote"]
    assert len(stored["cache"]) == 4 + 2 + 2  # packs, folders of packs, manifests which here are the adapters too


def test_committing_nothing_new_keeps_the_revision(small: Workspace) -> None:
    revision = data_revision(small)
    assert commit_data(small, [0, 1], "Nothing") == revision
    assert commit_training(small, [0, 1], "Nothing") == revision


def test_a_change_of_data_and_its_training_are_two_revisions(small: Workspace) -> None:
    first = data_revision(small)
    add_samples(small, ANNA, 0, 1, [sample(200)])
    assert not is_committed(small, [0])
    assert is_committed(small, [1])
    second = commit_data(small, [0], "Arrival")
    assert is_committed(small, [0])
    assert not is_up_to_date(small)
    train(small, [0])
    third = commit_training(small, [0], "Train")
    assert is_up_to_date(small)
    assert len({first, second, third}) == 3
    assert run_git(small.root, "diff", "--name-only", first, second).split() == [
        "data_manifests/shard-0.parquet.dvc",
        "data_packs/shard-0.dvc",
    ]
    assert run_git(small.root, "diff", "--name-only", second, third).split() == ["dvc.lock"]
    assert run_git(small.root, "log", "--format=%s", "-2").splitlines() == ["Train", "Arrival"]


@pytest.mark.parametrize("links", ["reflink,copy", "hardlink", "symlink"])
def test_committing_touches_no_file_that_a_worker_may_be_reading(small: Workspace, links: str) -> None:
    config = small.root / ".dvc" / "config.local"
    config.write_text(f"{config.read_text()}[cache]\n    type = {links}\n")
    add_samples(small, ANNA, 0, 1, [sample(200)])
    before = _look_at_files(small)
    commit_data(small, [0], "Arrival")
    assert _look_at_files(small) == before
    train(small, [0])
    before = _look_at_files(small)
    commit_training(small, [0], "Train")
    assert _look_at_files(small) == before
    assert is_up_to_date(small)


def test_staged_but_uncommitted_data_files_are_noticed(small: Workspace) -> None:
    path = small.root / "data_packs" / "shard-0.dvc"
    path.write_text(path.read_text() + "desc: changed\n")
    assert not is_committed(small, [0])


def test_a_commit_cut_short_before_the_push_is_finished_by_the_next(small: Workspace) -> None:
    before = stored_objects(small)["cache"]
    add_samples(small, ANNA, 0, 1, [sample(200)])
    revision = commit_data(small, [0], "Arrival")
    shutil.rmtree(small.dvc_remote)
    shutil.rmtree(small.private / "dvc" / "site")
    assert commit_data(small, [0], "Arrival") == revision
    new = stored_objects(small)["cache"] - before
    assert len(new) == 3  # the pack, the folder, the manifest
    assert new < stored_objects(small)["remote"]


@pytest.mark.parametrize("cut", ["before DVC", "before git", "without the remote", "without the cache"])
def test_what_was_not_committed_is_taken_back(small: Workspace, cut: str) -> None:
    before, revision = _read_data(small), data_revision(small)
    add_samples(small, ANNA, 0, 1, [sample(200)])
    add_samples(small, compute_owner_key(SECRET, "emil"), 0, 1, [sample(201)])
    if cut == "before git":
        with open_repo(small) as repo:
            repo.add([str(small.packs(0)), str(small.manifest(0))], relink=False)
        run_git(small.root, "add", "data_packs/shard-0.dvc")
    if cut.startswith("without"):
        shutil.rmtree(small.dvc_remote if cut == "without the remote" else small.dvc_cache)
    restore_committed(small, [0])
    assert _read_data(small) == before
    assert is_committed(small, [0])
    assert (run_git(small.root, "status", "--porcelain"), data_revision(small)) == ("", revision)


def test_without_cache_and_remote_what_lies_there_stays(small: Workspace) -> None:
    before = _read_data(small)
    for store in (small.dvc_cache, small.dvc_remote):
        shutil.rmtree(store)
    restore_committed(small, [0])
    assert _read_data(small) == before
    # With a part of them back, DVC sees that something was changed; still nothing may be lost.
    pack = (small.packs(0) / f"{ANNA}.tar").read_bytes()
    commit_data(small, [0], "Back")
    add_samples(small, ANNA, 0, 1, [sample(200)])
    changed, held = _read_data(small), hashlib.md5(pack, usedforsecurity=False).hexdigest()
    for store in (small.dvc_cache, small.dvc_remote):
        (store / "files" / "md5" / held[:2] / held[2:]).unlink()
    with pytest.raises(StateError, match=r"packs or manifests of the present revision are neither in the DVC cache nor in the remote$"):
        restore_committed(small, [0])
    assert _read_data(small) == changed


def test_a_commit_is_known_by_its_message_and_the_revision_before(small: Workspace) -> None:
    before = data_revision(small)
    add_samples(small, ANNA, 0, 1, [sample(200)])
    after = commit_data(small, [0], "Arrival")
    assert committed_last(small, "Arrival", before)
    assert not committed_last(small, "Another", before)
    assert not committed_last(small, "Arrival", after)


def test_a_lock_that_a_killed_git_left_is_in_no_commits_way(small: Workspace) -> None:
    lock = small.root / ".git" / "index.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    before = data_revision(small)
    add_samples(small, ANNA, 0, 1, [sample(200)])
    assert commit_data(small, [0], "Arrival") != before


def test_other_files_of_the_user_stay_out_of_the_history(small: Workspace) -> None:
    (small.root / "request.yaml").write_text("owner_ids: [anna]")
    (small.root / "data_packs" / ".half.partial").write_text("x")
    run_git(small.root, "add", "request.yaml")
    add_samples(small, ANNA, 0, 1, [sample(200)])
    commit_data(small, [0], "Arrival")
    assert run_git(small.root, "ls-tree", "-r", "--name-only", "HEAD").split() == [
        ".dvc/.gitignore",
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
        "adapters/.gitignore",
        "data_manifests/.gitignore",
        "data_manifests/shard-0.parquet.dvc",
        "data_manifests/shard-1.parquet.dvc",
        "data_packs/.gitignore",
        "data_packs/shard-0.dvc",
        "data_packs/shard-1.dvc",
        "dvc.lock",
        "dvc.yaml",
        "params.yaml",
    ]


def test_a_clone_pulls_and_reproduces_with_a_cache_of_its_own(tmp_path: Path) -> None:
    small = make_small_workspace(tmp_path / "workspace")
    remove_samples(small, load_manifest(small, 1))  # an empty shard has to survive the journey
    commit_data(small, [1], "Empty")
    train(small, [1])
    commit_training(small, [1], "Train")
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "--quiet", str(small.root), str(clone))
    dvc(clone, "pull")
    assert "up to date" in dvc(clone, "status")
    assert list((clone / "data_packs" / "shard-1").iterdir()) == []
    assert (clone / ".lethe" / "dvc" / "cache").is_dir()
    for shard in (0, 1):
        adapter = clone / "adapters" / f"shard-{shard}.safetensors"
        expected = adapter.read_bytes()
        adapter.unlink()
        dvc(clone, "repro", "--force", f"train@{shard}")
        assert adapter.read_bytes() == expected
    assert run_git(clone, "status", "--porcelain") == ""


def test_a_moved_workspace_uses_the_remote_that_moved_with_it(small: Workspace, tmp_path: Path) -> None:
    moved = Workspace(small.root.rename(tmp_path / "moved"))
    add_samples(moved, ANNA, 0, 1, [sample(200)])
    commit_data(moved, [0], "Arrival")
    stored = stored_objects(moved)
    assert stored["cache"] == stored["remote"]
    assert not small.root.exists()


def test_nothing_is_printed_or_kept_outside(small: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    add_samples(small, ANNA, 0, 1, [sample(200)])
    commit_data(small, [0], "Arrival")
    train(small, [0])
    commit_training(small, [0], "Train")
    assert is_up_to_date(small)
    assert capfd.readouterr() == ("", "")
    assert (small.private / "dvc" / "site").is_dir()


def test_failures_of_dvc_are_state_errors(small: Workspace, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r": DVC: .*shard-7"):
        commit_data(small, [7], "Missing")
    with pytest.raises(StateError, match=r": DVC: '.dvc' exists|: DVC: .*exists"):
        init_repository(small)
    with pytest.raises(StateError, match=r": git rev-parse: "):
        data_revision(Workspace(tmp_path))


def _look_at_files(ws: Workspace) -> dict[Path, tuple[int, int]]:
    """Which file lies at each path of packs, manifests and adapters, and since when; what was put in another's place is another."""
    files = [
        path for pattern in ("data_packs/*/*.tar", "data_manifests/*.parquet", "adapters/*.safetensors") for path in ws.root.glob(pattern)
    ]
    assert files
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in files}


def _read_data(ws: Workspace) -> dict[Path, bytes]:
    """Packs and manifests by path."""
    return {path: path.read_bytes() for pattern in ("data_packs/*/*.tar", "data_manifests/*.parquet") for path in ws.root.glob(pattern)}
