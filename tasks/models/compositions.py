"""Compositions of a workspace: documents by digest, and the files that their digests name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cdm_core.composition.document import Composition, Expert, parse_composition
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.settings import Settings
from tasks.files import write_atomically
from tasks.models.evaluation import ShardDescription
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import TrainedShard, shared_backbone_digest
from tasks.workspace import Workspace


def compose(settings: Settings, experts: Iterable[Expert]) -> Composition:
    """The composition of experts under a workspace's settings; those trained on nothing are left out."""
    return Composition(
        backbone=shared_backbone_digest(),
        experts=tuple(sorted((expert for expert in experts if expert.samples), key=lambda expert: expert.shard)),
        sampling=settings.sampling,
        knn_temperature=settings.knn.temperature,
    )


def expert_of(trained: TrainedShard, description: ShardDescription) -> Expert:
    """A shard's expert as it came out of training."""
    return Expert(shard=trained.shard, adapter=trained.adapter, samples=trained.samples, centroids=description.centroids)


def replace_experts(settings: Settings, base: Composition, shards: Iterable[int], experts: Iterable[Expert]) -> Composition:
    """`base` with the experts of `shards` replaced by `experts`; the others keep their bytes."""
    gone = set(shards)
    return compose(settings, [*(expert for expert in base.experts if expert.shard not in gone), *experts])


def save_composition(ws: Workspace, composition: Composition) -> Path:
    """Write a composition's document under its digest."""
    ws.compositions.mkdir(parents=True, exist_ok=True)
    path = ws.compositions / f"{composition.digest}.json"
    write_atomically(path, composition.to_bytes())
    return path


def load_composition(ws: Workspace, digest: Digest) -> Composition:
    """The composition of that digest.

    Raises:
        StateError: there is none.
        VerificationError: its bytes are others than its name says.
    """
    path = ws.compositions / f"{digest}.json"
    if not path.is_file():
        raise StateError(f"{path}: no such composition; make the model anew with: lethe build")
    composition = parse_composition(path.read_bytes())
    if composition.digest != digest:
        raise VerificationError(f"{path}: not the composition that its name says")
    return composition


def saved_compositions(ws: Workspace) -> dict[Digest, Composition]:
    """All of them, by digest."""
    return {Digest(path.stem): parse_composition(path.read_bytes()) for path in sorted(ws.compositions.glob("*.json"))}


def adapter_files(ws: Workspace, composition: Composition) -> dict[int, Path]:
    """Each expert's adapter in the checkpoint store, by shard.

    Raises:
        StateError: the store doesn't hold one.
    """
    store = CheckpointStore(ws.checkpoints)
    by_digest = {str(entry["adapter"]): store.path(key) for key, entry in store.entries().items()}
    missing = [expert for expert in composition.experts if expert.adapter not in by_digest]
    if missing:
        raise StateError(f"checkpoints: no adapter {missing[0].adapter[:12]} for shard {missing[0].shard}; run: lethe build")
    return {expert.shard: by_digest[expert.adapter] for expert in composition.experts}


def centroid_files(ws: Workspace, composition: Composition) -> dict[int, Path]:
    """Each expert's centroids by shard, as far as the cache holds them."""
    by_digest = {sha256_digest(path.read_bytes()): path for path in (ws.cache / "shards").glob("*.centroids.safetensors")}
    return {expert.shard: by_digest[expert.centroids] for expert in composition.experts if expert.centroids in by_digest}


def tainted_adapters(ws: Workspace, hit_shards: Iterable[int], clean: Mapping[int, set[Digest]]) -> set[Digest]:
    """Adapter digests of hit shards, in any composition or checkpoint, that are not among their clean ones."""
    store = CheckpointStore(ws.checkpoints)
    known = {(int(str(entry["shard"])), Digest(str(entry["adapter"]))) for entry in store.entries().values()}
    for composition in saved_compositions(ws).values():
        known |= {(expert.shard, expert.adapter) for expert in composition.experts}
    return {adapter for shard, adapter in known if shard in set(hit_shards) and adapter not in clean.get(shard, set())}
