"""Pictures that the report asks compositions for, with their features: made in parallel, kept by digest, made once.

A picture is a function of (composition, caption, seed), so it is kept under the smallest composition that makes it: with one shard a
picture, the pictures of one shard serve every composition that holds it, and dropping a shard costs that shard's pictures alone.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load, save

from cdm_core.adapters import AdapterTensors, merge_adapter
from cdm_core.composition.document import Composition
from cdm_core.composition.serving import ComposedModel, load_composed_model
from cdm_core.digests import Digest, json_digest
from tasks.models.evaluation import PictureRequest, smallest_compositions
from tasks.models.seen_pictures import shared_extractor, shared_extractor_digest
from tasks.paper_report.cache import ReportCache
from tasks.training.shard_training import shared_backbone
from tasks.training.workers import report_progress

_CHUNK = 32
_MOST_EXPERTS = 16
_experts: dict[Digest, torch.nn.Module] = {}  # in a worker: what it merged last


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A composition and the files that its digests name."""

    composition: Composition
    adapters: Mapping[int, Path]
    centroids: Mapping[int, Path]
    classifier: Path | None = None

    def restricted_to(self, shards: list[int]) -> "Model":
        """Some of its shards only."""
        return Model(composition=self.composition.restricted_to(shards), adapters=self.adapters, centroids=self.centroids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Pictures wanted of a model."""

    model: Model
    requests: tuple[PictureRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """Pictures uint8 [n, 3, 32, 32] and their features [n, D], in the order asked for."""

    pictures: torch.Tensor
    features: torch.Tensor


def make_all(pool: Executor, cache: ReportCache, orders: Sequence[Order], code: Digest) -> None:
    """Make what the cache lacks, in chunks. Workers report "pictures"."""
    known: dict[Digest, set[str]] = {}
    pending = []
    for order in orders:
        for part, group in smallest_compositions(order.model.composition, list(order.requests)):
            found = known.setdefault(part.digest, set(_read_folder(_folder(cache, part, code))))
            missing = [request for request in group if request.key not in found]
            found |= {request.key for request in missing}
            for start in range(0, len(missing), _CHUNK):
                chunk = tuple(missing[start : start + _CHUNK])
                model = Model(
                    composition=part,
                    adapters={shard: order.model.adapters[shard] for shard in part.shards},
                    centroids={shard: path for shard, path in order.model.centroids.items() if shard in part.shards},
                    classifier=order.model.classifier,
                )
                pending.append(pool.submit(_make_chunk, cache, model, chunk, code))
    for future in pending:
        future.result()


def count_missing(cache: ReportCache, orders: Sequence[Order], code: Digest) -> int:
    """How many pictures `make_all` would make."""
    wanted: dict[Digest, tuple[Composition, set[str]]] = {}
    for order in orders:
        for part, group in smallest_compositions(order.model.composition, list(order.requests)):
            wanted.setdefault(part.digest, (part, set()))[1].update(request.key for request in group)
    return sum(len(keys - set(_read_folder(_folder(cache, part, code)))) for part, keys in wanted.values())


def read_made(cache: ReportCache, order: Order, code: Digest) -> Made:
    """What `make_all` made."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for part, group in smallest_compositions(order.model.composition, list(order.requests)):
        tensors = _read_folder(_folder(cache, part, code))
        found |= {request.key: tensors[request.key] for request in group}
    rows = [found[request.key] for request in order.requests]
    return Made(pictures=torch.stack([picture for picture, _ in rows]), features=torch.stack([features for _, features in rows]))


def _make_chunk(cache: ReportCache, model: Model, requests: tuple[PictureRequest, ...], code: Digest) -> None:
    loaded = _load(model.composition.to_bytes(), tuple(model.adapters.items()), tuple(model.centroids.items()), model.classifier)
    made = loaded.generate([request.caption for request in requests], [request.seed for request in requests])
    features = shared_extractor(None).extract(made)
    tensors: dict[str, torch.Tensor] = {}
    for row, request in enumerate(requests):
        tensors[f"{request.key}.picture"], tensors[f"{request.key}.features"] = made[row].clone(), features[row].clone()
    name = json_digest([request.key for request in requests])
    cache.write(_folder(cache, model.composition, code) / f"{name}.safetensors", save(tensors))
    report_progress("pictures", len(requests))


@lru_cache(maxsize=2)
def _load(
    composition: bytes, adapters: tuple[tuple[int, Path], ...], centroids: tuple[tuple[int, Path], ...], classifier: Path | None
) -> ComposedModel:
    # Chunks of one model come one after the other.
    model = load_composed_model(composition, dict(adapters), dict(centroids), shared_backbone(), classifier, merge=_merge)
    # Stacking all experts in one pass pays for a picture or a few; a chunk fills the network's batches anyway.
    return replace(model, stacked=None)


def _merge(digest: Digest, adapter: AdapterTensors) -> torch.nn.Module:
    # Merging costs as much as dozens of pictures, and eight methods mix the same experts.
    if digest not in _experts:
        while len(_experts) >= _MOST_EXPERTS:
            del _experts[next(iter(_experts))]
        _experts[digest] = merge_adapter(shared_backbone(), adapter)
    return _experts[digest]


def _folder(cache: ReportCache, composition: Composition, code: Digest) -> Path:
    extractor = shared_extractor_digest(None)
    return cache.folder / "pictures" / json_digest({"composition": composition.digest, "extractor": extractor, "code": code})


def _read_folder(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load(path.read_bytes())
    keys = [name.removesuffix(".picture") for name in tensors if name.endswith(".picture")]
    return {key: (tensors[f"{key}.picture"], tensors[f"{key}.features"]) for key in keys}
