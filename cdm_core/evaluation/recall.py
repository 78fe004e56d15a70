"""Improved recall (Kynkäänniemi et al. 2019, equation 2): how much of the real data the generated data reaches.

Reported per shard or class beside the quality gate, so that a minority which vanishes is seen; it doesn't gate, for a share of few
pictures is too coarse to decide by.

Reference: T. Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019.
"""

import torch
from torch import Tensor


def recall(reference_features: Tensor, generated_features: Tensor, k: int = 3) -> float:
    """The share of reference vectors, [M, D], that lie within a generated vector's, [n, D], distance to its k-th nearest generated one.

    Raises:
        ValueError: no reference vector, or no more than k generated ones.
    """
    if len(reference_features) == 0:
        raise ValueError("recall of no reference features is undefined")
    if not 0 < k < len(generated_features):
        raise ValueError(f"recall needs more than k = {k} generated features (and k > 0), not {len(generated_features)}")
    # k + 1, since each vector is its own nearest.
    radii = _distances(generated_features, generated_features).kthvalue(k + 1, dim=1).values
    is_reached = (_distances(reference_features, generated_features) <= radii).any(dim=1)
    return float(is_reached.double().mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Differences, not the expanded square: that gives a vector a distance to itself.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
