"""λ: how likely each expert is before anything is seen of the picture.

- From counts, λ_i = n_i / Σ n_j: exact, and a deletion subtracts from it exactly.
- From counts for each condition, λ_i(c) = n_{i,c} / Σ_j n_{j,c}, where conditions are a known set such as classes.
- For a free prompt, from CLIP: the prompt's text embedding against the shards' centroids, λ_i(c) ∝ n_i·exp(−min_j ‖φ(c) − c_ij‖²/τ).

Each uses what is known of one shard at a time, so that none needs training again when a shard changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cdm_core.clip import Clip
from cdm_core.composition.document import Expert
from cdm_core.composition.knn_weights import knn_weights
from cdm_core.methods.interface import Condition


class Priors(Protocol):
    """One way to get λ."""

    def of(self, condition: Condition) -> torch.Tensor:
        """λ float [B, N], each row summing to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPriors:
    """In proportion to samples, whatever is asked for."""

    experts: tuple[Expert, ...]

    def of(self, condition: Condition) -> torch.Tensor:
        """The same row for all."""
        counts_N = torch.tensor([float(expert.samples) for expert in self.experts])
        return (counts_N / counts_N.sum()).expand(len(condition.captions), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionalCountPriors:
    """In proportion to each shard's samples of the caption; a caption that no shard has falls back on all samples."""

    experts: tuple[Expert, ...]
    counts: Mapping[int, Mapping[str, int]]
    """shard → caption → samples."""

    def of(self, condition: Condition) -> torch.Tensor:
        """One row a caption."""
        counts_BN = torch.tensor(
            [[float(self.counts.get(expert.shard, {}).get(caption, 0)) for expert in self.experts] for caption in condition.captions]
        )
        unknown_B1 = counts_BN.sum(dim=1, keepdim=True) == 0
        counts_BN = torch.where(unknown_B1, torch.tensor([float(expert.samples) for expert in self.experts]), counts_BN)
        return counts_BN / counts_BN.sum(dim=1, keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPriors:
    """A free prompt against the shards' centroids; no prompt falls back on counts."""

    experts: tuple[Expert, ...]
    centroids: Sequence[torch.Tensor]
    clip: Clip
    temperature: float

    def of(self, condition: Condition) -> torch.Tensor:
        """One row a caption, each embedded by itself."""
        counts_N = torch.tensor([float(expert.samples) for expert in self.experts])
        rows = {
            caption: knn_weights(self.clip.embed_captions([caption]), self.centroids, counts_N, self.temperature)[0]
            if caption
            else counts_N / counts_N.sum()
            for caption in dict.fromkeys(condition.captions)
        }
        return torch.stack([rows[caption] for caption in condition.captions])
