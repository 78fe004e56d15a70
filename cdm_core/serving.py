"""A composed model, ready to make pictures: composition document and adapter files in, pictures out.

Every file is checked against the digest that the composition names before it's used; an adapter that the composition doesn't list is
never loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load

from cdm_core.adapters import AdapterTensors, adapter_from_bytes, adapter_rank, merge_adapter
from cdm_core.backbone import Backbone, load_backbone
from cdm_core.composition import Composition, parse_composition
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.mixing import BareBackbone, Condition, Mixer, build_mixer, draw_expert
from cdm_core.sampling import sample_latents
from cdm_core.settings import Method
from cdm_core.stacking import StackedExperts

CENTROIDS_NAME = "centroids"
DENSE_METHODS: tuple[Method, ...] = ("knn", "average")
"""Those that need every expert at every step, so that stacking pays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedModel:
    """Experts in the composition's order; with no expert the bare backbone is the only one."""

    composition: Composition
    backbone: Backbone
    experts: tuple[torch.nn.Module, ...]
    mixer: Mixer
    stacked: StackedExperts | None = None

    def generate(self, prompts: list[str | None], seeds: list[int], on_step: Callable[[], None] = lambda: None) -> torch.Tensor:
        """Pictures uint8 [B, 3, 32, 32], one a prompt (None or "": unconditional) and seed."""
        condition = Condition(captions=[prompt or "" for prompt in prompts], seeds=seeds)
        latents = sample_latents(self.backbone, self.experts, self.mixer, condition, self.composition.sampling, on_step, self.stacked)
        return self.backbone.decode_latents(latents)

    def shards_of(self, seeds: list[int]) -> list[int | None]:
        """The shard that makes each picture where one alone does (`shard_per_image`), else None."""
        experts = self.composition.experts
        if not experts or self.composition.sampling.method != "shard_per_image":
            return [None] * len(seeds)
        return [experts[draw_expert(experts, seed)].shard for seed in seeds]


def load_composed_model(
    composition: bytes, adapters: Mapping[int, Path], centroids: Mapping[int, Path] | None = None, backbone: Backbone | None = None
) -> ComposedModel:
    """Assemble a model from its document and files (`adapters` and `centroids` by shard; centroids are read for `knn` only).

    Raises:
        VerificationError: a file is missing or isn't the one that the document names, or the backbone is another one.
        StateError: `knn` is asked for, and a shard has no centroids for now.
    """
    document = parse_composition(composition)
    backbone = backbone or load_backbone()
    if backbone.digest != document.backbone:
        raise VerificationError("composition: made for another backbone than the one installed")
    contents = [read_verified(adapters, expert.shard, expert.adapter, "adapter") for expert in document.experts]
    tensors = [adapter_from_bytes(content) for content in contents]
    experts = tuple(merge_adapter(backbone, adapter) for adapter in tensors)
    if not experts:
        return ComposedModel(composition=document, backbone=backbone, experts=(backbone.network,), mixer=BareBackbone())
    points: dict[Digest, torch.Tensor] = {}
    if document.sampling.method == "knn":
        for expert in document.experts:
            if expert.centroids is None:
                raise StateError(f"knn: shard {expert.shard} has no centroids while it is stopped; use another method")
            points[expert.centroids] = load(read_verified(centroids or {}, expert.shard, expert.centroids, "centroids"))[CENTROIDS_NAME]
    mixer, is_dense = build_mixer(document, backbone, points), document.sampling.method in DENSE_METHODS
    stacked = StackedExperts(backbone, tensors) if is_dense and is_stackable(tensors) else None
    return ComposedModel(composition=document, backbone=backbone, experts=experts, mixer=mixer, stacked=stacked)


def is_stackable(adapters: Sequence[AdapterTensors]) -> bool:
    """More than one, and all of one rank."""
    return len(adapters) > 1 and len({adapter_rank(adapter) for adapter in adapters}) == 1


def read_verified(files: Mapping[int, Path], shard: int, digest: Digest, kind: str) -> bytes:
    """A shard's file, if its bytes have the digest.

    Raises:
        VerificationError: it's missing or differs.
    """
    path = files.get(shard)
    if path is None or not path.is_file():
        raise VerificationError(f"{kind} of shard {shard}: no file for digest {digest[:12]}")
    content = path.read_bytes()
    if sha256_digest(content) != digest:
        raise VerificationError(f"{kind} of shard {shard}: {path.name} is not the file of digest {digest[:12]}")
    return content
