"""Timing sides in alternation, so that what else the machine does meets them all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def time_in_turn(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each side in each repetition; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(seconds: list[float], baseline: list[float]) -> float:
    """The median over repetitions of one side's time to the baseline's in the same repetition."""
    return median(one / other for one, other in zip(seconds, baseline, strict=True))
