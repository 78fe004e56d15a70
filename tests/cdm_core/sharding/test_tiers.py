from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError
from cdm_core.sharding.tiers import (
    Tier,
    draw_tier,
    is_tier_name,
    order_tiers,
    place_in_tier,
    resample_epochs,
    stage_rate,
    stage_tiers,
    tier_stages,
)

TIERS = tuple(
    Tier(name=name, rate=rate, share=share)
    for name, rate, share in [("contested", 0.5, 0.1), ("contract", 0.002, 0.4), ("opt-out", 0.1, 0.2), ("opt-in", 0.02, 0.3)]
)
KEYS = [f"{number:016x}" for number in range(2000)]


def test_the_coldest_tier_comes_first() -> None:
    assert [tier.name for tier in order_tiers(TIERS)] == ["contract", "opt-in", "opt-out", "contested"]


@pytest.mark.parametrize(
    ("num_tiers", "num_stages", "stages"),
    [
        (4, 4, [[0], [1], [2], [3]]),
        (4, 1, [[0], [0], [0], [0]]),
        (4, 2, [[0], [0], [1], [1]]),
        (4, 3, [[0], [0], [1], [2]]),
        (4, 5, [[0], [1], [2], [3, 4]]),
        (4, 8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (1, 3, [[0, 1, 2]]),
    ],
)
def test_which_stages_a_tier_has(num_tiers: int, num_stages: int, stages: list[list[int]]) -> None:
    assert [list(tier_stages(index, num_tiers, num_stages)) for index in range(num_tiers)] == stages


@given(st.integers(1, 12), st.integers(1, 100))
def test_every_stage_has_a_tier_and_no_colder_tier_trains_later(num_tiers: int, num_stages: int) -> None:
    stages = [tier_stages(index, num_tiers, num_stages) for index in range(num_tiers)]
    assert {stage for tier in stages for stage in tier} == set(range(num_stages))
    assert all(colder[-1] <= hotter[0] for colder, hotter in pairwise(stages))


def test_owners_without_a_tier_are_drawn_by_the_shares() -> None:
    drawn = Counter(draw_tier(key, TIERS).name for key in KEYS)
    # The largest standard deviation is 22.
    assert {name: round(number / 100) for name, number in drawn.items()} == {"contract": 8, "opt-in": 6, "opt-out": 4, "contested": 2}


def test_the_order_in_which_tiers_are_listed_changes_no_draw() -> None:
    assert [draw_tier(key, TIERS) for key in KEYS] == [draw_tier(key, TIERS[::-1]) for key in KEYS]


def test_nobody_is_drawn_into_a_tier_without_a_share() -> None:
    assert {draw_tier(key, (Tier(name="a", rate=1, share=0), Tier(name="b", rate=2, share=1))).name for key in KEYS} == {"b"}


def test_a_tier_of_several_stages_is_split_by_the_key() -> None:
    places = Counter(place_in_tier(key, "opt-in", TIERS, 8) for key in KEYS)
    assert set(places) == {2, 3}
    assert min(places.values()) > 900


def test_the_rate_of_a_stage() -> None:
    assert [stage_rate(TIERS, stage, 4) for stage in range(4)] == pytest.approx([0.002, 0.02, 0.1, 0.5])
    assert [stage_rate(TIERS, stage, 2) for stage in range(2)] == pytest.approx([0.0068 / 0.7, 0.07 / 0.3])
    assert [stage_rate(TIERS, stage, 8) for stage in range(8)] == pytest.approx([0.002, 0.002, 0.02, 0.02, 0.1, 0.1, 0.5, 0.5])
    assert stage_rate((), 3, 4) == 1
    assert stage_rate((Tier(name="a", rate=1, share=0), Tier(name="b", rate=3, share=0)), 0, 1) == 2
    assert [tier.name for tier in stage_tiers(TIERS, 1, 2)] == ["opt-out", "contested"]


@pytest.mark.parametrize(
    ("num_stages", "epochs"),
    [(4, [5, 3, 1, 1]), (8, [5, 5, 3, 3, 1, 1, 1, 1]), (5, [5, 3, 1, 1, 1]), (3, [4, 1, 1]), (2, [4, 1]), (1, [3])],
)
def test_epochs_follow_the_tiers(num_stages: int, epochs: list[int]) -> None:
    assert resample_epochs([5, 3, 1, 1], TIERS, num_stages) == epochs


@pytest.mark.parametrize(
    ("name", "rate", "share", "message"),
    [
        ("2", 1, 1, "^tiers: a name has up to 32"),
        ("x" * 33, 1, 1, "^tiers: a name has up to 32"),
        ("a", 0, 1, "^tiers.a.rate: 0 is not above 0$"),
        ("a", float("inf"), 1, "^tiers.a.rate: inf is not above 0$"),
        ("a", 1, -1, "^tiers.a.share: -1 is not 0 or above$"),
    ],
)
def test_a_wrong_tier_is_refused(name: str, rate: float, share: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Tier(name=name, rate=rate, share=share)


@given(st.integers())
def test_no_number_is_a_tiers_name(number: int) -> None:
    assert not is_tier_name(str(number))
