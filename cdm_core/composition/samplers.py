"""Samplers: diffusers' schedulers behind one interface that takes the linear path's velocity, whatever path the scheduler walks.

`euler` and `dpm_solver` walk the linear path itself. `ddim` and `ddpm` walk the variance-preserving one, on a grid that we hand them as
betas: point k has the signal-to-noise ratio of the linear path at t = (k+1)/steps. So every sampler spends its steps at the same noise
levels, and DDIM, which holds x̂_0 and ε̂ during a step just as Euler does there, gives Euler's pictures (a test). Velocities are turned
into x̂_0 (`cdm_core.composition.parametrisation`), which is finite at t = 1 too, where α is 0 and ε̂ says nothing.

`ddpm` is the stochastic one: x_{k−1} ~ N(μ(x_k), σ_k²), with μ affine in x̂_0. What it knows of its step, `Transition`, is what Bayes
weights and copy protection compute with. Its noise comes from a generator of the picture's own.
"""

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch

from cdm_core.composition.parametrisation import from_velocity, linear_signal, preserving_signal
from cdm_core.settings import SamplerName


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A stochastic step: x_{k−1} ~ N(clean_factor·x̂_0 + noisy_factor·x_k, std²), std 0 at the last one."""

    clean_factor: float
    noisy_factor: float
    std: float


class Sampler(Protocol):
    """One scheduler at a fixed number of steps. Its x is in its own scale; `to_linear` gives the one that networks read."""

    @property
    def times(self) -> list[float]:
        """t of each step on the linear path, falling from 1 or nearly 1."""

    def to_linear(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The picture before `step`, as a point of the linear path."""

    def transition(self, step: int) -> Transition | None:
        """What the step draws from, if it's stochastic."""

    def advance(self, x: torch.Tensor, step: int, velocity: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """The picture after `step`; steps come in order, each once. Velocity is of the linear path."""


class EulerSampler:
    """Euler steps along the linear path."""

    def __init__(self, steps: int) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler  # imported here, as below: seconds, and who samples nothing needs none of it

        self._scheduler = FlowMatchEulerDiscreteScheduler()
        # Even steps from 1 to 0; the scheduler's own grid spends its last step between 0.001 and 0.
        self._scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())

    @property
    def times(self) -> list[float]:
        """Even, from 1."""
        return [float(sigma) for sigma in self._scheduler.sigmas[:-1]]

    def to_linear(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """It's there already."""
        return x

    def transition(self, step: int) -> Transition | None:
        """Deterministic."""
        return None

    def advance(self, x: torch.Tensor, step: int, velocity: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """x + Δt·v."""
        moved: torch.Tensor = self._scheduler.step(velocity, self._scheduler.timesteps[step], x).prev_sample
        return moved


class DpmSolverSampler:
    """DPM-Solver++(2M) along the linear path, of second order except for its last step (Lu et al. 2022)."""

    def __init__(self, steps: int) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self._scheduler = DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True, euler_at_final=True
        )
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # diffusers 0.42 meets NumPy 2
            self._scheduler.set_timesteps(steps)

    @property
    def times(self) -> list[float]:
        """Even, from 0.999: the solver works in log-SNR, which has no value at 1."""
        return [float(sigma) for sigma in self._scheduler.sigmas[:-1]]

    def to_linear(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """It's there already."""
        return x

    def transition(self, step: int) -> Transition | None:
        """Deterministic."""
        return None

    def advance(self, x: torch.Tensor, step: int, velocity: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """One multistep update."""
        moved: torch.Tensor = self._scheduler.step(velocity, self._scheduler.timesteps[step], x).prev_sample
        return moved


class PreservingSampler:
    """DDIM (η = 0) or DDPM on the variance-preserving path."""

    def __init__(self, steps: int, *, is_stochastic: bool) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler

        self._steps, self._is_stochastic = steps, is_stochastic
        self._squares = [preserving_signal((k + 1) / steps).alpha ** 2 for k in range(steps)]
        kept = [square / before for square, before in zip(self._squares, [1.0, *self._squares[:-1]], strict=True)]
        options = {
            "num_train_timesteps": steps,
            "trained_betas": [1 - share for share in kept],
            "clip_sample": False,
            "prediction_type": "sample",
            "timestep_spacing": "trailing",
        }
        self._scheduler = DDPMScheduler(**options) if is_stochastic else DDIMScheduler(**options)
        self._scheduler.set_timesteps(steps)

    @property
    def times(self) -> list[float]:
        """Even, from 1."""
        return [(self._steps - step) / self._steps for step in range(self._steps)]

    def to_linear(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The picture of the same x_0 and ε."""
        return preserving_signal(self.times[step]).to_linear(x)

    def transition(self, step: int) -> Transition | None:
        """DDPM eq. 7: the forward process' posterior given x̂_0."""
        if not self._is_stochastic:
            return None
        position = self._steps - 1 - step
        here, after = self._squares[position], self._squares[position - 1] if position else 1.0
        kept = here / after
        return Transition(
            clean_factor=after**0.5 * (1 - kept) / (1 - here),
            noisy_factor=kept**0.5 * (1 - after) / (1 - here),
            std=((1 - after) / (1 - here) * (1 - kept)) ** 0.5,
        )

    def advance(self, x: torch.Tensor, step: int, velocity: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """One update from x̂_0."""
        clean = from_velocity(x, preserving_signal(self.times[step]), velocity).clean
        options = {"generator": generators} if self._is_stochastic else {}
        moved: torch.Tensor = self._scheduler.step(clean, int(self._scheduler.timesteps[step]), x, **options).prev_sample
        return moved


def build_sampler(name: SamplerName, steps: int) -> Sampler:
    """The sampler of that name."""
    match name:
        case "euler":
            return EulerSampler(steps)
        case "dpm_solver":
            return DpmSolverSampler(steps)
        case "ddim":
            return PreservingSampler(steps, is_stochastic=False)
        case "ddpm":
            return PreservingSampler(steps, is_stochastic=True)


def clean_of(x_linear: torch.Tensor, t: float, velocity: torch.Tensor) -> torch.Tensor:
    """x̂_0 of a point of the linear path."""
    return from_velocity(x_linear, linear_signal(t), velocity).clean
