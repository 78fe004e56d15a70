import numpy as np
import pytest
import scipy.linalg
import torch

from cdm_core.evaluation.frechet import GaussianStats, build_frechet_reference, compute_sample_grams, frechet_distance
from cdm_core.evaluation.moments import compute_moments


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(mean: list[float], variances: list[float]) -> GaussianStats:
    return GaussianStats(mean=torch.tensor(mean).double(), covariance=torch.diag(torch.tensor(variances).double()))


def random_gaussian(dimensions: int, seed: int, rank: int | None = None) -> GaussianStats:
    factor = torch.randn(dimensions, rank or dimensions, generator=generator(seed)).double()
    return GaussianStats(mean=torch.randn(dimensions, generator=generator(seed + 1)).double(), covariance=factor @ factor.T)


def sample_stats(features: torch.Tensor) -> GaussianStats:
    return GaussianStats(mean=features.double().mean(0), covariance=torch.cov(features.double().T))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (gaussian([0], [1]), gaussian([0], [1]), 0),
        (gaussian([0], [1]), gaussian([3], [1]), 9),
        (gaussian([1], [4]), gaussian([0], [9]), 1 + (2 - 3) ** 2),
        (gaussian([0, 1, 2], [1, 4, 9]), gaussian([1, 1, 0], [4, 1, 0]), 1 + 4 + (1 - 2) ** 2 + (2 - 1) ** 2 + 3**2),
        (gaussian([0, 0], [0, 0]), gaussian([0, 0], [1, 4]), 5),
    ],
)
def test_closed_forms_of_diagonal_gaussians(first, second, expected):
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dimensions", [2, 10, 40])
def test_equals_the_matrix_square_root_of_scipy(dimensions):
    first, second = random_gaussian(dimensions, 0), random_gaussian(dimensions, 10)
    root = scipy.linalg.sqrtm((first.covariance @ second.covariance).numpy()).real
    expected = float((first.mean - second.mean).square().sum() + first.covariance.trace() + second.covariance.trace()) - 2 * np.trace(root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_gaussian_of_low_rank_has_distance_zero_to_itself():
    stats = random_gaussian(60, 0, rank=7)
    assert frechet_distance(stats, stats) < 1e-9 * float(stats.covariance.trace())


def test_symmetric_and_invariant_to_shifts_and_rotations():
    first, second = random_gaussian(12, 0), random_gaussian(12, 10)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator(5)).double()).Q

    def moved(stats: GaussianStats) -> GaussianStats:
        return GaussianStats(mean=rotation @ stats.mean + 3, covariance=rotation @ stats.covariance @ rotation.T)

    expected = frechet_distance(first, second)
    assert expected > 1
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(moved(first), moved(second)) == pytest.approx(expected, rel=1e-10)


def test_scales_with_the_square_of_the_features():
    first, second = random_gaussian(6, 0), random_gaussian(6, 10)
    scaled = [GaussianStats(mean=3 * stats.mean, covariance=9 * stats.covariance) for stats in (first, second)]
    assert frechet_distance(*scaled) == pytest.approx(9 * frechet_distance(first, second), rel=1e-10)


@pytest.mark.parametrize(("num_samples", "dimensions"), [(20, 50), (50, 20), (2, 8)])
def test_few_samples_give_the_distance_of_their_gaussian(num_samples, dimensions):
    reference = random_gaussian(dimensions, 0)
    features = torch.randn(num_samples, dimensions, generator=generator(3)) + 1
    grams = compute_sample_grams(build_frechet_reference(reference), features)
    assert grams.distance() == pytest.approx(frechet_distance(reference, sample_stats(features)), rel=1e-6)


def test_a_reference_of_low_rank():
    reference = random_gaussian(50, 0, rank=5)
    features = torch.randn(20, 50, generator=generator(3))
    grams = compute_sample_grams(build_frechet_reference(reference), features)
    assert grams.distance() == pytest.approx(frechet_distance(reference, sample_stats(features)), rel=1e-6)


def test_a_subset_has_the_distance_of_its_own_samples():
    reference = build_frechet_reference(random_gaussian(30, 0))
    features = torch.randn(24, 30, generator=generator(3))
    kept = torch.arange(24) % 3 != 0
    subset = compute_sample_grams(reference, features[kept]).distance()
    assert compute_sample_grams(reference, features).distance(kept) == pytest.approx(subset, rel=1e-9)
    assert compute_sample_grams(reference, features).distance() != pytest.approx(subset, rel=1e-2)


def test_order_of_samples_does_not_matter():
    reference = build_frechet_reference(random_gaussian(10, 0))
    features = torch.randn(24, 10, generator=generator(3))
    expected = compute_sample_grams(reference, features).distance()
    assert compute_sample_grams(reference, features.flip(0)).distance() == pytest.approx(expected, rel=1e-12)


def test_the_same_input_gives_the_same_bits():
    features = torch.randn(24, 100, generator=generator(3))
    distances = {compute_sample_grams(build_frechet_reference(random_gaussian(100, 0)), features).distance().hex() for _ in range(3)}
    assert len(distances) == 1


def test_moments_are_gaussians():
    first, second = torch.randn(50, 8, generator=generator(1)), torch.randn(60, 8, generator=generator(2)) * 2
    expected = frechet_distance(sample_stats(first), sample_stats(second))
    assert frechet_distance(compute_moments(first), compute_moments(second)) == pytest.approx(expected, rel=1e-3)


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="Gaussians of 2 and of 3 dimensions"):
        frechet_distance(random_gaussian(2, 0), random_gaussian(3, 0))
    with pytest.raises(ValueError, match=r"features must be \[n, 2\], not \[5, 3\]"):
        compute_sample_grams(build_frechet_reference(random_gaussian(2, 0)), torch.zeros(5, 3))


def test_one_sample_has_no_distance():
    with pytest.raises(ValueError, match="the Fréchet distance needs 2 samples or more, not 1"):
        compute_sample_grams(build_frechet_reference(random_gaussian(2, 0)), torch.zeros(1, 2)).distance()
