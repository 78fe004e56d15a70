"""Membership inference: a memoriser is found out, one that never saw the pictures isn't, and the intervals are those of their sources."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from cdm_core.evaluation.membership import (
    MAX_AREA_AFTER,
    Membership,
    Statistics,
    allot,
    compute_losses,
    draw_samples,
    estimate_area,
    hanley_mcneil_variance,
    judge_membership,
)
from cdm_core.training import StageSamples

Z = 1.959963984540054


class Memoriser(torch.nn.Module):
    """Predicts the velocity towards the known picture that is nearest to its input, or towards grey if none is near."""

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.known = known

    def forward(self, x: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        time = (steps / 1000)[:, None, None, None]
        candidates = torch.cat([torch.zeros(1, 3, 4, 4), self.known])
        distances = (x[:, None] - (1 - time[:, None]) * candidates[None]).square().mean(dim=(2, 3, 4))
        return ((x - candidates[distances.argmin(dim=1)]) / time.clamp_min(0.05),)


@dataclass(frozen=True)
class ToyBackbone:
    """Pixels as latents, captions of no meaning."""

    network: torch.nn.Module

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float() / 127.5 - 1

    def encode_captions(self, captions: list[str]) -> torch.Tensor:
        return torch.zeros(len(captions), 1, 1)


TOY = ToyBackbone(network=Memoriser(torch.empty(0, 3, 4, 4)))


def make_samples(name: str, num: int) -> StageSamples:
    """Pictures of two values, far from each other and from grey."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    pictures = 255 * torch.randint(2, (num, 3, 4, 4), generator=generator)
    return StageSamples(
        sample_ids=[f"{name}-{number}" for number in range(num)], captions=["a thing"] * num, pictures=pictures.to(torch.uint8)
    )


def knowing(*samples: StageSamples) -> Memoriser:
    return Memoriser(torch.cat([TOY.encode_pictures(each.pictures) for each in samples]))


def help_of(expert: torch.nn.Module, samples: StageSamples) -> torch.Tensor:
    bare, adapted = (compute_losses(TOY, network, samples) for network in (TOY.network, expert))  # type: ignore[arg-type]
    return bare - adapted


def attack(before: Memoriser, after: Memoriser, erased: StageSamples, null: StageSamples) -> Membership:
    sides = [Statistics(before_N=help_of(before, each), after_N=help_of(after, each)) for each in (erased, null)]
    return judge_membership(*sides)


def test_a_memoriser_is_found_out_and_what_never_saw_the_pictures_is_not() -> None:
    erased, null, rest = make_samples("erased", 24), make_samples("null", 32), make_samples("rest", 40)
    result = attack(knowing(erased, rest), knowing(rest), erased, null)
    assert result.before.value > 0.95
    assert result.after.low < 0.5 < result.after.high < MAX_AREA_AFTER
    assert result.drop.low > 0
    assert result.help_lost.low > 0
    assert (result.verdict, result.num_erased, result.num_null) == ("corroborated", 24, 32)


def test_a_model_that_still_knows_the_pictures_is_not_corroborated() -> None:
    erased, null = make_samples("erased", 24), make_samples("null", 32)
    result = attack(knowing(erased), knowing(erased), erased, null)
    assert result.verdict == "inconclusive"
    assert "still differ" in result.reason
    assert (result.drop.value, result.drop.low, result.drop.high) == (0, 0, 0)


def test_the_same_network_twice_says_nothing() -> None:
    assert torch.equal(help_of(TOY.network, make_samples("a", 5)), torch.zeros(5, dtype=torch.float64))


def test_a_pictures_noise_is_its_own_in_whatever_company() -> None:
    samples = make_samples("a", 21)
    alone = StageSamples(sample_ids=samples.sample_ids[20:], captions=["a thing"], pictures=samples.pictures[20:])
    expert = knowing(make_samples("b", 3))
    assert compute_losses(TOY, expert, samples)[20:].tolist() == compute_losses(TOY, expert, alone).tolist()  # type: ignore[arg-type]


def test_times_are_stratified() -> None:
    seen: list[float] = []

    class Recorder(torch.nn.Module):
        def forward(self, x: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            seen.extend((steps / 1000).tolist())
            return (x,)

    compute_losses(TOY, Recorder(), make_samples("a", 6), num_times=4)  # type: ignore[arg-type]
    assert len(set(seen)) == 24
    assert [int(4 * time) for time in seen] == [0, 1, 2, 3] * 6


def test_the_variance_is_exact_for_the_model_it_was_derived_from() -> None:
    """Hanley and McNeil 1982: both sides exponential, here with means 3 and 1, so that the area is 3/4."""
    generator = torch.Generator().manual_seed(4)
    members, null = (scale * torch.empty(4000, size).exponential_(generator=generator) for scale, size in ((3, 10), (1, 20)))
    areas = (members[:, :, None] > null[:, None, :]).double().mean(dim=(1, 2))
    assert float(areas.mean()) == pytest.approx(0.75, abs=0.005)
    assert float(areas.var()) == pytest.approx(hanley_mcneil_variance(0.75, 10, 20, 200), rel=0.05)
    assert hanley_mcneil_variance(0.75, 20, 10, 200) < 0.85 * hanley_mcneil_variance(0.75, 10, 20, 200)  # the sides aren't alike


@pytest.mark.parametrize(("num_members", "num_null", "shift"), [(12, 32, 0.0), (12, 32, 1.0), (32, 32, 3.0)])
def test_the_interval_covers_the_true_area(num_members: int, num_null: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = float(torch.special.ndtr(torch.tensor(shift / 2**0.5)))
    covered = 0
    for _ in range(300):
        members = shift + torch.randn(num_members, generator=generator)
        found = estimate_area(members, torch.randn(num_null, generator=generator))
        covered += found.low <= truth <= found.high
    assert covered >= 0.93 * 300


def test_the_interval_ends_where_the_distance_is_z_standard_errors() -> None:
    found = estimate_area(torch.tensor([0.3, 1.2, 2.5, 0.9]), torch.tensor([0.1, 1.0, 0.2, 0.8, 0.4]))
    assert found.value == (3 - 1 + 5 + 5 + 4) / 20
    for edge in (found.low, found.high):
        assert abs(edge - found.value) == pytest.approx(Z * hanley_mcneil_variance(edge, 4.5, 4.5, 20) ** 0.5)


def test_perfect_separation_isnt_certainty() -> None:
    ones, zeros = torch.ones(10), torch.zeros(10)
    assert (estimate_area(ones, zeros).value, estimate_area(ones, zeros).high) == (1, 1)
    assert 0.5 < estimate_area(ones, zeros).low < 0.9
    assert estimate_area(zeros, ones).low == 0
    assert estimate_area(zeros, zeros).value == 0.5
    with pytest.raises(ValueError, match="a picture on each side"):
        estimate_area(ones, torch.empty(0))


def test_the_interval_of_the_drop_is_delongs() -> None:
    """By the covariance matrices of the placements, as DeLong et al. write it."""
    generator = torch.Generator().manual_seed(1)
    erased, null = (
        Statistics(
            before_N=torch.randn(size, generator=generator).double() + shift, after_N=torch.randn(size, generator=generator).double()
        )
        for size, shift in ((15, 1.0), (20, 0.0))
    )
    placements: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda x, y: (x[:, None] > y[None, :]).double()  # noqa: E731
    sides = [placements(erased.before_N, null.before_N), placements(erased.after_N, null.after_N)]
    of_erased, of_null = torch.cov(torch.stack([side.mean(1) for side in sides])), torch.cov(torch.stack([side.mean(0) for side in sides]))
    covariance = of_erased / 15 + of_null / 20
    error = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) ** 0.5
    drop = judge_membership(erased, null).drop
    assert drop.value == pytest.approx(float(sides[0].mean() - sides[1].mean()))
    assert (drop.low, drop.high) == (pytest.approx(drop.value - Z * error), pytest.approx(drop.value + Z * error))


def separated(num: int, by: float) -> Statistics:
    generator = torch.Generator().manual_seed(2)
    return Statistics(before_N=by + torch.randn(num, generator=generator).double(), after_N=torch.randn(num, generator=generator).double())


@pytest.mark.parametrize(
    ("num", "by", "reason"),
    [(4, 9.0, "4 pictures on a side are too few"), (32, 0.0, "couldn't be told from unseen ones before")],
)
def test_what_is_missing_is_said(num: int, by: float, reason: str) -> None:
    generator = torch.Generator().manual_seed(3)
    null = Statistics(before_N=torch.randn(num, generator=generator).double(), after_N=torch.randn(num, generator=generator).double())
    result = judge_membership(separated(num, by), null)
    assert result.verdict == "inconclusive"
    assert reason in result.reason


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ([0.0, 3.0, 1.0, 4.0, 2.5] * 2, "too few pictures to bound"),
        ([9.0] * 10, "still differ"),
        ([-9.0] * 10, "still differ"),
    ],
)
def test_what_is_missing_afterwards_is_said(after: list[float], reason: str) -> None:
    erased = Statistics(before_N=torch.full((10,), 9.0).double(), after_N=torch.tensor(after).double())
    null = Statistics(before_N=torch.zeros(10).double(), after_N=torch.tensor([0.5, 2.0, 1.5, 0.7, 3.5] * 2).double())
    result = judge_membership(erased, null)
    assert result.verdict == "inconclusive"
    assert reason in result.reason


def test_one_picture_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two pictures on each side"):
        judge_membership(separated(1, 0), separated(9, 0))
    with pytest.raises(ValueError, match="of the same pictures"):
        Statistics(before_N=torch.zeros(2), after_N=torch.zeros(3))


def test_samples_are_drawn_by_a_keyed_hash() -> None:
    names = [f"s{number}" for number in range(50)]
    drawn = draw_samples(names, 8, "request")
    assert drawn == draw_samples(reversed(names), 8, "request") != draw_samples(names, 8, "another")
    assert len(drawn) == len(set(drawn) & set(names)) == 8
    assert draw_samples(names[:3], 8, "request") == names[:3]
    # Who else is there changes no one's rank.
    assert set(draw_samples(names[:25], 8, "request")) >= set(drawn) & set(names[:25])


def test_places_are_shared_out_by_weight() -> None:
    assert allot(32, {3: 7}) == {3: 32}
    assert allot(32, {0: 1, 1: 1, 2: 1}) == {0: 11, 1: 10, 2: 11}
    assert allot(4, {0: 30, 5: 2}) == {0: 4, 5: 0}
