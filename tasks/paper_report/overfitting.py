"""Figure 4B of the report: two shards overfitted on purpose, and how often they copy alone and composed."""

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd
import torch

from cdm_core.digests import Digest, Json, derive_seed
from cdm_core.evaluation.memorisation import measure_memorisation
from cdm_core.settings import Method
from cdm_core.sharding.splits import Part, Split
from tasks.data.packs import load_pictures
from tasks.models.evaluation import PictureRequest
from tasks.paper_report.cache import ReportCache
from tasks.paper_report.models import SplitModel
from tasks.paper_report.samples import Model, Order, read_made

PICTURES = 16
"""That each overfitted shard is trained on, at most."""
HELD_OUT = 512
_METHODS: tuple[Method, ...] = ("shard_per_image", "random", "average", "knn", "bayes")


def overfit_split(split: Split, rows: pd.DataFrame) -> Split:
    """A few pictures of each of a split's first two parts, drawn by hash."""
    parts = []
    for part in split.parts[:2]:
        marks = {row: derive_seed("overfit", str(rows["owner_key"].iloc[row]), str(rows["sample_id"].iloc[row])) for row in part.rows}
        chosen = sorted(part.rows, key=lambda row: marks[row])[:PICTURES]
        parts.append(Part(number=part.number, rows=tuple(sorted(chosen)), name=f"overfitted {part.name}"))
    return Split(name="overfitted", parts=tuple(parts))


def overfit_requests(split: Split, rows: pd.DataFrame, num: int) -> dict[int, tuple[PictureRequest, ...]]:
    """By part: the captions that it was trained on, in turn, under seeds of their own."""
    return {
        part.number: tuple(
            PictureRequest(
                seed=derive_seed("overfit", part.number, number), caption=str(rows["caption"].iloc[part.rows[number % len(part.rows)]])
            )
            for number in range(num // len(split.parts))
        )
        for part in split.parts
    }


def overfit_orders(split: SplitModel, bare: Model, requests: Mapping[int, tuple[PictureRequest, ...]]) -> dict[str, list[Order]]:
    """By the model's name: each shard alone on its own captions, and the compositions and the backbone on all of them."""
    everything = tuple(request for own in requests.values() for request in own)
    orders = {"single overfitted shards": [Order(model=split.single(number), requests=own) for number, own in requests.items()]}
    orders |= {f"composed, {method}": [Order(model=split.with_method(method), requests=everything)] for method in _METHODS}
    orders["bare backbone"] = [Order(model=bare, requests=everything)]
    return orders


def why_left_out(cut: Split, rows: pd.DataFrame) -> str | None:
    """Why there can be no Figure 4B, before anything is trained for it; None where there can."""
    if sum(len(part.rows) for part in cut.parts) < 2:
        return "one picture to train on has no other beside it to be nearer than"
    if not _never_seen(cut, rows):
        return "no picture is held out: there are no more than those that are trained on, so that there is no null"
    return None


def _trained_on(cut: Split) -> list[int]:
    return sorted(row for part in cut.parts for row in part.rows)


def _never_seen(cut: Split, rows: pd.DataFrame) -> list[int]:
    seen = set(rows["sample_id"].iloc[_trained_on(cut)])
    return [row for row in range(len(rows)) if rows["sample_id"].iloc[row] not in seen]


def describe_memorisation(
    cache: ReportCache, split: SplitModel, rows: pd.DataFrame, orders: Mapping[str, list[Order]], steps: int, code: Digest
) -> dict[str, Json]:
    """Figure 4B's JSON. The threshold is the 5 % quantile of pictures that these adapters never saw."""
    training = load_pictures(cache.ws, rows.iloc[_trained_on(split.split)].reset_index(drop=True))
    others = _never_seen(split.split, rows)
    chosen = sorted(others, key=lambda row: derive_seed("held out", str(rows["sample_id"].iloc[row]), str(rows["owner_key"].iloc[row])))
    held_out = load_pictures(cache.ws, rows.iloc[chosen[:HELD_OUT]].reset_index(drop=True))
    described: list[Json] = []
    rates: dict[str, tuple[float, float, float]] = {}
    null: dict[str, Json] = {}
    threshold = 0.0
    for name, parts in orders.items():
        pictures = torch.cat([read_made(cache, order, code).pictures for order in parts])
        found = measure_memorisation(pictures, training, held_out)
        near, null, threshold = found.generated, asdict(found.held_out), found.threshold
        rates[name] = near.rate, near.low, near.high
        described.append({"model": name, "near_copies": asdict(near), "median_ratio": float(found.ratios_B.median())})
    single = rates["single overfitted shards"]
    composed = {name: rate for name, rate in rates.items() if name.startswith("composed, ")}
    best = min(composed, key=lambda name: composed[name][0])
    verdict = "missed" if composed[best][0] >= single[0] else "met" if composed[best][2] < single[1] else "met, but the intervals overlap"
    said = f"near copies: {_rate(single)} alone, {_rate(composed[best])} {best}"
    return {
        "training_pictures": len(training),
        "steps": steps,
        "threshold": threshold,
        "held_out": null,
        "rows": described,
        "goal": {"name": "composition lowers memorisation", "verdict": verdict, "said": said},
    }


def _rate(rate: tuple[float, float, float]) -> str:
    return f"{100 * rate[0]:.0f} % [{100 * rate[1]:.0f}, {100 * rate[2]:.0f}]"
