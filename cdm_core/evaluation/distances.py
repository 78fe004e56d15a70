"""Fréchet distances of several models' samples to one reference, with confidence intervals, and their ratios to one of them.

All samples have the same number and come from the same seeds and captions, in the same order: the distance is biased upward by a multiple
of 1/n, and only distances of equal n compare. Intervals are those of the delete-one-block jackknife, Student's t with one degree of freedom
fewer than blocks; a ratio's is of the paired jackknife, in which common seeds cancel most of what both share (as in
`cdm_core.evaluation.quality_gate`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import stdtrit

from cdm_core.evaluation.frechet import FrechetReference, SampleGrams, compute_sample_grams

CONFIDENCE = 0.95

GoalVerdict = Literal["met", "met, but the interval reaches beyond", "missed, but the interval reaches below", "missed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """A distance and what it is without each block."""

    value: float
    without: tuple[float, ...]

    @property
    def interval(self) -> Interval:
        """Of the distance."""
        return jackknife(self.value, list(self.without))


def measure_replicates(reference: FrechetReference, features: torch.Tensor, num_blocks: int) -> Replicates:
    """The distance of features [n, D]; sample i falls into block i mod num_blocks.

    Raises:
        ValueError: blocks that are fewer than 2, or more than half of the samples.
    """
    if not 2 <= num_blocks <= len(features) // 2:
        raise ValueError(f"{len(features)} samples can be dealt into 2 to {len(features) // 2} blocks, not {num_blocks}")
    grams: SampleGrams = compute_sample_grams(reference, features)
    blocks = torch.arange(len(features)) % num_blocks
    return Replicates(value=grams.distance(), without=tuple(grams.distance(blocks != block) for block in range(num_blocks)))


def compare(one: Replicates, other: Replicates) -> Interval:
    """The ratio one / other.

    Raises:
        ValueError: of different numbers of blocks.
    """
    if len(one.without) != len(other.without):
        raise ValueError(f"replicates of {len(one.without)} and of {len(other.without)} blocks can't be paired")
    ratios = [first / second for first, second in zip(one.without, other.without, strict=True)]
    return jackknife(one.value / other.value, ratios)


def jackknife(value: float, without: list[float]) -> Interval:
    """The interval around an estimate, from what it is without each block."""
    num = len(without)
    mean = sum(without) / num
    error = math.sqrt((num - 1) / num * sum((each - mean) ** 2 for each in without))
    reach = float(stdtrit(num - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(value=value, low=value - reach, high=value + reach)


def judge_goal(interval: Interval, limit: float) -> GoalVerdict:
    """Is the value at most the limit, and does the whole interval say so?"""
    if interval.value <= limit:
        return "met" if interval.high <= limit else "met, but the interval reaches beyond"
    return "missed" if interval.low > limit else "missed, but the interval reaches below"


def best_of(replicates: Mapping[str, Replicates]) -> str:
    """The name of the smallest distance."""
    return min(replicates, key=lambda name: replicates[name].value)
