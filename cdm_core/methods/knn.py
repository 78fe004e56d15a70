"""`knn`: w_i ∝ λ_i·exp(−min_j ‖φ(x̂_0) − c_ij‖² / τ) with CLIP embeddings φ and the shards' centroids (paper sec. 3.4 and 4)."""

from dataclasses import dataclass

import torch

from cdm_core.backbone import PixelBackbone
from cdm_core.composition.document import Expert
from cdm_core.composition.knn_weights import knn_weights
from cdm_core.methods.interface import Condition, Predictions, masked_priors
from cdm_core.methods.priors import CountPriors, Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class Knn:
    """Nearest centroids of the predicted clean picture."""

    experts: tuple[Expert, ...]
    centroids: tuple[torch.Tensor, ...]
    temperature: float
    backbone: PixelBackbone
    priors: Priors | None = None

    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """From the prior-weighted mean of the experts' x̂_0 = x_t − t·v."""
        counts = CountPriors(experts=self.experts)
        priors_BN = masked_priors((self.priors or counts).of(condition), predictions)
        velocity_BCHW = torch.einsum("bn,nbchw->bchw", priors_BN, predictions.velocities())
        clean_BCHW = (x_BCHW - t * velocity_BCHW).clamp(-1, 1)
        embeddings_BD = self.backbone.clip.embed_pictures(clean_BCHW)
        rows = [
            knn_weights(embedding_1D, list(self.centroids), priors_N, self.temperature)
            for embedding_1D, priors_N in zip(embeddings_BD.split(1), priors_BN, strict=True)
        ]
        return torch.cat(rows)
