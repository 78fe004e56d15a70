"""Recipes of the report's adapters, its cache, and its page: made of the figures alone, and escaped."""

from dataclasses import replace

import pytest
from quick_settings import use_quick_settings

from cdm_core.errors import StateError
from cdm_core.settings import TrainingSettings
from cdm_core.sharding.manifests import samples_digest
from cdm_core.sharding.splits import Part, Split
from tasks.data.manifest_store import load_manifest, load_manifests
from tasks.data.samples import remove_samples
from tasks.paper_report.cache import data_digest, erase_report, open_cache
from tasks.paper_report.experts import chain_of, overfit_recipe, recipe_of, topped_up
from tasks.paper_report.overfitting import overfit_split, why_left_out
from tasks.paper_report.page import goals_of, render_page
from tasks.paper_report.study import PARAGON, Budget, Study, open_study
from tasks.training.shard_training import plan_chain
from tasks.workspace import Workspace

INTERVAL = {"value": 1.2, "low": 1.15, "high": 1.25}


@pytest.fixture
def study(small: Workspace) -> Study:
    return open_study(use_quick_settings(small), Budget(samples=16))


def test_a_part_that_is_a_shard_has_its_checkpoints(study: Study) -> None:
    shards = {shard: load_manifest(study.cache.ws, shard) for shard in study.settings.shard_ids}
    owners = {samples_digest(frame): shard for shard, frame in shards.items()}
    found = 0
    for part in study.splits["owner/2"].parts:
        shard = owners[samples_digest(study.part_rows(part))]
        assert chain_of(recipe_of(part, study.rows, study.settings)) == plan_chain(shards[shard], shard, study.settings)
        found += 1
    assert found == 2


def test_the_paragon_makes_the_steps_of_the_most_finely_split(study: Study) -> None:
    (paragon,) = study.recipes(PARAGON)
    assert paragon.steps == sum(recipe.steps for recipe in study.recipes("owner/8"))
    assert paragon.samples == len(study.rows) == 12


@pytest.mark.parametrize("more", [0, 1, 3, 6, 7, 20])
def test_topping_up_is_exact(study: Study, more: int) -> None:
    recipe = recipe_of(study.splits[PARAGON].parts[0], study.rows, study.settings)
    assert topped_up(recipe, recipe.steps + more).steps == recipe.steps + more
    assert topped_up(recipe, recipe.steps - 1) is recipe


def test_overfitting_is_many_passes_over_few(study: Study) -> None:
    rows = study.rows.iloc[:4].reset_index(drop=True)
    training = TrainingSettings(rank=2, learning_rate=0.1, batch_size=2, epochs=1, caption_dropout=0)
    assert overfit_recipe(0, rows, training, 10).steps == 10
    assert overfit_recipe(0, rows, training, 1).steps == 2


def test_a_recipe_is_named_by_its_samples(study: Study) -> None:
    (recipe,) = study.recipes(PARAGON)
    fewer = replace(recipe, stages=(recipe.stages[0].iloc[1:], *recipe.stages[1:]))
    assert chain_of(fewer)[0] != chain_of(recipe)[0]


def test_nothing_is_written_once_the_data_changed(study: Study) -> None:
    cache, ws = study.cache, study.cache.ws
    cache.write(ws.report / "cell", b"of today")
    remove_samples(ws, load_manifests(ws)[0].iloc[:1])
    assert data_digest(ws) != cache.data
    with pytest.raises(StateError, match="its data changed while the report was made; run again"):
        cache.write(ws.report / "other", b"of yesterday")
    assert [path.name for path in ws.report.iterdir()] == ["cell"]
    open_cache(ws).write(ws.report / "other", b"of today")
    assert erase_report(ws) == 2
    assert not ws.report.exists()
    assert erase_report(ws) == 0


def test_where_all_pictures_are_trained_on_there_is_no_memorisation_to_measure(study: Study) -> None:
    cut = overfit_split(study.splits["owner/2"], study.rows)
    reason = why_left_out(cut, study.rows)
    assert reason is not None
    assert reason.startswith("no picture is held out")
    rows, whole = study.rows.assign(sample_id=[f"{row:064x}" for row in range(12)]), cut.parts[0]
    assert why_left_out(Split(name="overfitted", parts=(whole,)), rows) is None
    one = Split(name="overfitted", parts=(Part(number=0, rows=(0,), name="one"),))
    assert str(why_left_out(one, rows)).startswith("one picture to train on")


def test_a_page_says_what_was_left_out_and_why() -> None:
    head = {
        "samples": 5,
        "owners": 1,
        "epochs": [1],
        "made_at": "2026-01-01",
        "splits": {"owner/8": {"steps": 1, "parts": [{"samples": 5}]}},
    }
    document = {**head, "figure_4a": {"left_out": "one group only"}, "figure_4b": {"left_out": "no picture is held out"}}
    page = render_page(document)
    assert "<p>one group only</p>" in page
    assert "<p>no picture is held out</p>" in page
    assert goals_of(document) == []


def test_a_page_says_what_was_missed_and_escapes_names() -> None:
    figure = {
        "num_samples": 8,
        "splits": [
            {
                "split": "owner/8",
                "one_dropped": [{"shard": 0, "name": "<script>", "samples": 3, "change": INTERVAL}],
                "mean_of_one_dropped": {"value": 0.02, "low": 0.015, "high": 0.025},
                "dropping": [{"dropped": 1, "change": INTERVAL}],
                "adding": [{"shards": 1, "change": INTERVAL}],
                "goal": {"limit": 0.01, "verdict": "missed", "shards_within": 0, "shards": 1},
            }
        ],
    }
    document = {
        "samples": 12,
        "owners": 4,
        "epochs": [1, 1],
        "made_at": "2026-01-01",
        "splits": {"owner/8": {"steps": 3, "parts": [{"samples": 3}]}},
        "figure_2": figure,
    }
    (goal,) = goals_of(document)
    assert (goal.verdict, goal.said) == ("missed", "mean change when one is dropped +2.0 % [+1.5, +2.5]; 0 of 1 shards at or below 1.0 %")
    page = render_page(document)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert 'class="goal missed"' in page
    assert page == render_page(document)
