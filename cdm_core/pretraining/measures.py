"""How good the pretrained weights are, on public pictures that they never saw: the model card's figures.

Every Fréchet distance compares the same number of pictures, n, with the same n held-out ones, since a finite sample's distance depends
on n. Two anchors say what a figure means: other held-out pictures, which no model can beat, and the noise that sampling starts from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cdm_core.backbone import Backbone
from cdm_core.clip import Clip
from cdm_core.composition.mixing import BareBackbone, Condition
from cdm_core.composition.sampling import NETWORK_BATCH, draw_start, sample_latents
from cdm_core.digests import derive_seed
from cdm_core.evaluation.features import FeatureExtractor
from cdm_core.evaluation.frechet import build_frechet_reference, compute_sample_grams
from cdm_core.evaluation.moments import compute_moments
from cdm_core.pretraining.clip import ClipTrainingData
from cdm_core.settings import SamplingSettings
from cdm_core.training import StageSamples


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Shares of queries whose nearest target, among all held-out emoji, is the right one; another skin tone is wrong."""

    num_emoji: int
    chance: float
    image_to_image: float
    image_to_text_noto: float
    image_to_text_twemoji: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Fréchet distances of `num_pictures` each to the same held-out pictures."""

    num_pictures: int
    real: float
    generated: float
    noise: float


def measure_retrieval(clip: Clip, data: ClipTrainingData) -> Retrieval:
    """Noto picture → Twemoji picture of the same emoji, and each vendor's picture → its name."""
    first, second = (clip.embed_pictures(view.float() / 127.5 - 1) for view in (data.first_vendor, data.second_vendor))
    text = clip.embed_captions(data.captions)
    return Retrieval(
        num_emoji=len(data.captions),
        chance=1 / len(data.captions),
        image_to_image=retrieval_at_1(first, second),
        image_to_text_noto=retrieval_at_1(first, text),
        image_to_text_twemoji=retrieval_at_1(second, text),
    )


def measure_image_retrieval(extractor: FeatureExtractor, data: ClipTrainingData) -> float:
    """Noto picture → Twemoji picture by the cosine of an extractor's features: what CLIP is compared with."""
    first, second = (F.normalize(extractor.extract(view), dim=1) for view in (data.first_vendor, data.second_vendor))
    return retrieval_at_1(first, second)


def retrieval_at_1(queries: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of rows [N, D] whose nearest target by inner product is the row of the same number."""
    return ((queries @ targets.T).argmax(dim=1) == torch.arange(len(queries))).float().mean().item()


def split_in_halves(samples: StageSamples, num: int) -> tuple[StageSamples, StageSamples]:
    """Two disjoint sets of `num` samples, chosen by a hash of their ids.

    Raises:
        ValueError: there are fewer than 2·num samples.
    """
    if not 2 <= num <= len(samples.sample_ids) // 2:
        raise ValueError(f"two halves of {num}: must be 2 to {len(samples.sample_ids) // 2}")
    order = sorted(range(len(samples.sample_ids)), key=lambda row: derive_seed("halves", samples.sample_ids[row]))
    first, second = (
        StageSamples(
            sample_ids=[samples.sample_ids[row] for row in rows],
            captions=[samples.captions[row] for row in rows],
            pictures=samples.pictures[rows],
        )
        for rows in (order[:num], order[num : 2 * num])
    )
    return first, second


def generate_pictures(
    backbone: Backbone, captions: list[str], sampling: SamplingSettings, on_pictures: Callable[[int], None]
) -> torch.Tensor:
    """Pictures uint8 [N, 3, 32, 32] of the bare backbone, picture k from seed k; reports how many it has made at a time."""
    made = []
    for start in range(0, len(captions), NETWORK_BATCH):
        chunk = captions[start : start + NETWORK_BATCH]
        condition = Condition(captions=chunk, seeds=list(range(start, start + len(chunk))))
        made.append(backbone.decode_latents(sample_latents(backbone, [backbone.network], BareBackbone(), condition, sampling)))
        on_pictures(len(chunk))
    return torch.cat(made)


def measure_distances(
    backbone: Backbone, extractor: FeatureExtractor, generated: torch.Tensor, real: torch.Tensor, reference: torch.Tensor
) -> Distances:
    """Distances to `reference` of generated pictures, of other real ones and of noise; all uint8 [n, 3, 32, 32] with one n."""
    noise = backbone.decode_latents(torch.stack([draw_start(backbone, seed) for seed in range(len(generated))]))
    target = build_frechet_reference(compute_moments(extractor.extract(reference)))
    to_real, to_generated, to_noise = (
        compute_sample_grams(target, extractor.extract(pictures)).distance() for pictures in (real, generated, noise)
    )
    return Distances(num_pictures=len(reference), real=to_real, generated=to_generated, noise=to_noise)
