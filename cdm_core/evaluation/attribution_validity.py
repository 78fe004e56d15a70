"""Is the credit right? Against what is known: the shard that made a picture, and what leaving each shard out does to it.

Leaving a shard out is exact here: another list of adapters, the same seed, the picture made anew. The effect of a shard on a picture is
the mean squared change of its pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr

from cdm_core.evaluation.proportions import Proportion, compute_proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Pictures whose highest credit goes to their maker; Spearman's correlation of credit and effect over all (picture, shard) pairs.

    None: no picture has one maker, or nothing varies.
    """

    source_accuracy: Proportion | None
    spearman: float | None


def measure_effects(make: Callable[[int | None], torch.Tensor], shards: Sequence[int]) -> torch.Tensor:
    """Effects float [B, N]; `make` gives the pictures without a shard, or, of None, those of the whole composition."""
    whole = make(None).double()
    return torch.stack([(make(shard).double() - whole).square().flatten(1).mean(dim=1) for shard in shards], dim=1)


def validate_credit(credit_BN: torch.Tensor, effects_BN: torch.Tensor, makers: Sequence[int | None]) -> Validity:
    """Compare; `makers` are positions of experts."""
    guesses = credit_BN.argmax(dim=1).tolist()
    known = [(guess, maker) for guess, maker in zip(guesses, makers, strict=True) if maker is not None]
    accuracy = compute_proportion(sum(guess == maker for guess, maker in known), len(known)) if known else None
    credit, effects = credit_BN.flatten(), effects_BN.flatten()
    varies = len(credit.unique()) > 1 and len(effects.unique()) > 1
    return Validity(source_accuracy=accuracy, spearman=float(spearmanr(credit.numpy(), effects.numpy()).statistic) if varies else None)
