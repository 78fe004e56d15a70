"""Distances with intervals: known answers, pairing, and verdicts at their edges."""

import pytest
import torch

from cdm_core.evaluation.distances import Interval, Replicates, best_of, compare, jackknife, judge_goal, measure_replicates
from cdm_core.evaluation.frechet import build_frechet_reference, frechet_distance
from cdm_core.evaluation.moments import compute_moments


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = [(float(values.sum()) - float(value)) / 19 for value in values]
    interval = jackknife(float(values.mean()), without)
    error = float(values.std()) / 20**0.5
    # 2.093024: the 97.5 % quantile of Student's t with 19 degrees of freedom.
    assert interval.high - interval.value == pytest.approx(2.093024 * error, rel=1e-6)
    assert interval.value - interval.low == pytest.approx(interval.high - interval.value)


def test_a_replicate_is_the_distance_without_its_block() -> None:
    generator = torch.Generator().manual_seed(1)
    real, made = torch.rand(60, 5, generator=generator), torch.rand(24, 5, generator=generator) + 0.2
    reference = compute_moments(real)
    replicates = measure_replicates(build_frechet_reference(reference), made, 4)
    assert replicates.value == pytest.approx(frechet_distance(reference, compute_moments(made)), rel=1e-3)
    left = made[torch.arange(24) % 4 != 2]
    assert replicates.without[2] == pytest.approx(frechet_distance(reference, compute_moments(left)), rel=1e-3)


def test_a_paired_ratio_forgets_what_both_share() -> None:
    one = Replicates(value=10.0, without=(9.0, 11.0, 10.0))
    twice = Replicates(value=20.0, without=(18.0, 22.0, 20.0))
    assert compare(twice, one) == Interval(value=2.0, low=2.0, high=2.0)
    assert twice.interval.high > twice.interval.value


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (0.9, 1.0, 1.1, "met"),
        (0.9, 1.0, 1.11, "met, but the interval reaches beyond"),
        (1.09, 1.15, 1.2, "missed, but the interval reaches below"),
        (1.11, 1.15, 1.2, "missed"),
    ],
)
def test_a_goal_is_judged_by_value_and_interval(low: float, value: float, high: float, verdict: str) -> None:
    assert judge_goal(Interval(value=value, low=low, high=high), 1.1) == verdict


def test_the_best_is_the_smallest() -> None:
    assert best_of({"a": Replicates(value=3.0, without=(3.0, 3.0)), "b": Replicates(value=2.0, without=(2.0, 2.0))}) == "b"


@pytest.mark.parametrize("blocks", [1, 13])
def test_blocks_must_hold_two_samples(blocks: int) -> None:
    reference = build_frechet_reference(compute_moments(torch.rand(30, 3)))
    with pytest.raises(ValueError, match="24 samples can be dealt into 2 to 12 blocks"):
        measure_replicates(reference, torch.rand(24, 3), blocks)


def test_replicates_of_other_blocks_are_not_paired() -> None:
    with pytest.raises(ValueError, match="of 2 and of 3 blocks can't be paired"):
        compare(Replicates(value=1.0, without=(1.0, 1.0)), Replicates(value=1.0, without=(1.0, 1.0, 1.0)))
