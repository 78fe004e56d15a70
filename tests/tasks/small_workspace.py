"""A workspace of four owners in two shards, whose "training" is a copy of the manifest: real git and DVC, and nothing to wait for."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from tasks.data.data_versions import commit_training
from tasks.data.packs import Sample
from tasks.data.pictures import SourcePicture, encode_png
from tasks.data.workspace_init import create_workspace
from tasks.workspace import Workspace

SECRET = b"secret"
ARRIVED_AT = datetime(2020, 1, 1, tzinfo=UTC)
# Their keys put two owners in each shard.
OWNERS = ("anna", "ben", "cleo", "dora")


def png(grey: int) -> bytes:
    return encode_png(Image.new("RGB", (32, 32), (grey, grey, grey)))


def sample(grey: int, caption: str = "grey") -> Sample:
    return Sample(png=png(grey), caption=caption, arrived_at=ARRIVED_AT)


def source_pictures() -> list[SourcePicture]:
    """Three pictures an owner, all different."""
    return [
        SourcePicture(owner_id=owner, tier=None, png=png(10 * number + index), caption=f"grey {index}", arrived_at=ARRIVED_AT)
        for number, owner in enumerate(OWNERS)
        for index in range(3)
    ]


def make_small_workspace(directory: Path) -> Workspace:
    create_workspace(directory, shards=2, stages=2, pictures=source_pictures(), secret=SECRET, progress=lambda done, total: None)
    ws = Workspace(directory)
    recipe = (ws.root / "dvc.yaml").read_text()
    copying = "cp data_manifests/shard-${item}.parquet adapters/shard-${item}.safetensors"
    (ws.root / "dvc.yaml").write_text(recipe.replace("lethe train-shard ${item}", copying))
    train(ws, [0, 1])
    commit_training(ws, [0, 1], "Train")
    return ws


def train(ws: Workspace, shards: list[int]) -> None:
    """What the recipe does, in process."""
    for shard in shards:
        ws.adapter(shard).parent.mkdir(exist_ok=True)
        shutil.copyfile(ws.manifest(shard), ws.adapter(shard))


def stored_objects(ws: Workspace) -> dict[str, set[str]]:
    """Object ids in cache and remote, by looking at the folders."""
    return {
        store.name: {path.parent.name + path.name for path in (store / "files" / "md5").rglob("*") if path.is_file()}
        for store in (ws.dvc_cache, ws.dvc_remote)
    }
