"""On Gaussian mixtures with analytic scores: the composed sampler, Bayes weights and shard shares against what is exact."""

import torch
from gaussian_experts import ExactWeights, GaussianMixture, condition_of, evaluate_each, experts_of, gaussian, start_of

from cdm_core.composition.samplers import build_sampler
from cdm_core.composition.sampling import walk
from cdm_core.methods.bayes import Bayes
from cdm_core.methods.priors import CountPriors
from cdm_core.methods.shard_per_image import ShardPerImage

COUNTS = (50, 30, 20)
PRIORS = torch.tensor([0.5, 0.3, 0.2])
PARTS = [
    GaussianMixture(weights=(0.6, 0.4), means=((-2.0, 0.0), (-1.0, 1.5)), stds=(0.4, 0.3)),
    gaussian([1.5, 1.0], 0.5),
    gaussian([1.0, -1.5], 0.3),
]
JOINT = GaussianMixture(weights=(0.3, 0.2, 0.3, 0.2), means=((-2.0, 0.0), (-1.0, 1.5), (1.5, 1.0), (1.0, -1.5)), stds=(0.4, 0.3, 0.5, 0.3))
NUM = 1500


def energy_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.flatten(1), other.flatten(1)
    return float(2 * torch.cdist(one, other).mean() - torch.cdist(one, one).mean() - torch.cdist(other, other).mean())


def true_draw(seed: int) -> torch.Tensor:
    return JOINT.draw(NUM, torch.Generator().manual_seed(seed))


def null_bound() -> float:
    """The largest energy distance between draws of the joint distribution itself, of 60 pairs."""
    return max(energy_distance(true_draw(1000 + 2 * pair), true_draw(1001 + 2 * pair)) for pair in range(60))


def test_exact_weights_reproduce_the_joint_distribution() -> None:
    mixer = ExactWeights(parts=PARTS, priors=PRIORS)
    bound = null_bound()
    for name, steps in [("euler", 100), ("ddpm", 150)]:
        made = walk(build_sampler(name, steps), mixer, evaluate_each(PARTS), start_of(NUM, 2), condition_of(NUM), 3)  # type: ignore[arg-type]  # names
        assert energy_distance(made, true_draw(0)) < bound, name
    # The same sampler with wrong weights is far outside, so the test can fail.
    wrong = ExactWeights(parts=PARTS, priors=torch.tensor([0.2, 0.3, 0.5]))
    made = walk(build_sampler("euler", 100), wrong, evaluate_each(PARTS), start_of(NUM, 2), condition_of(NUM), 3)
    assert energy_distance(made, true_draw(0)) > 3 * bound


def test_bayes_weights_match_the_exact_posteriors() -> None:
    num, exact, errors = 300, ExactWeights(parts=PARTS, priors=PRIORS), []
    ended: list[torch.Tensor] = []

    def look(x: torch.Tensor, t: float, weights: torch.Tensor) -> None:
        errors.append(float((weights - exact.log_weights(x, t).exp()).abs().sum(dim=1).mean() / 2))
        ended[:] = [weights]

    mixer = Bayes(priors=CountPriors(experts=experts_of(COUNTS)))
    walk(build_sampler("ddpm", 500), mixer, evaluate_each(PARTS), start_of(num, 2), condition_of(num), 3, on_weights=look)
    assert max(errors) < 0.03
    # The priors alone, which is what the weights start from, are far from the posteriors at the end.
    assert float((PRIORS - ended[0]).abs().sum(dim=1).mean() / 2) > 0.3
    assert float((ended[0].mean(dim=0) - PRIORS).abs().sum() / 2) < 0.08  # 300 pictures: three standard errors


def test_bayes_errors_shrink_with_the_steps() -> None:
    def worst(steps: int) -> float:
        exact, errors = ExactWeights(parts=PARTS, priors=PRIORS), []
        walk(
            build_sampler("ddpm", steps),
            Bayes(priors=CountPriors(experts=experts_of(COUNTS))),
            evaluate_each(PARTS),
            start_of(200, 2),
            condition_of(200),
            3,
            on_weights=lambda x, t, weights: errors.append(float((weights - exact.log_weights(x, t).exp()).abs().sum(dim=1).mean() / 2)),
        )
        return max(errors)

    assert worst(200) < worst(20) / 2


def test_one_shard_per_image_keeps_the_shards_shares() -> None:
    num = 4000
    mixer = ShardPerImage(experts=experts_of(COUNTS))
    made = walk(build_sampler("euler", 40), mixer, evaluate_each(PARTS), start_of(num, 2), condition_of(num), 3)
    # What was made says by itself which shard made it: the exact posterior at t = 0.
    posterior = ExactWeights(parts=PARTS, priors=PRIORS).log_weights(made, 0.0).exp()
    assert float((posterior.mean(dim=0) - PRIORS).abs().sum() / 2) <= 0.03
    # Alike for all shards, as a sampler that ignores the counts would draw, it is far outside, so the test can fail.
    alike = ShardPerImage(experts=experts_of((1, 1, 1)))
    made = walk(build_sampler("euler", 40), alike, evaluate_each(PARTS), start_of(num, 2), condition_of(num), 3)
    posterior = ExactWeights(parts=PARTS, priors=PRIORS).log_weights(made, 0.0).exp()
    assert float((posterior.mean(dim=0) - PRIORS).abs().sum() / 2) > 0.1
