"""Memorisation: is a picture closer to one training picture than training pictures usually are? (Carlini et al. 2023, sec. 5)

The ratio is the ℓ2 distance to the nearest training picture over the mean distance to its 50 nearest, of the generated picture. Low: one
training picture stands out. What is low follows from the null: pictures of the same data that training never saw, measured the same
way. A rate without its null says nothing.
"""

from dataclasses import dataclass

import torch

from cdm_core.evaluation.proportions import Proportion, compute_proportion

NUM_NEIGHBOURS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """How many pictures lie below the threshold, generated and held out; nearest training picture and ratio of each generated one."""

    threshold: float
    generated: Proportion
    held_out: Proportion
    ratios_B: torch.Tensor
    nearest_B: torch.Tensor


def measure_ratios(
    pictures: torch.Tensor, training: torch.Tensor, num_neighbours: int = NUM_NEIGHBOURS
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ratio, row of the nearest training picture) of each picture; a copy has ratio 0. With fewer training pictures, all are neighbours.

    Raises:
        ValueError: fewer than two training pictures.
    """
    if len(training) < 2:
        raise ValueError("a ratio of distances needs two training pictures or more")
    # By differences: the expanded square loses the distance of a copy, which must be exactly 0.
    distances = torch.cdist(pictures.flatten(1).double(), training.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(min(num_neighbours, len(training)), dim=1, largest=False)
    means_B = nearest.values.mean(dim=1)
    ratios_B = torch.where(means_B > 0, nearest.values[:, 0] / means_B, 1.0)  # all neighbours alike: none stands out
    return ratios_B, nearest.indices[:, 0]


def measure_memorisation(
    generated: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor, *, threshold: float | None = None
) -> Memorisation:
    """Rates of ratios below the threshold, by default the 5 % quantile of the held-out pictures' own.

    Raises:
        ValueError: no picture on a side, or fewer than two training pictures.
    """
    if not len(generated) or not len(held_out):
        raise ValueError("a rate and its null need a generated and a held-out picture")
    ratios_B, nearest_B = measure_ratios(generated, training)
    null_B, _ = measure_ratios(held_out, training)
    limit = float(null_B.quantile(0.05)) if threshold is None else threshold
    return Memorisation(
        threshold=limit,
        generated=compute_proportion(int((ratios_B < limit).sum()), len(ratios_B)),
        held_out=compute_proportion(int((null_B < limit).sum()), len(null_B)),
        ratios_B=ratios_B,
        nearest_B=nearest_B,
    )
