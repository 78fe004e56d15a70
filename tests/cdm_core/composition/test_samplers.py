import pytest
import torch
from gaussian_experts import condition_of, evaluate_each, experts_of, gaussian, start_of

from cdm_core.composition.samplers import build_sampler, clean_of
from cdm_core.composition.sampling import walk
from cdm_core.methods.bare_backbone import BareBackbone
from cdm_core.settings import SamplerName, SamplingSettings

TARGET = gaussian([1.0, -0.5], 0.3)


def run(name: SamplerName, steps: int, num: int) -> torch.Tensor:
    return walk(build_sampler(name, steps), BareBackbone(), evaluate_each([TARGET]), start_of(num, 2), condition_of(num), 1)


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_ddim_gives_eulers_pictures(steps: int) -> None:
    torch.testing.assert_close(run("ddim", steps, 20), run("euler", steps, 20), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm_solver"])
def test_deterministic_samplers_follow_the_flow(name: SamplerName) -> None:
    # A Gaussian's flow takes the noise z to mean + std·z.
    exact = torch.tensor([1.0, -0.5])[:, None, None] + 0.3 * start_of(50, 2)
    errors = [float((run(name, steps, 50) - exact).abs().amax()) for steps in (10, 80)]
    assert errors[1] < min(0.04, errors[0] / 2)


def test_the_second_order_solver_is_nearer_with_the_same_steps() -> None:
    exact = torch.tensor([1.0, -0.5])[:, None, None] + 0.3 * start_of(50, 2)
    errors = {name: float((run(name, 16, 50) - exact).abs().mean()) for name in ("euler", "dpm_solver")}  # type: ignore[arg-type]  # names
    assert errors["dpm_solver"] < errors["euler"] / 2


def test_ddpm_draws_from_the_gaussian() -> None:
    made = run("ddpm", 100, 4000).flatten(1)
    assert torch.allclose(made.mean(dim=0), torch.tensor([1.0, -0.5]), atol=0.02)
    assert torch.allclose(made.std(dim=0), torch.tensor([0.3, 0.3]), atol=0.02)


def test_a_transition_says_what_the_step_draws_from() -> None:
    sampler = build_sampler("ddpm", 6)
    for step, t in enumerate(sampler.times):
        x = start_of(1, 3, seed=step).expand(20_000, -1, -1, -1)
        velocity = TARGET.velocity(sampler.to_linear(x[:1, :2], step), t)[:, [0, 1, 0]]
        transition = sampler.transition(step)
        assert transition is not None
        moved = sampler.advance(x, step, velocity.expand_as(x), [torch.Generator().manual_seed(step)])
        clean = clean_of(sampler.to_linear(x[:1], step), t, velocity)
        mean = transition.clean_factor * clean + transition.noisy_factor * x[:1]
        assert torch.allclose(moved.mean(dim=0), mean[0], atol=4 * transition.std / 20_000**0.5 + 1e-5)
        assert moved.std(dim=0).mean().item() == pytest.approx(transition.std, rel=0.02, abs=1e-6)
    assert transition.std == 0


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm_solver"])
def test_deterministic_samplers_have_no_transition(name: SamplerName) -> None:
    assert build_sampler(name, 4).transition(0) is None


def test_the_default_sampler_is_not_named_in_documents() -> None:
    plain = SamplingSettings(steps=2, guidance_scale=1, method="knn")
    assert plain.model_dump() == {"steps": 2, "guidance_scale": 1, "method": "knn"}
    assert SamplingSettings(steps=2, guidance_scale=1, method="knn", sampler="ddpm").model_dump()["sampler"] == "ddpm"


@pytest.mark.parametrize("method", ["bayes", "top_k:bayes", "cp_delta"])
def test_a_stochastic_method_needs_a_stochastic_sampler(method: str) -> None:
    with pytest.raises(ValueError, match=f"method {method} needs the stochastic sampler, ddpm, not euler"):
        SamplingSettings(steps=2, guidance_scale=1, method=method)  # type: ignore[arg-type]  # a method's name


def test_pictures_of_ddpm_do_not_depend_on_their_neighbours() -> None:
    experts = experts_of([1])
    assert len(experts) == 1
    assert torch.equal(run("ddpm", 4, 5), run("ddpm", 4, 9)[:5])
