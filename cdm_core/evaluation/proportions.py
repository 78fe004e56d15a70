"""Rates with Wilson intervals (E. B. Wilson, JASA 1927): sound at 0 and 1, and for few trials."""

from dataclasses import dataclass

_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """Successes among trials, with the 95 % interval."""

    successes: int
    trials: int
    rate: float
    low: float
    high: float


def compute_proportion(successes: int, trials: int) -> Proportion:
    """The rate and its Wilson interval.

    Raises:
        ValueError: no trial, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is no proportion")
    rate, squared = successes / trials, _Z**2
    centre = (rate + squared / (2 * trials)) / (1 + squared / trials)
    half = _Z * (rate * (1 - rate) / trials + squared / (4 * trials**2)) ** 0.5 / (1 + squared / trials)
    return Proportion(
        successes=successes,
        trials=trials,
        rate=rate,
        low=0.0 if successes == 0 else max(0.0, centre - half),
        high=1.0 if successes == trials else min(1.0, centre + half),
    )
