"""`lethe bench training`: steps per second of our LoRA training against two others, on the shipped backbone.

- `lethe`: `cdm_core.training.train_stage` as the product calls it: ordering, seeded noise, captions, optimiser and all.
- `plain`: forward, loss and backward of the same network with the same adapter in a bare loop over one ready-made batch; no optimiser,
  no data. What it takes less than `lethe` is what our training adds.
- `peft_diffusers`: the loop of diffusers' text-to-image LoRA example at the same batch size, rank and target modules: noise from the
  global generator, captions encoded at each step, AdamW with weight decay, gradient clipping, a learning-rate schedule, default memory
  order, through accelerate.

One process, one thread, in alternation; ratios are medians over repetitions of steps per second, ours to the other's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import PeftModel

from cdm_core.adapters import attach_adapter, initial_adapter, write_adapter
from cdm_core.backbone import TIME_SCALE, PixelBackbone, load_backbone, predict_velocity
from cdm_core.digests import derive_seed, sha256_digest
from cdm_core.fingerprint import NUM_THREADS
from cdm_core.settings import TrainingSettings
from cdm_core.training import StagePosition, StageSamples, train_stage
from flows.bench.alternation import median_ratio, time_in_turn

_SETTINGS = TrainingSettings(rank=8, learning_rate=0.004, batch_size=8, epochs=1, caption_dropout=0.1)


def run_bench_training(*, steps: int, repetitions: int) -> dict[str, object]:
    """Steps per second and ratios."""
    torch.set_num_threads(NUM_THREADS)
    backbone, samples = load_backbone(), _make_samples(steps * _SETTINGS.batch_size)
    sides = {
        "lethe": _lethe(backbone, samples),
        "plain": _plain(backbone, samples, steps),
        "peft_diffusers": _peft_diffusers(backbone, samples, steps),
    }
    seconds = time_in_turn(sides, repetitions)
    ours = seconds["lethe"]
    rows = [
        {"side": name, "steps_per_second": steps / sorted(taken)[len(taken) // 2], "speed_of_lethe": median_ratio(taken, ours)}
        for name, taken in seconds.items()
    ]
    return {"steps": steps, "repetitions": repetitions, "threads": NUM_THREADS, "batch_size": _SETTINGS.batch_size, "rows": rows}


def _make_samples(num: int) -> StageSamples:
    generator = torch.Generator().manual_seed(derive_seed("bench training"))
    return StageSamples(
        sample_ids=[sha256_digest(str(number).encode()) for number in range(num)],
        captions=[f"red thing {number % 50}" for number in range(num)],
        pictures=torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator),
    )


def _attached(backbone: PixelBackbone) -> PeftModel:
    model = attach_adapter(backbone, _SETTINGS.rank)
    write_adapter(model, initial_adapter(model, 0))
    return model


def _lethe(backbone: PixelBackbone, samples: StageSamples) -> Callable[[], object]:
    model = attach_adapter(backbone, _SETTINGS.rank)
    start = initial_adapter(model, 0)
    return lambda: train_stage(backbone, model, start, samples, StagePosition(shard=0, stage=0), _SETTINGS)


def _plain(backbone: PixelBackbone, samples: StageSamples, steps: int) -> Callable[[], object]:
    model, num = _attached(backbone).train(), _SETTINGS.batch_size
    latents = backbone.encode_pictures(samples.pictures[:num])
    tokens = backbone.encode_captions(samples.captions[:num])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    mixed = torch.lerp(latents, noise, 0.5).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(steps):
            model.zero_grad()
            loss = F.mse_loss(predict_velocity(model, mixed, torch.full((num,), 0.5), tokens), noise - latents)
            loss.backward()

    return run


def _peft_diffusers(backbone: PixelBackbone, samples: StageSamples, steps: int) -> Callable[[], object]:
    accelerator = Accelerator(cpu=True)
    model = _attached(backbone).to(memory_format=torch.contiguous_format).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=_SETTINGS.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    rows = torch.utils.data.TensorDataset(torch.arange(len(samples.sample_ids)))
    loader: torch.utils.data.DataLoader[tuple[torch.Tensor, ...]] = torch.utils.data.DataLoader(
        rows, batch_size=_SETTINGS.batch_size, shuffle=True
    )
    model, optimiser, loader, schedule = accelerator.prepare(model, optimiser, loader, schedule)

    def run() -> None:
        for (batch,) in loader:
            chosen = batch.tolist()
            latents = samples.pictures[chosen].float() / 127.5 - 1
            noise, time = torch.randn_like(latents), torch.rand(len(chosen))
            tokens = backbone.encode_captions([samples.captions[row] for row in chosen])
            mixed = torch.lerp(latents, noise, time[:, None, None, None])
            velocity = model(mixed, time * TIME_SCALE, tokens, return_dict=False)[0]
            accelerator.backward(F.mse_loss(velocity.float(), noise - latents))
            accelerator.clip_grad_norm_(trainable, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

    assert len(loader) == steps
    return run
