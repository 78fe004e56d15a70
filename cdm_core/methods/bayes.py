"""`bayes`: w_i = p(i | path so far), without any classifier. Needs the stochastic sampler.

    log w_i ← log w_i − ‖x_{k−1} − μ_i(x_k)‖² / (2σ_k²), from log w_i = log λ_i, normalised

All p_i share one forward process, so the ratio of two experts' probabilities of a whole backward path is the ratio of their densities at
its end: with fine steps the weights are the exact posteriors p(i | x_t). With coarse ones the step is still drawn around Σ w_i μ_i
rather than from Σ w_i N(μ_i, σ²), so that the nearer expert is favoured; `shard_per_image` has the exact law at any number of steps.
"""

from dataclasses import dataclass

import torch

from cdm_core.methods.interface import Condition, Predictions
from cdm_core.methods.priors import Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class Bayes:
    """Posterior of the experts given the path."""

    priors: Priors

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """From the evidence so far; evaluates every expert, since the next step's evidence needs all.

        Raises:
            ValueError: the sampler is deterministic.
        """
        if predictions.evidence_BN is None:
            raise ValueError("bayes needs a stochastic sampler: a deterministic path has no likelihood")
        predictions.velocities()
        log_weights_BN = self.priors.of(condition).double().log() + predictions.evidence_BN
        log_weights_BN = log_weights_BN.masked_fill(~predictions.active_BN, -torch.inf)
        return log_weights_BN.softmax(dim=1).to(x_BCHW.dtype)
