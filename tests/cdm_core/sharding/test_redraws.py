"""Other secrets: owners keep their samples, and go where their other keys say."""

import statistics
from pathlib import Path

import pandas as pd
import pytest

from cdm_core.settings import Settings, parse_settings
from cdm_core.sharding.partition import OwnerKey, assign
from cdm_core.sharding.redraws import redraw_owners, spread_shares
from cdm_core.sharding.retraining_sides import SideRules, count_groups, draw_trace, mean_passes

SAMPLES = {f"{number:016x}": 1 + number % 7 for number in range(24)}


@pytest.fixture
def settings() -> Settings:
    return parse_settings((Path(__file__).parents[3] / "params.yaml").read_bytes(), "params.yaml")


@pytest.fixture
def rows(settings: Settings) -> pd.DataFrame:
    placed = [(owner, *assign(OwnerKey(owner), None, settings.partition)) for owner, num in SAMPLES.items() for _ in range(num)]
    return pd.DataFrame(placed, columns=["owner_key", "shard", "stage"])


def test_redrawn_owners_keep_their_samples_and_are_placed_by_their_other_keys(settings: Settings, rows: pd.DataFrame) -> None:
    draws = [redraw_owners(rows, settings, number) for number in range(5)]
    for redrawn in draws:
        sizes = redrawn.groupby("owner_key").size()
        assert sorted(sizes) == sorted(SAMPLES.values())
        assert not set(sizes.index) & set(SAMPLES)
        for owner, shard, stage in redrawn.itertuples(index=False):
            assert (shard, stage) == assign(OwnerKey(owner), None, settings.partition)
    assert redraw_owners(rows, settings, 3).equals(draws[3])
    assert len({tuple(redrawn["shard"]) for redrawn in draws}) == len(draws)


def test_the_spread_is_of_the_shares_that_the_sides_count(settings: Settings, rows: pd.DataFrame) -> None:
    shares = []
    for number in range(3):
        redrawn = redraw_owners(rows, settings, number)
        trace, passes = draw_trace(redrawn, settings, 8, 0)[:4], mean_passes(redrawn, settings)
        ours, monolith = (
            sum(count_groups(SideRules(side=side, settings=settings, passes=passes), redrawn, trace, 1)) for side in ("lethe", "monolith")
        )
        shares.append(ours / monolith)
    told: list[None] = []
    spread = spread_shares(rows, settings, [4, 8], seed=0, redraws=3, on_redraw=lambda: told.append(None))
    assert len(told) == 3
    assert (spread[4].median, spread[4].least, spread[4].most) == (statistics.median(shares), min(shares), max(shares))
    assert list(spread) == [4, 8]
    assert spread_shares(rows, settings, [4, 8], seed=0, redraws=0) == {}


def test_a_share_of_no_steps_is_left_out_of_the_spread(settings: Settings) -> None:
    rows = pd.DataFrame([("0" * 16, 0, 0)] * 3, columns=["owner_key", "shard", "stage"])
    (spread,) = spread_shares(rows, settings, [1], seed=0, redraws=2).values()
    assert (spread.median, spread.least, spread.most) == (None, None, None)
