"""`average`: w_i = 1/N (paper sec. 3.4)."""

from dataclasses import dataclass

import torch

from cdm_core.composition.document import Expert
from cdm_core.methods.interface import Condition, Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """All experts alike."""

    experts: tuple[Expert, ...]

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """1/N everywhere."""
        return torch.full((len(x_BCHW), len(self.experts)), 1 / len(self.experts))
