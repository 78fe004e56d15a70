"""Membership inference before and after a deletion: can an adapter's loss tell the erased pictures from ones that it never saw?

1. A picture's statistic is the velocity error of the bare backbone minus that of the adapter, both at the same noise and times, which are
   keyed by the picture and stratified over (0, 1): how much the adapter helps with this picture, whatever its difficulty (Watson et al.
   2022; loss attacks: Yeom et al. 2018, on diffusion models Carlini et al. 2023, sec. 5.2).
2. The null are pictures of other shards that aren't erased either: the adapter never saw them. A hit shard's erased pictures and its null
   are looked at through that shard's adapter, in the same proportion of erased to null in every hit shard.
3. The area under the ROC curve is the share of (erased, null) pairs in which the erased picture has the larger statistic; 0.5 is chance.
   Its 95 % interval solves |a − A| = z·√V(a), V of Hanley and McNeil (1982) with both sizes at their mean: Newcombe's (2006) method 5,
   which stays wide at 0 and 1 and for few samples.
4. `drop` is the area before minus the area after, on the same pictures, with the interval of DeLong et al. (1988) for correlated areas;
   `help_lost` is the mean fall of the erased pictures' own statistics, with the paired t interval.
5. corroborated: before.low > 0.5, after.low ≤ 0.5 ≤ after.high < MAX_AREA_AFTER and drop.low > 0, with MIN_SAMPLES on both sides.
   Anything else is inconclusive, and the reason says what is missing.

What it can't say. The adapter after a deletion never saw the erased pictures, which retraining shows bit for bit; this is evidence from
outside, and weak. An owner's style may make the erased pictures easier or harder than the null for every adapter, so the area after may lie
off 0.5 though nothing is remembered (and at 0.5 though something is). That is why the paired `drop` stands beside it: style is in both of
its areas. It proves nothing either: an attack that fails may be a weak attack. It decides nothing; the quality gate doesn't ask it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import stdtrit

from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.digests import derive_seed
from cdm_core.training import StageSamples

NUM_TIMES = 2
MIN_SAMPLES = 10
MAX_AREA_AFTER = 0.7

_BATCH = 16
_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

Verdict = Literal["corroborated", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of the same pictures before and after, float64 [N] each."""

    before_N: torch.Tensor
    after_N: torch.Tensor

    def __post_init__(self) -> None:
        if self.before_N.ndim != 1 or self.before_N.shape != self.after_N.shape:
            raise ValueError("statistics before and after are of the same pictures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The areas before and after, and how they differ; see the module's text."""

    verdict: Verdict
    reason: str
    before: Estimate
    after: Estimate
    drop: Estimate
    help_lost: Estimate
    num_erased: int
    num_null: int
    num_times: int
    max_area_after: float


def draw_samples(sample_ids: Iterable[str], num: int, *key: str | int) -> list[str]:
    """Up to `num` of the samples, drawn by a keyed hash: nobody chooses which."""
    return sorted(sorted(set(sample_ids), key=lambda sample_id: (derive_seed("membership draw", *key, sample_id), sample_id))[:num])


def allot(num: int, weights: Mapping[int, int]) -> dict[int, int]:
    """`num` places shared out by weight, each within one of its exact share, in whole numbers that add up."""
    total, given, seen = sum(weights.values()), 0, 0
    shares = {}
    for name, weight in sorted(weights.items()):
        seen += weight
        shares[name] = (2 * num * seen + total) // (2 * total) - given
        given += shares[name]
    return shares


@torch.no_grad()
def compute_losses(backbone: Backbone, expert: torch.nn.Module, samples: StageSamples, num_times: int = NUM_TIMES) -> torch.Tensor:
    """Each sample's mean squared velocity error over the strata of time, float64 [N]; noise and times follow from the sample's id."""
    latents, tokens = backbone.encode_pictures(samples.pictures), backbone.encode_captions(samples.captions)
    pairs = [(row, stratum) for row in range(len(samples.sample_ids)) for stratum in range(num_times)]
    losses = torch.empty(len(pairs), dtype=torch.float64)
    for start in range(0, len(pairs), _BATCH):
        chunk = pairs[start : start + _BATCH]
        draws = [_draw(samples.sample_ids[row], stratum, num_times, latents.shape[1:]) for row, stratum in chunk]
        noise, time = (torch.stack(list(column)) for column in zip(*draws, strict=True))
        rows = [row for row, _ in chunk]
        mixed = torch.lerp(latents[rows], noise, time[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        velocity = predict_velocity(expert, mixed, time, tokens[rows])
        losses[start : start + len(chunk)] = (velocity - (noise - latents[rows])).double().square().mean(dim=(1, 2, 3))
    return losses.reshape(-1, num_times).mean(dim=1)


def judge_membership(erased: Statistics, null: Statistics, *, num_times: int = NUM_TIMES) -> Membership:
    """Steps 3 to 5 of the module's text.

    Raises:
        ValueError: fewer than two pictures on a side.
    """
    num_erased, num_null = len(erased.before_N), len(null.before_N)
    if min(num_erased, num_null) < 2:
        raise ValueError("an interval needs two pictures on each side")
    before = _estimate_area(_compare(erased.before_N, null.before_N))
    after = _estimate_area(_compare(erased.after_N, null.after_N))
    drop = _estimate_drop(_compare(erased.before_N, null.before_N) - _compare(erased.after_N, null.after_N))
    shortcoming = _find_shortcoming(before, after, drop, min(num_erased, num_null))
    return Membership(
        verdict="inconclusive" if shortcoming else "corroborated",
        reason=shortcoming or "told apart before and no longer after, on the same pictures",
        before=before,
        after=after,
        drop=drop,
        help_lost=_estimate_mean(erased.before_N - erased.after_N),
        num_erased=num_erased,
        num_null=num_null,
        num_times=num_times,
        max_area_after=MAX_AREA_AFTER,
    )


def hanley_mcneil_variance(area: float, num_members: float, num_null: float, num_pairs: float) -> float:
    """V(area) of Hanley and McNeil (1982), eq. 1 and 2, with the number of pairs given apart from the sizes."""
    first, second = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    return (area * (1 - area) + (num_members - 1) * first + (num_null - 1) * second) / num_pairs


def estimate_area(members_M: torch.Tensor, null_N: torch.Tensor) -> Estimate:
    """Step 3: how often a member's statistic is the larger one, ties counting half.

    Raises:
        ValueError: no statistic on a side.
    """
    if not (len(members_M) and len(null_N)):
        raise ValueError("an area needs a picture on each side")
    return _estimate_area(_compare(members_M, null_N))


def _draw(sample_id: str, stratum: int, num_times: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(derive_seed("membership noise", sample_id, stratum))
    return torch.randn(shape, generator=generator), (stratum + torch.rand((), generator=generator)) / num_times


def _compare(members_M: torch.Tensor, null_N: torch.Tensor) -> torch.Tensor:
    """[M, N]: 1 where the member's is larger, 1/2 where they are equal."""
    difference = members_M.double()[:, None] - null_N.double()[None, :]
    return (difference.sign() + 1) / 2


def _estimate_area(wins_MN: torch.Tensor) -> Estimate:
    num_members, num_null = wins_MN.shape
    area, size = float(wins_MN.mean()), (num_members + num_null) / 2

    def is_outside(other: float) -> bool:
        variance = hanley_mcneil_variance(other, size, size, num_members * num_null)
        return (other - area) ** 2 > _Z**2 * variance

    return Estimate(value=area, low=_find_edge(area, 0.0, is_outside), high=_find_edge(area, 1.0, is_outside))


def _find_edge(inside: float, outside: float, is_outside: Callable[[float], bool]) -> float:
    """Where the interval ends between the two, by bisection."""
    if inside == outside:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_outside(middle) else (middle, outside)
    return outside


def _estimate_drop(change_MN: torch.Tensor) -> Estimate:
    """Step 4, DeLong et al., eq. 5 to 7: the variance of a difference of areas from the placements' differences."""
    num_members, num_null = change_MN.shape
    value = float(change_MN.mean())
    variance = float(change_MN.mean(dim=1).var()) / num_members + float(change_MN.mean(dim=0).var()) / num_null
    return Estimate(value=value, low=value - _Z * math.sqrt(variance), high=value + _Z * math.sqrt(variance))


def _estimate_mean(values_N: torch.Tensor) -> Estimate:
    value, half = float(values_N.mean()), float(stdtrit(len(values_N) - 1, 0.975)) * float(values_N.std()) / math.sqrt(len(values_N))
    return Estimate(value=value, low=value - half, high=value + half)


def _find_shortcoming(before: Estimate, after: Estimate, drop: Estimate, num_samples: int) -> str | None:
    """Step 5: the first condition that doesn't hold, in words."""
    if num_samples < MIN_SAMPLES:
        return f"{num_samples} pictures on a side are too few; {MIN_SAMPLES} are asked for"
    if before.low <= 0.5:
        return "the erased pictures couldn't be told from unseen ones before, so nothing follows from not telling them afterwards"
    if not after.low <= 0.5 <= after.high:
        return "the erased pictures still differ from unseen ones; the adapter after never saw them, so their style may be what differs"
    if after.high >= MAX_AREA_AFTER:
        return f"too few pictures to bound the area afterwards below {MAX_AREA_AFTER}"
    if drop.low <= 0:
        return "the fall of the area on the same pictures isn't distinguishable from none"
    return None
