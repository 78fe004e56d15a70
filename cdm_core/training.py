"""Training one stage of one shard's adapter: a pure function of its inputs, bit for bit.

The conditions for "resumed after a deletion" to equal "trained from scratch without the sample", and where they are kept:

1. Shard and stage are given, not found here (`cdm_core.sharding.partition`).
2. Order: a stage's samples are put into an order of their own first, whatever order they come in; each epoch sorts them by a hash of
   (shard, stage, epoch, sample id). The number of steps follows from their count.
3. Noise, time and caption dropout of a sample come from a generator of its own, seeded by (shard, stage, epoch, sample id); the global
   generator is reseeded at each step, since library layers may draw from it, and put back afterwards.
4. The learning rate falls linearly to zero within the stage, so that no stage knows how many follow.
5. A stage starts from the adapter of the stage before with a fresh optimiser, always.
6. The caller runs one thread, or is refused (`cdm_core.fingerprint`).
7. accelerate would take whatever it isn't told from environment variables, so it is told.

Loss and path: `cdm_core.backbone`; forward pass: `cdm_core.folding`. References: SISA (Bourtoule et al. 2021); LoRA (Hu et al. 2021).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from cdm_core.adapters import AdapterTensors, read_adapter, write_adapter
from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.digests import derive_seed, derive_uniform
from cdm_core.fingerprint import require_one_thread
from cdm_core.folding import FoldedNetwork
from cdm_core.settings import TrainingSettings

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSamples:
    """What a stage reads: row i of each belongs to one sample; pictures are uint8 [N, 3, H, W]."""

    sample_ids: list[str]
    captions: list[str]
    pictures: torch.Tensor

    def __post_init__(self) -> None:
        if not len(self.sample_ids) == len(self.captions) == len(self.pictures):
            raise ValueError("sample_ids, captions and pictures differ in length")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePosition:
    """Where a stage stands, both counted from 0."""

    shard: int
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    latents: torch.Tensor
    noise: torch.Tensor
    time: torch.Tensor
    tokens: torch.Tensor


def num_steps(num_samples: int, settings: TrainingSettings, stage: int) -> int:
    """Optimiser steps of stage number `stage`: every epoch ends with its ragged batch."""
    return settings.stage_epochs(stage) * math.ceil(num_samples / settings.batch_size)


def train_stage(
    backbone: Backbone,
    model: "PeftModel",
    adapter: AdapterTensors,
    samples: StageSamples,
    position: StagePosition,
    settings: TrainingSettings,
    on_step: Callable[[], None] = lambda: None,
) -> AdapterTensors:
    """Train `adapter`, attached to `model` (from `attach_adapter`, used as scratch), on the samples; returns the trained adapter.

    Raises:
        ValueError: the process runs more than one thread.
        VerificationError: the adapter doesn't fit the model.
    """
    from accelerate import Accelerator  # imported here: seconds, and who only counts steps needs none of it
    from accelerate.utils import GradientAccumulationPlugin

    require_one_thread()
    write_adapter(model, adapter)
    total = num_steps(len(samples.sample_ids), settings, position.stage)
    if total == 0:
        return read_adapter(model)
    accelerator = Accelerator(
        cpu=True,
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    network, optimiser = accelerator.prepare(FoldedNetwork(backbone.network, model), optimiser)
    with torch.random.fork_rng(devices=[]):
        for step, batch in enumerate(_batches(backbone, _in_order(samples), position, settings)):
            torch.manual_seed(derive_seed("step", position.shard, position.stage, step))
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / total)
            mixed = torch.lerp(batch.latents, batch.noise, batch.time[:, None, None, None])
            velocity = predict_velocity(network, mixed.contiguous(memory_format=torch.channels_last), batch.time, batch.tokens)
            optimiser.zero_grad()
            accelerator.backward(F.mse_loss(velocity, batch.noise - batch.latents))
            optimiser.step()
            on_step()
    return read_adapter(model)


def order_samples(sample_ids: list[str], position: StagePosition, epoch: int) -> list[int]:
    """Row numbers in training order: a sample's place depends on its own hash and on who else is left, on nothing gone."""

    def rank(row: int) -> tuple[int, str]:
        return derive_seed("order", position.shard, position.stage, epoch, sample_ids[row]), sample_ids[row]

    return sorted(range(len(sample_ids)), key=rank)


def _in_order(samples: StageSamples) -> StageSamples:
    # Two owners may have made one picture and named it differently, so the sample id alone would leave a tie.
    rows = sorted(range(len(samples.sample_ids)), key=lambda row: (samples.sample_ids[row], samples.captions[row]))
    return StageSamples(
        sample_ids=[samples.sample_ids[row] for row in rows],
        captions=[samples.captions[row] for row in rows],
        pictures=samples.pictures[rows],
    )


def _batches(backbone: Backbone, samples: StageSamples, position: StagePosition, settings: TrainingSettings) -> Iterator[_Batch]:
    latents = backbone.encode_pictures(samples.pictures)
    tokens = backbone.encode_captions(samples.captions)
    empty = backbone.encode_captions([""])[0]
    for epoch in range(settings.stage_epochs(position.stage)):
        order = order_samples(samples.sample_ids, position, epoch)
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            names = [("sample", position.shard, position.stage, epoch, samples.sample_ids[row]) for row in rows]
            draws = [_draw_noise(derive_seed(*name), latents.shape[1:]) for name in names]
            dropped = [derive_uniform("dropout", *name) < settings.caption_dropout for name in names]
            yield _Batch(
                latents=latents[rows],
                noise=torch.stack([noise for noise, _ in draws]),
                time=torch.stack([time for _, time in draws]),
                tokens=torch.stack([empty if drop else tokens[row] for row, drop in zip(rows, dropped, strict=True)]),
            )


def _draw_noise(seed: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the latent's shape and a logit-normal time in (0, 1), as in pretraining."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.sigmoid(torch.randn((), generator=generator))


@torch.no_grad()
def compute_denoising_loss(backbone: Backbone, expert: torch.nn.Module, samples: StageSamples, *, seed: int, batch_size: int = 16) -> float:
    """Mean velocity error of an expert (bare or merged) on the samples, with noise and times fixed by the seed and the sample id."""
    total = 0.0
    for start in range(0, len(samples.sample_ids), batch_size):
        rows = slice(start, start + batch_size)
        draws = [
            _draw_noise(derive_seed("loss", seed, sample_id), torch.Size(backbone.latent_shape)) for sample_id in samples.sample_ids[rows]
        ]
        noise, time = (torch.stack(list(column)) for column in zip(*draws, strict=True))
        latents = backbone.encode_pictures(samples.pictures[rows])
        mixed = torch.lerp(latents, noise, time[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        velocity = predict_velocity(expert, mixed, time, backbone.encode_captions(samples.captions[rows]))
        total += (velocity - (noise - latents)).square().mean(dim=(1, 2, 3)).sum().item()
    return total / max(1, len(samples.sample_ids))
