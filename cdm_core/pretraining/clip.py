"""Pretraining of the CLIP model on the public corpus: three-way contrastive learning.

Every emoji gives three views: the Noto picture, the Twemoji picture and its name. Each pair of views is one symmetric InfoNCE loss
(Radford et al. 2021, Fig. 3), so that the picture tower learns what two vendors' drawings of one thing share, and the text tower
learns its name. Pictures are shifted, scaled and tinted at random; never mirrored, since names say left and right.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cdm_core.clip import Clip, num_merges


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTrainingConfig:
    """Peak learning rate of AdamW under one cosine cycle with a linear warm-up."""

    num_steps: int = 560
    batch_emoji: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_share: float = 0.05
    max_shift_pixels: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTrainingData:
    """Aligned rows: the same emoji from both vendors, uint8 [N, 3, 32, 32] each, with two wordings of its name."""

    first_vendor: torch.Tensor
    second_vendor: torch.Tensor
    captions: list[str]
    short_captions: list[str]


def learn_merges(captions: list[str], vocabulary_size: int) -> list[tuple[str, str]]:
    """Byte-pair merges of the captions' words, most frequent first, in open_clip's word-end convention."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    limit = num_merges(vocabulary_size)
    # The trainer's vocabulary counts its alphabet too: ask for more than enough and keep the first `limit` merges.
    trainer = trainers.BpeTrainer(vocab_size=4 * vocabulary_size, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(str(left), str(right)) for left, right in merges[:limit]]


def train_clip(clip: Clip, data: ClipTrainingData, config: ClipTrainingConfig) -> Iterator[float]:
    """Train in place; yields the loss after each step."""
    generator = torch.Generator().manual_seed(config.seed)
    model = clip.model.train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.num_steps, pct_start=config.warmup_share
    )
    tokens = torch.stack([clip.tokenizer(data.captions), clip.tokenizer(data.short_captions)])
    for _ in range(config.num_steps):
        rows = torch.randperm(len(data.captions), generator=generator)[: config.batch_emoji]
        first, second = (
            model.encode_image(augment(view[rows], config.max_shift_pixels, generator), normalize=True)
            for view in (data.first_vendor, data.second_vendor)
        )
        wording = torch.randint(2, (len(rows),), generator=generator)
        text = model.encode_text(tokens[wording, rows], normalize=True)
        scale = model.logit_scale.exp().clamp(max=100.0)
        loss = (info_nce(first, second, scale) + info_nce(first, text, scale) + info_nce(second, text, scale)) / 3
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        yield loss.item()
    model.eval()


def info_nce(left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric contrastive loss of unit vectors [B, D] whose equal rows belong together."""
    logits = scale * left @ right.T
    targets = torch.arange(len(left))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def augment(pictures: torch.Tensor, max_shift_pixels: int, generator: torch.Generator) -> torch.Tensor:
    """uint8 [B, 3, H, W] → float in [-1, 1], each picture scaled, shifted and tinted by its own draw; white stays outside."""
    num = len(pictures)
    scaled = pictures.float() / 127.5 - 1
    zoom = 1 + 0.3 * torch.rand(num, generator=generator) - 0.05
    shift = (torch.rand(num, 2, generator=generator) * 2 - 1) * max_shift_pixels * 2 / pictures.shape[-1]
    affine = torch.zeros(num, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = zoom
    affine[:, :, 2] = shift
    grid = F.affine_grid(affine, list(scaled.shape), align_corners=False)
    # White is +1: move it to 0, where grid_sample pads, and back.
    moved = F.grid_sample(scaled - 1, grid, align_corners=False) + 1
    gain = 1 + 0.2 * (torch.rand(num, 3, 1, 1, generator=generator) - 0.5)
    return ((moved - 1) * gain + 1).clamp(-1, 1)
