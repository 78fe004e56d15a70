"""Membership inference in a forget flow: which pictures, through which adapters, and when.

1. While the hit shards are retrained, the losses of the bare backbone and of the adapters before (`recall_losses`).
2. While the quality gate's pictures are made, those of the adapters after, and the comparison (`attack_candidate`).

Both run in worker processes that would have nothing to do where one shard was hit, and both choose the same pictures: erased ones of the
plan, and samples of other shards that are still there, drawn by a hash that the request's digest keys. Held samples aren't erased, so they
may be of the null. A batch is measured as a whole. A shard that was emptied has no adapter after, and is left out; so is an erased picture
that another owner still has in the same shard, since the adapter after is trained on it.

Where something is missing there is a reason in place of a result: evidence never stops a deletion. Reasons name no sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd
import torch

from cdm_core.adapters import adapter_from_bytes, merge_adapter
from cdm_core.composition.document import Composition
from cdm_core.errors import LetheError
from cdm_core.evaluation.membership import Membership, Statistics, allot, compute_losses, draw_samples, judge_membership
from cdm_core.training import StageSamples
from tasks.data.erased_pictures import ErasedSample, Erasure, load_erased
from tasks.data.manifest_store import load_manifests
from tasks.models.compositions import adapter_files
from tasks.training.shard_training import load_stage, shared_backbone
from tasks.workspace import Workspace

_UNREADABLE = "the erased pictures or an adapter couldn't be read any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """Losses of the bare backbone and of the adapters before, in the order of the choice; or why there are none."""

    bare: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The pictures looked at through one shard's adapter."""

    shard: int
    erased: tuple[ErasedSample, ...]
    null: pd.DataFrame


def recall_losses(ws: Workspace, erasure: Erasure, before: Composition) -> Recalled:
    """Run it in a process of one thread, after the removal and before the purge."""
    choices = choose_samples(ws, erasure, before)
    if isinstance(choices, str):
        return Recalled(reason=choices)
    try:
        samples = _load(ws, erasure.revision, choices)
        adapted = _through_adapters(ws, before, samples)
    except LetheError:
        return Recalled(reason=_UNREADABLE)
    backbone = shared_backbone()
    bare = torch.cat([compute_losses(backbone, backbone.network, each) for each in samples.values()])
    return Recalled(bare=tuple(bare.tolist()), before=tuple(adapted.tolist()))


def attack_candidate(ws: Workspace, erasure: Erasure, before: Composition, candidate: Composition, recalled: Recalled) -> Membership | str:
    """Run it in a process of one thread, before the purge."""
    choices = choose_samples(ws, erasure, before)
    if isinstance(choices, str):
        return choices
    try:
        after = _through_adapters(ws, candidate, _load(ws, erasure.revision, choices))
    except LetheError:
        return _UNREADABLE
    bare, adapted = (torch.tensor(losses, dtype=torch.float64) for losses in (recalled.bare, recalled.before))
    is_erased = torch.tensor(list(chain.from_iterable([True] * len(each.erased) + [False] * len(each.null) for each in choices)))
    erased, null = (Statistics(before_N=(bare - adapted)[side], after_N=(bare - after)[side]) for side in (is_erased, ~is_erased))
    return judge_membership(erased, null)


def choose_samples(ws: Workspace, erasure: Erasure, before: Composition) -> list[Choice] | str:
    """The same pictures whenever it's asked between removal and purge."""
    limit = ws.settings().evaluation.membership_samples
    attackable = {shard for shard, num_left in erasure.left if num_left} & set(before.shards)
    if limit == 0:
        return "switched off: evaluation.membership_samples is 0"
    if not any(sample.shard in attackable for sample in erasure.samples):
        return "no hit shard has an adapter both before and after"
    manifests, gone = load_manifests(ws), {sample.sample_id for sample in erasure.samples}
    still = {shard: set(manifests[shard]["sample_id"]) for shard in attackable}
    unseen = [sample for sample in erasure.samples if sample.shard in attackable and sample.sample_id not in still[sample.shard]]
    hits = {f"{sample.shard}:{sample.sample_id}": sample for sample in unseen}
    drawn = [hits[name] for name in draw_samples(hits, limit, erasure.key)]
    erased = {shard: tuple(hit for hit in drawn if hit.shard == shard) for shard in sorted({hit.shard for hit in drawn})}
    places = allot(limit, {shard: len(of_shard) for shard, of_shard in erased.items()})
    choices = [
        Choice(shard=shard, erased=of_shard, null=_draw_null(manifests, shard, gone, places[shard], erasure.key))
        for shard, of_shard in erased.items()
    ]
    if min(len(drawn), sum(len(choice.null) for choice in choices)) < 2:
        return "fewer than two pictures on a side"
    return choices


def _draw_null(manifests: Mapping[int, pd.DataFrame], shard: int, gone: set[str], num: int, key: str) -> pd.DataFrame:
    """Rows of other shards, of pictures that neither this shard has nor the plan erases."""
    seen = gone | set(manifests[shard]["sample_id"])
    others = pd.concat([frame for other, frame in manifests.items() if other != shard] or [manifests[shard].iloc[:0]])
    others = others[~others["sample_id"].isin(seen)].drop_duplicates("sample_id")
    return others[others["sample_id"].isin(draw_samples(others["sample_id"], num, key, shard))].reset_index(drop=True)


def _load(ws: Workspace, revision: str, choices: Sequence[Choice]) -> dict[int, StageSamples]:
    """By shard, the erased first."""
    erased = load_erased(ws, revision, [hit for choice in choices for hit in choice.erased])
    samples, start = {}, 0
    for choice in choices:
        rows, null = slice(start, start + len(choice.erased)), load_stage(ws, choice.null)
        samples[choice.shard] = StageSamples(
            sample_ids=[*erased.sample_ids[rows], *null.sample_ids],
            captions=[*erased.captions[rows], *null.captions],
            pictures=torch.cat([erased.pictures[rows], null.pictures]),
        )
        start = rows.stop
    return samples


def _through_adapters(ws: Workspace, composition: Composition, samples: Mapping[int, StageSamples]) -> torch.Tensor:
    files, backbone = adapter_files(ws, composition.restricted_to(list(samples))), shared_backbone()
    return torch.cat(
        [
            compute_losses(backbone, merge_adapter(backbone, adapter_from_bytes(files[shard].read_bytes())), each)
            for shard, each in samples.items()
        ]
    )
