"""Ratios of what whole forgets took, worked out by hand."""

import pytest

from cdm_core.sharding.forget_times import compare_forgets


def run(requests: int, training: float, evaluation: float, total: float) -> dict[str, float]:
    return {"requests": requests, "training_seconds": training, "evaluation_seconds": evaluation, "total_seconds": total}


def test_ratios_are_of_a_whole_to_its_own_training() -> None:
    document = compare_forgets([run(1, 2.0, 1.0, 4.5), run(1, 8.0, 1.5, 9.5), run(1, 0.0, 0.5, 1.0)], run(10, 30.0, 5.0, 20.0))
    assert [single["of_training"] for single in document["singles"]] == [2.25, 1.1875, None]
    assert [single["of_training_and_evaluation"] for single in document["singles"]] == [1.5, 1.0, 2.0]
    assert document["of_training"] == {"median": 1.71875, "all": 1.5}
    assert document["of_training_and_evaluation"] == {"median": 1.5, "all": 15 / 13}
    assert (document["beside_training_seconds"], document["orchestration_seconds"], document["mean_single_seconds"]) == (1.5, 0.5, 5.0)
    assert document["together_of_singles"] == 20 / (10 * 5)


def test_where_nothing_was_trained_there_is_no_ratio_to_it() -> None:
    document = compare_forgets([run(1, 0.0, 0.5, 1.0)], run(2, 0.0, 1.0, 1.5))
    assert document["of_training"] == {"median": None, "all": None}
    assert document["of_training_and_evaluation"] == {"median": 2.0, "all": 2.0}
    with pytest.raises(ValueError, match="no single run"):
        compare_forgets([], run(2, 0.0, 1.0, 1.5))
