"""One report's setting: the data, how it's cut, what is asked for, and the models that the sections share.

Adapters, features and classifiers are made by `train_all`, `look_at_all` and `train_classifiers` before anything is measured.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cdm_core.digests import Digest
from cdm_core.errors import InvalidInputError
from cdm_core.settings import Settings
from cdm_core.sharding.splits import Part, Split, group_of, split_by_group, split_by_owner, whole
from tasks.data.manifest_store import load_manifests
from tasks.data.openmoji import caption_groups
from tasks.models.evaluation import PictureRequest, choose_pictures
from tasks.paper_report.cache import ReportCache, open_cache, sampling_code
from tasks.paper_report.experts import Recipe, TrainedPart, recipe_of, topped_up, train_recipe
from tasks.paper_report.models import SplitModel, compose_split, train_split_classifier
from tasks.paper_report.references import References, look_at_shard, read_references
from tasks.workspace import Workspace

NUM_SPLITS = (2, 4, 8)
PARAGON, BY_GROUP = "paragon", "group/8"
BY_OWNER = f"owner/{NUM_SPLITS[-1]}"
SPLITS = (BY_OWNER, BY_GROUP, "owner/4", "owner/2")
"""All, in the order in which they are trained and measured; the first is always there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What makes a report smaller or larger; `epochs` None: the workspace's."""

    samples: int = 128
    epochs: int | None = None
    classifier_steps: int = 400
    overfit_steps: int = 400
    attributed: int = 32
    draws: int = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """Read once, when the report begins."""

    cache: ReportCache
    settings: Settings
    budget: Budget
    rows: pd.DataFrame
    groups: list[str]
    splits: dict[str, Split]
    requests: tuple[PictureRequest, ...]
    code: Digest

    @property
    def blocks(self) -> int:
        """Of the jackknife: the gate's, as far as there are samples for them."""
        return min(self.settings.evaluation.blocks, self.budget.samples // 2)

    def recipes(self, split: str) -> list[Recipe]:
        """How its adapters are trained; the paragon makes as many steps as the most finely split."""
        recipes = [recipe_of(part, self.rows, self.settings) for part in self.splits[split].parts]
        if split != PARAGON:
            return recipes
        return [topped_up(recipes[0], sum(recipe.steps for recipe in self.recipes(BY_OWNER)))]

    def part_rows(self, part: Part) -> pd.DataFrame:
        """Manifest rows of a part."""
        return self.rows.iloc[list(part.rows)].reset_index(drop=True)


def open_study(ws: Workspace, budget: Budget) -> Study:
    """Read the workspace.

    Raises:
        InvalidInputError: it holds fewer than two pictures, or the budget is too small.
    """
    manifests, settings = load_manifests(ws), ws.settings()
    rows = pd.concat(manifests.values(), ignore_index=True)
    if len(rows) < 4:
        raise InvalidInputError(f"{ws.root}: a report needs 4 pictures or more, not {len(rows)}")
    if budget.epochs is not None:
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": budget.epochs})})
    table = caption_groups()
    groups = [group_of(str(caption), table) for caption in rows["caption"]]
    owners = [str(owner) for owner in rows["owner_key"]]
    cuts = [whole(len(rows)), *(split_by_owner(owners, num) for num in NUM_SPLITS), split_by_group(groups, NUM_SPLITS[-1])]
    return Study(
        cache=open_cache(ws),
        settings=settings,
        budget=budget,
        rows=rows,
        groups=groups,
        splits={split.name: split for split in cuts},
        requests=tuple(choose_pictures(manifests, num=budget.samples, seed=settings.evaluation.seed)),
        code=sampling_code(),
    )


def look_at_all(pool: Executor, study: Study) -> References:
    """Features and embeddings of every real picture. Workers report "reference pictures"."""
    shards = study.settings.shard_ids
    files: list[Path] = [future.result() for future in [pool.submit(look_at_shard, study.cache, shard) for shard in shards]]
    return read_references(study.rows, files, study.groups)


def train_all(pool: Executor, study: Study, splits: Sequence[str]) -> dict[str, list[TrainedPart]]:
    """The adapters of these splits, the longest training first, the paragon before all. Workers report "training steps"."""
    work = [(split, recipe) for split in splits for recipe in study.recipes(split)]
    work.sort(key=lambda job: (job[0] != PARAGON, splits.index(job[0]), -job[1].steps))
    pending = [(split, pool.submit(train_recipe, study.cache, recipe)) for split, recipe in work]
    trained: dict[str, list[TrainedPart]] = {split: [] for split in splits}
    for split, future in pending:
        trained[split].append(future.result())
    return trained


def count_training_steps(study: Study, splits: Sequence[str]) -> int:
    """Of all adapters of these splits, trained already or not."""
    return sum(recipe.steps for split in splits for recipe in study.recipes(split))


def train_classifiers(pool: Executor, study: Study, splits: Sequence[str]) -> dict[str, Path]:
    """One of each split. Workers report "classifier steps"."""
    pending = {
        name: pool.submit(
            train_split_classifier,
            study.cache,
            {part.number: study.part_rows(part) for part in study.splits[name].parts},
            study.budget.classifier_steps,
        )
        for name in splits
    }
    return {name: future.result() for name, future in pending.items()}


def compose_all(
    study: Study, references: References, trained: dict[str, list[TrainedPart]], classifiers: dict[str, Path]
) -> dict[str, SplitModel]:
    """Every split's model."""
    return {
        name: compose_split(study.cache, study.settings, references, study.splits[name], parts, classifiers.get(name))
        for name, parts in trained.items()
    }
