"""Sampling a composition: the steps of a sampler, Euler's along the linear path by default, with the experts mixed at each step.

A picture is a function of (composition, caption, seed) and of nothing else: not of its place in the batch, nor of its neighbours. Two
things see to that. Noise comes from a generator of the picture's own. And a network is only ever evaluated on batches of one shape,
`NETWORK_BATCH` rows, the last one padded: with one shape and one thread the kernels compute every row the same way (a test).

The experts that a step needs follow from its weights: a one-hot method evaluates one expert a picture; where all count, they go through
one network together (`cdm_core.composition.stacking`).

Shape suffixes as in `cdm_core.methods.interface`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.composition.copy_protection import NUM_PARTICLES, run_particles
from cdm_core.composition.samplers import Sampler, Transition, build_sampler, clean_of
from cdm_core.composition.stacking import StackedExperts
from cdm_core.digests import derive_seed
from cdm_core.fingerprint import require_one_thread
from cdm_core.methods.interface import Condition, Mixer, Predictions
from cdm_core.settings import SamplingSettings

NETWORK_BATCH = 8
"""Rows of a forward pass. More cost less a row, and fewer waste less where few pictures need an expert."""

EvaluateAt = Callable[[int, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(position of an expert, rows, x_t on the linear path for all rows, t) → velocities of the rows."""
EvaluateAllAt = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(rows, x_t, t) → every expert's velocities of the rows [N, R, C, H, W], in one pass."""


@torch.no_grad()
def sample_latents(
    backbone: Backbone,
    experts: Sequence[torch.nn.Module],
    mixer: Mixer,
    condition: Condition,
    settings: SamplingSettings,
    on_step: Callable[[], None] = lambda: None,
    stacked: StackedExperts | None = None,
) -> torch.Tensor:
    """Sample one latent for each caption and seed.

    Args:
        backbone: gives latent shape and caption tokens.
        experts: networks with merged adapters, in the composition's order; the mixer's weights are in the same order.
        mixer: weights for each step.
        condition: captions and seeds.
        settings: sampler, steps and guidance.
        on_step: called after each step.
        stacked: the same experts in one network, used for the pictures that need all of them.

    Returns:
        float [B, C, H, W].

    Raises:
        ValueError: the process runs more than one thread.
    """
    require_one_thread()
    x_BCHW = torch.stack([draw_start(backbone, seed) for seed in condition.seeds])
    evaluate = bind(backbone, experts, condition, settings)
    together = None if stacked is None else bind_stacked(backbone, stacked, condition, settings)
    sampler = build_sampler(settings.sampler, settings.steps)
    return walk(sampler, mixer, evaluate, x_BCHW, condition, len(experts), on_step, evaluate_all=together)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedLatents:
    """Draws of the product of experts, and how far each one's particle weights ever degenerated, of 1."""

    latents: torch.Tensor
    smallest_effective_shares: list[float]


@torch.no_grad()
def sample_protected(
    backbone: Backbone,
    experts: Sequence[torch.nn.Module],
    shares_N: torch.Tensor,
    condition: Condition,
    settings: SamplingSettings,
    on_picture: Callable[[], None] = lambda: None,
) -> ProtectedLatents:
    """`cp_delta`: one particle of each caption and seed, from a batch of particles of its own.

    Raises:
        ValueError: the process runs more than one thread.
    """
    require_one_thread()
    made, effective = [], []
    for caption, seed in zip(condition.captions, condition.seeds, strict=True):
        particles_of = Condition(captions=[caption] * NUM_PARTICLES, seeds=[seed] * NUM_PARTICLES)
        evaluate = evaluate_together(bind(backbone, experts, particles_of, settings), len(experts))
        particles = run_particles(build_sampler(settings.sampler, settings.steps), evaluate, backbone.latent_shape, shares_N, seed=seed)
        made.append(particles.draw(seed))
        effective.append(particles.smallest_effective_share)
        on_picture()
    return ProtectedLatents(latents=torch.stack(made), smallest_effective_shares=effective)


def evaluate_together(evaluate: EvaluateAt, num_experts: int) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """Every expert on every row: velocities [N, B, C, H, W]."""
    return lambda x, t: torch.stack([evaluate(position, torch.arange(len(x)), x, t) for position in range(num_experts)])


def bind(backbone: Backbone, experts: Sequence[torch.nn.Module], condition: Condition, settings: SamplingSettings) -> EvaluateAt:
    """The experts' guided velocities for the condition's captions."""
    tokens_BLD = encode_each(backbone, condition.captions)
    empty_BLD = encode_each(backbone, [""]).expand_as(tokens_BLD)

    def evaluate(position: int, rows: torch.Tensor, x_BCHW: torch.Tensor, t: float) -> torch.Tensor:
        conditional = evaluate_network(experts[position], x_BCHW[rows], t, tokens_BLD[rows])
        if settings.guidance_scale == 1:
            return conditional
        unconditional = evaluate_network(experts[position], x_BCHW[rows], t, empty_BLD[rows])
        return unconditional + settings.guidance_scale * (conditional - unconditional)

    return evaluate


def bind_stacked(backbone: Backbone, stacked: StackedExperts, condition: Condition, settings: SamplingSettings) -> EvaluateAllAt:
    """The same of all experts in one network."""
    tokens_BLD = encode_each(backbone, condition.captions)
    empty_BLD = encode_each(backbone, [""]).expand_as(tokens_BLD)

    def evaluate_all(rows: torch.Tensor, x_BCHW: torch.Tensor, t: float) -> torch.Tensor:
        conditional = stacked.predict_velocities(x_BCHW[rows], t, tokens_BLD[rows])
        if settings.guidance_scale == 1:
            return conditional
        unconditional = stacked.predict_velocities(x_BCHW[rows], t, empty_BLD[rows])
        return unconditional + settings.guidance_scale * (conditional - unconditional)

    return evaluate_all


def walk(
    sampler: Sampler,
    mixer: Mixer,
    evaluate: EvaluateAt,
    x_BCHW: torch.Tensor,
    condition: Condition,
    num_experts: int,
    on_step: Callable[[], None] = lambda: None,
    on_weights: Callable[[torch.Tensor, float, torch.Tensor], None] = lambda x, t, weights: None,
    evaluate_all: EvaluateAllAt | None = None,
) -> torch.Tensor:
    """From noise [B, C, H, W] to pictures: mixes the experts at each step of a sampler.

    `on_weights` is told (x_t on the linear path, t, weights) at each step. Each picture's noise comes from a generator of its own.
    """
    generators = [torch.Generator().manual_seed(derive_seed("noise", seed)) for seed in condition.seeds]
    evidence_BN = torch.zeros(len(x_BCHW), num_experts, dtype=torch.float64)
    previous_BN: torch.Tensor | None = None
    for step, t in enumerate(sampler.times):
        linear_BCHW = sampler.to_linear(x_BCHW, step)
        transition = sampler.transition(step)
        predictions = Predictions(
            step=step,
            evaluate=partial(_evaluate_rows, evaluate, linear_BCHW, t),
            evaluate_all=None if evaluate_all is None else partial(_evaluate_all_rows, evaluate_all, linear_BCHW, t),
            active_BN=torch.ones(len(x_BCHW), num_experts, dtype=torch.bool),
            evidence_BN=evidence_BN if transition else None,
            previous_BN=previous_BN,
        )
        weights_BN = mixer.weights(linear_BCHW, t, predictions, condition)
        on_weights(linear_BCHW, t, weights_BN)
        moved_BCHW = sampler.advance(x_BCHW, step, _mix(predictions, weights_BN, linear_BCHW), generators)
        if transition and transition.std and predictions.is_complete:
            means = expert_means(transition, sampler, step, x_BCHW, predictions.velocities())
            evidence_BN = evidence_BN - (moved_BCHW - means).double().square().flatten(2).sum(dim=2).T / (2 * transition.std**2)
        x_BCHW, previous_BN = moved_BCHW, weights_BN
        on_step()
    return x_BCHW


def expert_means(transition: Transition, sampler: Sampler, step: int, x_BCHW: torch.Tensor, velocities_NBCHW: torch.Tensor) -> torch.Tensor:
    """μ_i(x_k) [N, B, C, H, W], the mean of each expert's own step."""
    clean_NBCHW = clean_of(sampler.to_linear(x_BCHW, step), sampler.times[step], velocities_NBCHW)
    return transition.clean_factor * clean_NBCHW + transition.noisy_factor * x_BCHW


def draw_start(backbone: Backbone, seed: int) -> torch.Tensor:
    """The noise [C, H, W] that a seed starts from."""
    return torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(derive_seed("start", seed)))


def encode_each(backbone: Backbone, captions: list[str]) -> torch.Tensor:
    """Tokens [B, L, D], each caption encoded in a batch of its own so that its bits don't depend on the others."""
    distinct = {caption: backbone.encode_captions([caption])[0] for caption in dict.fromkeys(captions)}
    return torch.stack([distinct[caption] for caption in captions])


def evaluate_network(network: torch.nn.Module, x_BCHW: torch.Tensor, t: float, tokens_BLD: torch.Tensor) -> torch.Tensor:
    """v̂ [B, C, H, W] in batches of `NETWORK_BATCH` rows, the last one padded with zeros."""
    num = len(x_BCHW)
    padding = -num % NETWORK_BATCH
    x_BCHW = torch.cat([x_BCHW, x_BCHW.new_zeros(padding, *x_BCHW.shape[1:])])
    tokens_BLD = torch.cat([tokens_BLD, tokens_BLD.new_zeros(padding, *tokens_BLD.shape[1:])])
    t_B = torch.full((NETWORK_BATCH,), t)
    parts = [
        predict_velocity(network, x.contiguous(memory_format=torch.channels_last), t_B, tokens)
        for x, tokens in zip(x_BCHW.split(NETWORK_BATCH), tokens_BLD.split(NETWORK_BATCH), strict=True)
    ]
    return torch.cat(parts)[:num]


def _evaluate_rows(evaluate: EvaluateAt, x_BCHW: torch.Tensor, t: float, position: int, rows: torch.Tensor) -> torch.Tensor:
    return evaluate(position, rows, x_BCHW, t)


def _evaluate_all_rows(evaluate_all: EvaluateAllAt, x_BCHW: torch.Tensor, t: float, rows: torch.Tensor) -> torch.Tensor:
    return evaluate_all(rows, x_BCHW, t)


def _mix(predictions: Predictions, weights_BN: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Σ_i w_i·v_i, evaluating an expert only on the rows where it counts, unless the mixer has asked for all."""
    if predictions.is_complete:
        return torch.einsum("bn,nbchw->bchw", weights_BN, predictions.velocities())
    mixed_BCHW = torch.zeros_like(x_BCHW)
    # Row by row, so that no picture is computed another way for its neighbours' sake.
    is_dense_B = (weights_BN != 0).all(dim=1)
    if predictions.evaluate_all is not None and is_dense_B.any():
        together = predictions.evaluate_all(torch.nonzero(is_dense_B).flatten())
        mixed_BCHW[is_dense_B] = torch.einsum("bn,nbchw->bchw", weights_BN[is_dense_B], together)
        weights_BN = weights_BN * ~is_dense_B[:, None]
    for position in range(weights_BN.shape[1]):
        rows = torch.nonzero(weights_BN[:, position]).flatten()
        if len(rows):
            mixed_BCHW[rows] += weights_BN[rows, position, None, None, None] * predictions.evaluate(position, rows)
    return mixed_BCHW
