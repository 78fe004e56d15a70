"""Training's forward pass: the network with its adapter folded into the weights, W + B·A, and gradients that flow back to B and A.

peft computes an adapted layer as W·x + B·(A·x): three kernels and two passes over the activations where the bare layer needs one, forward
and backward. The backbone is narrow, so that this is dear, while a product B·A is of the weights alone and cheap (`lethe bench training`
measures both). Folded, a step is that of the bare network with weight gradients. It is the same function of the adapter, and
the one that `merge_adapter` makes for sampling; its bytes differ from the unfolded one's by rounding.

A convolution's product is made in the memory order of its weight, channels last, so that no weight is reordered.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """An adapted layer's weight by its name in the bare network, and the two factors."""

    name: str
    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor

    def fold(self) -> torch.Tensor:
        if self.weight.dim() == 2:
            return torch.addmm(self.weight, self.up, self.down)
        weight_OHWI, down_RHWI = self.weight.permute(0, 2, 3, 1), self.down.permute(0, 2, 3, 1)
        product_OHWI = (self.up.flatten(1) @ down_RHWI.flatten(1)).view(weight_OHWI.shape)
        return (weight_OHWI + product_OHWI).permute(0, 3, 1, 2)


class FoldedNetwork(torch.nn.Module):
    """A backbone's bare network, called with the weights that the adapter attached to `model` gives it at that moment."""

    def __init__(self, network: torch.nn.Module, model: "PeftModel") -> None:
        """`model` is from `attach_adapter` of the same network (scale 1, no dropout); its factors are all that is trainable."""
        from peft.tuners.lora import LoraLayer

        super().__init__()
        self.network, self.model = network, model
        layers = [(name, layer) for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)]
        self._layers = [
            _Layer(
                name=f"{name}.weight",
                weight=network.get_parameter(f"{name}.weight"),
                down=layer.lora_A["default"].weight,
                up=layer.lora_B["default"].weight,
            )
            for name, layer in layers
        ]

    def forward(self, *inputs: torch.Tensor, **options: object) -> object:
        """What the network returns."""
        return functional_call(self.network, {layer.name: layer.fold() for layer in self._layers}, inputs, options)
