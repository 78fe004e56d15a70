"""Pretraining of the backbone on the public corpus alone: velocity matching on the linear path, with an EMA of the weights.

The learning rate is constant after a warm-up, so that a run may be stopped and resumed at any step; the averaged weights, which are
what is shipped, take the place of a decay. Each step's draws are seeded by its number, so that a resumed run and an unbroken one see
the same pictures and noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from cdm_core.backbone import predict_velocity
from cdm_core.digests import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneTrainingConfig:
    """AdamW; `ema_decay` is a step's weight of the past."""

    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    ema_decay: float = 0.999
    caption_dropout: float = 0.1
    short_caption_share: float = 0.15
    max_shift_pixels: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneTrainingData:
    """uint8 pictures [N, 3, 32, 32]; the token tables [N, L, D] of their two wordings, and the empty caption's [1, L, D]."""

    pictures: torch.Tensor
    tokens: torch.Tensor
    short_tokens: torch.Tensor
    empty_tokens: torch.Tensor


class BackboneTrainer:
    """Network, averaged network and optimiser, at some step; everything needed to go on lies in `state`."""

    def __init__(self, network: UNet2DConditionModel, data: BackboneTrainingData, config: BackboneTrainingConfig) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.data = data
        self.config = config
        self.step = 0
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
        self.ema = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @property
    def num_pictures_seen(self) -> int:
        """Training pictures so far, with repetition."""
        return self.step * self.config.batch_size

    def run(self) -> Iterator[float]:
        """Train for ever; yields each step's loss. Stop by not asking for the next."""
        while True:
            yield self._train_step()

    def state(self) -> dict[str, torch.Tensor]:
        """Flat tensors for safetensors: network, EMA and both AdamW moments."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.detach().contiguous() for name, tensor in tensors.items()} | {"step": torch.tensor(self.step)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on where `state` was taken."""
        self.step = int(tensors["step"])
        self.network.load_state_dict(_under("network.", tensors))
        self.ema = _under("ema.", tensors)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under("optimiser.", tensors).items():
            number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})

    def _train_step(self) -> float:
        config, data = self.config, self.data
        generator = torch.Generator().manual_seed(derive_seed("backbone", config.seed, self.step))
        rows = torch.randint(len(data.pictures), (config.batch_size,), generator=generator)
        pictures = shift(data.pictures[rows].float() / 127.5 - 1, config.max_shift_pixels, generator)
        tokens = self._draw_tokens(rows, generator)
        noise = torch.randn(pictures.shape, generator=generator)
        # Logit-normal times (Esser et al. 2024, sec. 3.1): the middle of the path is the hardest.
        time = torch.sigmoid(torch.randn(config.batch_size, generator=generator))
        mixed = torch.lerp(pictures, noise, time[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(predict_velocity(self.network, mixed, time, tokens), noise - pictures)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # A short run must not ship its random start: the average opens up as steps go by.
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.network.state_dict().items():
            self.ema[name].lerp_(tensor, 1 - decay)
        return loss.item()

    def _draw_tokens(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        draw = torch.rand(len(rows), generator=generator)[:, None, None]
        config = self.config
        tokens = torch.where(draw < config.short_caption_share, self.data.short_tokens[rows], self.data.tokens[rows])
        return torch.where(draw > 1 - config.caption_dropout, self.data.empty_tokens, tokens)


def shift(pictures: torch.Tensor, max_pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Move each picture [B, 3, H, W] by up to `max_pixels` either way; the border is white (+1)."""
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, [max_pixels] * 4, value=1.0)
    offsets = torch.randint(2 * max_pixels + 1, (len(pictures), 2), generator=generator).tolist()
    return torch.stack([picture[:, y : y + height, x : x + width] for picture, (y, x) in zip(padded, offsets, strict=True)])


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
