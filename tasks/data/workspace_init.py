"""Making a workspace: owners' keys, shards, packs and manifests from named pictures, and the first revision of its data.

Everything is made in a folder of its own inside the new workspace and moved up when it is complete, `params.yaml` last, since that is
what makes a folder a workspace. Keys may be there before: the owner-key secret is needed to begin. A ledger may be there too, of a
workspace that is to be made anew: what it says was erased on request is left out, from whomever it comes, as `lethe learn` refuses it.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cdm_core.errors import InvalidInputError, StateError
from cdm_core.settings import parse_settings
from cdm_core.sharding.manifests import build_manifest
from cdm_core.sharding.partition import OwnerKey, Partition, assign, compute_owner_key
from cdm_core.sharding.tiers import resample_epochs
from tasks.data.data_versions import Revision, commit_data, init_repository
from tasks.data.manifest_store import save_manifest
from tasks.data.packs import Sample, write_pack
from tasks.data.pictures import SourcePicture, decode_picture
from tasks.data.samples import manifest_rows, pack_name, unique_samples
from tasks.data.shipped import shipped_file
from tasks.deletion.suppression import is_near_suppressed, suppression_hash
from tasks.files import check_writable, write_atomically
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

_UNFINISHED = ".init.partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSummary:
    """What one shard holds."""

    shard: int
    samples: int
    owners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitSummary:
    """What a new workspace holds."""

    samples: int
    owners: int
    shards: tuple[ShardSummary, ...]
    dvc_revision: Revision
    suppressed: int = 0
    """Pictures that were left out since they were erased on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    key: OwnerKey
    shard: int
    stage: int
    samples: list[Sample]


def check_directory(directory: Path) -> None:
    """Return if a workspace can be made at `directory`: it is absent, empty, or holds nothing but a workspace's keys and ledger.

    Raises:
        StateError: it is a workspace already.
        InvalidInputError: it is a file, other things are there, or it can't be written to.
    """
    if directory.exists() and not directory.is_dir():
        raise InvalidInputError(f"{directory}: is a file, not a folder")
    if (directory / "params.yaml").exists():
        raise StateError(f"{directory}: is a workspace already")
    others = {path.relative_to(directory) for path in [*directory.glob("*"), *directory.glob(".lethe/*")]}
    others -= {Path(".lethe"), Path(".lethe/keys"), Path(".lethe/ledger"), Path(_UNFINISHED)}
    if others:
        raise InvalidInputError(f"{directory}: is not empty, {min(others)} is there; give a new folder")
    check_writable(directory / "params.yaml")


def create_workspace(
    directory: Path,
    *,
    shards: int,
    stages: int,
    pictures: Iterable[SourcePicture],
    secret: bytes,
    progress: Callable[[int, int], None],
) -> InitSummary:
    """Make a workspace of `pictures` at `directory`; `progress` hears (owners packed, owners).

    Args:
        directory: see `check_directory`.
        shards: 1 to 1000.
        stages: 1 to 100.
        pictures: an owner's first picture decides the owner's tier; of equal pictures of one owner the first stays.
        secret: keys the hash that makes owner keys.
        progress: called after every owner.

    Raises:
        StateError: `directory` is a workspace already.
        InvalidInputError: `directory` can't be used, or `shards`, `stages` or a tier is out of range, or a tier is unknown.
    """
    check_directory(directory)
    shipped = parse_settings(shipped_file("params.yaml").read_bytes(), "params.yaml").partition
    partition = replace(shipped, shards=shards, stages=stages)
    existed = directory.exists()
    unfinished = Workspace(directory.resolve() / _UNFINISHED)
    shutil.rmtree(unfinished.root, ignore_errors=True)
    try:
        unfinished.root.mkdir(parents=True)
        owners, suppressed = _leave_out_suppressed(Workspace(directory.resolve()), _group_by_owner(pictures, secret, partition))
        summary = replace(_fill(unfinished, directory.resolve(), partition, owners, progress), suppressed=suppressed)
        _publish(unfinished.root, directory)
    except BaseException:
        shutil.rmtree(unfinished.root, ignore_errors=True)
        if not existed:
            with suppress(OSError):
                directory.rmdir()
        raise
    return summary


def _group_by_owner(pictures: Iterable[SourcePicture], secret: bytes, partition: Partition) -> list[_Owner]:
    samples: dict[str, list[Sample]] = defaultdict(list)
    tiers: dict[str, str | int | None] = {}
    for picture in pictures:
        samples[picture.owner_id].append(Sample(png=picture.png, caption=picture.caption, arrived_at=picture.arrived_at))
        tiers.setdefault(picture.owner_id, picture.tier)
    owners = []
    for owner_id, tier in tiers.items():
        key = compute_owner_key(secret, owner_id)
        shard, stage = assign(key, tier, partition)
        owners.append(_Owner(key=key, shard=shard, stage=stage, samples=unique_samples(samples[owner_id])))
    return owners


def _leave_out_suppressed(home: Workspace, owners: list[_Owner]) -> tuple[list[_Owner], int]:
    """The owners without what the ledger at home says may not come back, and how many pictures that were."""
    if not (home.ledger / "ledger.sqlite").is_file():
        return owners, 0
    ledger = Ledger(home)
    enough = parse_settings(shipped_file("params.yaml").read_bytes(), "params.yaml").duplicates.suppressed_bands
    hashes = {suppression_hash(home, sample.sample_id): sample.sample_id for owner in owners for sample in owner.samples}
    exact = {hashes[found] for found in ledger.is_suppressed(list(hashes))}
    left = []
    for owner in owners:
        kept = [
            sample
            for sample in owner.samples
            if sample.sample_id not in exact and not is_near_suppressed(home, decode_picture(sample.png), enough)
        ]
        left.append(replace(owner, samples=kept))
    num_left_out = sum(len(owner.samples) for owner in owners) - sum(len(owner.samples) for owner in left)
    return [owner for owner in left if owner.samples], num_left_out


def _fill(ws: Workspace, home: Path, partition: Partition, owners: list[_Owner], progress: Callable[[int, int], None]) -> InitSummary:
    init_repository(ws, home)
    write_atomically(ws.root / "dvc.yaml", shipped_file("dvc.yaml").read_bytes())
    write_atomically(ws.root / "params.yaml", _params(partition))
    for shard in range(partition.shards):
        ws.packs(shard).mkdir(parents=True)
    rows: dict[int, list[dict[str, object]]] = {shard: [] for shard in range(partition.shards)}
    for done, owner in enumerate(owners, start=1):
        write_pack(ws.packs(owner.shard) / pack_name(owner.key), owner.samples)
        rows[owner.shard] += manifest_rows(owner.key, owner.shard, owner.stage, owner.samples)
        progress(done, len(owners))
    for shard in rows:
        save_manifest(ws, shard, build_manifest(rows[shard]))
    revision = commit_data(ws, list(rows), "Make the workspace")
    num_owners = {shard: sum(owner.shard == shard for owner in owners) for shard in rows}
    return InitSummary(
        samples=sum(len(shard_rows) for shard_rows in rows.values()),
        owners=len(owners),
        shards=tuple(ShardSummary(shard=shard, samples=len(rows[shard]), owners=num_owners[shard]) for shard in rows),
        dvc_revision=revision,
    )


def _params(partition: Partition) -> bytes:
    """The shipped `params.yaml` with its comments, for this partition."""
    text = shipped_file("params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^shard_ids: .*$", f"shard_ids: {list(range(partition.shards))}", text)
    text = re.sub(r"(?m)^  epochs: \[.*?\]", f"  epochs: {_epochs(text, partition)}", text)
    content = re.sub(r"(?m)^stages: .*$", f"stages: {partition.stages}", text).encode()
    assert parse_settings(content, "params.yaml").partition == partition, "the template has both lines"
    return content


def _epochs(template: str, partition: Partition) -> list[int]:
    """The shipped passes, which are one number a tier, for this partition's stages."""
    shipped = parse_settings(template.encode(), "params.yaml").training
    epochs = [shipped.stage_epochs(stage) for stage in range(len(partition.tiers))]
    return resample_epochs(epochs, partition.tiers, partition.stages)


def _publish(unfinished: Path, directory: Path) -> None:
    (directory / ".lethe").mkdir(exist_ok=True)
    for path in (unfinished / ".lethe").iterdir():
        path.rename(directory / ".lethe" / path.name)
    (unfinished / ".lethe").rmdir()
    # DVC's notes of file states are by path and worthless now; it makes new ones.
    shutil.rmtree(directory / ".lethe" / "dvc" / "site", ignore_errors=True)
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "params.yaml"):
        path.rename(directory / path.name)
    unfinished.rmdir()
