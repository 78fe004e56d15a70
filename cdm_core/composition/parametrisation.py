"""One score interface: noise, clean picture, velocity and score are four ways to say one prediction, and any scheduler gets its own.

A noisy picture is x = α·x_0 + σ·ε. Given x, α and σ, a prediction of any of the four fixes the others:

- noise ε̂ and clean picture x̂_0 with x = α·x̂_0 + σ·ε̂;
- score s = (α·x̂_0 − x)/σ² = −ε̂/σ;
- the linear path's velocity v = ε̂ − x̂_0, hence x̂_0 = (x − σ·v)/(α + σ) and ε̂ = (x + α·v)/(α + σ);
- diffusers' "v_prediction", α·ε̂ − σ·x̂_0 (Salimans and Ho 2022), hence x̂_0 = (α·x − σ·v)/(α² + σ²).

The backbone reads the linear path, α = 1 − t and σ = t. Diffusers' DDIM and DDPM walk a variance-preserving one, α² + σ² = 1. A picture of
the one at the same ratio σ/α is a multiple of the other's: x_linear = x/(α + σ) at t = σ/(α + σ), with the same ε̂ and x̂_0.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """α ≥ 0 and σ ≥ 0 of one point of a path, not both 0."""

    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and self.sigma >= 0 and self.alpha + self.sigma > 0):
            raise ValueError(f"a signal needs α ≥ 0 and σ ≥ 0, not both 0: {self.alpha}, {self.sigma}")

    @property
    def linear_time(self) -> float:
        """t of the linear path's point with the same signal-to-noise ratio."""
        return self.sigma / (self.alpha + self.sigma)

    def to_linear(self, x: torch.Tensor) -> torch.Tensor:
        """The linear path's picture of the same x_0 and ε."""
        return x / (self.alpha + self.sigma)


def linear_signal(t: float) -> Signal:
    """The linear path at t in [0, 1]."""
    return Signal(alpha=1 - t, sigma=t)


def preserving_signal(t: float) -> Signal:
    """The variance-preserving point with the linear path's signal-to-noise ratio at t."""
    scale = ((1 - t) ** 2 + t**2) ** 0.5
    return Signal(alpha=(1 - t) / scale, sigma=t / scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a network says of `x`, kept as (x̂_0, ε̂), the two that are finite at every noise level."""

    signal: Signal
    clean: torch.Tensor
    noise: torch.Tensor

    @property
    def score(self) -> torch.Tensor:
        """∇ log p(x); σ must be above 0."""
        return -self.noise / self.signal.sigma

    @property
    def velocity(self) -> torch.Tensor:
        """ε̂ − x̂_0, of the linear path."""
        return self.noise - self.clean

    @property
    def preserving_velocity(self) -> torch.Tensor:
        """α·ε̂ − σ·x̂_0, diffusers' "v_prediction"."""
        return self.signal.alpha * self.noise - self.signal.sigma * self.clean


def from_velocity(x: torch.Tensor, signal: Signal, velocity: torch.Tensor) -> Prediction:
    """From the linear path's velocity ε̂ − x̂_0, for x on any path."""
    total = signal.alpha + signal.sigma
    return Prediction(signal=signal, clean=(x - signal.sigma * velocity) / total, noise=(x + signal.alpha * velocity) / total)


def from_noise(x: torch.Tensor, signal: Signal, noise: torch.Tensor) -> Prediction:
    """From ε̂; α must be above 0."""
    return Prediction(signal=signal, clean=(x - signal.sigma * noise) / signal.alpha, noise=noise)


def from_clean(x: torch.Tensor, signal: Signal, clean: torch.Tensor) -> Prediction:
    """From x̂_0; σ must be above 0."""
    return Prediction(signal=signal, clean=clean, noise=(x - signal.alpha * clean) / signal.sigma)


def from_score(x: torch.Tensor, signal: Signal, score: torch.Tensor) -> Prediction:
    """From ∇ log p(x); α must be above 0."""
    return from_noise(x, signal, -signal.sigma * score)


def from_preserving_velocity(x: torch.Tensor, signal: Signal, velocity: torch.Tensor) -> Prediction:
    """From diffusers' "v_prediction"."""
    total = signal.alpha**2 + signal.sigma**2
    return Prediction(
        signal=signal,
        clean=(signal.alpha * x - signal.sigma * velocity) / total,
        noise=(signal.sigma * x + signal.alpha * velocity) / total,
    )
