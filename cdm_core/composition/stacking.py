"""Every expert in one forward pass: stacked weights in place of a loop over networks.

A dense method needs all experts' velocities of one x_t. Their rows go through one network as one batch, expert after expert. Whatever is
not adapted (norms, activations, attention) sees the whole batch; each adapted layer has every expert's low-rank product folded into a
weight of its own: a linear layer is one batched matrix product, a convolution one call an expert. Unfolded products beside the shared
weight (grouped convolutions, two more matrix products) were measured first: 1.4 times the processor time of folded ones for 8 experts,
since the network is narrow, and a rank of 8 is half of a layer of 16 channels.

What it saves is overhead and padding, not arithmetic: nothing of the network comes before its first adapted layer, so no hidden state is
shared, and N experts of a full batch cost N models. One small picture fills a fraction of a batch, and N experts of it fill the rest.

The result equals the merged networks' one after the other to rounding: `TOLERANCE`, absolute, on velocities of order 1. As in
`cdm_core.composition.sampling` the network sees one shape only, so a picture's bits depend on its composition and not on its neighbours.

Shape suffixes: B pictures, N experts, M = N·B rows with the expert outermost, C channels, H, W, L tokens, D width.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cdm_core.adapters import AdapterTensors, adapter_rank
from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.errors import VerificationError

TOLERANCE = 1e-4
STACKED_ROWS = 16
"""Rows of a forward pass, or N where there are more experts. More rows waste more on one picture, and fewer cost more a row."""

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class _StackedLinear(torch.nn.Module):
    def __init__(self, base: torch.nn.Linear, products: list[torch.Tensor]) -> None:
        super().__init__()
        self.bias = base.bias
        self.register_buffer("weight_NDD", torch.stack([(base.weight + product).T for product in products]).contiguous())

    def forward(self, x_MLD: torch.Tensor) -> torch.Tensor:
        weight_NDD = self.get_buffer("weight_NDD")
        x_NKD = x_MLD.reshape(len(weight_NDD), -1, x_MLD.shape[-1])
        y_NKD = torch.bmm(x_NKD, weight_NDD) if self.bias is None else torch.baddbmm(self.bias, x_NKD, weight_NDD)
        return y_NKD.view(*x_MLD.shape[:-1], -1)


class _StackedConvolution(torch.nn.Module):
    def __init__(self, base: torch.nn.Conv2d, products: list[torch.Tensor]) -> None:
        super().__init__()
        self.base, self.num = base, len(products)
        for position, product in enumerate(products):
            weight = (base.weight + product.view(base.weight.shape)).contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"weight_{position}", weight)

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        base, weights = self.base, self.buffers(recurse=False)
        parts = zip(x_MCHW.chunk(self.num), weights, strict=True)
        return torch.cat([F.conv2d(x, weight, base.bias, base.stride, base.padding, base.dilation) for x, weight in parts])


class StackedExperts:
    """The backbone with every expert's weights in its adapted layers."""

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
                    self._replace(layer, [adapter[up].flatten(1) @ adapter[name].flatten(1) for adapter in adapters])
        except (AttributeError, KeyError, RuntimeError) as error:  # torch raises the last for shapes that don't fit
            raise VerificationError("adapter: its tensors don't fit this backbone and rank") from error
        self.network.eval().requires_grad_(False)

    def _replace(self, name: str, products: list[torch.Tensor]) -> None:
        parent, _, leaf = name.rpartition(".")
        base = self.network.get_submodule(name)
        if isinstance(base, torch.nn.Linear):
            setattr(self.network.get_submodule(parent), leaf, _StackedLinear(base, products))
        elif isinstance(base, torch.nn.Conv2d):
            setattr(self.network.get_submodule(parent), leaf, _StackedConvolution(base, products))
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
