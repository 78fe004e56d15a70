"""What the report's distances and retrievals compare with: features and CLIP embeddings of every real picture, in manifest order."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save

from cdm_core.centroids import compute_centroids
from cdm_core.composition.serving import CENTROIDS_NAME
from cdm_core.digests import Digest, derive_seed, json_digest, sha256_digest
from cdm_core.sharding.manifests import samples_digest
from cdm_core.sharding.splits import Part
from tasks.data.manifest_store import load_manifest
from tasks.models.seen_pictures import see_shard, shared_extractor_digest
from tasks.paper_report.cache import ReportCache
from tasks.training.shard_training import shared_backbone_digest
from tasks.training.workers import report_progress


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class References:
    """Row i of each is row i of the table of all manifests: features [M, D], embeddings [M, 128], captions, groups."""

    rows: pd.DataFrame
    features: torch.Tensor
    embeddings: torch.Tensor
    groups: list[str]

    @property
    def captions(self) -> list[str]:
        return [str(caption) for caption in self.rows["caption"]]


def look_at_shard(cache: ReportCache, shard: int) -> Path:
    """Find, or compute, one shard's features and embeddings. Reports "reference pictures". Run it in a process of one thread.

    Features are always EfficientNet-Lite0's, also where the workspace's own gate uses another network.
    """
    manifest = load_manifest(cache.ws, shard)
    names = {"samples": samples_digest(manifest), "extractor": shared_extractor_digest(None), "backbone": shared_backbone_digest()}
    path = cache.folder / "features" / f"{json_digest(names)}.safetensors"
    if path.is_file():
        report_progress("reference pictures", len(manifest))
        return path
    seen = see_shard(cache.ws, shard, manifest, None)
    cache.write(path, save({"features": seen.features, "embeddings": seen.embeddings}))
    return path


def read_references(rows: pd.DataFrame, files: list[Path], groups: list[str]) -> References:
    """Put the shards' files together; `rows` are all manifests' in the same order."""
    parts = [load(path.read_bytes()) for path in files]
    features, embeddings = (torch.cat([part[name] for part in parts]) for name in ("features", "embeddings"))
    assert len(features) == len(rows), "one shard after the other, as in the table"
    return References(rows=rows, features=features, embeddings=embeddings, groups=groups)


def write_centroids(cache: ReportCache, references: References, part: Part, num: int) -> tuple[Digest, Path]:
    """A part's CLIP centroids, as the workspace computes a shard's."""
    points = references.embeddings[list(part.rows)]
    content = save({CENTROIDS_NAME: compute_centroids(points, num, derive_seed("centroids", part.number))})
    digest = sha256_digest(content)
    path = cache.folder / "centroids" / f"{digest}.safetensors"
    if not path.is_file():
        cache.write(path, content)
    return digest, path
