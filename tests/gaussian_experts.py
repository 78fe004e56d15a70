"""Experts whose answers are known: mixtures of isotropic Gaussians on the linear path, in pictures of shape [D, 1, 1]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cdm_core.composition.document import Expert
from cdm_core.digests import Digest
from cdm_core.methods.interface import Condition, Predictions


@dataclass(frozen=True, kw_only=True)
class GaussianMixture:
    """Σ_k weight_k N(mean_k, std_k²·I)."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    stds: tuple[float, ...]

    def draw(self, num: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.multinomial(torch.tensor(self.weights), num, replacement=True, generator=generator)
        noise = torch.randn(num, len(self.means[0]), generator=generator)
        return (torch.tensor(self.means)[chosen] + torch.tensor(self.stds)[chosen, None] * noise)[..., None, None]

    def log_parts(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """log(weight_k·p_k(x_t)) [B, K]."""
        flat = x.flatten(1)
        parts = []
        for weight, mean, std in zip(self.weights, self.means, self.stds, strict=True):
            variance = ((1 - t) * std) ** 2 + t**2
            offset = flat - (1 - t) * torch.tensor(mean, dtype=x.dtype)
            parts.append(math.log(weight) - offset.square().sum(1) / (2 * variance) - flat.shape[1] / 2 * math.log(2 * math.pi * variance))
        return torch.stack(parts, dim=1)

    def log_density(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return self.log_parts(x, t).logsumexp(dim=1)

    def velocity(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """E[ε − x_0 | x_t]."""
        flat, answer = x.flatten(1), torch.zeros_like(x.flatten(1))
        for share, mean, std in zip(self.log_parts(x, t).softmax(dim=1).T, self.means, self.stds, strict=True):
            variance = ((1 - t) * std) ** 2 + t**2
            centre = torch.tensor(mean, dtype=x.dtype)
            offset = flat - (1 - t) * centre
            answer = answer + share[:, None] * ((t - (1 - t) * std**2) / variance * offset - centre)
        return answer.view_as(x)


def gaussian(mean: Sequence[float], std: float) -> GaussianMixture:
    return GaussianMixture(weights=(1.0,), means=(tuple(mean),), stds=(std,))


def evaluate_each(parts: Sequence[GaussianMixture]):  # type: ignore[no-untyped-def]
    """As `cdm_core.composition.sampling.walk` wants it."""
    return lambda position, rows, x, t: parts[position].velocity(x[rows], t)


def evaluate_all(parts: Sequence[GaussianMixture]):  # type: ignore[no-untyped-def]
    """As attribution and copy protection want it."""
    return lambda x, t: torch.stack([part.velocity(x, t) for part in parts])


def experts_of(counts: Sequence[int]) -> tuple[Expert, ...]:
    return tuple(Expert(shard=shard, adapter=Digest("0" * 64), samples=count, centroids=None) for shard, count in enumerate(counts))


def condition_of(num: int) -> Condition:
    return Condition(captions=[""] * num, seeds=list(range(num)))


def start_of(num: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dimensions, 1, 1, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True)
class ExactWeights:
    """λ_i p_i(x_t) / Σ_j λ_j p_j(x_t)."""

    parts: Sequence[GaussianMixture]
    priors: torch.Tensor

    def log_weights(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return (self.priors.log() + torch.stack([part.log_density(x, t) for part in self.parts], dim=1)).log_softmax(dim=1)

    def weights(self, x: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        predictions.velocities()
        return self.log_weights(x, t).exp().to(x.dtype)
