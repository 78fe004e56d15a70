import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from cdm_core.errors import InvalidInputError
from cdm_core.evaluation.moments import CHUNK, LIMIT, MAX_COUNT, SCALE, Moments, compute_moments


def random_features(num: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed)) * 3


def integer_moments(features: torch.Tensor) -> tuple[list[int], list[list[int]]]:
    """The definition, in Python's integers."""
    rows = [[round(value * SCALE) for value in row] for row in features.double().tolist()]
    dimensions = features.shape[1]
    sums = [sum(row[i] for row in rows) for i in range(dimensions)]
    return sums, [[sum(row[i] * row[j] for row in rows) for j in range(dimensions)] for i in range(dimensions)]


def test_moments_are_those_of_the_definition():
    features = random_features(50, 4)
    moments = compute_moments(features)
    assert (moments.sums.tolist(), moments.products.tolist()) == integer_moments(features)
    assert moments.count == 50


def test_the_largest_values_are_exact_across_chunks():
    features = torch.full((CHUNK + 5, 2), float(LIMIT))
    features[:, 1] = 1 / SCALE - LIMIT  # odd products, which float64 would round if the bound were wrong
    moments = compute_moments(features)
    high, low = LIMIT * SCALE, 1 - LIMIT * SCALE
    assert moments.products.tolist() == [
        [len(features) * high * high, len(features) * high * low],
        [len(features) * high * low, len(features) * low * low],
    ]
    assert CHUNK * high * high <= 2**53
    assert MAX_COUNT * high * high < 2**63


@settings(max_examples=60, deadline=None)
@given(num=st.integers(0, 40), dimensions=st.integers(1, 12), seed=st.integers(0, 2**32), data=st.data())
def test_subtracting_equals_recomputing_bit_for_bit(num, dimensions, seed, data):
    features = random_features(num, dimensions, seed)
    is_deleted = torch.tensor(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)), dtype=torch.bool)
    kept, deleted = compute_moments(features[~is_deleted]), compute_moments(features[is_deleted])
    everything = compute_moments(features)
    assert everything.subtract(deleted).to_bytes() == kept.to_bytes()
    assert kept.add(deleted).to_bytes() == deleted.add(kept).to_bytes() == everything.to_bytes()


@settings(max_examples=30, deadline=None)
@given(num=st.integers(0, 10), dimensions=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_bytes_round_trip(num, dimensions, seed):
    moments = compute_moments(random_features(num, dimensions, seed))
    restored = Moments.from_bytes(moments.to_bytes(), "cache")
    assert restored.count == moments.count
    assert torch.equal(restored.sums, moments.sums)
    assert torch.equal(restored.products, moments.products)


def test_written_moments_add_up_to_those_of_all_vectors():
    parts = [random_features(num, 5, seed) for num, seed in ((7, 0), (0, 1), (30, 2))]
    written = [(compute_moments(part).to_bytes(), f"shard-{shard}") for shard, part in enumerate(parts)]
    assert Moments.add_up(written).to_bytes() == compute_moments(torch.cat(parts)).to_bytes()
    with pytest.raises(InvalidInputError, match=r"^shard-9: not feature moments: 4 dimensions, not 5$"):
        Moments.add_up([*written, (compute_moments(random_features(3, 4, 0)).to_bytes(), "shard-9")])
    with pytest.raises(ValueError, match=r"^no moments to add up$"):
        Moments.add_up([])


def test_mean_and_covariance_are_numpys_up_to_quantisation():
    features = random_features(200, 5)
    moments = compute_moments(features)
    np.testing.assert_allclose(moments.mean, features.double().mean(0), atol=0.5 / SCALE)
    np.testing.assert_allclose(moments.covariance, np.cov(features.double().numpy(), rowvar=False), atol=1e-3)
    quantised = (features.double() * SCALE).round() / SCALE
    np.testing.assert_allclose(moments.covariance, np.cov(quantised.numpy(), rowvar=False), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), LIMIT * 1.001, -LIMIT * 1.001])
def test_values_out_of_range_are_refused(value):
    features = torch.zeros(3, 2)
    features[1, 1] = value
    with pytest.raises(ValueError, match=r"features must be finite and within ±64"):
        compute_moments(features)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"features must be \[N, D\], not \[3\]"):
        compute_moments(torch.zeros(3))


def test_other_dimensions_do_not_mix():
    three, two = compute_moments(torch.zeros(1, 3)), compute_moments(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="moments of 3 and of 2 dimensions"):
        three.add(two)
    with pytest.raises(ValueError, match="moments of 2 and of 3 dimensions"):
        two.subtract(three)


def test_more_cannot_be_subtracted_than_there_is():
    with pytest.raises(ValueError, match="moments of -1 vectors: must be 0 to 4194304"):
        compute_moments(torch.zeros(1, 2)).subtract(compute_moments(torch.zeros(2, 2)))


def test_mean_and_covariance_of_too_few_are_undefined():
    with pytest.raises(ValueError, match="the mean of no vectors is undefined"):
        _ = compute_moments(torch.zeros(0, 2)).mean
    with pytest.raises(ValueError, match="the covariance of 1 vectors is undefined"):
        _ = compute_moments(torch.zeros(1, 2)).covariance


def test_ill_formed_moments_are_refused():
    integers = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="moments must be int64"):
        Moments(count=1, sums=torch.zeros(2), products=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"moments don't fit together: sums \[2\], products \[2\]"):
        Moments(count=1, sums=integers, products=integers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("sums"), "shard-0: not feature moments: 'sums'"),
        (lambda tensors: tensors.update(sums=torch.zeros(3, dtype=torch.int64)), "3 sums don't go with 3 products"),
        (lambda tensors: tensors.update(count_and_scale=torch.tensor([1, 256])), "features in steps of 1/256, not 1/16384"),
        (lambda tensors: tensors.update(count_and_scale=torch.tensor([-1, SCALE])), "moments of -1 vectors"),
        (lambda tensors: tensors.update(count_and_scale=torch.tensor([1])), "not feature moments: not enough values"),
        (lambda tensors: tensors.update(sums=torch.zeros(2)), "moments must be int64"),
        (lambda tensors: tensors.update(sums=torch.tensor(1)), "shard-0: not feature moments: "),
    ],
)
def test_tampered_bytes_are_refused(change, message):
    tensors = load(compute_moments(torch.ones(1, 2)).to_bytes())
    change(tensors)
    with pytest.raises(InvalidInputError, match=message):
        Moments.from_bytes(save(tensors), "shard-0")


@pytest.mark.parametrize("content", [b"", b"not safetensors", compute_moments(torch.ones(1, 2)).to_bytes()[:-1]])
def test_other_bytes_are_refused(content):
    with pytest.raises(InvalidInputError, match="shard-0: not feature moments: "):
        Moments.from_bytes(content, "shard-0")
