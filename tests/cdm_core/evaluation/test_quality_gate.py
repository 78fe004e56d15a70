import dataclasses

import pytest
import torch

from cdm_core.evaluation.frechet import GaussianStats, build_frechet_reference, compute_sample_grams
from cdm_core.evaluation.quality_gate import GateResult, GeneratedFeatures, judge_quality

DIMENSIONS = 48
SCALES = torch.linspace(0.3, 1.5, DIMENSIONS)
REFERENCE = build_frechet_reference(GaussianStats(mean=torch.zeros(DIMENSIONS).double(), covariance=torch.diag(SCALES.double() ** 2)))


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices are small: more threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(num: int, seed: int) -> torch.Tensor:
    """Samples of a good model: a little off the reference."""
    return torch.randn(num, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) * SCALES + 0.2


def noise_like(features: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))


def judge(before: torch.Tensor, after: torch.Tensor, *, num_blocks: int = 16, margin: float = 0.05) -> GateResult:
    seeds = torch.arange(len(before))
    first, second = GeneratedFeatures(features=before, seeds=seeds), GeneratedFeatures(features=after, seeds=seeds)
    return judge_quality(first, second, REFERENCE, num_blocks=num_blocks, margin=margin)


def test_identical_samples_pass_with_no_error():
    result = judge(draw(64, 0), draw(64, 0))
    assert (result.verdict, result.change, result.standard_error, result.upper_bound) == ("pass", 0, 0, 0)
    assert result.fd_before == result.fd_after == compute_sample_grams(REFERENCE, draw(64, 0)).distance() > 0
    assert result.margin_absolute == 0.05 * result.fd_before
    assert (result.num_samples, result.num_blocks, result.margin) == (64, 16, 0.05)
    assert result.reason == f"with 95 % confidence the distance rose by less than 0, the margin is {result.margin_absolute:.3g}"


def test_a_model_that_changed_without_getting_worse_passes():
    before = draw(512, 0)
    after = before.clone()
    after[::8] = draw(64, 1)  # one shard in eight was retrained: other images of the same quality
    result = judge(before, after, margin=0.1)
    assert result.verdict == "pass", result
    assert result.standard_error > 0


def test_a_truly_worse_model_fails():
    before = draw(256, 0)
    result = judge(before, before + 0.25, margin=0.2)
    assert result.verdict == "fail", result
    assert result.change > result.margin_absolute
    assert "can't be excluded with 95 % confidence" in result.reason


def test_a_model_somewhat_worse_than_the_margin_fails_and_just_better_passes():
    before = draw(512, 0)
    shifts = {0.001: "pass", 0.05: "fail"}
    assert {shift: judge(before, before + shift).verdict for shift in shifts} == shifts


def test_a_better_model_passes():
    before = draw(256, 0)
    result = judge(before, before - 0.2, margin=0.2)
    assert result.verdict == "pass", result
    assert result.change < 0


def test_few_samples_are_inconclusive_however_the_change_came_out():
    results = [judge(draw(8, seed), draw(8, seed + 100), num_blocks=4) for seed in range(10)]
    assert {result.verdict for result in results} == {"inconclusive"}
    assert min(result.change for result in results) < 0 < max(result.change for result in results)
    assert "is finer than 2.5 standard errors" in results[0].reason


def test_collapse_to_a_few_pictures_fails():
    before = draw(256, 0)
    assert judge(before, before[:8].repeat(32, 1)).verdict != "pass"


@pytest.mark.parametrize(("num_samples", "shift", "noise"), [(48, 0.1, 0.2), (96, 0.0, 0.3), (96, 0.1, 1.0)])
def test_the_upper_bound_covers_the_expected_change_about_as_often_as_it_says(num_samples, shift, noise):
    """Over 150 seeded repetitions, at fewer and at more samples than dimensions; the jackknife may err to the safe side only."""
    results = []
    for seed in range(150):
        before = draw(num_samples, seed)
        results.append(judge(before, before + shift + noise * noise_like(before, 1000 + seed)))
    changes = torch.tensor([result.change for result in results])
    is_covered = torch.tensor([result.upper_bound for result in results]) >= changes.mean()
    assert 0.90 <= float(is_covered.double().mean()) <= 0.999
    mean_error = float(torch.tensor([result.standard_error for result in results]).mean())
    assert 0.9 <= mean_error / float(changes.std()) <= 1.8


def test_pairing_lowers_the_error():
    before = draw(128, 0)
    paired = judge(before, before + 0.1 * noise_like(before, 1))
    unpaired = judge(before, draw(128, 5) + 0.1 * noise_like(before, 1))
    assert paired.standard_error < unpaired.standard_error / 2


def test_the_error_is_that_of_the_jackknife_written_out():
    before, after, num_blocks = draw(20, 0), draw(20, 1), 4
    changes = []
    for block in range(num_blocks):
        kept = [index for index in range(20) if index % num_blocks != block]
        distances = [compute_sample_grams(REFERENCE, side[kept]).distance() for side in (before, after)]
        changes.append(distances[1] - distances[0])
    mean = sum(changes) / num_blocks
    expected = (3 / 4 * sum((change - mean) ** 2 for change in changes)) ** 0.5
    result = judge(before, after, num_blocks=num_blocks)
    assert result.standard_error == pytest.approx(expected, rel=1e-6)
    assert result.upper_bound == pytest.approx(result.change + 2.353363 * expected, rel=1e-6)  # t(0.95, 3 degrees), from a table


def test_a_result_cannot_be_altered():
    with pytest.raises(dataclasses.FrozenInstanceError):
        judge(draw(32, 0), draw(32, 0)).verdict = "fail"


class TestRefusals:
    def test_unequal_numbers(self):
        first, second = (GeneratedFeatures(features=draw(num, 0), seeds=torch.arange(num)) for num in (32, 33))
        with pytest.raises(ValueError, match="the gate compares equal numbers of samples, not 32 and 33"):
            judge_quality(first, second, REFERENCE, num_blocks=4, margin=0.1)

    def test_unequal_seeds(self):
        first = GeneratedFeatures(features=draw(32, 0), seeds=torch.arange(32))
        second = GeneratedFeatures(features=draw(32, 0), seeds=torch.arange(32).flip(0))
        with pytest.raises(ValueError, match="the gate compares samples of equal noise seeds in equal order"):
            judge_quality(first, second, REFERENCE, num_blocks=4, margin=0.1)

    @pytest.mark.parametrize("num_blocks", [1, 17])
    def test_blocks_out_of_range(self, num_blocks):
        with pytest.raises(ValueError, match=f"32 samples can be dealt into 2 to 16 blocks, not {num_blocks}"):
            judge(draw(32, 0), draw(32, 0), num_blocks=num_blocks)

    @pytest.mark.parametrize("margin", [0, -0.1, float("nan"), float("inf")])
    def test_margins_out_of_range(self, margin):
        with pytest.raises(ValueError, match="the margin must be above 0, not"):
            judge(draw(32, 0), draw(32, 0), margin=margin)

    def test_seeds_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"features must be \[n, D\] and seeds \[n\], not \[4, 48\] and \[3\]"):
            GeneratedFeatures(features=draw(4, 0), seeds=torch.arange(3))

    def test_features_that_are_not_finite(self):
        features = draw(4, 0)
        features[2, 3] = float("nan")
        with pytest.raises(ValueError, match="generated features must be finite"):
            GeneratedFeatures(features=features, seeds=torch.arange(4))

    def test_features_of_other_dimensions(self):
        with pytest.raises(ValueError, match=r"features must be \[n, 48\], not \[32, 5\]"):
            judge(torch.zeros(32, 5), torch.zeros(32, 5))
