"""How networks see a workspace's pictures, features and CLIP embeddings: each sample is looked at once, not again after every deletion.

A picture's row depends on the picture alone (`cdm_core.evaluation.features`, `cdm_core.clip`: batches of one shape), so that rows kept
from before equal rows computed anew, byte for byte (a test). What is kept of a shard is one file, named by its samples and by both
networks; another set of samples has another file, and the old one goes with the other descriptions at the purge. Safe to delete.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save

from cdm_core.clip import EMBEDDING_WIDTH
from cdm_core.digests import Digest
from cdm_core.evaluation.features import FeatureExtractor, compute_extractor_digest, load_efficientnet_lite0, load_inception_v3
from cdm_core.sharding.manifests import samples_digest
from tasks.data.packs import load_pictures
from tasks.files import write_atomically
from tasks.training.shard_training import shared_backbone, shared_backbone_digest
from tasks.training.workers import report_progress
from tasks.workspace import Workspace

_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenPictures:
    """Rows in the order of a manifest: features float32 [N, D], embeddings float32 [N, 128]."""

    features: torch.Tensor
    embeddings: torch.Tensor


def look_at_shard(workspace: Workspace, shard: int, manifest: pd.DataFrame) -> SeenPictures:
    """What both networks see in a manifest's pictures, found or computed, and kept. Reports progress as "reference pictures"."""
    seen = see_shard(workspace, shard, manifest, workspace.settings().evaluation.inception_weights)
    ids = _ids_to_tensor(manifest["sample_id"].tolist())
    path = seen_file(workspace, shard, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save({"features": seen.features, "embeddings": seen.embeddings, "sample_ids": ids}))
    return seen


def see_shard(workspace: Workspace, shard: int, manifest: pd.DataFrame, inception_weights: str | None) -> SeenPictures:
    """The same through these features' network, and nothing is written. Reports progress as "reference pictures"."""
    kept = _read_kept(workspace, shard, manifest, inception_weights)
    missing = manifest[~manifest["sample_id"].isin(kept)].drop_duplicates("sample_id")
    report_progress("reference pictures", len(manifest) - len(missing))
    kept |= _look_at(workspace, missing, inception_weights)
    rows = [kept[sample_id] for sample_id in manifest["sample_id"]]
    if not rows:
        return SeenPictures(
            features=torch.empty(0, shared_extractor(inception_weights).dimensions), embeddings=torch.empty(0, EMBEDDING_WIDTH)
        )
    features, embeddings = (torch.stack(column) for column in zip(*rows, strict=True))
    return SeenPictures(features=features, embeddings=embeddings)


def seen_file(workspace: Workspace, shard: int, manifest: pd.DataFrame) -> Path:
    """Where what was seen of a shard's samples is kept."""
    suffix = _suffix(workspace.settings().evaluation.inception_weights)
    return workspace.cache / "shards" / f"shard-{shard}-{samples_digest(manifest)[:32]}{suffix}"


def embed_shard(workspace: Workspace, manifest: pd.DataFrame) -> torch.Tensor:
    """CLIP embeddings float32 [N, 128] of a manifest's pictures, whatever is kept."""
    backbone, embeddings = shared_backbone(), [torch.empty(0, EMBEDDING_WIDTH)]
    for chunk in load_pictures(workspace, manifest).split(_CHUNK):
        embeddings.append(backbone.clip.embed_pictures(backbone.encode_pictures(chunk)))
    return torch.cat(embeddings)


@cache
def shared_extractor(inception_weights: str | None) -> FeatureExtractor:
    """InceptionV3 with these weights, or else EfficientNet-Lite0, loaded once a process."""
    return load_inception_v3(Path(inception_weights)) if inception_weights else load_efficientnet_lite0()


@cache
def shared_extractor_digest(inception_weights: str | None) -> Digest:
    """Its digest, without loading it."""
    return compute_extractor_digest(Path(inception_weights) if inception_weights else None)


def _suffix(inception_weights: str | None) -> str:
    extractor = shared_extractor_digest(inception_weights)
    return f"-{extractor[:16]}-{shared_backbone_digest()[:16]}.seen.safetensors"


def _read_kept(
    workspace: Workspace, shard: int, manifest: pd.DataFrame, inception_weights: str | None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(features, embedding) of those of the manifest's samples that an earlier look at the shard saw."""
    wanted, kept = set(manifest["sample_id"]), {}
    for path in sorted((workspace.cache / "shards").glob(f"shard-{shard}-*{_suffix(inception_weights)}")):
        tensors = load(path.read_bytes())
        for row, sample_id in enumerate(_ids_of_tensor(tensors["sample_ids"])):
            if sample_id in wanted:
                kept[sample_id] = tensors["features"][row], tensors["embeddings"][row]
    return kept


def _look_at(workspace: Workspace, rows: pd.DataFrame, inception_weights: str | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    if rows.empty:
        return {}
    backbone, extractor = shared_backbone(), shared_extractor(inception_weights)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for chunk in load_pictures(workspace, rows.reset_index(drop=True)).split(_CHUNK):
        seen += zip(extractor.extract(chunk), backbone.clip.embed_pictures(backbone.encode_pictures(chunk)), strict=True)
        report_progress("reference pictures", len(chunk))
    return dict(zip(rows["sample_id"], seen, strict=True))


def _ids_to_tensor(sample_ids: list[str]) -> torch.Tensor:
    return torch.tensor([list(bytes.fromhex(sample_id)) for sample_id in sample_ids], dtype=torch.uint8)


def _ids_of_tensor(ids: torch.Tensor) -> list[str]:
    return [bytes(row).hex() for row in ids.tolist()]
