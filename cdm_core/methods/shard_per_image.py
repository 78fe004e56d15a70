"""`shard_per_image`: one expert a picture, drawn once with probability λ_i(c).

For the mixture Σ λ_i p_i this is ancestral sampling, at the price of a single model. With the counts' priors a picture's expert follows
from its seed alone.
"""

from dataclasses import dataclass

import torch

from cdm_core.composition.document import Expert
from cdm_core.methods.draws import draw_expert
from cdm_core.methods.interface import Condition, Predictions, one_hot
from cdm_core.methods.priors import Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPerImage:
    """One expert a picture."""

    experts: tuple[Expert, ...]
    priors: Priors | None = None
    """None: the counts."""

    def draw(self, condition: Condition) -> list[int]:
        """Position of each picture's expert."""
        if self.priors is None:
            return [draw_expert(self.experts, seed) for seed in condition.seeds]
        rates_BN = self.priors.of(condition).tolist()
        return [draw_expert(self.experts, seed, rates=rates) for seed, rates in zip(condition.seeds, rates_BN, strict=True)]

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """One-hot rows, the same at every step."""
        return one_hot(self.draw(condition), len(self.experts))
