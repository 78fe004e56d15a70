"""`top_k:…`: gating of any other method to a picture's k heaviest experts, once the weights have concentrated on them.

Gated from the start, a small shard would vanish: all weights are near their priors there. So a picture is gated at the first step at which
its k heaviest experts hold `CONCENTRATION` of the weight. From then on the others are not evaluated for it any more. One-hot methods,
`shard_per_image` and `random`, are gated as they are: for them `top_k` is the method itself.
"""

from dataclasses import dataclass

import torch

from cdm_core.methods.interface import Condition, Mixer, Predictions

CONCENTRATION = 0.95
DEFAULT_K = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Another method, gated."""

    inner: Mixer
    k: int = DEFAULT_K

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"top_k needs k of 1 or more, not {self.k}")

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """The inner method's, renormalised over the kept experts."""
        previous_BN = predictions.previous_BN
        if previous_BN is not None:
            is_gated_B1 = (previous_BN > 0).sum(dim=1, keepdim=True) <= self.k
            predictions.narrow_to((previous_BN > 0) | ~is_gated_B1)
        weights_BN = self.inner.weights(x_BCHW, t, predictions, condition)
        if previous_BN is not None:
            weights_BN = torch.where(predictions.active_BN, weights_BN, 0)
            weights_BN = weights_BN / weights_BN.sum(dim=1, keepdim=True)
        kept_BN = torch.zeros_like(weights_BN, dtype=torch.bool).scatter(
            1, weights_BN.topk(min(self.k, weights_BN.shape[1]), dim=1).indices, True
        )
        gated_BN = weights_BN * kept_BN
        is_concentrated_B1 = gated_BN.sum(dim=1, keepdim=True) >= CONCENTRATION
        return torch.where(is_concentrated_B1, gated_BN / gated_BN.sum(dim=1, keepdim=True), weights_BN)
