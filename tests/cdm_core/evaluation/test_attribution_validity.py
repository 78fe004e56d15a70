import pytest
import torch

from cdm_core.evaluation.attribution_validity import measure_effects, validate_credit


def test_effects_are_mean_squared_changes() -> None:
    pictures = {None: torch.zeros(2, 1, 2, 2), 3: torch.ones(2, 1, 2, 2), 5: torch.zeros(2, 1, 2, 2)}
    pictures[5][1, 0, 0, 0] = 4.0
    assert torch.equal(measure_effects(lambda shard: pictures[shard], [3, 5]), torch.tensor([[1.0, 0.0], [1.0, 4.0]], dtype=torch.float64))


def test_accuracy_and_correlation() -> None:
    credit = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    effects = torch.tensor([[5.0, 1.0], [2.0, 4.0], [3.0, 2.5]])
    validity = validate_credit(credit, effects, [0, 1, 1])
    assert validity.source_accuracy is not None
    assert (validity.source_accuracy.successes, validity.source_accuracy.trials) == (2, 3)
    assert validity.spearman == pytest.approx(1)


def test_without_makers_or_variation_nothing_is_claimed() -> None:
    validity = validate_credit(torch.full((2, 2), 0.5), torch.ones(2, 2), [None, None])
    assert validity.source_accuracy is None
    assert validity.spearman is None
