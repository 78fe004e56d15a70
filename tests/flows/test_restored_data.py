"""A backup brings erased data back: whatever would use it refuses, committed or not. A new workspace over the old ledger leaves it out."""

import shutil
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import DOMAIN, OWNERS, Ran, draw_picture, lethe, owners_of, signed_request

from cdm_core.sharding.manifests import find_samples
from tasks.data.data_versions import commit_data
from tasks.data.manifest_store import load_manifests
from tasks.data.workspace_init import create_workspace
from tasks.deletion.suppression import refuse_resurrected
from tasks.keys import owner_secret
from tasks.workspace import Workspace


@pytest.fixture
def restored(forgotten: Forgotten, built: Built, tmp_path: Path) -> Workspace:
    """What forgot an owner, with the data folders of the time before."""
    ws = copy_workspace(forgotten.ws, tmp_path / "ws")
    for folder in ("data_packs", "data_manifests"):
        shutil.rmtree(ws.root / folder)
        shutil.copytree(built.ws.root / folder, ws.root / folder)
    return ws


def put_arrival(folder: Path) -> Path:
    folder.mkdir()
    (folder / "new.png").write_bytes(draw_picture(20, 0))
    return folder


def _refused(ran: Ran, message: str) -> None:
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert message in ran.err


@pytest.mark.slow
def test_restored_data_is_used_by_nothing(restored: Workspace, tmp_path: Path) -> None:
    folder, request = put_arrival(tmp_path / "new"), signed_request(restored, tmp_path, owner_ids=[owners_of(1)[0].owner_id])
    _refused(lethe(restored, "learn", folder, "--owner", f"new{DOMAIN}"), "changed since their revision")
    # And committed, as a person may who thinks that the backup is right.
    commit_data(restored, [0], "Restore the backup")
    message = "samples were erased on request and are back, from a backup perhaps"
    _refused(lethe(restored, "learn", folder, "--owner", f"new{DOMAIN}"), message)
    _refused(lethe(restored, "build"), message)
    _refused(lethe(restored, "submit", request), message)
    _refused(lethe(restored, "train-shard", "0"), message)


def test_a_new_workspace_over_the_old_ledger_leaves_out_what_was_erased(forgotten: Forgotten, tmp_path: Path) -> None:
    root = tmp_path / "anew"
    for folder in ("keys", "ledger"):
        shutil.copytree(forgotten.ws.private / folder, root / ".lethe" / folder)
    pictures = [picture for owner in OWNERS for picture in owner.pictures]
    secret = owner_secret(Workspace(root))
    summary = create_workspace(root, shards=3, stages=2, pictures=pictures, secret=secret, progress=lambda done, total: None)
    ws = Workspace(root)
    assert summary.suppressed >= len(forgotten.owner.pictures)  # and near copies, which these drawings are of each other
    assert summary.samples + summary.suppressed == len(pictures)
    assert find_samples(load_manifests(ws), owner_keys=[forgotten.owner.key]).empty
    assert find_samples(load_manifests(ws), sample_ids=forgotten.owner.sample_ids).empty
    refuse_resurrected(ws)
    assert lethe(ws, "verify", ws.ledger / "ledger.sqlite").document["valid"] is True
