"""Mixing: how much each expert counts at a step. The paper's methods behind one interface.

Composed score: s(x_t) = Σ_i w_i(x_t)·s_i(x_t), with w_i = p(i | x_t) (paper eq. 5); velocities mix with the same weights, since both
are affine in the score for a given x_t and t. The methods differ in w_i:

- `shard_per_image`: one expert a picture, drawn once with probability λ_i. For the mixture Σ λ_i p_i this is ancestral sampling, at the
  price of a single model.
- `knn`: w_i ∝ λ_i·exp(−min_j ‖φ(x̂_0) − c_ij‖² / τ) with CLIP embeddings φ and the shards' centroids (paper sec. 3.4 and 4).
- `average`: w_i = 1/N. `random`: one expert a step (paper sec. 3.4).

Draws are exponential races: expert i waits −log(u_i)/n_i with u_i hashed from (seed, shard), and the first wins. P(i first) is exactly λ_i,
and taking a shard away, or changing its count, moves no picture between the other shards: their pictures stay bit-equal.

Shape suffixes: B pictures, N experts, C channels, H, W height and width, D embedding width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cdm_core.backbone import Backbone, PixelBackbone
from cdm_core.composition import Composition, Expert
from cdm_core.digests import Digest, derive_uniform
from cdm_core.knn_weights import knn_weights

PredictVelocities = Callable[[], torch.Tensor]
"""Every expert's velocity at this step, float [N, B, C, H, W]; computed when first asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a batch of pictures is asked for: one caption ("" for none) and one seed each."""

    captions: list[str]
    seeds: list[int]


class Mixer(Protocol):
    """One method of mixing."""

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """Weights float [B, N], each row summing to 1."""


def draw_expert(experts: Sequence[Expert], *stream: str | int) -> int:
    """Position of the expert that wins the exponential race of this stream, with probability n_i / Σ n_j."""

    def waiting_time(position: int) -> float:
        expert = experts[position]
        return -math.log(derive_uniform("expert", *stream, expert.shard)) / expert.samples

    return min(range(len(experts)), key=waiting_time)


def _one_hot(positions: list[int], num_experts: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(positions), num_experts).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPerImage:
    """One expert a picture."""

    experts: tuple[Expert, ...]

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """One-hot rows, the same at every step."""
        return _one_hot([draw_expert(self.experts, seed) for seed in condition.seeds], len(self.experts))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPerStep:
    """One expert a step; another law than `ShardPerImage`, kept since the paper measures it."""

    experts: tuple[Expert, ...]

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """One-hot rows, drawn anew at each step."""
        return _one_hot([draw_expert(self.experts, seed, step) for seed in condition.seeds], len(self.experts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """All experts alike."""

    experts: tuple[Expert, ...]

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """1/N everywhere."""
        return torch.full((len(x_BCHW), len(self.experts)), 1 / len(self.experts))


@dataclass(frozen=True, slots=True)
class BareBackbone:
    """No expert at all: the backbone alone, when every shard has been stopped."""

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """All weight on the one network."""
        return torch.ones(len(x_BCHW), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knn:
    """Nearest centroids of the predicted clean picture."""

    experts: tuple[Expert, ...]
    centroids: tuple[torch.Tensor, ...]
    temperature: float
    backbone: PixelBackbone

    def weights(
        self, x_BCHW: torch.Tensor, t: float, step: int, predict_velocities: PredictVelocities, condition: Condition
    ) -> torch.Tensor:
        """From the prior-weighted mean of the experts' x̂_0 = x_t − t·v."""
        priors_N = torch.tensor([float(expert.samples) for expert in self.experts])
        priors_N /= priors_N.sum()
        velocity_BCHW = torch.einsum("n,nbchw->bchw", priors_N, predict_velocities())
        clean_BCHW = (x_BCHW - t * velocity_BCHW).clamp(-1, 1)
        embeddings_BD = self.backbone.clip.embed_pictures(clean_BCHW)
        return knn_weights(embeddings_BD, list(self.centroids), priors_N, self.temperature)


def build_mixer(composition: Composition, backbone: Backbone, centroids: dict[Digest, torch.Tensor]) -> Mixer:
    """The mixer that the composition names.

    Raises:
        ValueError: `knn` is asked for without the centroids of every expert, or on a backbone without CLIP.
    """
    experts = composition.experts
    match composition.sampling.method:
        case "shard_per_image":
            return ShardPerImage(experts=experts)
        case "random":
            return RandomPerStep(experts=experts)
        case "average":
            return Average(experts=experts)
        case "knn":
            chosen = tuple(centroids[expert.centroids] for expert in experts if expert.centroids is not None)
            if len(chosen) < len(experts) or not isinstance(backbone, PixelBackbone):
                raise ValueError("knn needs a backbone with CLIP and the centroids of every expert")
            return Knn(experts=experts, centroids=chosen, temperature=composition.knn_temperature, backbone=backbone)
