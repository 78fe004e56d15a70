"""What whole forgets took beside their own training and evaluation: ratios of seconds that somebody measured, no clock.

A run is a mapping with `total_seconds`, `training_seconds` and `evaluation_seconds`; its ratios are of the whole to its own training, and
to training and evaluation. Where a shard was emptied nothing was trained, and there is no ratio to that.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]


def compare_forgets(alone: Sequence[Run], together: Run) -> dict[str, Any]:
    """Single runs with their ratios, the median of each and that of the sums; and what a run of several `requests` is of as many singles.

    Raises:
        ValueError: no single run.
    """
    if not alone:
        raise ValueError("there is no single run to compare with")
    whole, training, evaluation = ([float(run[f"{name}_seconds"]) for run in alone] for name in ("total", "training", "evaluation"))
    working = [sum(both) for both in zip(training, evaluation, strict=True)]
    of_training, of_both = ([_ratio(*pair) for pair in zip(whole, part, strict=True)] for part in (training, working))
    return {
        "singles": [
            {**run, "of_training": one, "of_training_and_evaluation": other}
            for run, one, other in zip(alone, of_training, of_both, strict=True)
        ],
        "of_training": {"median": _median(of_training), "all": _ratio(sum(whole), sum(training))},
        "of_training_and_evaluation": {"median": _median(of_both), "all": _ratio(sum(whole), sum(working))},
        "beside_training_seconds": statistics.median(one - part for one, part in zip(whole, training, strict=True)),
        "orchestration_seconds": statistics.median(one - part for one, part in zip(whole, working, strict=True)),
        "mean_single_seconds": statistics.mean(whole),
        "together": dict(together),
        "together_of_singles": together["total_seconds"] / (together["requests"] * statistics.mean(whole)),
    }


def _ratio(whole: float, part: float) -> float | None:
    return whole / part if part else None


def _median(ratios: Sequence[float | None]) -> float | None:
    known = [ratio for ratio in ratios if ratio is not None]
    return statistics.median(known) if known else None
