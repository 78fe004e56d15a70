"""Training the report's adapters: the paragon, the splits and those that are overfitted on purpose, with the product's own training.

An adapter's checkpoints lie under the keys of the product's chain, so a part that is one of the workspace's own shards is found in the
workspace's store, and what another run of the report trained in the report's. A change of code that training doesn't run changes no key.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cdm_core.adapters import adapter_from_bytes, adapter_to_bytes, initial_adapter
from cdm_core.chain import compute_chain, num_reusable_stages
from cdm_core.digests import Digest, derive_seed
from cdm_core.divergence import require_finite
from cdm_core.settings import Settings, TrainingSettings
from cdm_core.sharding.manifests import samples_digest
from cdm_core.sharding.splits import Part, stage_rows
from cdm_core.training import StagePosition, num_steps, train_stage
from tasks.paper_report.cache import ReportCache
from tasks.training.checkpoints import CheckpointStore
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.training.shard_training import load_stage, scratch_model, shared_backbone_digest
from tasks.training.workers import report_progress


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recipe:
    """What one adapter is trained on: rows by stage, in order, and settings with one number of epochs a stage."""

    number: int
    stages: tuple[pd.DataFrame, ...]
    settings: TrainingSettings

    @property
    def steps(self) -> int:
        return sum(num_steps(len(rows), self.settings, stage) for stage, rows in enumerate(self.stages))

    @property
    def samples(self) -> int:
        """Distinct ones."""
        together = pd.concat(self.stages)
        return len(together.drop_duplicates(["owner_key", "sample_id"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPart:
    """An adapter and its file."""

    number: int
    samples: int
    adapter: Digest
    file: Path
    steps: int


def recipe_of(part: Part, rows: pd.DataFrame, settings: Settings) -> Recipe:
    """The workspace's stages and epochs, on the part's rows."""
    epochs = [settings.training.stage_epochs(stage) for stage in range(settings.stages)]
    stages = tuple(stage_rows(part, rows, stage) for stage in range(settings.stages))
    # Epochs as the workspace writes them: the chain's key is over each stage's own, so that the workspace's checkpoints are found.
    return Recipe(number=part.number, stages=stages, settings=settings.training.model_copy(update={"epochs": epochs}))


def topped_up(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with one more stage of single passes, so that it makes exactly `steps`; rows for it are drawn by hash.

    One adapter on all data ends fewer epochs with a ragged batch than several adapters do on the same data.
    """
    missing = steps - recipe.steps
    if missing <= 0:
        return recipe
    rows = pd.concat(recipe.stages, ignore_index=True)
    order = sorted(range(len(rows)), key=lambda row: derive_seed("top up", str(rows["sample_id"][row]), str(rows["owner_key"][row])))
    batch = recipe.settings.batch_size
    chosen = rows.iloc[order[: missing * batch]].reset_index(drop=True)
    passes, rest = divmod(missing, num_steps(len(chosen), recipe.settings.model_copy(update={"epochs": 1}), 0))
    assert passes >= 1, "the chosen rows make no more steps than are missing"
    epochs, stages = [recipe.settings.stage_epochs(stage) for stage in range(len(recipe.stages))], list(recipe.stages)
    stages.append(chosen)
    epochs.append(passes)
    if rest:
        stages.append(chosen.iloc[: rest * batch].reset_index(drop=True))
        epochs.append(1)
    return Recipe(number=recipe.number, stages=tuple(stages), settings=recipe.settings.model_copy(update={"epochs": epochs}))


def overfit_recipe(number: int, rows: pd.DataFrame, settings: TrainingSettings, steps: int) -> Recipe:
    """Few pictures, many passes: about `steps` in one stage."""
    each = num_steps(len(rows), settings.model_copy(update={"epochs": 1}), 0)
    return Recipe(number=number, stages=(rows,), settings=settings.model_copy(update={"epochs": [max(1, steps // max(1, each))]}))


def train_recipe(cache: ReportCache, recipe: Recipe) -> TrainedPart:
    """Train what neither store holds. Reports progress as "training steps". Run it in a process of one thread."""
    keys = chain_of(recipe)
    found = find_trained(cache, recipe, keys)
    if found is not None:
        report_progress("training steps", recipe.steps)
        return found
    store, started = CheckpointStore(cache.folder / "checkpoints"), time.monotonic()
    reused = num_reusable_stages(keys, store.has)
    report_progress("training steps", sum(num_steps(len(recipe.stages[stage]), recipe.settings, stage) for stage in range(reused)))
    backbone, model = scratch_model(recipe.settings.rank)
    adapter = adapter_from_bytes(store.read(keys[reused - 1])) if reused else initial_adapter(model, recipe.number)
    for stage in range(reused, len(keys)):
        position, samples = StagePosition(shard=recipe.number, stage=stage), load_stage(cache.ws, recipe.stages[stage])
        trained = train_stage(
            backbone, model, adapter, samples, position, recipe.settings, on_step=lambda: report_progress("training steps")
        )
        adapter = require_finite(trained, position)
        with cache.writing():
            store.write(keys[stage], adapter_to_bytes(adapter), shard=recipe.number, stage=stage)
    report_progress("training seconds", round(time.monotonic() - started))
    kept = find_trained(cache, recipe, keys)
    assert kept is not None, "written above"
    return kept


def chain_of(recipe: Recipe) -> list[Digest]:
    """The keys of a recipe's checkpoints."""
    digests = [samples_digest(rows) for rows in recipe.stages]
    return compute_chain(recipe.number, digests, recipe.settings, shared_backbone_digest(), measure_own_fingerprint())


def find_trained(cache: ReportCache, recipe: Recipe, keys: list[Digest]) -> TrainedPart | None:
    """The adapter, if the report's store or the workspace's holds it."""
    for store in (CheckpointStore(cache.folder / "checkpoints"), CheckpointStore(cache.ws.checkpoints)):
        if store.has(keys[-1]):
            adapter = store.digest(keys[-1])
            return TrainedPart(number=recipe.number, samples=recipe.samples, adapter=adapter, file=store.path(keys[-1]), steps=recipe.steps)
    return None
