"""Table 1 and figure 2 of the report: Fréchet distances of splits and methods, and what dropping and adding shards changes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from cdm_core.digests import Digest, Json, derive_seed
from cdm_core.evaluation.distances import Replicates, best_of, compare, jackknife, judge_goal, measure_replicates
from cdm_core.evaluation.frechet import FrechetReference, build_frechet_reference
from cdm_core.evaluation.moments import compute_moments
from tasks.models.evaluation import PictureRequest
from tasks.paper_report.cache import ReportCache
from tasks.paper_report.models import COLUMNS, SplitModel, bare_model
from tasks.paper_report.references import References
from tasks.paper_report.samples import Model, Order, read_made

DISTANCE_GOAL = 1.10
DROP_GOAL = 0.01


def table_models(paragon: SplitModel, splits: Sequence[SplitModel]) -> dict[str, Model]:
    """Table 1's models by "<split> · <method>"; paragon and bare backbone under their own names."""
    models = {"paragon": paragon.base, "bare backbone": bare_model(paragon)}
    for split in splits:
        for name, method, clip_prior in COLUMNS:
            models[f"{split.split.name} · {name}"] = split.with_method(method, clip_prior=clip_prior)
    return models


def drop_models(split: SplitModel) -> dict[str, Model]:
    """Figure 2's: without each shard, first shards only (dropping the last ones), last shards only (adding from the end)."""
    numbers = [part.number for part in split.split.parts]
    models = {"all": split.base}
    models |= {f"without {number}": split.base.restricted_to([n for n in numbers if n != number]) for number in numbers}
    models |= {f"first {count}": split.base.restricted_to(numbers[:count]) for count in range(1, len(numbers))}
    models |= {f"last {count}": split.base.restricted_to(numbers[-count:]) for count in range(1, len(numbers))}
    return models


def orders_of(models: Mapping[str, Model], requests: Sequence[PictureRequest]) -> list[Order]:
    """The same pictures of each."""
    return [Order(model=model, requests=tuple(requests)) for model in models.values()]


def reference_of(references: References) -> FrechetReference:
    """Of all real pictures."""
    return build_frechet_reference(compute_moments(references.features))


def measure_models(
    cache: ReportCache,
    models: Mapping[str, Model],
    requests: Sequence[PictureRequest],
    reference: FrechetReference,
    blocks: int,
    code: Digest,
) -> dict[str, Replicates]:
    """Each model's distance, from cached pictures."""
    made = {name: read_made(cache, Order(model=model, requests=tuple(requests)), code) for name, model in models.items()}
    return {name: measure_replicates(reference, each.features, blocks) for name, each in made.items()}


def real_pictures(references: References, num: int, reference: FrechetReference, blocks: int) -> Replicates:
    """The distance of as many real pictures, drawn by hash: what n alone makes of it."""
    ids = [f"{owner}/{sample}" for owner, sample in zip(references.rows["owner_key"], references.rows["sample_id"], strict=True)]
    chosen = sorted(range(len(ids)), key=lambda row: derive_seed("real", ids[row]))[:num]
    features = references.features[torch.tensor(chosen)]
    return measure_replicates(reference, features, min(blocks, len(features) // 2))


def describe_table(
    measured: Mapping[str, Replicates], real: Replicates, splits: Sequence[str], num: int, goal_split: str
) -> dict[str, Json]:
    """Table 1's JSON: one row a cell, and the goal at `goal_split`."""
    paragon = measured["paragon"]
    rows: list[Json] = []
    for name, replicates in measured.items():
        split, _, method = name.partition(" · ")
        row: dict[str, Json] = {"split": split, "method": method or None, "frechet": asdict(replicates.interval)}
        row["ratio_to_paragon"] = None if name == "paragon" else asdict(compare(replicates, paragon))
        rows.append(row)
    goals: dict[str, dict[str, Json]] = {}
    for split in splits:
        own = {name: replicates for name, replicates in measured.items() if name.startswith(f"{split} · ")}
        best = best_of(own)
        ratio = compare(own[best], paragon)
        goals[split] = {
            "best_method": best.partition(" · ")[2],
            "ratio_to_paragon": asdict(ratio),
            "limit": DISTANCE_GOAL,
            "verdict": judge_goal(ratio, DISTANCE_GOAL),
        }
    return {
        "num_samples": num,
        "num_blocks": len(paragon.without),
        "real_pictures": asdict(real.interval),
        "rows": rows,
        "best_by_split": goals,
        "goal": {"split": goal_split, **goals[goal_split]},
    }


def describe_drops(split: SplitModel, measured: Mapping[str, Replicates]) -> dict[str, Json]:
    """Figure 2's JSON for one split: relative changes against all shards, negative where the distance fell."""
    whole, numbers = measured["all"], [part.number for part in split.split.parts]
    single: list[Json] = []
    for part in split.split.parts:
        change = _change(measured[f"without {part.number}"], whole)
        single.append({"shard": part.number, "name": part.name, "samples": len(part.rows), "change": change})
    ratios = [compare(measured[f"without {number}"], whole).value - 1 for number in numbers]
    without = [
        sum(measured[f"without {number}"].without[block] / whole.without[block] - 1 for number in numbers) / len(numbers)
        for block in range(len(whole.without))
    ]
    mean = jackknife(sum(ratios) / len(ratios), without)
    dropping: list[Json] = []
    for count in range(len(numbers) - 1, 0, -1):
        change, dropped = _change(measured[f"first {count}"], whole), len(numbers) - count
        dropping.append({"dropped": dropped, "left": count, "change": change, "change_per_shard": change["value"] / dropped})
    adding: list[Json] = [{"shards": count, "change": _change(measured[f"last {count}"], whole)} for count in range(1, len(numbers))]
    return {
        "split": split.split.name,
        "method": "shard_per_image",
        "one_dropped": single,
        "mean_of_one_dropped": asdict(mean),
        "largest_of_one_dropped": max(ratios),
        "dropping": dropping,
        "adding": [*adding, {"shards": len(numbers), "change": {"value": 0.0, "low": 0.0, "high": 0.0}}],
        "goal": {
            "limit": DROP_GOAL,
            "verdict": judge_goal(mean, DROP_GOAL),
            "shards_within": sum(ratio <= DROP_GOAL for ratio in ratios),
            "shards": len(ratios),
        },
    }


def _change(one: Replicates, whole: Replicates) -> dict[str, float]:
    ratio = compare(one, whole)
    return {"value": ratio.value - 1, "low": ratio.low - 1, "high": ratio.high - 1}
