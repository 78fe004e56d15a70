"""What the process that waits rehearses is really done, and nothing of it lies outside the folder that it was given."""

from pathlib import Path

from tasks.data.data_history import references_ever
from tasks.data.manifest_store import load_manifest
from tasks.models.model_registry import get_version
from tasks.models.store_rehearsal import rehearse_stores
from tasks.models.tracking import client
from tasks.workspace import Workspace


def test_the_stores_are_used_up_to_an_erasure_and_nothing_lies_outside_their_folder(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "rehearsal")
    ws.root.mkdir()
    rehearse_stores(ws.root)
    assert load_manifest(ws, 0).empty
    assert len({reference.object_id for reference in references_ever(ws) if reference.path == "data_packs/shard-0"}) == 2
    assert get_version(client(ws), 1).tags["step_key"] == "rehearsal"
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal"]
