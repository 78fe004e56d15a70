import pytest
import torch

from cdm_core.evaluation.recall import recall


def cluster(centre: float, num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(seed)) + centre


def test_known_answer_on_a_line():
    generated = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii for k = 1: 1, 1, 1, 8
    reference = torch.tensor([[-1.0], [-1.1], [2.5], [17.9], [18.1]])
    assert recall(reference, generated, k=1) == pytest.approx(3 / 5)


def test_radii_follow_k():
    generated = torch.tensor([[0.0], [1.0], [3.0]])  # radii for k = 2: 3, 2, 3
    assert recall(torch.tensor([[-3.0], [6.0], [6.1]]), generated, k=2) == pytest.approx(2 / 3)


def test_a_lost_minority_lowers_recall_by_its_share():
    reference = torch.cat([cluster(0, 90, 0), cluster(100, 10, 1)])
    everything = torch.cat([cluster(0, 90, 2), cluster(100, 10, 3)])
    without_minority = cluster(0, 90, 2)
    assert recall(reference, everything) == pytest.approx(
        recall(reference, without_minority) + recall(reference[90:], everything[90:]) / 10
    )
    assert recall(reference[90:], everything) > 0.5
    assert recall(reference[90:], without_minority) == 0


def test_of_itself_it_is_one():
    assert recall(cluster(0, 20, 0), cluster(0, 20, 0)) == 1


@pytest.mark.parametrize(("num", "k"), [(3, 3), (5, 0)])
def test_too_few_generated_features_are_refused(num, k):
    with pytest.raises(ValueError, match=rf"recall needs more than k = {k} generated features \(and k > 0\), not {num}"):
        recall(cluster(0, 5, 0), cluster(0, num, 1), k=k)


def test_no_reference_is_refused():
    with pytest.raises(ValueError, match="recall of no reference features is undefined"):
        recall(torch.zeros(0, 4), cluster(0, 5, 0))
