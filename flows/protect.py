"""Copy-protected generation: the product of experts, each picture's bound k, and refusal of those above the bound asked for."""

from pathlib import Path

import torch

from cdm_core.composition.copy_protection import compute_bounds
from cdm_core.composition.serving import ComposedModel
from cdm_core.errors import RequestRefusedError
from cdm_core.evaluation.picture_grid import build_grid
from flows.console import progress_bars
from tasks.files import write_output

_DRAWS = 32
_SCALE = 3


def generate_protected(model: ComposedModel, seeds: list[int], prompt: str | None, bound: float | None, out: Path) -> dict[str, object]:
    """Write the grid, in which a refused picture's place is white; k is estimated by common noise from the picture as it's written.

    Raises:
        RequestRefusedError: every picture is above the bound; nothing is written.
    """
    prompts: list[str | None] = [prompt] * len(seeds)
    with progress_bars({"pictures": len(seeds)}) as advance:
        made = model.generate(prompts, seeds, on_step=lambda: advance("pictures", 1))
    posteriors = model.credit(model.backbone.encode_pictures(made), prompts, num_draws=_DRAWS).log_posteriors(model.priors)
    bounds = compute_bounds(model.priors, posteriors)
    refused = bounds > bound if bound is not None else torch.zeros(len(seeds), dtype=torch.bool)
    if bool(refused.all()):
        raise RequestRefusedError(
            f"bound {bound}: every picture is above it; the lowest has k = {float(bounds.amin()):.4g}", reason="above_bound"
        )
    made[refused] = 255
    write_output(out, build_grid(made, min(8, len(seeds)), _SCALE))
    return {
        "composition": model.composition.digest,
        "method": model.composition.sampling.method,
        "shards": list(model.composition.shards),
        "bound": bound,
        "num_refused": int(refused.sum()),
        "per_image": [
            {"shard": None, "k": k, "refused": is_refused} for k, is_refused in zip(bounds.tolist(), refused.tolist(), strict=True)
        ],
    }
