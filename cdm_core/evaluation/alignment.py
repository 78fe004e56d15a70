"""Does a picture show what its caption asks for? By CLIP, which conditioned the backbone, and by an encoder that training never saw.

- CLIP score: the cosine of picture and caption (Hessel et al. 2021, without their scale and cut at 0).
- Retrieval: the real picture whose features are nearest in direction; right when it is of the caption's class. And whether a real picture
  of just this caption is among the nearest few.

Both are means over pictures, so unlike a Fréchet distance they have no bias from the number of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.special import stdtrit

from cdm_core.evaluation.distances import CONFIDENCE, Interval
from cdm_core.evaluation.proportions import Proportion, compute_proportion

NEAREST = 10
"""Real pictures among which the caption's own is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """For each picture: whether the nearest real one is of the right class, and whether one of its caption is among the nearest."""

    is_class: tuple[bool, ...]
    is_caption: tuple[bool, ...]

    @property
    def class_rate(self) -> Proportion:
        return compute_proportion(sum(self.is_class), len(self.is_class))

    @property
    def caption_rate(self) -> Proportion:
        return compute_proportion(sum(self.is_caption), len(self.is_caption))


def clip_scores(pictures_BD: torch.Tensor, captions_BD: torch.Tensor) -> list[float]:
    """Cosine of each picture's and its caption's embedding."""
    return [float(score) for score in F.cosine_similarity(pictures_BD.double(), captions_BD.double(), dim=1)]


def retrieve(
    features_BD: torch.Tensor, real_MD: torch.Tensor, wanted: Sequence[tuple[str, str]], known: Sequence[tuple[str, str]]
) -> Retrieved:
    """Look each picture up among real ones; `wanted` and `known` are (class, caption) of each picture and of each real one."""
    likeness_BM = F.normalize(features_BD, dim=1) @ F.normalize(real_MD, dim=1).T
    nearest = likeness_BM.topk(min(NEAREST, len(known)), dim=1).indices.tolist()
    return Retrieved(
        is_class=tuple(known[rows[0]][0] == want[0] for rows, want in zip(nearest, wanted, strict=True)),
        is_caption=tuple(any(known[row][1] == want[1] for row in rows) for rows, want in zip(nearest, wanted, strict=True)),
    )


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean, with Student's t; of paired differences, the paired interval.

    Raises:
        ValueError: fewer than two values.
    """
    num = len(values)
    if num < 2:
        raise ValueError(f"an interval needs two values or more, not {num}")
    mean = sum(values) / num
    error = (sum((value - mean) ** 2 for value in values) / (num - 1) / num) ** 0.5
    reach = float(stdtrit(num - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(value=mean, low=mean - reach, high=mean + reach)
