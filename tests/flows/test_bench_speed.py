"""The benchmarks of composition and training run on every side and report what their commands promise; timings are not judged here."""

from collections.abc import Callable
from functools import partial

import pytest

from flows.bench import alternation
from flows.bench.alternation import median_ratio, time_in_turn
from flows.bench.compose import run_bench_compose
from flows.bench.training import run_bench_training


def test_composition_is_measured_by_every_method_and_number() -> None:
    document = run_bench_compose(pictures=1, steps=1, repetitions=1, counts=(1, 2))
    rows = document["rows"]
    assert isinstance(rows, list)
    assert {(row["method"], row["adapters"]) for row in rows} == {
        (method, count) for method in ("sequential", "adapter_names", "stacked", "shard_per_image") for count in (1, 2)
    }
    assert all(row["ratio"] > 0 for row in rows)
    largest, tolerance, apart = (document[name] for name in ("largest_difference", "tolerance", "experts_apart"))
    assert isinstance(largest, float)
    assert isinstance(tolerance, float)
    assert isinstance(apart, float)
    assert largest < tolerance  # where a processor's kernels sum alike it is 0
    assert apart > 100 * tolerance  # so that stacked experts in another order would be seen


def test_training_is_measured_against_both_others() -> None:
    rows = run_bench_training(steps=1, repetitions=1)["rows"]
    assert isinstance(rows, list)
    assert [row["side"] for row in rows] == ["lethe", "plain", "peft_diffusers"]
    assert rows[0]["speed_of_lethe"] == 1
    assert all(row["steps_per_second"] > 0 for row in rows)


def test_sides_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert [len(taken) for taken in seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_of_paired_ratios() -> None:
    assert median_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_a_side_is_compared_with_the_baseline_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    seconds = {"one": [9.0, 9.0, 9.0, 1.0, 3.0, 5.0], "a": [9.0, 4.0], "b": [9.0, 12.0]}

    def take(run: Callable[[], object]) -> float:
        run()
        return seconds[order[-1]].pop(0)

    monkeypatch.setattr(alternation, "_time", take)
    sides = {name: partial(order.append, name) for name in ("a", "b")}
    assert alternation.measure_ratios(lambda: order.append("one"), sides, 1) == {"a": 2.0, "b": 3.0}
    assert order == ["one", "a", "one", "b", "one"] * 2
