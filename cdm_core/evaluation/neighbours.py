"""Nearest neighbours before and after a deletion: how many of the model's pictures lie nearer to an erased picture than to any other one?

For each picture that a model made, the nearest training picture of the hit shards, the erased ones among them, by ℓ2 distance of pixels
(Carlini et al. 2023, sec. 5). `share_erased` is what the rate would be if erased pictures were as near as others. Only pictures that differ
between the two models count, since the others were made by experts that nobody touched. It shows copying, which is rare; where nothing was
copied before, the two rates say little.
"""

from dataclasses import dataclass

import torch

from cdm_core.evaluation.proportions import Proportion, compute_proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Pictures whose nearest training picture is an erased one, before and after; the median distance to the nearest erased picture."""

    before: Proportion
    after: Proportion
    distance_before: float
    distance_after: float
    share_erased: float


def compare_neighbours(before: torch.Tensor, after: torch.Tensor, erased: torch.Tensor, kept: torch.Tensor) -> Neighbours | None:
    """Compare the pictures of two models, made from the same seeds; None if none differ.

    Args:
        before: uint8 [B, 3, H, W].
        after: likewise; row by row from the same seeds and captions.
        erased: training pictures that were erased, one at least.
        kept: those of the hit shards that stay.

    Raises:
        ValueError: nothing was erased, or the two models' pictures aren't as many.
    """
    if not len(erased) or before.shape != after.shape:
        raise ValueError("neighbours are compared between as many pictures, with one erased at least")
    changed = (before != after).flatten(1).any(dim=1)
    if not changed.any():
        return None
    (rate_before, distance_before), (rate_after, distance_after) = (_look(made[changed], erased, kept) for made in (before, after))
    return Neighbours(
        before=rate_before,
        after=rate_after,
        distance_before=distance_before,
        distance_after=distance_after,
        share_erased=len(erased) / (len(erased) + len(kept)),
    )


def _look(made: torch.Tensor, erased: torch.Tensor, kept: torch.Tensor) -> tuple[Proportion, float]:
    """An erased picture that is as near as a kept one counts as the nearest."""
    to_erased = _distances(made, erased).amin(dim=1)
    to_kept = _distances(made, kept).amin(dim=1) if len(kept) else torch.full_like(to_erased, torch.inf)
    return compute_proportion(int((to_erased <= to_kept).sum()), len(made)), float(to_erased.median())


def _distances(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """In units of full scale, root mean square over a picture's values."""
    first, second = (side.flatten(1).double() / 255 for side in (pictures, others))
    distances: torch.Tensor = torch.cdist(first, second) / first.shape[1] ** 0.5
    return distances
