import math

import pytest
import torch

from cdm_core.composition.knn_weights import _nearest_squared_distance, knn_weights

ONE, TWO = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


def test_known_answers():
    # squared distances of the embeddings to the experts: 0 and 2; 1 and 1
    weights = knn_weights(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), [ONE, TWO], torch.tensor([1.0, 3.0]), temperature=0.5)
    first = 1 / (1 + 3 * math.exp(-4))
    torch.testing.assert_close(weights, torch.tensor([[first, 1 - first], [0.25, 0.75]]))


def test_the_nearest_centroid_decides_whatever_the_others_are():
    far_too = torch.cat([torch.tensor([[50.0, 50.0]]), ONE, torch.tensor([[-9.0, 9.0]])])
    embeddings, priors = torch.tensor([[0.6, 0.8], [1.0, 0.0]]), torch.tensor([2, 5])
    assert torch.equal(knn_weights(embeddings, [far_too, TWO], priors, 0.1), knn_weights(embeddings, [ONE, TWO], priors, 0.1))


def test_only_the_ratios_of_priors_count():
    embeddings = torch.tensor([[0.6, 0.8]])
    shares = knn_weights(embeddings, [ONE, TWO], torch.tensor([0.2, 0.8]).double(), 1.0)
    torch.testing.assert_close(knn_weights(embeddings, [ONE, TWO], torch.tensor([100, 400]), 1.0), shares)


def test_equal_distances_leave_the_priors():
    weights = knn_weights(torch.zeros(1, 2), [ONE, TWO, -ONE], torch.tensor([1, 2, 5]), 1e-3)
    torch.testing.assert_close(weights, torch.tensor([[1 / 8, 2 / 8, 5 / 8]]))


def test_a_low_temperature_does_not_underflow():
    weights = knn_weights(torch.tensor([[100.0, 100.0]]), [ONE, TWO - 0.01], torch.tensor([1, 1]), 1e-6)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0]]))


def test_an_exponent_that_overflows_leaves_the_nearest():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    weights = knn_weights(embeddings, [TWO, TWO - 2 * TWO, ONE], torch.tensor([1, 3, 2]), 1e-310)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0, 1.0], [1 / 6, 3 / 6, 2 / 6]]))
    assert knn_weights(ONE, [ONE, TWO], torch.tensor([0, 1]), 1e-310).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("temperature", [1e-6, 0.05, 3.0])
def test_no_bit_changes_where_nothing_overflows(temperature):
    generator = torch.Generator().manual_seed(0)
    embeddings, priors = torch.randn(64, 8, generator=generator), torch.tensor([3, 1, 4])
    centroids = [torch.randn(5, 8, generator=generator) for _ in priors]
    squared = torch.stack([_nearest_squared_distance(embeddings, each) for each in centroids], dim=1)
    plain = (priors.double().log() - squared / temperature).softmax(dim=1).float()
    assert torch.equal(knn_weights(embeddings, centroids, priors, temperature), plain)


def test_an_expert_without_data_has_no_weight():
    assert knn_weights(ONE, [ONE, TWO], torch.tensor([0, 1]), 1.0).tolist() == [[0.0, 1.0]]


def test_one_expert_has_all():
    assert (
        knn_weights(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), [TWO], torch.tensor([7]), 0.05).tolist() == [[1.0]] * 3
    )


@pytest.mark.parametrize("centroids", [[], [ONE]])
def test_unequal_numbers_are_refused(centroids):
    with pytest.raises(ValueError, match=rf"{len(centroids)} experts' centroids need as many priors, not \[2\]"):
        knn_weights(ONE, centroids, torch.tensor([1, 1]), 1.0)


def test_an_expert_without_centroids_is_refused():
    with pytest.raises(ValueError, match="an expert without centroids has no weight"):
        knn_weights(ONE, [ONE, torch.zeros(0, 2)], torch.tensor([1, 1]), 1.0)


@pytest.mark.parametrize("priors", [[0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]])
def test_impossible_priors_are_refused(priors):
    with pytest.raises(ValueError, match="priors must be non-negative, and one of them positive"):
        knn_weights(ONE, [ONE, TWO], torch.tensor(priors), 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="the temperature must be above 0, not"):
        knn_weights(ONE, [ONE, TWO], torch.tensor([1, 1]), temperature)
