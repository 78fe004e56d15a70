"""Nearest neighbours: copies of erased pictures are counted before, and not after."""

import pytest
import torch

from cdm_core.evaluation.neighbours import compare_neighbours


def pictures(num: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (num, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_copies_are_counted() -> None:
    erased, kept, untouched = pictures(3, 0), pictures(9, 1), pictures(5, 2)
    before = torch.cat([erased[:2], kept[:1], untouched])
    after = torch.cat([kept[3:6], untouched])
    found = compare_neighbours(before, after, erased, kept)
    assert found is not None
    assert (found.before.successes, found.before.trials) == (2, 3)
    assert (found.after.successes, found.after.trials) == (0, 3)
    assert found.distance_before == 0 < found.distance_after < 1
    assert found.share_erased == 0.25


def test_an_emptied_shard_leaves_only_erased_neighbours() -> None:
    found = compare_neighbours(pictures(2, 3), pictures(2, 4), pictures(3, 0), pictures(0, 0))
    assert found is not None
    assert found.before.rate == found.after.rate == found.share_erased == 1


def test_equal_pictures_say_nothing() -> None:
    assert compare_neighbours(pictures(2, 3), pictures(2, 3), pictures(3, 0), pictures(3, 1)) is None
    with pytest.raises(ValueError, match="one erased at least"):
        compare_neighbours(pictures(2, 3), pictures(2, 3), pictures(0, 0), pictures(3, 1))
