"""`lethe attribute`: which shards a picture came from, by two estimators, with standard errors and a plot over denoising time."""

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cdm_core.composition.document import Composition, parse_composition
from cdm_core.composition.serving import ComposedModel, load_composed_model
from cdm_core.digests import derive_seed
from cdm_core.errors import InvalidInputError, StateError
from cdm_core.evaluation.attribution import Credit, PathCredit
from cdm_core.evaluation.attribution_validity import measure_effects, validate_credit
from cdm_core.fingerprint import NUM_THREADS
from flows.console import progress_bars
from tasks.data.pictures import normalise_picture
from tasks.files import check_writable, write_output
from tasks.models.compositions import centroid_files
from tasks.models.model_registry import adapters_of, champion, composition_of
from tasks.plots.weights_plot import plot_weights
from tasks.workspace import open_workspace

_PAIRS = 4
_PROBES = 2
_BATCH = 16


def run_attribute(
    directory: Path, image: Path | None, *, num: int | None, seed: int, prompt: str | None, draws: int, plot: Path, validate: bool
) -> dict[str, object]:
    """Attribute a picture file, or `num` pictures that the champion makes; with `validate`, compare with leaving each shard out."""
    torch.set_num_threads(NUM_THREADS)
    ws = open_workspace(directory)
    check_writable(plot)
    serving = champion(ws)
    if serving is None:
        raise StateError(f"{ws.root}: there is no model yet; run: lethe build")
    composition = parse_composition(composition_of(ws, serving.version))
    if len(composition.experts) < 2:
        raise StateError(f"{ws.root}: attribution is between shards, and the model that serves has {len(composition.experts)}")
    if not plot.resolve().parent.is_dir():
        raise InvalidInputError(f"{plot}: its folder doesn't exist")
    adapters, centroids = adapters_of(ws, serving.version), centroid_files(ws, composition)

    def load(part: Composition) -> ComposedModel:
        return load_composed_model(part.to_bytes(), adapters, centroids, model.backbone)

    model = load_composed_model(composition.to_bytes(), adapters, centroids)
    seeds = [derive_seed("generate", seed, number) for number in range(num or 1)]
    prompts = [prompt] * len(seeds)
    pictures = _read_picture(image) if image is not None else model.generate(prompts, seeds)
    makers: list[int | None] = model.shards_of(seeds, prompts) if image is None else [None]
    latents = model.backbone.encode_pictures(pictures)
    with progress_bars({"pictures": len(latents)}) as advance:
        credit, path = _attribute(model, latents, prompts, draws, lambda amount: advance("pictures", amount))
    weights = path.weights_TBN.transpose(0, 1).tolist()
    write_output(plot, plot_weights(composition.shards, path.times_T, weights))
    document: dict[str, object] = {
        "model_version": serving.version,
        "composition": composition.digest,
        "shards": list(composition.shards),
        "plot": str(plot),
        "per_image": [_describe(composition.shards, credit, path, row, maker) for row, maker in enumerate(makers)],
    }
    if validate:
        document["validation"] = _validate(composition, credit, makers, lambda part: load(part).generate(prompts, seeds), model)
    return document


def _read_picture(path: Path) -> torch.Tensor:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error
    with Image.open(io.BytesIO(normalise_picture(content, path.name))) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()


def _attribute(
    model: ComposedModel, latents: torch.Tensor, prompts: list[str | None], draws: int, advance: Callable[[int], None]
) -> tuple[Credit, PathCredit]:
    credit = model.credit(latents, prompts, num_draws=draws)
    parts = []
    for start in range(0, len(latents), _BATCH):
        rows = slice(start, start + _BATCH)
        parts.append(model.follow(latents[rows], prompts[rows], num_pairs=_PAIRS, num_probes=_PROBES))
        advance(len(latents[rows]))
    path = PathCredit(
        contributions_BN=torch.cat([part.contributions_BN for part in parts]),
        standard_errors_BN=torch.cat([part.standard_errors_BN for part in parts]),
        times_T=parts[0].times_T,
        weights_TBN=torch.cat([part.weights_TBN for part in parts], dim=1),
        end_BCHW=torch.cat([part.end_BCHW for part in parts]),
    )
    return credit, path


def _describe(shards: tuple[int, ...], credit: Credit, path: PathCredit, row: int, maker: int | None) -> dict[str, object]:
    return {
        "made_by": maker,
        "highest_credit": shards[int(credit.shares_BN[row].argmax())],
        "credit": [
            {
                "shard": shard,
                "common_noise": float(credit.shares_BN[row, column]),
                "common_noise_standard_error": float(credit.standard_errors_BN[row, column]),
                "path_nats": float(path.contributions_BN[row, column]),
                "path_nats_standard_error": float(path.standard_errors_BN[row, column]),
                "path_share": float(path.shares[row, column]),
            }
            for column, shard in enumerate(shards)
        ],
    }


def _validate(
    composition: Composition,
    credit: Credit,
    makers: list[int | None],
    make: Callable[[Composition], torch.Tensor],
    model: ComposedModel,
) -> dict[str, object]:
    """Exact leave-one-shard-out: every picture made anew without each shard, from its seed."""

    def without(shard: int | None) -> torch.Tensor:
        kept = [other for other in composition.shards if other != shard]
        return model.backbone.encode_pictures(make(composition.restricted_to(kept)))

    positions = [None if maker is None else composition.shards.index(maker) for maker in makers]
    return asdict(validate_credit(credit.shares_BN, measure_effects(without, composition.shards), positions))
