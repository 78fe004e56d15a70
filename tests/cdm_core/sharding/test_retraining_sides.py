"""Counting what a deletion costs each side, on a small table whose answers can be worked out by hand."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from cdm_core.digests import derive_uniform
from cdm_core.settings import Settings, TierSettings, parse_settings
from cdm_core.sharding.retraining_sides import SIDES, Side, SideRules, count_groups, draw_trace, group_trace, mean_passes, share_of
from cdm_core.sharding.tiers import order_tiers

PARAMETERS = b"""
shard_ids: [0, 1]
stages: 2
tiers: {cold: {rate: 0.01, share: 1}, hot: {rate: 1, share: 1}}
training: {rank: 4, learning_rate: 0.004, batch_size: 4, epochs: [3, 1], caption_dropout: 0}
sampling: {steps: 2, guidance_scale: 1, method: shard_per_image}
knn: {centroids: 2, temperature: 0.1}
evaluation: {samples: 16, blocks: 4, margin: 0.1, seed: 0, inception_weights: null}
"""
OWNERS = {"a": (0, 0, 8), "b": (0, 1, 5), "c": (1, 0, 6), "d": (1, 1, 2)}
"""Shard, stage, samples."""


@pytest.fixture
def settings() -> Settings:
    return parse_settings(PARAMETERS, "params.yaml")


@pytest.fixture
def rows() -> pd.DataFrame:
    named = [(owner, shard, stage) for owner, (shard, stage, num) in OWNERS.items() for _ in range(num)]
    return pd.DataFrame(named, columns=["owner_key", "shard", "stage"])


def rules_of(side: Side, settings: Settings, rows: pd.DataFrame) -> SideRules:
    return SideRules(side=side, settings=settings, passes=mean_passes(rows, settings))


def test_the_mean_passes(settings: Settings, rows: pd.DataFrame) -> None:
    assert mean_passes(rows, settings) == round((14 * 3 + 7 * 1) / 21) == 2


@pytest.mark.parametrize(
    ("side", "build", "without_b"),
    [
        ("monolith", 2 * 6, 2 * 4),  # ⌈21/4⌉, then ⌈16/4⌉
        ("cdm", 2 * 4 + 2 * 2, 2 * 2),  # ⌈13/4⌉ and ⌈8/4⌉, then ⌈8/4⌉
        ("lethe", 3 * 2 + 2 + 3 * 2 + 1, 0),  # b alone is in its shard's last stage: nothing is left to train there
    ],
)
def test_steps_by_hand(side: Side, build: int, without_b: int, settings: Settings, rows: pd.DataFrame) -> None:
    rules = rules_of(side, settings, rows)
    assert rules.count_steps(rules.build(rows)) == build
    assert rules.count_steps(rules.forget(rows, ["b"])) == without_b


def test_a_deletion_from_the_first_stage_retrains_the_later_ones_too(settings: Settings, rows: pd.DataFrame) -> None:
    rules = rules_of("lethe", settings, rows)
    (retraining,) = rules.forget(rows, ["a"])
    assert (retraining.position, retraining.first) == (0, 0)
    assert [len(stage.rows) for stage in retraining.stages] == [0, 5]
    assert rules.count_steps([retraining]) == 2


def test_sisa_trains_each_stage_on_all_data_up_to_it(settings: Settings, rows: pd.DataFrame) -> None:
    stages = [stage for adapter in rules_of("sisa", settings, rows).build(rows) for stage in adapter.stages]
    assert [len(stage.rows) for stage in stages[1::2]] == [13, 8]
    assert all(set(early.rows) <= set(late.rows) for early, late in zip(stages[::2], stages[1::2], strict=True))


def test_what_is_carried_out_together_is_retrained_once(settings: Settings, rows: pd.DataFrame) -> None:
    for side in SIDES:
        rules = rules_of(side, settings, rows)
        together, alone = (count_groups(rules, rows, ["a", "b", "c"], batch) for batch in (3, 1))
        assert together == [rules.count_steps(rules.forget(rows, ["a", "b", "c"]))]
        assert len(alone) == 3
        assert sum(together) <= sum(alone)


def test_a_group_that_is_gone_is_not_trained_on_by_the_next(settings: Settings, rows: pd.DataFrame) -> None:
    rules = rules_of("cdm", settings, rows)
    left = rows[~rows["owner_key"].isin(["a", "c"])]
    assert count_groups(rules, rows, ["a", "c", "d"], 2)[1] == rules.count_steps(rules.forget(left, ["d"]))


def test_owners_withdraw_as_often_as_their_tier_does(settings: Settings, rows: pd.DataFrame) -> None:
    """Two hot owners and two cold ones, at a hundred to one: the first to go is hot in all but about one of a hundred traces."""
    firsts = [draw_trace(rows, settings, 1, seed)[0] for seed in range(400)]
    assert 0.95 < sum(OWNERS[owner][1] == 1 for owner in firsts) / 400 < 1
    assert draw_trace(rows, settings, 4, 0) == draw_trace(rows.sample(frac=1, random_state=1), settings, 4, 0)
    assert sorted(draw_trace(rows, settings, 4, 0)) == list("abcd")
    with pytest.raises(ValueError, match="5 requests need as many owners; there are 4"):
        draw_trace(rows, settings, 5, 0)


def test_each_group_comes_after_the_rows_that_the_groups_before_it_have_left(rows: pd.DataFrame) -> None:
    groups = [(len(left), group) for left, group in group_trace(rows, ["a", "b", "c"], 2)]
    assert groups == [(21, ["a", "b"]), (8, ["c"])]


def test_nothing_is_a_share_of_no_steps(settings: Settings, rows: pd.DataFrame) -> None:
    assert count_groups(rules_of("monolith", settings, rows), rows, list(OWNERS), 4) == [0]
    assert (share_of(0, 0), share_of(3, 4)) == (None, 0.75)


def test_the_order_is_that_of_the_powers_where_none_underflows() -> None:
    shipped = parse_settings((Path(__file__).parents[3] / "params.yaml").read_bytes(), "params.yaml")
    rates = [tier.rate for tier in order_tiers(shipped.partition.tiers)]
    owners = pd.DataFrame([(f"{number:016x}", 0, number % 4) for number in range(400)], columns=["owner_key", "shard", "stage"])
    for seed in range(5):
        powers = {key: derive_uniform("trace", seed, key) ** (1 / rates[stage]) for key, _, stage in owners.itertuples(index=False)}
        expected = sorted((key for key in powers if powers[key] > 0), key=lambda key: -powers[key])
        assert draw_trace(owners, shipped, len(expected), seed) == expected


def test_owners_of_tiny_rates_withdraw_in_no_order_of_their_keys(settings: Settings) -> None:
    """At a rate of a withdrawal in a hundred thousand years nearly every power of a uniform is 0.0."""
    rare = settings.model_copy(update={"tiers": {"cold": TierSettings(rate=1e-5, share=1)}})
    rows = pd.DataFrame([(owner, 0, 0) for owner in OWNERS], columns=["owner_key", "shard", "stage"])
    firsts = Counter(draw_trace(rows, rare, 1, seed)[0] for seed in range(400))
    assert all(60 < firsts[owner] < 140 for owner in OWNERS)
