import pytest
import torch
from gaussian_experts import ExactWeights, GaussianMixture, evaluate_all, gaussian

from cdm_core.evaluation.attribution import LogSnrDistribution, estimate_credit, fit_log_snr, follow_path, split_divergence

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


def test_the_path_gives_the_likelihood_and_the_weights_on_the_way() -> None:
    x = points(12)
    path = follow_path(evaluate_all(PARTS), x, EXACT.log_weights(x, 0.0), steps=400, num_probes=2, seed=0)
    joint = GaussianMixture(weights=tuple(PRIORS.tolist()), means=tuple(part.means[0] for part in PARTS), stds=(0.5, 0.4, 0.6))
    gained = joint.log_density(x, 0.0) - joint.log_density(path.end_BCHW, 1.0)
    assert float((path.contributions_BN.sum(dim=1) - gained).abs().amax()) < 0.05
    # Isotropic Gaussians have a Jacobian of no off-diagonal: the probes agree.
    assert float(path.standard_errors_BN.amax()) < 1e-6
    torch.testing.assert_close(path.shares.sum(dim=1), torch.ones(12, dtype=torch.float64))
    assert float((path.weights_TBN[-1] - PRIORS).abs().amax()) < 0.03


def test_one_probe_gives_no_error() -> None:
    path = follow_path(evaluate_all(PARTS), points(2), EXACT.log_weights(points(2), 0.0), steps=3, num_probes=1, seed=0)
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
