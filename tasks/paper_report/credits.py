"""Figure 3 of the report: which shards pictures came from, over denoising time, checked against leaving each shard out.

Near shards (by owner) and far ones (by group) side by side: the paper's claim is that weights settle early where shards differ and late
where they are alike. Plotted are the weights of `bayes` while it makes the pictures, from the priors on. Those at the points of the path
back from a picture to noise, where eq. 6 is split, are estimated at each point by itself (`cdm_core.evaluation.attribution`); in the
figure's JSON they stand beside what eq. 6 credits with them, which is checked as credit by common noise is.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save

from cdm_core.composition.mixing import Condition, draw_expert
from cdm_core.composition.samplers import build_sampler
from cdm_core.composition.sampling import bind, draw_start, walk
from cdm_core.composition.serving import load_composed_model
from cdm_core.digests import Digest, Json, json_digest
from cdm_core.evaluation.attribution_validity import measure_effects, validate_credit
from tasks.models.evaluation import PictureRequest
from tasks.paper_report.cache import ReportCache
from tasks.paper_report.models import SplitModel
from tasks.paper_report.samples import Model, Order, read_made
from tasks.training.shard_training import shared_backbone
from tasks.training.workers import report_progress

_CHUNK = 16
_PAIRS = 4
_PROBES = 2
_EXAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credited:
    """Shares [B, N] with their standard errors, the path's contributions, and weights [B, T, N] at times [T]: `bayes`' and the path's."""

    shares: torch.Tensor
    errors: torch.Tensor
    path: torch.Tensor
    weights: torch.Tensor
    times: list[float]
    path_weights: torch.Tensor
    path_times: list[float]


def credit_all(
    pool: Executor, cache: ReportCache, split: SplitModel, requests: Sequence[PictureRequest], draws: int, code: Digest
) -> Credited:
    """Attribute the split's pictures, from cached pictures, in chunks that are kept. Workers report "attributed"."""
    pair = split.base, split.with_method("bayes")
    chunks = [tuple(requests[start : start + _CHUNK]) for start in range(0, len(requests), _CHUNK)]
    files = [future.result() for future in [pool.submit(_credit_chunk, cache, *pair, chunk, draws, code) for chunk in chunks]]
    parts = [load(path.read_bytes()) for path in files]
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("shares", "errors", "path", "weights", "path_weights")}
    return Credited(**joined, times=parts[0]["times"].tolist(), path_times=parts[0]["path_times"].tolist())


def leave_out_orders(split: SplitModel, requests: Sequence[PictureRequest]) -> list[Order]:
    """The whole composition's pictures and those without each shard, all from the same seeds."""
    numbers = [part.number for part in split.split.parts]
    parts = [split.base, *(split.base.restricted_to([n for n in numbers if n != number]) for number in numbers)]
    return [Order(model=part, requests=tuple(requests)) for part in parts]


def describe_credit(
    cache: ReportCache, split: SplitModel, credited: Credited, requests: Sequence[PictureRequest], code: Digest
) -> dict[str, Json]:
    """Figure 3's JSON for one split."""
    numbers = [part.number for part in split.split.parts]
    backbone = shared_backbone()

    def make(without: int | None) -> torch.Tensor:
        kept = [number for number in numbers if number != without]
        return backbone.encode_pictures(
            read_made(cache, Order(model=split.base.restricted_to(kept), requests=tuple(requests)), code).pictures
        )

    makers = [numbers.index(maker) for maker in _makers(split, requests)]
    validity = validate_credit(credited.shares, measure_effects(make, numbers), makers)
    weights = credited.weights.double()
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(dim=2)
    by_path = validate_credit(credited.path / credited.path.sum(dim=1, keepdim=True), measure_effects(make, numbers), makers)
    return {
        "split": split.split.name,
        "shards": numbers,
        "names": [part.name for part in split.split.parts],
        "num_pictures": len(requests),
        "times": credited.times,
        "mean_largest_weight": weights.amax(dim=2).mean(dim=0).tolist(),
        "mean_entropy": entropy.mean(dim=0).tolist(),
        "largest_possible_entropy": math.log(len(numbers)),
        "validation": asdict(validity),
        "validation_of_the_path": asdict(by_path),
        "path_times": credited.path_times,
        "mean_largest_weight_on_the_path": credited.path_weights.amax(dim=2).mean(dim=0).tolist(),
        "mean_weight_of_the_maker_on_the_path": credited.path_weights[torch.arange(len(makers)), :, makers].mean(dim=0).tolist(),
        "chance": 1 / len(numbers),
        "mean_credit_of_the_maker": float(credited.shares[torch.arange(len(makers)), makers].mean()),
        "mean_standard_error": float(credited.errors.mean()),
        "examples": [
            {"caption": requests[row].caption, "weights": credited.weights[row].tolist()} for row in range(min(_EXAMPLES, len(requests)))
        ],
    }


@torch.no_grad()
def _follow_sampling(bayes: Model, requests: tuple[PictureRequest, ...]) -> dict[str, torch.Tensor]:
    """Weights while the pictures are made, and the times of the steps."""
    loaded = load_composed_model(bayes.composition.to_bytes(), bayes.adapters, bayes.centroids, shared_backbone())
    condition = Condition(captions=[request.caption for request in requests], seeds=[request.seed for request in requests])
    settings = bayes.composition.sampling
    seen: list[torch.Tensor] = []
    times: list[float] = []

    def note(x: torch.Tensor, t: float, weights_BN: torch.Tensor) -> None:
        seen.append(weights_BN.double())
        times.append(t)

    walk(
        build_sampler(settings.sampler, settings.steps),
        loaded.mixer,
        bind(shared_backbone(), loaded.experts, condition, settings),
        torch.stack([draw_start(shared_backbone(), request.seed) for request in requests]),
        condition,
        len(loaded.experts),
        on_weights=note,
    )
    return {"weights": torch.stack(seen, dim=1), "times": torch.tensor(times, dtype=torch.float64)}


def _makers(split: SplitModel, requests: Sequence[PictureRequest]) -> list[int]:
    experts = split.base.composition.experts
    return [experts[draw_expert(experts, request.seed)].shard for request in requests]


def _credit_chunk(cache: ReportCache, model: Model, bayes: Model, requests: tuple[PictureRequest, ...], draws: int, code: Digest) -> Path:
    name: dict[str, Json] = {
        "composition": model.composition.digest,
        "requests": [request.key for request in requests],
        "draws": draws,
        "weights": bayes.composition.digest,
    }
    path = cache.folder / "credit" / f"{json_digest({**name, 'pairs': _PAIRS, 'probes': _PROBES, 'code': code})}.safetensors"
    if path.is_file():
        report_progress("attributed", len(requests))
        return path
    loaded = load_composed_model(model.composition.to_bytes(), model.adapters, model.centroids, shared_backbone())
    captions: list[str | None] = [request.caption for request in requests]
    made = read_made(cache, Order(model=model, requests=requests), code)
    latents = shared_backbone().encode_pictures(made.pictures)
    credit = loaded.credit(latents, captions, num_draws=draws)
    followed = loaded.follow(latents, captions, num_pairs=_PAIRS, num_probes=_PROBES)
    tensors = {
        "shares": credit.shares_BN,
        "errors": credit.standard_errors_BN,
        "path": followed.contributions_BN,
        "path_weights": followed.weights_TBN.transpose(0, 1).contiguous(),
        "path_times": torch.tensor(followed.times_T, dtype=torch.float64),
        **_follow_sampling(bayes, requests),
    }
    cache.write(path, save(tensors))
    report_progress("attributed", len(requests))
    return path
