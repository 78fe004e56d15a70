"""Expected costs against the known answers of shared/paper/formulas.md, "Cost of exact unlearning", and against counting."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.settings import Settings, parse_settings
from cdm_core.sharding.partition import OwnerKey
from cdm_core.sharding.stage_plan import (
    OwnerSamples,
    StageCost,
    build_alternatives,
    expected_shard_steps,
    hit_probabilities,
    split_cumulatively,
    split_equally,
    split_front_loaded,
)

R = 8
DOUBLING = [2**stage / 255 for stage in range(R)]
"""Deletion rates that grow exponentially from stage to stage."""

SHIPPED = parse_settings((Path(__file__).parents[3] / "params.yaml").read_bytes(), "params.yaml")
SETTINGS = SHIPPED.model_copy(update={"training": SHIPPED.training.model_copy(update={"batch_size": 16, "epochs": [5, 3, 1, 1]})})
"""The shipped tiers and stages, with the batches and epochs that the known answers were worked out for."""


def cost(steps: list[float], hits: list[float], batch: int = 1) -> float:
    return expected_shard_steps([StageCost(steps=number, hit=hit) for number, hit in zip(steps, hits, strict=True)], batch)


CUMULATIVE = split_cumulatively(1, [1] * R)


@pytest.mark.parametrize(
    ("steps", "hits", "share", "tolerance"),
    [
        pytest.param(CUMULATIVE, DOUBLING[::-1], 0.95, 0.005, id="hot first"),
        pytest.param(CUMULATIVE, [1 / R] * R, 0.71, 0.005, id="random"),
        pytest.param(CUMULATIVE, DOUBLING, 0.39, 0.005, id="cold first"),
        # The table's last figure was measured on a toy; the formula gives 0.1417.
        pytest.param(split_front_loaded(1, [1] * R), DOUBLING, 0.15, 0.01, id="cold first, half of the steps in stage 1"),
    ],
)
def test_the_published_table(steps: list[float], hits: list[float], share: float, tolerance: float) -> None:
    assert cost(steps, hits) == pytest.approx(share, abs=tolerance)


@pytest.mark.parametrize("stages", [1, 2, 4, 8, 100])
def test_the_closed_forms_for_uniform_deletion(stages: int) -> None:
    uniform = [1 / stages] * stages
    assert cost(split_equally(1, [5.0] * stages), uniform) == pytest.approx((stages + 1) / (2 * stages))
    assert cost(split_cumulatively(1, [5.0] * stages), uniform) == pytest.approx(2 / 3 + 1 / (3 * stages))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 9))
def test_the_formula_equals_counting_all_batches(stages: list[tuple[int, int]], batch: int, elsewhere: int) -> None:
    """`elsewhere` is the weight of deletions in other shards."""
    weights = [weight for _, weight in stages] + [elsewhere]
    total = sum(weights)
    counted = 0.0
    for places in product(range(len(weights)), repeat=batch):
        probability = 1.0
        for place in places:
            probability *= weights[place] / total
        counted += probability * sum(steps for steps, _ in stages[min(places) :])
    formula = cost([float(steps) for steps, _ in stages], [weight / total for _, weight in stages], batch)
    assert formula == pytest.approx(counted)


@given(st.permutations(DOUBLING))
def test_no_order_of_equal_stages_is_cheaper_than_the_coldest_first(hits: list[float]) -> None:
    assert cost([1.0] * R, hits) >= cost([1.0] * R, DOUBLING) - 1e-12


def test_the_splits() -> None:
    assert split_equally(12, [1, 2, 3]) == [2, 4, 6]
    assert split_cumulatively(20, [1, 2, 3]) == [2, 6, 12]
    assert split_front_loaded(20, [1, 1, 4]) == [10, 2, 8]
    assert split_front_loaded(20, [0, 1, 4]) == [0, 10, 10]
    assert split_front_loaded(20, [0, 7, 0]) == [0, 20, 0]
    assert split_front_loaded(0, [0, 0]) == split_cumulatively(0, [0, 0]) == [0, 0]


def owners(num: int = 800) -> list[OwnerSamples]:
    """Ten samples each, in the tiers' shares."""
    stages = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    return [
        OwnerSamples(
            owner_key=OwnerKey(f"{number:016x}"),
            shard=number // 10 % 8,
            samples=tuple(10 * (stage == stages[number % 10]) for stage in range(4)),
        )
        for number in range(num)
    ]


def settings(**changes: object) -> Settings:
    return SETTINGS.model_copy(update=changes)


def test_the_alternatives_of_known_owners() -> None:
    """Eight equal shards of 1,000 samples; Q = .0104, .0885, .3490, 1; the chosen steps are 125, 57, 13 and 7."""
    alternatives = {alternative.name: alternative for alternative in build_alternatives(owners(), SETTINGS)}
    assert list(alternatives) == ["one stage", "SISA order", "cold first", "cold first, front-loaded", "chosen"]
    assert [alternative.steps for alternative in alternatives.values()] == pytest.approx([8 * 202] * 5)
    up_to = [0.0008 / 0.0768, 0.0068 / 0.0768, 0.0268 / 0.0768, 1]
    known = {"cold first": [80.8, 60.6, 40.4, 20.2], "cold first, front-loaded": [101, 50.5, 101 / 3, 101 / 6], "chosen": [125, 57, 13, 7]}
    for name, steps in known.items():
        expected = sum(number * hit for number, hit in zip(steps, up_to, strict=True))
        assert alternatives[name].expected_steps() == pytest.approx(expected)
    assert alternatives["one stage"].expected_steps() == pytest.approx(202)
    costs = [alternative.expected_steps() for alternative in alternatives.values()]
    assert costs == sorted(costs, reverse=True)
    assert [stage.steps for stage in alternatives["chosen"].shards[5]] == [125, 57, 13, 7]


@pytest.mark.parametrize("batch", [8, 64])
def test_a_batch_costs_less_than_its_deletions_one_by_one_and_never_more_than_all(batch: int) -> None:
    for alternative in build_alternatives(owners(), SETTINGS):
        assert alternative.expected_steps() < alternative.expected_steps(batch) < batch * alternative.expected_steps()
        assert alternative.expected_steps(10**6) == pytest.approx(alternative.steps)


def test_one_stage_leaves_nothing_to_choose() -> None:
    one = settings(stages=1, training=SETTINGS.training.model_copy(update={"epochs": 3}))
    everyone = [OwnerSamples(owner_key=owner.owner_key, shard=owner.shard, samples=(10,)) for owner in owners()]
    costs = [alternative.expected_steps() for alternative in build_alternatives(everyone, one)]
    assert costs == pytest.approx([costs[0]] * 5)


def test_an_owner_in_several_stages_is_hit_in_the_first() -> None:
    both = OwnerSamples(owner_key=OwnerKey("a" * 16), shard=0, samples=(0, 16, 0, 16))
    assert both.stage == 1
    chosen = build_alternatives([both], SETTINGS)[-1]
    assert [(stage.steps, stage.hit) for stage in chosen.shards[0]] == [(0, 0), (3, 1), (0, 0), (1, 0)]
    assert chosen.expected_steps() == 4


def test_deletions_fall_on_owners_by_their_tiers_rates() -> None:
    cold, hot = owners()[0], owners()[9]
    assert hit_probabilities([cold, hot], SETTINGS) == pytest.approx([0.002 / 0.502, 0.5 / 0.502])
    assert hit_probabilities([cold, hot], settings(tiers={})) == [0.5, 0.5]


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        cost([1.0], [1.0], 0)
    with pytest.raises(ValueError, match="steps must not be negative"):
        StageCost(steps=-1, hit=0.5)
    with pytest.raises(ValueError, match="hit lie between 0 and 1"):
        StageCost(steps=1, hit=1.5)
    with pytest.raises(ValueError, match="an owner has one sample at least"):
        OwnerSamples(owner_key=OwnerKey("a" * 16), shard=0, samples=(0, 0))
