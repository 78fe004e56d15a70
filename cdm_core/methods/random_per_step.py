"""`random`: one expert a step (paper sec. 3.4). Another law than `shard_per_image`, and a worse one; kept since the paper measures it."""

from dataclasses import dataclass

import torch

from cdm_core.composition.document import Expert
from cdm_core.methods.draws import draw_expert
from cdm_core.methods.interface import Condition, Predictions, one_hot


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPerStep:
    """One expert a step, in proportion to samples."""

    experts: tuple[Expert, ...]

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """One-hot rows, drawn anew at each step."""
        return one_hot([draw_expert(self.experts, seed, predictions.step) for seed in condition.seeds], len(self.experts))
