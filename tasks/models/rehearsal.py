"""A rehearsal for a worker that waits: load the networks and use each once, which the first shard and the first picture would pay for.

Nothing of it is kept but what is loaded. The pictures are grey and belong to nobody.
"""

import torch

from cdm_core.adapters import initial_adapter, merge_adapter
from cdm_core.composition.sampling import evaluate_network
from cdm_core.digests import Digest
from cdm_core.evaluation.frechet import build_frechet_reference
from cdm_core.evaluation.moments import compute_moments
from cdm_core.evaluation.quality_gate import GeneratedFeatures, judge_quality
from cdm_core.settings import Settings
from cdm_core.training import StagePosition, StageSamples, train_stage
from tasks.models.seen_pictures import shared_extractor
from tasks.training.shard_training import scratch_model


def rehearse_models(settings: Settings) -> None:
    """One training step, one prediction, one look and one verdict, with a workspace's settings. Run it in a process of one thread."""
    backbone, model = scratch_model(settings.training.rank)
    num = max(settings.training.batch_size, 4)
    samples = StageSamples(
        sample_ids=[Digest(f"{row:064}") for row in range(num)],
        captions=[""] * num,
        pictures=torch.full((num, 3, 32, 32), 128, dtype=torch.uint8),
    )
    once = settings.training.model_copy(update={"epochs": 1})
    adapter = train_stage(backbone, model, initial_adapter(model, 0), samples, StagePosition(shard=0, stage=0), once)
    latents = backbone.encode_pictures(samples.pictures)
    evaluate_network(merge_adapter(backbone, adapter), latents, 0.5, backbone.encode_captions(samples.captions))
    backbone.clip.embed_pictures(latents)
    features = shared_extractor(settings.evaluation.inception_weights).extract(samples.pictures)
    sides = GeneratedFeatures(features=features, seeds=torch.arange(num))
    judge_quality(sides, sides, build_frechet_reference(compute_moments(features)), num_blocks=2, margin=0.05)
