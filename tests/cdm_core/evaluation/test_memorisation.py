import pytest
import torch

from cdm_core.evaluation.memorisation import measure_memorisation, measure_ratios
from cdm_core.evaluation.proportions import compute_proportion


def pictures(num: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (num, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_known_ratios() -> None:
    training = torch.tensor([0.0, 3.0, 10.0])[:, None, None, None]
    ratios, nearest = measure_ratios(torch.tensor([1.0, 9.0, 3.0])[:, None, None, None], training, num_neighbours=2)
    torch.testing.assert_close(ratios, torch.tensor([1 / 1.5, 1 / 3.5, 0.0], dtype=torch.float64))
    assert nearest.tolist() == [0, 2, 1]


def test_copies_are_found_and_the_null_is_beside_them() -> None:
    training = pictures(200, 0)
    copied = torch.cat([training[:10], pictures(30, 1)])
    found = measure_memorisation(copied, training, pictures(100, 2), threshold=0.3)
    assert (found.generated.successes, found.generated.trials) == (10, 40)
    assert found.held_out.successes == 0
    assert found.nearest_B[:10].tolist() == list(range(10))
    assert float(found.ratios_B[:10].amax()) == 0


def test_by_default_a_twentieth_of_the_null_lies_below_the_threshold() -> None:
    found = measure_memorisation(pictures(60, 1), pictures(200, 0), pictures(100, 2))
    assert found.held_out.successes == 5
    # Fresh noise is no nearer than the null.
    assert found.generated.low < 0.05 < found.generated.high


def test_training_pictures_that_are_all_one_make_nothing_stand_out() -> None:
    ratios, _ = measure_ratios(torch.zeros(1, 1, 2, 2), torch.zeros(3, 1, 2, 2))
    assert ratios.tolist() == [1.0]


@pytest.mark.parametrize(("generated", "held_out", "threshold"), [(0, 3, None), (3, 0, None), (3, 0, 0.3)])
def test_a_side_without_a_picture_is_refused(generated: int, held_out: int, threshold: float | None) -> None:
    with pytest.raises(ValueError, match="a rate and its null need a generated and a held-out picture"):
        measure_memorisation(pictures(generated, 0), pictures(5, 1), pictures(held_out, 2), threshold=threshold)


def test_one_training_picture_is_not_enough() -> None:
    with pytest.raises(ValueError, match="a ratio of distances needs two training pictures or more"):
        measure_ratios(pictures(1, 0), pictures(1, 1))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R 4: prop.test(x, n, correct = FALSE)
    [(10, 100, 0.05522914, 0.1743657), (0, 20, 0.0, 0.1611252), (20, 20, 0.8388748, 1.0), (1, 2, 0.0945312, 0.9054688)],
)
def test_wilson_intervals(successes: int, trials: int, low: float, high: float) -> None:
    interval = compute_proportion(successes, trials)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_no_proportion_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {trials} is no proportion"):
        compute_proportion(successes, trials)
