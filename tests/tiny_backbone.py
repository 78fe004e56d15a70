"""A backbone small enough to be trained many times in a test: a two-level UNet of random weights that reads the shipped CLIP's tokens.

Also samples, adapters and compositions for it.
"""

from functools import cache

import torch

from cdm_core.adapters import AdapterTensors, adapter_to_bytes, attach_adapter, initial_adapter, merge_adapter
from cdm_core.backbone import PixelBackbone, build_network
from cdm_core.clip import Clip, load_clip
from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import derive_seed, json_digest, sha256_digest
from cdm_core.settings import Method, SamplingSettings
from cdm_core.training import StageSamples

TINY_CONFIG: dict[str, object] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


@cache
def shipped_clip() -> Clip:
    """The CLIP model in the package."""
    return load_clip()


@cache
def tiny_backbone(seed: int = 0) -> PixelBackbone:
    """The tiny backbone of a seed, built once; nobody changes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(TINY_CONFIG)
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return PixelBackbone(network=network, clip=shipped_clip(), digest=json_digest({"tiny": seed}))


def make_samples(names: list[str]) -> StageSamples:
    """Samples whose id, caption and picture follow from their names."""
    pictures = [torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=_generator("picture", name)) for name in names]
    return StageSamples(
        sample_ids=[sha256_digest(name.encode()) for name in names],
        captions=[f"thing {name}" for name in names],
        pictures=torch.stack(pictures) if pictures else torch.empty(0, 3, 32, 32, dtype=torch.uint8),
    )


def make_adapter(shard: int) -> AdapterTensors:
    """An adapter of rank 2 that changes what the tiny network says, as if trained."""
    return dict(_adapter(shard))


@cache
def make_expert(shard: int) -> torch.nn.Module:
    """The tiny network with that adapter merged."""
    return merge_adapter(tiny_backbone(), make_adapter(shard))


@cache
def _adapter(shard: int) -> AdapterTensors:
    generator = _generator("trained", shard)
    start = initial_adapter(attach_adapter(tiny_backbone(), 2), shard)
    return {name: 0.2 * torch.randn(tensor.shape, generator=generator) if "lora_B" in name else tensor for name, tensor in start.items()}


def make_composition(
    backbone: PixelBackbone,
    samples: dict[int, int],
    method: Method = "shard_per_image",
    *,
    steps: int = 3,
    guidance_scale: float = 1.0,
    centroids: dict[int, bytes] | None = None,
) -> Composition:
    """The composition of `make_adapter` of each shard, with these sample counts and centroids files."""
    experts = tuple(
        Expert(
            shard=shard,
            adapter=sha256_digest(adapter_to_bytes(make_adapter(shard))),
            samples=count,
            centroids=sha256_digest(centroids[shard]) if centroids else None,
        )
        for shard, count in sorted(samples.items())
    )
    sampling = SamplingSettings(steps=steps, guidance_scale=guidance_scale, method=method)
    return Composition(backbone=backbone.digest, experts=experts, sampling=sampling, knn_temperature=0.05)


def _generator(*stream: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*stream))
