"""Table 2 and figure 4A of the report: how well pictures show what was asked for, and what a new expert adds out of domain."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from cdm_core.digests import Digest, Json, derive_seed
from cdm_core.errors import StateError
from cdm_core.evaluation.alignment import NEAREST, Retrieved, clip_scores, mean_interval, retrieve
from cdm_core.evaluation.distances import Interval, judge_goal
from cdm_core.sharding.splits import Part, group_of
from tasks.data.openmoji import caption_groups
from tasks.models.evaluation import PictureRequest
from tasks.paper_report.cache import ReportCache
from tasks.paper_report.models import COLUMNS, SplitModel, bare_model
from tasks.paper_report.references import References
from tasks.paper_report.samples import Model, Order, read_made
from tasks.training.shard_training import shared_backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """A model's pictures against their captions."""

    scores: tuple[float, ...]
    retrieved: Retrieved

    def describe(self) -> dict[str, Json]:
        """For the figures."""
        return {
            "clip_score": asdict(mean_interval(self.scores)),
            "class_retrieved": asdict(self.retrieved.class_rate),
            "caption_retrieved": asdict(self.retrieved.caption_rate),
        }


def alignment_models(paragon: SplitModel, splits: Sequence[SplitModel]) -> dict[str, Model]:
    """Table 2's models: bare, paragon, and of each split the compositions and every single shard."""
    models = {"bare backbone": bare_model(paragon), "paragon": paragon.base}
    for split in splits:
        models |= {f"{split.split.name} · {name}": split.with_method(method, clip_prior=prior) for name, method, prior in COLUMNS}
        models |= {f"{split.split.name} · only {part.name}": split.single(part.number) for part in split.split.parts}
    return models


def measure_alignment(
    cache: ReportCache, model: Model, requests: Sequence[PictureRequest], references: References, classes: Mapping[str, str], code: Digest
) -> Aligned:
    """From cached pictures; `classes` by caption."""
    made = read_made(cache, Order(model=model, requests=tuple(requests)), code)
    captions, backbone = [request.caption for request in requests], shared_backbone()
    pictures = backbone.clip.embed_pictures(backbone.encode_pictures(made.pictures))
    distinct = list(dict.fromkeys(captions))
    embedded = dict(zip(distinct, backbone.clip.embed_captions(distinct), strict=True))
    known = [(group_of(caption, dict(classes)), caption) for caption in references.captions]
    wanted = [(group_of(caption, dict(classes)), caption) for caption in captions]
    return Aligned(
        scores=tuple(clip_scores(pictures, torch.stack([embedded[caption] for caption in captions]))),
        retrieved=retrieve(made.features, references.features, wanted, known),
    )


def describe_alignment(measured: Mapping[str, Aligned], references: References, num: int, split: str) -> dict[str, Json]:
    """Table 2's JSON; the goal: the best composition is at least as well aligned as single shards, paragon and backbone."""
    composed = [f"{split} · {name}" for name, _, _ in COLUMNS]
    singles = [name for name in measured if name.startswith(f"{split} · only ")]
    best = max(composed, key=lambda name: sum(measured[name].scores))
    against: dict[str, Json] = {}
    for label, others in (("paragon", ["paragon"]), ("bare backbone", ["bare backbone"]), ("best single shard", singles)):
        other = max(others, key=lambda name: sum(measured[name].scores))
        gain = mean_interval([one - two for one, two in zip(measured[best].scores, measured[other].scores, strict=True)])
        against[label] = {"model": other, "clip_score_gain": asdict(gain)}
    worst = min((_gain(each) for each in against.values()), key=lambda gain: gain.value)
    classes = caption_groups("subgroup")
    known = [group_of(caption, classes) for caption in references.captions]
    most = max(known.count(name) for name in set(known)) / len(known)
    gained = f"CLIP score {worst.value:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}]"
    said = f"{best} against the best of paragon, backbone and single shards: {gained}"
    return {
        "num_samples": num,
        "classes": len(set(known)),
        "share_of_the_largest_class": most,
        "nearest": NEAREST,
        "rows": [{"model": name, **aligned.describe()} for name, aligned in measured.items()],
        "best_composed": best,
        "against": against,
        "goal": {"name": "composed at least as aligned as the rest", "verdict": _at_least_as_good(worst), "said": said},
    }


def farthest_part(split: SplitModel, references: References) -> Part:
    """The part of one group alone whose mean feature is farthest from the nearest other part's; without one, the farthest of all.

    Raises:
        StateError: there are fewer than two parts.
    """
    parts = split.split.parts
    if len(parts) < 2:
        raise StateError("figure 4A: pictures of one group only; there is nothing out of domain")
    means = torch.stack([references.features[list(part.rows)].mean(dim=0) for part in parts])
    apart = torch.cdist(means, means) + torch.diag(torch.full((len(parts),), torch.inf))
    order = sorted(range(len(parts)), key=lambda place: -float(apart[place].min()))
    return next((parts[place] for place in order if " + " not in parts[place].name), parts[order[0]])


def coverage_requests(split: SplitModel, references: References, part: Part, num: int) -> dict[str, tuple[PictureRequest, ...]]:
    """Prompts of the part ("outside" the other shards) and of the others ("inside"), drawn by hash."""
    own = set(part.rows)
    outside = sorted({references.captions[row] for row in own})
    inside = sorted({references.captions[row] for other in split.split.parts if other.number != part.number for row in other.rows})
    return {
        name: tuple(
            PictureRequest(seed=derive_seed("coverage", name, number), caption=captions[derive_seed("coverage", number) % len(captions)])
            for number in range(num)
        )
        for name, captions in (("outside", outside), ("inside", [caption for caption in inside if caption not in set(outside)]))
    }


def coverage_models(paragon: SplitModel, split: SplitModel, part: Part) -> dict[str, Model]:
    """Without the part's expert, with it, it alone, and both ends."""
    others = [other.number for other in split.split.parts if other.number != part.number]
    with_prior, knn = split.with_method("shard_per_image", clip_prior=True), split.with_method("top_k:knn")
    return {
        "without the new expert, CLIP prior": with_prior.restricted_to(others),
        "with it, CLIP prior": with_prior,
        "without the new expert, top_k:knn": knn.restricted_to(others),
        "with it, top_k:knn": knn,
        "with it, shard_per_image by counts": split.base,
        "the new expert alone": split.single(part.number),
        "paragon": paragon.base,
        "bare backbone": bare_model(paragon),
    }


def describe_coverage(part: Part, measured: Mapping[str, Mapping[str, Aligned]], num: int) -> dict[str, Json]:
    """Figure 4A's JSON; `measured` by model, then by kind of prompt."""
    gains: dict[str, Json] = {}
    for kind in ("outside", "inside"):
        new, old = measured["with it, CLIP prior"][kind], measured["without the new expert, CLIP prior"][kind]
        scores = [one - two for one, two in zip(new.scores, old.scores, strict=True)]
        hits = [float(one) - float(two) for one, two in zip(new.retrieved.is_class, old.retrieved.is_class, strict=True)]
        gains[kind] = {"clip_score": asdict(mean_interval(scores)), "class_retrieved": asdict(mean_interval(hits))}
    outside = gains["outside"]
    assert isinstance(outside, dict)
    gain = Interval(**outside["class_retrieved"])
    points = f"{100 * gain.value:+.0f} points [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]"
    said = f"right group for prompts of {part.name}, with its expert against without: {points}"
    return {
        "held_out": part.name,
        "samples": len(part.rows),
        "num_samples": num,
        "rows": [{"model": name, **{kind: each.describe() for kind, each in kinds.items()}} for name, kinds in measured.items()],
        "gains": gains,
        "goal": {"name": "a new expert covers what the others don't", "verdict": _is_gain(gain), "said": said},
    }


def _is_gain(gain: Interval) -> str:
    """Met by a gain that chance alone would not make."""
    if gain.value <= 0:
        return "missed"
    return "met" if gain.low > 0 else "met, but the interval reaches zero"


def _gain(row: Json) -> Interval:
    assert isinstance(row, Mapping)
    gain = row["clip_score_gain"]
    assert isinstance(gain, Mapping)
    return Interval(**{name: float(str(value)) for name, value in gain.items()})


def _at_least_as_good(gain: Interval) -> str:
    """A gain that should not be negative, judged as a loss that should not be positive."""
    return judge_goal(Interval(value=-gain.value, low=-gain.high, high=-gain.low), 0.0)
