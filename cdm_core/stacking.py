"""Every expert in one forward pass: stacked low-rank products in place of a loop over adapters.

A dense method needs all experts' velocities of one x_t. The experts share the backbone's weights, so their rows go through it as one
batch, expert after expert, and each adapted layer adds its low-rank products for all experts at once: a linear layer by two batched
matrix products, a convolution by two grouped convolutions. One small picture fills a fraction of a batch; N experts of it fill the
rest, which is where the gain comes from. On many pictures the arithmetic is that of N models plus the products.

The result equals the merged networks' one after the other to rounding: `TOLERANCE`, absolute, on velocities of order 1. As in
`cdm_core.sampling` the network sees one shape only, so a picture's bits depend on its composition and not on its neighbours.

Shape suffixes: B pictures, N experts, M = N·B rows with the expert outermost, C channels, H, W, L tokens, D width, R rank.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cdm_core.adapters import AdapterTensors, adapter_rank
from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.errors import VerificationError

TOLERANCE = 1e-4
STACKED_ROWS = 8
"""Rows of a forward pass, or N where there are more experts."""

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class _StackedLinear(torch.nn.Module):
    def __init__(self, base: torch.nn.Linear, down: list[torch.Tensor], up: list[torch.Tensor]) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("down_NDR", torch.stack(down).transpose(1, 2).contiguous())
        self.register_buffer("up_NRD", torch.stack(up).transpose(1, 2).contiguous())

    def forward(self, x_MLD: torch.Tensor) -> torch.Tensor:
        down_NDR, up_NRD = self.get_buffer("down_NDR"), self.get_buffer("up_NRD")
        num = len(down_NDR)
        y_MLD: torch.Tensor = self.base(x_MLD)
        low_NKR = torch.bmm(x_MLD.reshape(num, -1, x_MLD.shape[-1]), down_NDR)
        sum_NKD = torch.baddbmm(y_MLD.reshape(num, -1, y_MLD.shape[-1]), low_NKR, up_NRD)
        return sum_NKD.view(y_MLD.shape)


class _StackedConvolution(torch.nn.Module):
    def __init__(self, base: torch.nn.Conv2d, down: list[torch.Tensor], up: list[torch.Tensor]) -> None:
        super().__init__()
        self.base, self.num = base, len(down)
        self.register_buffer("down", torch.cat(down).contiguous())
        self.register_buffer("up", torch.cat(up).contiguous())

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        num, (rows, *shape) = self.num, x_MCHW.shape
        y_MCHW: torch.Tensor = self.base(x_MCHW)
        # Experts become groups of channels: [N·B, C, H, W] → [B, N·C, H, W].
        grouped = x_MCHW.reshape(num, rows // num, *shape).transpose(0, 1).reshape(rows // num, num * shape[0], *shape[1:])
        low = F.conv2d(grouped, self.get_buffer("down"), None, self.base.stride, self.base.padding, self.base.dilation, num)
        delta = F.conv2d(low, self.get_buffer("up"), groups=num)
        delta_NBCHW = delta.view(rows // num, num, -1, *delta.shape[2:]).transpose(0, 1)
        return y_MCHW + delta_NBCHW.reshape(y_MCHW.shape)


class StackedExperts:
    """The backbone with every expert's adapter beside it."""

    def __init__(self, backbone: Backbone, adapters: Sequence[AdapterTensors]) -> None:
        """Stack adapters of one rank.

        Raises:
            VerificationError: they are not adapters of this network, or their ranks differ.
        """
        self.num_experts = len(adapters)
        self.num_pictures = max(1, STACKED_ROWS // len(adapters))
        self.network = copy.deepcopy(backbone.network)
        shapes = [{name: tensor.shape for name, tensor in adapter.items()} for adapter in adapters]
        if any(shape != shapes[0] for shape in shapes) or adapter_rank(adapters[0]) < 1:
            raise VerificationError("adapters: their tensors differ in name or shape, so they can't be stacked")
        try:
            for name in adapters[0]:
                if name.endswith(_DOWN):
                    layer = name.removeprefix(_PREFIX).removesuffix(_DOWN)
                    up = name.removesuffix(_DOWN) + _UP
                    self._replace(layer, [adapter[name] for adapter in adapters], [adapter[up] for adapter in adapters])
        except (AttributeError, KeyError) as error:
            raise VerificationError("adapter: its tensors don't fit this backbone and rank") from error
        self.network.eval().requires_grad_(False)

    def _replace(self, name: str, down: list[torch.Tensor], up: list[torch.Tensor]) -> None:
        parent, _, leaf = name.rpartition(".")
        base = self.network.get_submodule(name)
        if isinstance(base, torch.nn.Linear):
            setattr(self.network.get_submodule(parent), leaf, _StackedLinear(base, down, up))
        elif isinstance(base, torch.nn.Conv2d):
            setattr(self.network.get_submodule(parent), leaf, _StackedConvolution(base, down, up))
        else:
            raise VerificationError(f"adapter: {name} is neither linear nor a convolution")

    @torch.no_grad()
    def predict_velocities(self, x_BCHW: torch.Tensor, t: float, tokens_BLD: torch.Tensor) -> torch.Tensor:
        """Every expert's v̂, float [N, B, C, H, W], in passes of `num_pictures` pictures, the last one padded with zeros."""
        num, padding = len(x_BCHW), -len(x_BCHW) % self.num_pictures
        x_BCHW = torch.cat([x_BCHW, x_BCHW.new_zeros(padding, *x_BCHW.shape[1:])])
        tokens_BLD = torch.cat([tokens_BLD, tokens_BLD.new_zeros(padding, *tokens_BLD.shape[1:])])
        passes = zip(x_BCHW.split(self.num_pictures), tokens_BLD.split(self.num_pictures), strict=True)
        return torch.cat([self._predict(x, t, tokens) for x, tokens in passes], dim=1)[:, :num]

    def _predict(self, x_BCHW: torch.Tensor, t: float, tokens_BLD: torch.Tensor) -> torch.Tensor:
        num = self.num_experts
        x_MCHW = x_BCHW.repeat(num, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        v_MCHW = predict_velocity(self.network, x_MCHW, torch.full((len(x_MCHW),), t), tokens_BLD.repeat(num, 1, 1))
        return v_MCHW.reshape(num, len(x_BCHW), *v_MCHW.shape[1:])
