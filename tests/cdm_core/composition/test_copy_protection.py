"""A product of two mixtures whose density is known on a line."""

import pytest
import torch
from gaussian_experts import GaussianMixture, condition_of, evaluate_all, evaluate_each, experts_of, start_of

from cdm_core.composition.copy_protection import Particles, compute_bounds, run_particles
from cdm_core.composition.samplers import build_sampler
from cdm_core.composition.sampling import walk
from cdm_core.methods.average import Average

PARTS = [
    GaussianMixture(weights=(0.5, 0.5), means=((-2.0,), (1.2,)), stds=(0.4, 0.4)),
    GaussianMixture(weights=(0.5, 0.5), means=((-2.0,), (2.8,)), stds=(0.4, 0.4)),
]
SHARES = torch.tensor([0.5, 0.5])
EDGES = torch.linspace(-5, 5, 41, dtype=torch.float64)


def target() -> torch.Tensor:
    """Masses of √(p_1·p_2), normalised, between the edges."""
    fine = torch.linspace(-5, 5, 40_001, dtype=torch.float64)[:-1, None, None, None]
    density = (0.5 * sum(part.log_density(fine, 0.0) for part in PARTS)).exp()  # type: ignore[union-attr]  # a tensor
    return (density / density.sum()).view(40, 1000).sum(dim=1)


def total_variation(x: torch.Tensor, weights: torch.Tensor) -> float:
    bins = torch.bucketize(x.flatten().double().clamp(-4.999, 4.999), EDGES) - 1
    return float((torch.zeros(40, dtype=torch.float64).index_add(0, bins, weights.double()) - target()).abs().sum() / 2)


def test_corrected_particles_sample_the_product_where_averaging_does_not() -> None:
    num = 40_000
    particles = run_particles(build_sampler("ddpm", 200), evaluate_all(PARTS), (1, 1, 1), SHARES, seed=0, num=num)
    assert total_variation(particles.pictures, particles.log_weights_P.softmax(dim=0)) <= 0.03
    averaged = walk(
        build_sampler("ddpm", 100), Average(experts=experts_of([1, 1])), evaluate_each(PARTS), start_of(4000, 1), condition_of(4000), 2
    )
    assert total_variation(averaged, torch.full((4000,), 1 / 4000)) > 0.1


def test_experts_that_agree_leave_all_particles_alike() -> None:
    particles = run_particles(build_sampler("ddpm", 10), evaluate_all([PARTS[0], PARTS[0]]), (1, 1, 1), SHARES, seed=0)
    assert float(particles.log_weights_P.abs().amax()) < 1e-6
    assert particles.smallest_effective_share == pytest.approx(1)


def test_a_particle_is_drawn_in_proportion_to_its_weight() -> None:
    particles = Particles(
        pictures=torch.arange(3.0)[:, None, None, None],
        log_weights_P=torch.tensor([0.0, -torch.inf, 0.0], dtype=torch.float64),
        smallest_effective_share=1.0,
    )
    drawn = torch.tensor([float(particles.draw(seed)) for seed in range(2000)])
    assert set(drawn.tolist()) == {0.0, 2.0}
    assert abs(float((drawn == 0).float().mean()) - 0.5) < 0.05


def test_the_bound_follows_from_the_posterior() -> None:
    priors = torch.tensor([0.5, 0.5])
    posteriors = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    bounds = compute_bounds(priors, posteriors.log())
    torch.testing.assert_close(bounds, torch.tensor([1.0, 5.0], dtype=torch.float64).log())


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.5, -0.5]])
def test_exponents_must_be_shares(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="exponents of a product of experts must be non-negative and sum to 1"):
        run_particles(build_sampler("ddpm", 4), evaluate_all(PARTS), (1, 1, 1), torch.tensor(shares), seed=0)


def test_a_deterministic_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="cp_delta needs a stochastic sampler"):
        run_particles(build_sampler("euler", 4), evaluate_all(PARTS), (1, 1, 1), SHARES, seed=0)
