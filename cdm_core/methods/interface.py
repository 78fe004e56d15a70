"""What every method of mixing takes and gives: weights(x_t, t, predictions, condition) → w.

Methods hold no state. What a method may want to know of the path so far, the sampler keeps and hands over with the predictions: the
evidence for each expert, and the weights of the step before.

Shape suffixes: B pictures, N experts, C channels, H, W height and width, D embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

EvaluateExpert = Callable[[int, torch.Tensor], torch.Tensor]
"""(position of an expert, row numbers [R]) → its velocities [R, C, H, W] at this step."""
EvaluateAll = Callable[[torch.Tensor], torch.Tensor]
"""Row numbers [R] → every expert's velocities [N, R, C, H, W] at this step, in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a batch of pictures is asked for: one caption ("" for none) and one seed each."""

    captions: list[str]
    seeds: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What the experts say at one step, evaluated when first asked for, and what the path has said of them so far.

    Attributes:
        step: number of the step, from 0.
        evaluate: one expert on some pictures.
        evaluate_all: every expert on some pictures at once, where that is cheaper.
        active_BN: which experts are still in play for a picture; the others are not evaluated and count for nothing.
        evidence_BN: log-likelihood of the path so far under each expert, up to a constant of the picture; None where the sampler is
            deterministic, so that the path says nothing.
        previous_BN: the weights of the step before; None at the first.
    """

    step: int
    evaluate: EvaluateExpert
    active_BN: torch.Tensor
    evaluate_all: EvaluateAll | None = None
    evidence_BN: torch.Tensor | None = None
    previous_BN: torch.Tensor | None = None
    _cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every active expert has been evaluated."""
        return len(self._cache) == self.active_BN.shape[1]

    def velocities(self) -> torch.Tensor:
        """float [N, B, C, H, W]; zero where an expert is not active."""
        if self.evaluate_all is not None and not self._cache:
            self._evaluate_all_at_once(self.evaluate_all)
        return torch.stack([self._velocity(position) for position in range(self.active_BN.shape[1])])

    def narrow_to(self, active_BN: torch.Tensor) -> None:
        """Put experts out of play for this step, before any is evaluated; the sampler mixes what is left."""
        assert not self._cache, "narrowing comes first"
        self.active_BN.logical_and_(active_BN)

    def _evaluate_all_at_once(self, evaluate_all: EvaluateAll) -> None:
        # Row by row, so that no picture is computed another way for its neighbours' sake.
        is_dense_B = self.active_BN.all(dim=1)
        dense = torch.nonzero(is_dense_B).flatten()
        together = evaluate_all(dense) if len(dense) else None
        for position in range(self.active_BN.shape[1]):
            others = torch.nonzero(self.active_BN[:, position] & ~is_dense_B).flatten()
            parts = [] if together is None else [together[position]]
            if len(others):
                parts.append(self.evaluate(position, others))
            if parts:
                self._cache[position] = torch.cat([dense, others]), torch.cat(parts)

    def _velocity(self, position: int) -> torch.Tensor:
        if position not in self._cache:
            rows = torch.nonzero(self.active_BN[:, position]).flatten()
            # Of no picture no network can be asked, but what it would say has a shape.
            asked = rows if len(rows) else torch.zeros(1, dtype=torch.int64)
            self._cache[position] = rows, self.evaluate(position, asked)[: len(rows)]
        rows, values = self._cache[position]
        if torch.equal(rows, torch.arange(len(self.active_BN))):
            return values
        return values.new_zeros(len(self.active_BN), *values.shape[1:]).index_copy(0, rows, values)


class Mixer(Protocol):
    """One method of mixing."""

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """Weights float [B, N], each row summing to 1, for x_t on the linear path."""


def one_hot(positions: list[int], num_experts: int) -> torch.Tensor:
    """Weights [B, N] of one expert a picture."""
    return torch.nn.functional.one_hot(torch.tensor(positions), num_experts).float()


def masked_priors(priors_BN: torch.Tensor, predictions: Predictions) -> torch.Tensor:
    """Priors of the active experts alone, normalised."""
    priors_BN = priors_BN * predictions.active_BN
    return priors_BN / priors_BN.sum(dim=1, keepdim=True)
