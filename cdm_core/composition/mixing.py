"""Mixing: how much each expert counts at a step. The paper's methods behind one interface, each a module of `cdm_core.methods`.

Composed score: s(x_t) = Σ_i w_i(x_t)·s_i(x_t), with w_i = p(i | x_t) (paper eq. 5); velocities mix with the same weights, since both
are affine in the score for a given x_t and t. The methods differ in w_i. `cp_delta` is not among them: a product of experts isn't a
mixture, and has a sampler of its own (`cdm_core.composition.copy_protection`).
"""

from collections.abc import Mapping

import torch

from cdm_core.backbone import Backbone, PixelBackbone
from cdm_core.composition.document import Composition
from cdm_core.digests import Digest
from cdm_core.methods.average import Average
from cdm_core.methods.bare_backbone import BareBackbone
from cdm_core.methods.bayes import Bayes
from cdm_core.methods.classifier import Classifier
from cdm_core.methods.draws import draw_expert
from cdm_core.methods.interface import Condition, Mixer, Predictions
from cdm_core.methods.knn import Knn
from cdm_core.methods.priors import ClipPriors, ConditionalCountPriors, CountPriors, Priors
from cdm_core.methods.random_per_step import RandomPerStep
from cdm_core.methods.shard_per_image import ShardPerImage
from cdm_core.methods.top_k import TopK

__all__ = [
    "Average",
    "BareBackbone",
    "Bayes",
    "Condition",
    "Knn",
    "Mixer",
    "Predictions",
    "RandomPerStep",
    "ShardPerImage",
    "TopK",
    "build_mixer",
    "draw_expert",
]


def build_mixer(
    composition: Composition,
    backbone: Backbone,
    centroids: dict[Digest, torch.Tensor],
    classifier: Classifier | None = None,
    caption_counts: Mapping[int, Mapping[str, int]] | None = None,
) -> Mixer:
    """The mixer that the composition names.

    Raises:
        ValueError: `knn` or CLIP priors are asked for without the centroids of every expert, or on a backbone without CLIP; priors by
            caption without `caption_counts` (shard → caption → samples); `classifier` without one; `cp_delta`, which is no mixture.
    """
    experts = composition.experts
    priors = _priors(composition, backbone, centroids, caption_counts)
    method = composition.sampling.method
    match method.removeprefix("top_k:"):
        case "shard_per_image":
            return ShardPerImage(experts=experts, priors=priors)
        case "random":
            return RandomPerStep(experts=experts)
        case "average":
            mixer: Mixer = Average(experts=experts)
        case "bayes":
            mixer = Bayes(priors=priors or CountPriors(experts=experts))
        case "knn":
            chosen, pixels = _known_centroids(composition, backbone, centroids)
            mixer = Knn(experts=experts, centroids=chosen, temperature=composition.knn_temperature, backbone=pixels, priors=priors)
        case "classifier" if classifier is not None:
            mixer = classifier
        case _:
            raise ValueError(f"{method} needs a trained classifier, or is no mixture")
    return TopK(inner=mixer) if method.startswith("top_k:") else mixer


def _priors(
    composition: Composition,
    backbone: Backbone,
    centroids: dict[Digest, torch.Tensor],
    caption_counts: Mapping[int, Mapping[str, int]] | None,
) -> Priors | None:
    """None: the counts."""
    if composition.sampling.prior == "counts":
        return None
    if composition.sampling.prior == "captions":
        if caption_counts is None:
            raise ValueError("priors by caption need the captions' counts")
        return ConditionalCountPriors(experts=composition.experts, counts=caption_counts)
    chosen, pixels = _known_centroids(composition, backbone, centroids)
    return ClipPriors(experts=composition.experts, centroids=chosen, clip=pixels.clip, temperature=composition.knn_temperature)


def _known_centroids(
    composition: Composition, backbone: Backbone, centroids: dict[Digest, torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], PixelBackbone]:
    chosen = tuple(centroids[expert.centroids] for expert in composition.experts if expert.centroids is not None)
    if len(chosen) < len(composition.experts) or not isinstance(backbone, PixelBackbone):
        raise ValueError("knn and CLIP priors need a backbone with CLIP and the centroids of every expert")
    return chosen, backbone
