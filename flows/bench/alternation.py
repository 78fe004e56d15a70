"""Timing sides in alternation, so that what else the machine does meets them all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def time_in_turn(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each side in each repetition; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, run in sides.items():
            taken = _time(run)
            if repetition:
                seconds[name].append(taken)
    return seconds


def median_ratio(seconds: list[float], baseline: list[float]) -> float:
    """The median over repetitions of one side's time to the baseline's in the same repetition."""
    return median(one / other for one, other in zip(seconds, baseline, strict=True))


def measure_ratios(baseline: Callable[[], object], sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The median over repetitions of each side's time to the mean of the baseline's just before and just after it.

    So drifts of the machine cancel, which over a whole round of many sides can be a tenth. One round before them is not counted.
    """
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        before = _time(baseline)
        for name, run in sides.items():
            taken = _time(run)
            after = _time(baseline)
            if repetition:
                ratios[name].append(2 * taken / (before + after))
            before = after
    return {name: median(values) for name, values in ratios.items()}


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
