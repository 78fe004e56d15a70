"""Adapters: the only weights that ever see an owner's pictures, one LoRA a shard.

An adapter is a flat dictionary of tensors in peft's own naming, and travels as safetensors bytes whose SHA-256 is its name. Its start
is drawn from a seed of its own, never from the global generator that peft's initialisation uses: the down-projection A is uniform as
in Hu et al. 2021 (Kaiming), the up-projection B is zero, so that an untrained adapter changes nothing.

For sampling an adapter is merged into a copy of the network: one expert then costs exactly what the bare backbone costs.
"""

import copy
import math
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save

from cdm_core.backbone import Backbone
from cdm_core.digests import derive_seed
from cdm_core.errors import VerificationError

if TYPE_CHECKING:
    from peft import PeftModel

_MERGING = Lock()

AdapterTensors = dict[str, torch.Tensor]
"""peft's names → float32 tensors: `….lora_A.weight` and `….lora_B.weight`."""


def attach_adapter(backbone: Backbone, rank: int) -> "PeftModel":
    """A copy of the backbone's network with trainable LoRA layers (α = r, so that scale is 1), nothing else trainable."""
    from peft import LoraConfig, get_peft_model  # imported here, as below: seconds, and not every process attaches an adapter

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=backbone.adapter_targets, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):  # peft draws start values, which `initial_adapter` replaces
        return get_peft_model(copy.deepcopy(backbone.network), config)


def initial_adapter(model: "PeftModel", shard: int) -> AdapterTensors:
    """The untrained adapter of a shard, a function of its number alone."""
    generator = torch.Generator().manual_seed(derive_seed("adapter", shard))
    tensors = read_adapter(model)
    for name in sorted(tensors):
        tensor = tensors[name]
        bound = 1 / math.sqrt(math.prod(tensor.shape[1:]))
        drawn = torch.empty_like(tensor).uniform_(-bound, bound, generator=generator)
        tensors[name] = drawn if "lora_A" in name else torch.zeros_like(tensor)
    return tensors


def read_adapter(model: "PeftModel") -> AdapterTensors:
    """A copy of the attached adapter's tensors."""
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().clone().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def write_adapter(model: "PeftModel", tensors: AdapterTensors) -> None:
    """Replace the attached adapter's tensors.

    Raises:
        VerificationError: the tensors are not those of an adapter of this network and rank.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise VerificationError("adapter: its tensors don't fit this backbone and rank")
    set_peft_model_state_dict(model, tensors)


def merge_adapter(backbone: Backbone, tensors: AdapterTensors | None) -> torch.nn.Module:
    """An expert: the network with the adapter folded into its weights; without one, the bare network.

    Raises:
        VerificationError: the tensors are not those of an adapter of this network.
    """
    if tensors is None:
        return backbone.network
    from peft.tuners.lora import LoraLayer

    merged, rank = copy.deepcopy(backbone.network), adapter_rank(tensors)
    # As peft's `merge_and_unload`, bit for bit (a test), for which each expert would attach an adapter of its own first: most of the time.
    with _MERGING, torch.no_grad():
        model = _mould(backbone, rank)
        write_adapter(model, tensors)
        for name, layer in model.get_base_model().named_modules():
            if isinstance(layer, LoraLayer):
                merged.get_parameter(f"{name}.weight").add_(layer.get_delta_weight("default"))
    return merged.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _mould(backbone: Backbone, rank: int) -> "PeftModel":
    """An attached adapter that is overwritten by each that is merged; to be held with `_MERGING`."""
    return attach_adapter(backbone, rank)


def adapter_rank(tensors: AdapterTensors) -> int:
    """Rows of the down-projections.

    Raises:
        VerificationError: there are none.
    """
    rank = min((tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name and tensor.ndim), default=0)
    if rank < 1:
        raise VerificationError("adapter: it has no down-projections")
    return rank


def adapter_to_bytes(tensors: AdapterTensors) -> bytes:
    """safetensors bytes: the same tensors give the same bytes."""
    return save(dict(sorted(tensors.items())))


def adapter_from_bytes(content: bytes) -> AdapterTensors:
    """Read safetensors bytes.

    Raises:
        VerificationError: they are not safetensors.
    """
    try:
        return load(content)
    except Exception as error:  # safetensors raises its own type for every kind of damage, and ValueError or KeyError for some
        raise VerificationError(f"adapter: not safetensors: {error}") from error
