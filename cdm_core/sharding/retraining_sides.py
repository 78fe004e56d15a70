"""What forgetting costs four ways, in exact training steps over one trace of deletions: the counting behind `lethe bench forget`.

- `monolith`: one adapter on all data; every deletion retrains it.
- `cdm`: one adapter a shard (Golatkar et al. 2024); a deletion retrains the shards that it hits.
- `sisa`: shards and stages of owners in an order by hash, each stage over its own samples and all before (Bourtoule et al. 2021).
- `lethe`: the workspace's own stages, coldest first, with their own epochs.

The first two make the same passes over the data as the workspace's plan does on average, rounded; SISA's epochs are such that its
cumulative stages make about as many passes (2e/(R+1), rounded, one at least). What a deletion takes out isn't trained on again on any side.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from cdm_core.digests import derive_seed, derive_uniform
from cdm_core.settings import Settings, TrainingSettings
from cdm_core.sharding.tiers import stage_rate
from cdm_core.training import num_steps

Side = Literal["monolith", "cdm", "sisa", "lethe"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage to be retrained: manifest rows by their index, and passes over them."""

    rows: tuple[int, ...]
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One adapter's stages from the first that a deletion changed; `position` numbers the adapters of a side, `first` its stages."""

    position: int
    first: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRules:
    """How a side trains: `passes` are those that the workspace's plan makes over the data on average."""

    side: Side
    settings: Settings
    passes: int

    @property
    def num_stages(self) -> int:
        """Of each adapter."""
        return self.settings.stages if self.side in ("sisa", "lethe") else 1

    def count_steps(self, retrainings: Sequence[Retraining]) -> int:
        """Optimiser steps; every epoch ends with its ragged batch."""
        stages = [stage for retraining in retrainings for stage in retraining.stages]
        return sum(num_steps(len(stage.rows), self.stage_settings(stage), 0) for stage in stages)

    def stage_settings(self, stage: Stage) -> TrainingSettings:
        """The workspace's, with this stage's epochs."""
        return self.settings.training.model_copy(update={"epochs": stage.epochs})

    def build(self, rows: pd.DataFrame) -> list[Retraining]:
        """What training everything trains (manifest rows with a unique index)."""
        place = self._place(rows)
        return [self._retrain(place, int(position), 0) for position in sorted(place["position"].unique())]

    def forget(self, rows: pd.DataFrame, gone: Sequence[str]) -> list[Retraining]:
        """What is retrained when the owners `gone` leave."""
        place, is_gone = self._place(rows), rows["owner_key"].isin(gone)
        hit = place[is_gone].groupby("position")["stage"].min()
        return [self._retrain(place[~is_gone], int(str(position)), int(first)) for position, first in hit.sort_index().items()]

    def _place(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Position and stage of each row."""
        hashed = {str(owner): derive_seed("stage", str(owner)) % self.settings.stages for owner in rows["owner_key"].unique()}
        stage = rows["owner_key"].map(hashed) if self.side == "sisa" else rows["stage"] if self.side == "lethe" else 0
        return pd.DataFrame({"position": 0 if self.side == "monolith" else rows["shard"], "stage": stage}, index=rows.index)

    def _retrain(self, place: pd.DataFrame, position: int, first: int) -> Retraining:
        own = place[place["position"] == position]
        stages = tuple(self._stage(own, stage) for stage in range(first, self.num_stages))
        return Retraining(position=position, first=first, stages=stages)

    def _stage(self, own: pd.DataFrame, stage: int) -> Stage:
        if self.side == "lethe":
            return Stage(rows=tuple(own.index[own["stage"] == stage]), epochs=self.settings.training.stage_epochs(stage))
        if self.side == "sisa":
            epochs = max(1, round(2 * self.passes / (self.settings.stages + 1)))
            return Stage(rows=tuple(own.index[own["stage"] <= stage]), epochs=epochs)
        return Stage(rows=tuple(own.index), epochs=self.passes)


def mean_passes(rows: pd.DataFrame, settings: Settings) -> int:
    """Passes over the data that the workspace's plan makes on average, rounded, one at least."""
    counts = rows["stage"].value_counts()
    passes = sum(settings.training.stage_epochs(int(str(stage))) * int(count) for stage, count in counts.items())
    return max(1, round(passes / max(1, len(rows))))


def draw_trace(rows: pd.DataFrame, settings: Settings, num: int, seed: int) -> list[str]:
    """Owners in the order in which they withdraw, drawn without replacement in proportion to their stage's yearly rate.

    Source: Efraimidis & Spirakis 2006: the largest of u^(1/rate), by its logarithm, since at small rates the power itself underflows.

    Raises:
        ValueError: fewer owners than requests.
    """
    stages = rows.groupby("owner_key")["stage"].min()
    if len(stages) < num:
        raise ValueError(f"{num} requests need as many owners; there are {len(stages)}")
    tiers = settings.partition.tiers
    marks = {
        str(owner): math.log(derive_uniform("trace", seed, str(owner))) / stage_rate(tiers, int(stage), settings.stages)
        for owner, stage in stages.items()
    }
    return sorted(marks, key=lambda owner: (-marks[owner], owner))[:num]


def group_trace(rows: pd.DataFrame, trace: Sequence[str], batch: int) -> Iterator[tuple[pd.DataFrame, Sequence[str]]]:
    """Each group of a trace that is carried out `batch` requests at a time, after the rows that the groups before it have left."""
    for start in range(0, len(trace), batch):
        group = trace[start : start + batch]
        yield rows, group
        rows = rows[~rows["owner_key"].isin(group)]


def count_groups(rules: SideRules, rows: pd.DataFrame, trace: Sequence[str], batch: int) -> list[int]:
    """Steps of each group of a trace that is carried out `batch` requests at a time."""
    return [rules.count_steps(rules.forget(left, group)) for left, group in group_trace(rows, trace, batch)]


def share_of(steps: float, whole: float) -> float | None:
    """A side's part of the monolith's steps or seconds; None where the monolith has none, since every owner left at once."""
    return steps / whole if whole else None
