"""Sampling a composition: Euler steps along the linear path, with the experts mixed at each step.

A picture is a function of (composition, caption, seed) and of nothing else: not of its place in the batch, nor of its neighbours. Two
things see to that. Noise comes from a generator of the picture's own. And a network is only ever evaluated on batches of one shape,
`NETWORK_BATCH` rows, the last one padded: with one shape and one thread the kernels compute every row the same way (a test).

The experts that a step needs follow from its weights: a one-hot method evaluates one expert a picture; where all count, they go through
one network together (`cdm_core.stacking`).

Shape suffixes as in `cdm_core.mixing`.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.digests import derive_seed
from cdm_core.fingerprint import require_one_thread
from cdm_core.mixing import Condition, Mixer
from cdm_core.settings import SamplingSettings
from cdm_core.stacking import StackedExperts

NETWORK_BATCH = 16

PredictFrom = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Guided = Callable[[PredictFrom, torch.Tensor], torch.Tensor]


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
        settings: Euler steps and guidance.
        on_step: called after each Euler step.
        stacked: the same experts in one network, used for the pictures that need all of them.

    Returns:
        float [B, C, H, W].

    Raises:
        ValueError: the process runs more than one thread.
    """
    require_one_thread()
    x_BCHW = torch.stack([draw_start(backbone, seed) for seed in condition.seeds])
    tokens_BLD = encode_each(backbone, condition.captions)
    empty_BLD = encode_each(backbone, [""]).expand_as(tokens_BLD)
    scheduler = FlowMatchEulerDiscreteScheduler()
    # Even steps from 1 to 0; the scheduler's own grid spends its last step between 0.001 and 0.
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / settings.steps, settings.steps).tolist())

    for step, timestep in enumerate(scheduler.timesteps):
        t = float(scheduler.sigmas[step])
        here_BCHW = x_BCHW

        def guided(predict: PredictFrom, rows: torch.Tensor, x: torch.Tensor = here_BCHW) -> torch.Tensor:
            conditional = predict(x[rows], tokens_BLD[rows])
            if settings.guidance_scale == 1:
                return conditional
            unconditional = predict(x[rows], empty_BLD[rows])
            return unconditional + settings.guidance_scale * (conditional - unconditional)

        def velocity_of(position: int, rows: torch.Tensor, t: float = t, guided: Guided = guided) -> torch.Tensor:
            return guided(lambda x, tokens: evaluate_network(experts[position], x, t, tokens), rows)

        def velocities_of(rows: torch.Tensor, t: float = t, guided: Guided = guided) -> torch.Tensor:
            if stacked is None or not len(rows):
                return torch.stack([velocity_of(position, rows) for position in range(len(experts))])
            return guided(lambda x, tokens: stacked.predict_velocities(x, t, tokens), rows)

        x_BCHW = scheduler.step(
            _mix(velocity_of, velocities_of, mixer, x_BCHW, t, step, condition, len(experts)), timestep, x_BCHW
        ).prev_sample
        on_step()
    return x_BCHW


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


def _mix(
    velocity_of: Callable[[int, torch.Tensor], torch.Tensor],
    velocities_of: Callable[[torch.Tensor], torch.Tensor],
    mixer: Mixer,
    x_BCHW: torch.Tensor,
    t: float,
    step: int,
    condition: Condition,
    num_experts: int,
) -> torch.Tensor:
    """Σ_i w_i·v_i, evaluating an expert only on the rows where it counts, unless the mixer has asked for all."""
    all_rows = torch.arange(len(x_BCHW))

    @cache
    def predict_velocities() -> torch.Tensor:
        return velocities_of(all_rows)

    weights_BN = mixer.weights(x_BCHW, t, step, predict_velocities, condition)
    if predict_velocities.cache_info().currsize:
        return torch.einsum("bn,nbchw->bchw", weights_BN, predict_velocities())
    mixed_BCHW = torch.zeros_like(x_BCHW)
    # Row by row, so that no picture is computed another way for its neighbours' sake.
    is_dense_B = (weights_BN != 0).all(dim=1) if num_experts > 1 else torch.zeros(len(x_BCHW), dtype=torch.bool)
    if is_dense_B.any():
        mixed_BCHW[is_dense_B] = torch.einsum("bn,nbchw->bchw", weights_BN[is_dense_B], velocities_of(torch.nonzero(is_dense_B).flatten()))
        weights_BN = weights_BN * ~is_dense_B[:, None]
    for position in range(num_experts):
        rows = torch.nonzero(weights_BN[:, position]).flatten()
        if len(rows):
            mixed_BCHW[rows] += weights_BN[rows, position, None, None, None] * velocity_of(position, rows)
    return mixed_BCHW
