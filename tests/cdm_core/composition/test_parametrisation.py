import pytest
import torch
from gaussian_experts import gaussian

from cdm_core.composition.parametrisation import (
    Signal,
    from_clean,
    from_noise,
    from_preserving_velocity,
    from_score,
    from_velocity,
    linear_signal,
    preserving_signal,
)

MEAN, STD = 0.7, 0.4
SIGNALS = [linear_signal(0.3), preserving_signal(0.3), preserving_signal(0.95), Signal(alpha=1.0, sigma=2.5)]


@pytest.mark.parametrize("signal", SIGNALS, ids=str)
def test_a_gaussians_prediction_is_known_in_every_form(signal: Signal) -> None:
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None, None, None]
    variance = (signal.alpha * STD) ** 2 + signal.sigma**2
    score = -(x - signal.alpha * MEAN) / variance
    noise = signal.sigma / variance * (x - signal.alpha * MEAN)
    clean = MEAN + signal.alpha * STD**2 / variance * (x - signal.alpha * MEAN)
    # What a network of the linear path says of the same picture, wherever the sampler is.
    velocity = gaussian([MEAN], STD).velocity(signal.to_linear(x), signal.linear_time)
    made = [
        from_velocity(x, signal, velocity),
        from_noise(x, signal, noise),
        from_clean(x, signal, clean),
        from_score(x, signal, score),
        from_preserving_velocity(x, signal, signal.alpha * noise - signal.sigma * clean),
    ]
    for prediction in made:
        torch.testing.assert_close(prediction.score, score)
        torch.testing.assert_close(prediction.noise, noise)
        torch.testing.assert_close(prediction.clean, clean)
        torch.testing.assert_close(prediction.velocity, noise - clean)
        torch.testing.assert_close(prediction.preserving_velocity, signal.alpha * noise - signal.sigma * clean)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_both_paths_meet_at_one_noise_level(t: float) -> None:
    signal = preserving_signal(t)
    assert signal.alpha**2 + signal.sigma**2 == pytest.approx(1)
    assert signal.linear_time == pytest.approx(t)


@pytest.mark.parametrize(("alpha", "sigma"), [(0, 0), (-1, 1), (1, -1), (float("nan"), 1)])
def test_no_signal_is_refused(alpha: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="a signal needs α ≥ 0 and σ ≥ 0, not both 0"):
        Signal(alpha=alpha, sigma=sigma)
