"""The quality gate: is the model after a deletion no worse than the one before, as far as the samples can tell?

A non-inferiority test on the paired change of the Fréchet distance:

1. Both models draw the same number of samples from the same noise seeds, and both are compared with one reference, the one that no
   longer holds the deleted data. The distance's bias of order 1/n then falls on both sides, in every replicate too.
2. Samples are dealt into blocks, the same seeds into the same block on both sides. The standard error of the change is that of the paired
   delete-one-block jackknife: sqrt((B − 1)/B · Σ_b (change_b − mean)²). Common seeds make the two distances rise and fall together, and
   the images of untouched shards are equal, so it is far below either distance's own. A jackknife variance errs upward in expectation
   (Efron and Stein 1981), that is to the safe side.
3. pass: the one-sided 95 % upper bound of the change (Student's t, B − 1 degrees of freedom) lies below the margin.
   inconclusive: the margin is less than 2.5 standard errors, too fine for this number of samples, whatever the change was. It is not a
   pass, and not a failure.
   fail: otherwise.

The margin is relative to the distance before, which contains the sample's bias: a margin means something only beside its num_samples.

Reference: B. Efron and C. Stein, The Jackknife Estimate of Variance, Annals of Statistics 9 (3), 1981.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cdm_core.evaluation.frechet import FrechetReference, SampleGrams, compute_sample_grams

CONFIDENCE = 0.95
MIN_STANDARD_ERRORS = 2.5

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratedFeatures:
    """The features, [n, D], of one model's samples, and the noise seeds, int64 [n], that they were drawn from."""

    features: Tensor
    seeds: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.seeds.shape != self.features.shape[:1]:
            raise ValueError(f"features must be [n, D] and seeds [n], not {list(self.features.shape)} and {list(self.seeds.shape)}")
        if not bool(self.features.isfinite().all()):
            raise ValueError("generated features must be finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The verdict and every number it rests on; distances, change, bound and error are in one unit.

    Attributes:
        change: fd_after − fd_before.
        upper_bound: the one-sided 95 % upper bound of the change.
        margin: tolerated relative rise.
        margin_absolute: margin · fd_before.
        reason: one sentence for a person.
    """

    verdict: Verdict
    fd_before: float
    fd_after: float
    change: float
    upper_bound: float
    standard_error: float
    margin: float
    margin_absolute: float
    num_samples: int
    num_blocks: int
    reason: str


def judge_quality(
    before: GeneratedFeatures, after: GeneratedFeatures, reference: FrechetReference, *, num_blocks: int, margin: float
) -> GateResult:
    """Compare two models' samples with a reference; sample i falls into block i mod num_blocks.

    Args:
        before: of the model that served before the deletion.
        after: of the candidate, from the same seeds in the same order.
        reference: without the deleted data.
        num_blocks: 2 or more, at most half the number of samples.
        margin: the largest tolerated relative rise of the distance, above 0.

    Raises:
        ValueError: samples of different number, seeds or dimensions; or blocks or margin out of range.
    """
    if len(before.seeds) != len(after.seeds):
        raise ValueError(f"the gate compares equal numbers of samples, not {len(before.seeds)} and {len(after.seeds)}")
    if not torch.equal(before.seeds, after.seeds):
        raise ValueError("the gate compares samples of equal noise seeds in equal order")
    num_samples = len(before.seeds)
    if not 2 <= num_blocks <= num_samples // 2:
        raise ValueError(f"{num_samples} samples can be dealt into 2 to {num_samples // 2} blocks, not {num_blocks}")
    if not 0 < margin < math.inf:
        raise ValueError(f"the margin must be above 0, not {margin}")

    from scipy.special import stdtrit  # imported here: half a second, and only the judge needs it

    grams_before = compute_sample_grams(reference, before.features)
    grams_after = compute_sample_grams(reference, after.features)
    fd_before, fd_after = grams_before.distance(), grams_after.distance()
    standard_error = _jackknife_standard_error(grams_before, grams_after, num_blocks)
    change = fd_after - fd_before
    upper_bound = change + float(stdtrit(num_blocks - 1, CONFIDENCE)) * standard_error
    verdict, reason = _decide(change, upper_bound, standard_error, margin * fd_before)
    return GateResult(
        verdict=verdict,
        fd_before=fd_before,
        fd_after=fd_after,
        change=change,
        upper_bound=upper_bound,
        standard_error=standard_error,
        margin=margin,
        margin_absolute=margin * fd_before,
        num_samples=num_samples,
        num_blocks=num_blocks,
        reason=reason,
    )


def _jackknife_standard_error(before: SampleGrams, after: SampleGrams, num_blocks: int) -> float:
    """Step 2 of the module's procedure."""
    blocks = torch.arange(len(before.inner)) % num_blocks
    changes = torch.tensor(
        [after.distance(blocks != block) - before.distance(blocks != block) for block in range(num_blocks)],
        dtype=torch.float64,
    )
    return math.sqrt((num_blocks - 1) / num_blocks * float((changes - changes.mean()).square().sum()))


def _decide(change: float, upper_bound: float, standard_error: float, margin: float) -> tuple[Verdict, str]:
    """Step 3 of the module's procedure."""
    if margin < MIN_STANDARD_ERRORS * standard_error:
        needed = MIN_STANDARD_ERRORS * standard_error
        return (
            "inconclusive",
            f"the distance changed by {change:.3g}; a margin of {margin:.3g} is finer than 2.5 standard errors, {needed:.3g}",
        )
    if upper_bound < margin:
        return "pass", f"with 95 % confidence the distance rose by less than {upper_bound:.3g}, the margin is {margin:.3g}"
    return "fail", f"a rise of the distance by up to {upper_bound:.3g} can't be excluded with 95 % confidence, the margin is {margin:.3g}"
