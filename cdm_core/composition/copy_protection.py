"""`cp_delta`: copy-protected generation after Vyas et al. 2023, by a product of experts with Feynman–Kac weights.

The target is q ∝ Π_i p_i^{β_i} with Σ β_i = 1: an expert alone in giving a picture much probability is outvoted. Averaging the experts'
noised scores does not sample it, since Π_i p_i at a noise level isn't the noised Π_i p_i. What is missing is carried as a weight of each
particle: all p_i share one forward process, so over a step x_k → x_{k−1} ~ N(μ̄, σ²), with μ̄ = Σ β_i μ_i,

    Σ_i β_i log N(x_{k−1}; μ_i, σ²) − log N(x_{k−1}; μ̄, σ²) = −Var_β(μ) / (2σ²),

the discrete form of d log W = −½ g² Var_β(s) dτ. Particles are resampled (systematically) when their effective number falls below half; one
is drawn at the end. The last step of the sampler has no noise and carries no weight.

Of a finished picture, p/p_i = λ_i / w_i(x_0) with w_i its posterior, so k = max_i log(λ_i / w_i(x_0)) is the bound that it keeps, as far
as the posterior is estimated well. Near-access-free models can still copy verbatim: nothing here makes a picture safe.

Shape suffixes: P particles, N experts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cdm_core.composition.samplers import Sampler, clean_of
from cdm_core.digests import derive_seed, derive_uniform

NUM_PARTICLES = 16
"""Of one picture: a batch of the network."""

EvaluateAll = Callable[[torch.Tensor, float], torch.Tensor]
"""(x_t on the linear path [P, …], t) → every expert's velocity [N, P, …]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Weighted pictures; `smallest_effective_share` says how far the weights ever degenerated, of 1."""

    pictures: torch.Tensor
    log_weights_P: torch.Tensor
    smallest_effective_share: float

    def draw(self, seed: int) -> torch.Tensor:
        """One particle, in proportion to its weight."""
        shares_P = self.log_weights_P.softmax(dim=0).cumsum(dim=0)
        chosen = int(torch.searchsorted(shares_P, torch.tensor(derive_uniform("particle", seed), dtype=shares_P.dtype)))
        return self.pictures[min(chosen, len(self.pictures) - 1)]


@torch.no_grad()
def run_particles(
    sampler: Sampler, evaluate: EvaluateAll, shape: tuple[int, ...], shares_N: torch.Tensor, *, seed: int, num: int = NUM_PARTICLES
) -> Particles:
    """Weighted particles of Π_i p_i^{β_i}, β = `shares_N`.

    Raises:
        ValueError: shares that don't sum to 1, or a deterministic sampler.
    """
    if abs(float(shares_N.sum()) - 1) > 1e-6 or bool((shares_N < 0).any()):
        raise ValueError("the exponents of a product of experts must be non-negative and sum to 1")
    generator = torch.Generator().manual_seed(derive_seed("particles", seed))
    x = torch.randn(num, *shape, generator=generator)
    log_weights_P, smallest = torch.zeros(num, dtype=torch.float64), 1.0
    for step, t in enumerate(sampler.times):
        transition = sampler.transition(step)
        if transition is None:
            raise ValueError("cp_delta needs a stochastic sampler")
        linear = sampler.to_linear(x, step)
        velocities = evaluate(linear, t)
        average = torch.tensordot(shares_N.to(velocities.dtype), velocities, dims=1)
        if transition.std:
            means = transition.clean_factor * clean_of(linear, t, velocities)
            spread_NP = (means - torch.tensordot(shares_N.to(means.dtype), means, dims=1)).double().square().flatten(2).sum(dim=2)
            log_weights_P = log_weights_P - (shares_N.double() @ spread_NP) / (2 * transition.std**2)
        x = sampler.advance(x, step, average, [generator])
        share = _effective_share(log_weights_P)
        smallest = min(smallest, share)
        if share < 0.5 and step + 1 < len(sampler.times):
            x = x[_resample(log_weights_P, derive_uniform("resample", seed, step))]
            log_weights_P = torch.zeros_like(log_weights_P)
    return Particles(pictures=x, log_weights_P=log_weights_P, smallest_effective_share=smallest)


def compute_bounds(priors_N: torch.Tensor, log_posteriors_BN: torch.Tensor) -> torch.Tensor:
    """k of each picture, float [B] ≥ 0: w_i(x_0) ≥ λ_i·e^{−k} for every i, and for no smaller k."""
    return (priors_N.double().log() - log_posteriors_BN).amax(dim=1).clamp(min=0)


def _effective_share(log_weights_P: torch.Tensor) -> float:
    weights_P = log_weights_P.softmax(dim=0)
    return float(1 / weights_P.square().sum() / len(weights_P))


def _resample(log_weights_P: torch.Tensor, offset: float) -> torch.Tensor:
    """Systematic: one uniform for all."""
    num = len(log_weights_P)
    positions = (torch.arange(num, dtype=torch.float64) + offset) / num
    return torch.searchsorted(log_weights_P.softmax(dim=0).cumsum(dim=0), positions).clamp(max=num - 1)
