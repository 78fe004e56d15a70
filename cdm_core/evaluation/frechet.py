"""The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6), and a fast form for few samples.

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½

With Σ = F Fᵀ the last trace is the sum of the singular values of F_aᵀ F_b, which is real, non-negative and symmetric in a and b by
construction: no square root of a non-symmetric matrix and none of its complex noise. F comes from a symmetric eigendecomposition;
eigenvalues that are zero but for rounding are left out, since their square roots would not be small.

n samples, n far below D, span at most n − 1 directions. Shifted by the reference's mean, their distance to the reference depends on two
n × n matrices alone, the inner products ⟨z_i, z_j⟩ and ⟨z_i, Σ_ref z_j⟩, and that of a subset on the same entries of the same matrices.
`SampleGrams` holds the two, so that each replicate of a jackknife costs the eigenvalues of one n × n matrix.

A finite sample's distance is biased upward, in first order by a multiple of 1/n: compare only distances of equal n.

Reference: M. Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Gaussian(Protocol):
    """Mean, float64 [D], and covariance, float64 [D, D]; `Moments` is one."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianStats:
    """A `Gaussian` given by its parameters."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrechetReference:
    """A Gaussian, worked out once to be compared with often.

    Attributes:
        mean: float64 [D].
        covariance: float64 [D, D].
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleGrams:
    """All that the distance between a reference and samples, or any subset of them, depends on.

    Attributes:
        inner: float64 [n, n], ⟨z_i, z_j⟩ for samples z shifted by the reference's mean.
        weighted: float64 [n, n], ⟨z_i, Σ_ref z_j⟩.
        reference_variance: tr Σ_ref.
    """

    inner: Tensor
    weighted: Tensor
    reference_variance: float

    def distance(self, kept: Tensor | None = None) -> float:
        """The Fréchet distance of all samples, or of those that `kept`, bool [n], marks.

        Raises:
            ValueError: of fewer than two samples.
        """
        inner, weighted = self.inner, self.weighted
        if kept is not None:
            inner, weighted = inner[kept][:, kept], weighted[kept][:, kept]
        num_samples = len(inner)
        if num_samples < 2:
            raise ValueError(f"the Fréchet distance needs 2 samples or more, not {num_samples}")
        squared_shift = float(inner.mean())
        variance = (float(inner.trace()) - num_samples * squared_shift) / (num_samples - 1)
        centred = weighted - weighted.mean(0, keepdim=True) - weighted.mean(1, keepdim=True) + weighted.mean()
        # tr (Σ Σ_ref)^½ is the sum of the singular values of the centred samples times Σ_ref^½: the roots of this matrix's eigenvalues.
        eigenvalues = torch.linalg.eigvalsh(centred)
        coupling = float((eigenvalues[_is_beyond_rounding(eigenvalues)] / (num_samples - 1)).sqrt().sum())
        return max(0.0, squared_shift + variance + self.reference_variance - 2 * coupling)


def build_frechet_reference(gaussian: Gaussian) -> FrechetReference:
    """The Gaussian's parameters; of `Moments` each is a computation."""
    return FrechetReference(mean=gaussian.mean, covariance=gaussian.covariance)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The Fréchet distance (squared, as is usual) between two Gaussians.

    Raises:
        ValueError: of different dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"Gaussians of {len(first.mean)} and of {len(second.mean)} dimensions")
    a, b = build_frechet_reference(first), build_frechet_reference(second)
    coupling = float(torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum())
    return max(0.0, float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()) - 2 * coupling)


def compute_sample_grams(reference: FrechetReference, features: Tensor) -> SampleGrams:
    """Prepare the distance between a reference and features, floating point [n, D].

    Raises:
        ValueError: features of other dimensions.
    """
    if features.ndim != 2 or features.shape[1] != len(reference.mean):
        raise ValueError(f"features must be [n, {len(reference.mean)}], not {list(features.shape)}")
    shifted = features.double() - reference.mean
    weighted = shifted @ reference.covariance @ shifted.T
    # Rounding leaves a trace of asymmetry, and a distance must not depend on the samples' order.
    return SampleGrams(
        inner=shifted @ shifted.T,
        weighted=(weighted + weighted.T) / 2,
        reference_variance=float(reference.covariance.trace()),
    )


def _factor(covariance: Tensor) -> Tensor:
    """F, float64 [D, rank], with F·Fᵀ the covariance: one eigendecomposition, O(D³)."""
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    is_kept = _is_beyond_rounding(eigenvalues)
    factor: Tensor = eigenvectors[:, is_kept] * eigenvalues[is_kept].sqrt()
    return factor


def _is_beyond_rounding(eigenvalues: Tensor) -> Tensor:
    """Which eigenvalues of a positive semi-definite matrix are not zero but for rounding: the usual cut of a numerical rank."""
    return eigenvalues > eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(torch.float64).eps
