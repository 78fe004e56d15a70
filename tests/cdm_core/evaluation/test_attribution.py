import math

import pytest
import torch
from gaussian_experts import ExactWeights, GaussianMixture, evaluate_all, gaussian

from cdm_core.evaluation.attribution import (
    LogSnrDistribution,
    estimate_credit,
    fit_log_snr,
    follow_path,
    split_divergence,
    weigh_point,
)

PARTS = [gaussian([-0.6, 0.3], 0.5), gaussian([0.5, 0.0], 0.4), gaussian([0.2, -0.8], 0.6)]
PRIORS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
EXACT = ExactWeights(parts=PARTS, priors=PRIORS)
WHERE = LogSnrDistribution(loc=1.4, scale=1.5)


def points(num: int) -> torch.Tensor:
    return 0.6 * torch.randn(num, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_common_noise_credit_is_the_exact_posterior_within_its_errors() -> None:
    x = points(40)
    exact = EXACT.log_weights(x, 0.0).exp()
    credit = estimate_credit(evaluate_all(PARTS), x, PRIORS, WHERE, num_draws=2000, seed=1)
    assert float((credit.shares_BN - exact).abs().mean()) < 0.02
    z = (credit.shares_BN - exact) / credit.standard_errors_BN
    assert float((z.abs() < 3).double().mean()) > 0.97
    torch.testing.assert_close(credit.log_posteriors(PRIORS).exp(), credit.shares_BN)


def test_the_stated_error_is_the_scatter_of_repetitions() -> None:
    x = points(1)
    runs = [estimate_credit(evaluate_all(PARTS), x, PRIORS, WHERE, num_draws=64, seed=seed) for seed in range(200)]
    scatter = torch.stack([run.shares_BN for run in runs]).std(dim=0)
    stated = torch.stack([run.standard_errors_BN for run in runs]).mean(dim=0)
    assert bool((scatter < 1.3 * stated).all())
    assert bool((scatter > 0.6 * stated).all())


def test_common_noise_beats_independent_noise() -> None:
    x = points(1)
    common = [estimate_credit(evaluate_all(PARTS[:2]), x, PRIORS[:2], WHERE, num_draws=64, seed=seed) for seed in range(100)]
    alone = [
        torch.stack(
            [
                estimate_credit(
                    lambda x, t, part=part: torch.stack([part.velocity(x, t), 0 * x]), x, PRIORS[:2], WHERE, num_draws=64, seed=seed
                )
                .log_densities_BN.diff(dim=1)
                .flatten()
                for seed, part in [(1000 + 2 * number, PARTS[0]), (1001 + 2 * number, PARTS[1])]
            ]
        )
        for number in range(100)
    ]
    apart = torch.stack([pair[0] - pair[1] for pair in alone]).std()
    assert float(torch.stack([run.log_densities_BN.diff(dim=1).flatten() for run in common]).std()) < 0.6 * float(apart)


def test_eq_6_with_the_weights_gradient_is_the_divergence_and_its_residual_the_weight_variance() -> None:
    x = points(30).requires_grad_(True)
    t = 0.4

    def score(log_density: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = torch.autograd.grad(log_density.sum(), x, create_graph=True)
        flat = gradient.flatten(1)
        divergence = sum(torch.autograd.grad(flat[:, d].sum(), x, retain_graph=True)[0].flatten(1)[:, d] for d in range(2))
        return flat.detach(), divergence.detach()  # type: ignore[union-attr]  # a tensor

    each = [score(part.log_density(x, t)) for part in PARTS]
    joint = (PRIORS.log() + torch.stack([part.log_density(x, t) for part in PARTS], dim=1)).logsumexp(dim=1)
    _, exact = score(joint)
    weights = EXACT.log_weights(x.detach(), t).exp()
    scores, divergences = torch.stack([pair[0] for pair in each]), torch.stack([pair[1] for pair in each])
    split, residual = split_divergence(scores, divergences, weights)
    assert float((split.sum(dim=1) - exact).abs().amax()) < 1e-6
    naive = (weights.T * divergences).sum(dim=0)
    assert float((exact - naive - residual).abs().amax()) < 1e-6
    mean = torch.einsum("bn,nbd->bd", weights, scores)
    variance = torch.einsum("bn,nbd->b", weights, (scores - mean).square())
    assert float((exact - naive - variance).abs().amax()) < 1e-6
    assert float(variance.amin()) > 1e-3


def path_points(t: float) -> torch.Tensor:
    return torch.lerp(points(40), torch.randn(40, 2, 1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64), t)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.2, 0.5, 0.8, 0.95])
def test_the_weights_of_a_point_are_the_exact_posterior(t: float) -> None:
    x = path_points(t)
    generator = torch.Generator().manual_seed(0)
    weights = weigh_point(evaluate_all(PARTS), x, t, PRIORS, WHERE, num_pairs=1000, generator=generator)
    assert float((weights - EXACT.log_weights(x, t).exp()).abs().amax()) < 0.02


def test_mirrored_noise_needs_few_draws() -> None:
    x = path_points(0.5)
    generator = torch.Generator().manual_seed(0)
    runs = [weigh_point(evaluate_all(PARTS), x, 0.5, PRIORS, WHERE, num_pairs=4, generator=generator) for _ in range(20)]
    assert float((torch.stack(runs) - EXACT.log_weights(x, 0.5).exp()).square().mean().sqrt()) < 0.03


def test_the_mass_beyond_a_time_is_that_below_its_log_snr() -> None:
    assert WHERE.share_beyond(0.0) == 1
    for share in (0.1, 0.5, 0.9):
        assert WHERE.share_beyond(1 / (1 + math.exp(WHERE.quantile(share) / 2))) == pytest.approx(share)


@pytest.mark.parametrize(("steps", "tolerance"), [(12, 0.1), (60, 0.05)])
def test_the_path_gives_the_likelihood_and_the_weights_on_the_way(steps: int, tolerance: float) -> None:
    x = points(12)
    priors = PRIORS[[1, 2, 0]]  # the largest λ isn't the nearest expert's
    exact = ExactWeights(parts=PARTS, priors=priors)
    path = follow_path(evaluate_all(PARTS), x, priors, WHERE, steps=steps, num_pairs=100, num_probes=2, seed=0)
    means, stds = tuple(part.means[0] for part in PARTS), tuple(part.stds[0] for part in PARTS)
    joint = GaussianMixture(weights=tuple(priors.tolist()), means=means, stds=stds)
    gained = joint.log_density(x, 0.0) - joint.log_density(path.end_BCHW, 1.0)
    assert float((path.contributions_BN.sum(dim=1) - gained).abs().amax()) < tolerance
    # Isotropic Gaussians have a Jacobian of no off-diagonal: the probes agree.
    assert float(path.standard_errors_BN.amax()) < 1e-6
    torch.testing.assert_close(path.shares.sum(dim=1), torch.ones(12, dtype=torch.float64))
    first = exact.log_weights(x * (1 - path.times_T[0]), path.times_T[0]).exp()
    assert float((path.weights_TBN[0] - first).abs().amax()) < 0.04
    assert float((path.weights_TBN[-1] - priors).abs().amax()) < 0.06


def test_weights_do_not_inherit_the_errors_of_divergences() -> None:
    """Each expert is narrow in its own third of the directions, which are no pixels: two probes' divergences are off by many nats.

    Weights that add them up give 3 of 24 pictures to their makers, even from exact ones at x_0.
    """
    generator = torch.Generator().manual_seed(0)
    rotation_DD, _ = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64))
    variances_ND = torch.full((3, 300), 0.3, dtype=torch.float64)
    for expert in range(3):
        variances_ND[expert, 100 * expert : 100 * expert + 100] = 0.1

    def evaluate(x: torch.Tensor, t: float) -> torch.Tensor:
        slopes_ND = (t - (1 - t) * variances_ND) / ((1 - t) ** 2 * variances_ND + t**2)
        return ((slopes_ND[:, None] * (x.flatten(1) @ rotation_DD)) @ rotation_DD.T).view(3, *x.shape)

    makers = torch.arange(24) % 3
    drawn_BD = torch.randn(24, 300, generator=generator, dtype=torch.float64) * variances_ND[makers].sqrt()
    x = (drawn_BD @ rotation_DD.T).view(24, 300, 1, 1)
    priors = torch.full((3,), 1 / 3, dtype=torch.float64)
    path = follow_path(evaluate, x, priors, WHERE, steps=12, num_pairs=4, num_probes=2, seed=0)
    assert bool((path.contributions_BN.argmax(dim=1) == makers).all())
    assert bool((path.weights_TBN[0].argmax(dim=1) == makers).all())
    assert float((path.weights_TBN[-1] - priors).abs().amax()) < 0.02


def test_one_probe_gives_no_error() -> None:
    path = follow_path(evaluate_all(PARTS), points(2), PRIORS, WHERE, steps=3, num_pairs=1, num_probes=1, seed=0)
    assert bool(path.standard_errors_BN.isnan().all())


def test_the_logistic_follows_the_covariance() -> None:
    draws = 0.1 * torch.randn(5000, 3, 2, 1, generator=torch.Generator().manual_seed(0))
    where = fit_log_snr(draws)
    assert where.loc == pytest.approx(-torch.tensor(0.01).log().item(), abs=0.05)
    assert where.scale == pytest.approx(1, abs=0.01)
    middle = [where.quantile(share) for share in (0.25, 0.5, 0.75)]
    assert middle[1] == pytest.approx(where.loc)
    # q integrates to the share between two quantiles.
    steps = torch.linspace(middle[0], middle[2], 1001).tolist()
    assert sum(where.density(step) for step in steps[:-1]) * (steps[1] - steps[0]) == pytest.approx(0.5, abs=1e-3)


def test_pictures_that_are_all_alike_have_no_covariance() -> None:
    with pytest.raises(ValueError, match="a covariance needs two different pictures"):
        fit_log_snr(torch.ones(3, 1, 2, 2))


def test_an_error_needs_two_draws() -> None:
    with pytest.raises(ValueError, match="a standard error needs two draws or more, not 1"):
        estimate_credit(evaluate_all(PARTS), points(1), PRIORS, WHERE, num_draws=1, seed=0)
