"""Alignment: cosines, retrieval among real pictures, and paired intervals, with answers known by hand."""

import pytest
import torch

from cdm_core.evaluation.alignment import NEAREST, clip_scores, mean_interval, retrieve


def test_a_score_is_the_cosine() -> None:
    pictures, captions = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert clip_scores(pictures, captions) == pytest.approx([1.0, 0.8])


def test_the_nearest_real_picture_decides_the_class_and_the_nearest_few_the_caption() -> None:
    angles = torch.linspace(0, 1.5, NEAREST + 2)
    real = torch.stack([angles.cos(), angles.sin()], dim=1) * 3
    known = [("fruit", f"apple {number}") for number in range(NEAREST + 1)] + [("flag", "France")]
    made = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = retrieve(made, real, [("fruit", "apple 9"), ("flag", "France"), ("flag", "apple 10")], known)
    assert found.is_class == (True, True, False)
    assert found.is_caption == (True, True, False)
    assert (found.class_rate.successes, found.class_rate.trials) == (2, 3)
    assert found.caption_rate.rate == pytest.approx(2 / 3)


def test_a_mean_has_students_interval() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    # 4.302653: the 97.5 % quantile with two degrees of freedom.
    assert interval.value == 2
    assert interval.high == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-6)
    assert interval.low == pytest.approx(2 - 4.302653 / 3**0.5, rel=1e-6)


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="needs two values or more, not 1"):
        mean_interval([1.0])
