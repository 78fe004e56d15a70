"""One byte changed anywhere: what would use the file refuses it in one line, and what serves stays."""

from pathlib import Path

import pytest
from built_workspace import Built
from tiny_workspace import OWNERS, Ran, lethe, owners_of, signed_request
from workspace_snapshot import flip_byte

from tasks.data.git import run_git
from tasks.models.model_registry import champion
from tasks.workspace import Workspace

_CHANGED = "packs or manifests were changed since their revision; undo it with: dvc checkout --force"


def _refused(ran: Ran, *messages: str) -> None:
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    for message in ("lethe: ", *messages):
        assert message in ran.err


def _record(ws: Workspace) -> Path:
    return ws.records / "000001-build.json"


def test_a_record(copied: Workspace, tmp_path: Path) -> None:
    request = signed_request(copied, tmp_path, owner_ids=[OWNERS[0].owner_id])
    flip_byte(_record(copied), 200)
    _refused(lethe(None, "verify", _record(copied)), "000001-build.json")
    # And no flow goes on with a chain that doesn't hold.
    _refused(lethe(copied, "submit", request), "records: record 1 of 1")
    assert champion(copied).version == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["adapters/shard-1.safetensors", "data_manifests/shard-1.parquet"])
def test_a_file_that_a_record_names(copied: Workspace, name: str) -> None:
    flip_byte(copied.root / name)
    _refused(lethe(None, "verify", _record(copied)), f"artifact {name}: is not the file that the record names")


@pytest.mark.parametrize("place", ["manifest", "pack"])
def test_data_before_forgetting(copied: Workspace, tmp_path: Path, place: str) -> None:
    """In a shard that the request doesn't touch: what was changed by hand may not become part of a deletion's revision."""
    request = signed_request(copied, tmp_path, owner_ids=[owners_of(0)[0].owner_id])
    path = copied.manifest(1) if place == "manifest" else copied.packs(1) / f"{owners_of(1)[0].key}.tar"
    flip_byte(path, 700)
    _refused(lethe(copied, "submit", request), _CHANGED)
    assert champion(copied).version == 1  # type: ignore[union-attr]


def test_a_pack_before_building(copied: Workspace) -> None:
    pack = copied.packs(1) / f"{owners_of(1)[0].key}.tar"
    flip_byte(pack, 700)
    _refused(lethe(copied, "build"), _CHANGED)


@pytest.mark.parametrize("position", [0, 700, -10])
def test_a_manifest_before_building(copied: Workspace, position: int) -> None:
    """Whether or not it can still be read: not every byte of a Parquet file means something to its reader."""
    flip_byte(copied.manifest(1), position)
    ran = lethe(copied, "build")
    _refused(ran)
    assert _CHANGED in ran.err or f"{copied.manifest(1)}: " in ran.err
    lock = (copied.root / "data_manifests" / "shard-1.parquet.dvc").read_bytes()
    assert lock == run_git(copied.root, "show", "HEAD:data_manifests/shard-1.parquet.dvc").encode()


def test_a_checkpoint_before_building(copied: Workspace, built: Built) -> None:
    for path in copied.checkpoints.glob("*.safetensors"):
        flip_byte(path)
    _refused(lethe(copied, "build"), "its bytes are not those that were stored; delete it and run again")
    for path in copied.checkpoints.iterdir():
        path.unlink()
    assert lethe(copied, "build").document["composition"] == built.answer["composition"]


def test_a_checkpoint_before_stopping(copied: Workspace, tmp_path: Path) -> None:
    request = signed_request(copied, tmp_path, owner_ids=[owners_of(0, 1)[0].owner_id])
    for path in copied.checkpoints.glob("*.safetensors"):
        flip_byte(path)
    _refused(lethe(copied, "submit", request), "not the adapters that the composition names for shard 0")
    assert champion(copied).version == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("pattern", ["adapters/shard-1.safetensors", "composition.json"])
def test_what_serves(copied: Workspace, tmp_path: Path, pattern: str) -> None:
    (path,) = (copied.mlflow / "artifacts" / "models").rglob(f"artifacts/{pattern}")
    flip_byte(path)
    message = "is not the one that was registered" if pattern == "composition.json" else "shard-1.safetensors is not the file of digest"
    _refused(lethe(copied, "generate", "--num", "1", "--out", tmp_path / "grid.png"), message)
    assert not (tmp_path / "grid.png").exists()
