import pytest
import torch
from torch.nn import functional as F

from cdm_core.centroids import compute_centroids


def random_embeddings(num: int, seed: int = 0, dimensions: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed)))


def inertia(points: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(points, centroids).amin(1).square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_separate_clusters_are_found(seed):
    centres = torch.eye(4)
    points = torch.cat([centre + 0.01 * random_embeddings(25, index, 4) for index, centre in enumerate(centres)])
    centroids = compute_centroids(points, 4, seed)
    order = torch.cdist(centres, centroids).argmin(dim=1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(centroids[order], points.view(4, 25, 4).mean(1), atol=1e-6, rtol=0)


def test_one_centroid_is_the_mean():
    points = random_embeddings(30)
    torch.testing.assert_close(compute_centroids(points, 1, 0), points.mean(0, keepdim=True))


def test_each_centroid_is_the_mean_of_the_points_nearest_to_it():
    points = random_embeddings(300)
    centroids = compute_centroids(points, 8, 0)
    nearest = torch.cdist(points, centroids).argmin(1)
    torch.testing.assert_close(centroids, torch.stack([points[nearest == index].mean(0) for index in range(8)]))
    assert inertia(points, centroids) < inertia(points, points[:8])


def test_bits_follow_from_the_arguments_alone():
    points = random_embeddings(200)
    expected = compute_centroids(points, 8, 3)
    torch.manual_seed(99)  # the global generator has no say, and is left as it was
    state = torch.get_rng_state()
    assert torch.equal(compute_centroids(points, 8, 3), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(compute_centroids(points, 8, 4), expected)
    assert expected.dtype == torch.float32


def test_fewer_points_than_centroids_are_centroids_themselves():
    points = random_embeddings(3)
    centroids = compute_centroids(points, 8, 0)
    assert sorted(centroids.tolist()) == sorted(points.tolist())


def test_equal_points_count_once():
    points = random_embeddings(2)[[0, 0, 0, 1]]
    assert compute_centroids(points, 4, 0).shape == (2, 16)


@pytest.mark.parametrize("embeddings", [torch.zeros(0, 4), torch.zeros(4)])
def test_no_embeddings_are_refused(embeddings):
    with pytest.raises(ValueError, match=r"embeddings must be \[N, D\] with N > 0, not \["):
        compute_centroids(embeddings, 2, 0)


def test_no_centroids_are_refused():
    with pytest.raises(ValueError, match="the number of centroids must be 1 or more, not 0"):
        compute_centroids(random_embeddings(4), 0, 0)
