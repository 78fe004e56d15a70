"""The paper's kNN rule for how much each expert counts at a denoising step.

    w_i ∝ λ_i · exp(−min_j ‖φ(x̂0) − c_ij‖² / τ)

φ is the CLIP embedding of the predicted clean image, c_ij the centroids of shard i, λ_i its prior. Nothing in it is trained over
several shards, so a deletion changes the hit shard's centroids and prior only. Computed in log space: at small τ every
exponential may underflow while their ratios are fine. Where τ is so small that the exponents themselves overflow, the nearest expert's
distance is taken from all of them first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def knn_weights(embeddings: Tensor, centroids: Sequence[Tensor], priors: Tensor, temperature: float) -> Tensor:
    """Weights [B, N] of N experts, each row summing to 1.

    Args:
        embeddings: [B, D].
        centroids: for each expert [K_i, D], K_i at least 1.
        priors: [N], non-negative, of any scale: sample counts will do. A prior of 0 gives a weight of exactly 0.
        temperature: τ, in squared units of the embedding space, above 0.

    Raises:
        ValueError: numbers that don't fit together or are out of range.
    """
    if len(centroids) == 0 or priors.shape != (len(centroids),):
        raise ValueError(f"{len(centroids)} experts' centroids need as many priors, not {list(priors.shape)}")
    if any(len(expert) == 0 for expert in centroids):
        raise ValueError("an expert without centroids has no weight")
    if not bool((priors >= 0).all()) or not bool((priors > 0).any()):
        raise ValueError("priors must be non-negative, and one of them positive")
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, not {temperature}")
    squared_BN = torch.stack([_nearest_squared_distance(embeddings, expert) for expert in centroids], dim=1)
    log_weights_BN = priors.double().log() - _exponents(squared_BN, priors > 0, temperature)
    return log_weights_BN.softmax(dim=1).to(embeddings.dtype)


def _exponents(squared_BN: Tensor, is_possible_N: Tensor, temperature: float) -> Tensor:
    """Squared distances over τ; in rows where one overflows, what they exceed the least possible expert's by, which alters no ratio."""
    plain_BN, possible_BN = squared_BN / temperature, squared_BN.masked_fill(~is_possible_N, torch.inf)
    shifted_BN = (possible_BN - possible_BN.amin(dim=1, keepdim=True)) / temperature
    return torch.where(plain_BN.isfinite().all(dim=1, keepdim=True), plain_BN, shifted_BN)


def _nearest_squared_distance(embeddings: Tensor, centroids: Tensor) -> Tensor:
    """min_j ‖e − c_j‖², float64 [B]; by differences, so that an embedding's weight doesn't depend on its batch."""
    distances = torch.cdist(embeddings.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square().amin(dim=1)
