"""Attribution: which shard a picture came from. Two estimators, each with standard errors.

Common noise (Kong et al. 2023, information-theoretic diffusion). With α the log-SNR,

    log p_i(x) − log p_j(x) = ½ ∫ E[ ‖ε − ε̂_j(x_α)‖² − ‖ε − ε̂_i(x_α)‖² ] dα,

importance-sampled from a logistic over α, with the same (ε, α) for all experts: what an expert's error shares with the others' cancels.
Credit is softmax(log λ_i + log p_i).

The path (paper eq. 6, done right). Along the mixture's probability flow dx/dt = v = Σ w_i v_i, log p(x_0) − log p(x_1) = ∫ ∇·v dt. The
weights depend on x too, ∇w_i = w_i(s_i − s), so that

    ∇·s = Σ_i w_i [ ∇·s_i + ⟨s_i − s, s_i⟩ ];

the paper's split leaves the second term out, which sums to Var_w(s). In velocities, s_i − s = −(1 − t)/t·(v_i − v). Divergences are
Hutchinson's, with probes common to all experts.

The weights at a point x_t of the path, by common noise too. In z_s = x_s/(1 − s) with σ_s = s/(1 − s), noise is only ever added:
z_s = z_t + ρ·ε' for s > t, ρ² = σ_s² − σ_t². By Tweedie E_i[z_t | z_s] = z_s − ρ²/σ_s·ε̂_i(x_s), so that the error in ε' is ε' − κ·ε̂_i,
κ = ρ/σ_s. The formula above holds for z_t in place of x with the log-SNR −log ρ², of which dα is κ² times the step, α being x_s's own:

    log p_i(x_t) − log p_j(x_t) = ½ ∫_{α < α_t} E[ ‖ε'/κ − ε̂_j(x_s)‖² − ‖ε'/κ − ε̂_i(x_s)‖² ] dα.

κ is 1 at t = 0. Near α_t it is small and ⟨ε', ε̂_i⟩/κ would drown the rest, so that draws are mirrored, ε' and −ε'. Integrating
d/dt log p_i(x_t) = −∇·v_i + ⟨v − v_i, s_i⟩ would need no draws, but the probes' errors add up: thousands of nats in a network.

Shape suffixes as in `cdm_core.methods.interface`; T points of the path, M noise draws, K probes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cdm_core.digests import derive_seed

EvaluateExperts = Callable[[torch.Tensor, float], torch.Tensor]
"""(x_t on the linear path [B, C, H, W], t) → every expert's velocity [N, B, C, H, W], differentiable in x_t."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSnrDistribution:
    """A logistic over log-SNR: where to look. It decides the estimate's variance, not its mean."""

    loc: float
    scale: float

    def quantile(self, share: float) -> float:
        """α with that share of the mass below it."""
        return self.loc + self.scale * math.log(share / (1 - share))

    def density(self, alpha: float) -> float:
        """q(α)."""
        z = 1 / (1 + math.exp(-(alpha - self.loc) / self.scale))
        return z * (1 - z) / self.scale

    def share_beyond(self, t: float) -> float:
        """The mass at more noise than that of t < 1 on the linear path: 1 at t = 0."""
        return 1 / (1 + math.exp(self.loc / self.scale) * math.pow(t / (1 - t), 2 / self.scale))


def fit_log_snr(latents_BCHW: torch.Tensor) -> LogSnrDistribution:
    """From the non-zero eigenvalues of the pictures' covariance: loc −mean(log), scale √(1 + 3·var(log)/π).

    Raises:
        ValueError: fewer than two different pictures.
    """
    points_BD = latents_BCHW.flatten(1).double()
    singular = torch.linalg.svdvals(points_BD - points_BD.mean(dim=0))
    eigenvalues = singular[singular > singular.amax() * 1e-6].square() / max(1, len(points_BD) - 1)
    if len(eigenvalues) == 0 or not float(eigenvalues.amax()) > 0:
        raise ValueError("a covariance needs two different pictures")
    logs = eigenvalues.log()
    return LogSnrDistribution(loc=-float(logs.mean()), scale=math.sqrt(1 + 3 * float(logs.var(correction=0)) / math.pi))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Of each picture to each expert: posterior shares, their standard errors, and log p_i up to a constant of the picture."""

    shares_BN: torch.Tensor
    standard_errors_BN: torch.Tensor
    log_densities_BN: torch.Tensor

    def log_posteriors(self, priors_N: torch.Tensor) -> torch.Tensor:
        """log w_i(x_0), float64 [B, N]."""
        return (priors_N.double().log() + self.log_densities_BN).log_softmax(dim=1)


@torch.no_grad()
def estimate_credit(
    evaluate: EvaluateExperts, x_BCHW: torch.Tensor, priors_N: torch.Tensor, where: LogSnrDistribution, *, num_draws: int, seed: int
) -> Credit:
    """Credit by common noise. Draws are stratified over α; errors are stated as of independent ones. With few draws they are a bit
    small, since an integrand over a density has heavy tails: by a fifth with 64 draws on a toy.

    Raises:
        ValueError: fewer than two draws.
    """
    if num_draws < 2:
        raise ValueError(f"a standard error needs two draws or more, not {num_draws}")
    generator = torch.Generator().manual_seed(derive_seed("attribution", seed))
    draws = []
    for number in range(num_draws):
        alpha = where.quantile((number + float(torch.rand((), generator=generator)) * 0.999 + 0.0005) / num_draws)
        t = 1 / (1 + math.exp(alpha / 2))
        noise_CHW = torch.randn(x_BCHW.shape[1:], generator=generator, dtype=x_BCHW.dtype)
        mixed_BCHW = torch.lerp(x_BCHW, noise_CHW.expand_as(x_BCHW), t)
        guessed_NBCHW = mixed_BCHW + (1 - t) * evaluate(mixed_BCHW, t)
        errors_NB = (noise_CHW - guessed_NBCHW).double().square().flatten(2).sum(dim=2)
        draws.append(-errors_NB.T / (2 * where.density(alpha)))
    draws_MBN = torch.stack(draws)
    log_densities_BN = draws_MBN.mean(dim=0)
    log_densities_BN = log_densities_BN - log_densities_BN.amax(dim=1, keepdim=True)
    shares_BN = (priors_N.double().log() + log_densities_BN).softmax(dim=1)
    # Delta method: d share_i = share_i·(d log p_i − Σ_j share_j·d log p_j).
    pulls_MBN = shares_BN * (draws_MBN - (shares_BN * draws_MBN).sum(dim=2, keepdim=True))
    return Credit(shares_BN=shares_BN, standard_errors_BN=pulls_MBN.std(dim=0) / num_draws**0.5, log_densities_BN=log_densities_BN)


@torch.no_grad()
def weigh_point(
    evaluate: EvaluateExperts,
    x_BCHW: torch.Tensor,
    t: float,
    priors_N: torch.Tensor,
    where: LogSnrDistribution,
    *,
    num_pairs: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Posterior weights w_i(x_t), float64 [B, N], of points at t < 1, by `num_pairs` mirrored draws stratified over α < α_t."""
    log_densities_BN = torch.zeros(len(x_BCHW), len(priors_N), dtype=torch.float64)
    reach = where.share_beyond(t)
    for number in range(num_pairs):
        alpha = where.quantile(reach * (number + float(torch.rand((), generator=generator)) * 0.999 + 0.0005) / num_pairs)
        s = 1 / (1 + math.exp(alpha / 2))
        kept = (1 - s) / (1 - t)
        added = math.sqrt(s**2 - (kept * t) ** 2)
        noise_CHW = torch.randn(x_BCHW.shape[1:], generator=generator, dtype=x_BCHW.dtype)
        for mirrored_CHW in (noise_CHW, -noise_CHW):
            mixed_BCHW = kept * x_BCHW + added * mirrored_CHW
            guessed_NBCHW = mixed_BCHW + (1 - s) * evaluate(mixed_BCHW, s)
            errors_NB = (s / added * mirrored_CHW - guessed_NBCHW).double().square().flatten(2).sum(dim=2)
            log_densities_BN -= errors_NB.T * reach / (2 * where.density(alpha) * 2 * num_pairs)
    return (priors_N.double().log() + log_densities_BN).softmax(dim=1)


def split_divergence(scores_NBD: torch.Tensor, divergences_NB: torch.Tensor, weights_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(w_i·[∇·s_i + ⟨s_i − s, s_i⟩] float [B, N], whose sum is ∇·s; the residual of the split without ∇w, Var_w(s), float [B])."""
    weights_NB = weights_BN.T
    mean_BD = (weights_NB[..., None] * scores_NBD).sum(dim=0)
    turning_NB = ((scores_NBD - mean_BD) * scores_NBD).sum(dim=2)
    variance_B = (weights_NB * (scores_NBD - mean_BD).square().sum(dim=2)).sum(dim=0)
    return (weights_NB * (divergences_NB + turning_NB)).T, variance_B


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCredit:
    """Eq. 6 of each picture: nats that each expert adds to log p(x_0) − log p(x_1), with standard errors, and the weights on the way.

    The errors are the probes' alone: weights count as known. `weights_TBN` goes from the picture to noise, at `times_T`.
    """

    contributions_BN: torch.Tensor
    standard_errors_BN: torch.Tensor
    times_T: list[float]
    weights_TBN: torch.Tensor
    end_BCHW: torch.Tensor

    @property
    def shares(self) -> torch.Tensor:
        """Contributions over their sum, float [B, N]; one may be negative.

        They depend on the unit of pictures, as densities do. Where the sum isn't positive, they say nothing; of pictures in [-1, 1] with
        their thousands of nearly constant directions it is.
        """
        return self.contributions_BN / self.contributions_BN.sum(dim=1, keepdim=True)


def follow_path(
    evaluate: EvaluateExperts,
    x_BCHW: torch.Tensor,
    priors_N: torch.Tensor,
    where: LogSnrDistribution,
    *,
    steps: int,
    num_pairs: int,
    num_probes: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> PathCredit:
    """Walk the mixture's flow from pictures to noise and split its divergence at the midpoints of `steps` equal intervals of t.

    From midpoint to midpoint by Adams and Bashforth's second-order step; to the first one by v(x_0, 0) = −x_0, which is exact. At small t
    the divergence behaves like d/t, d the directions narrower than t, and the midpoint rule stops that at the first point.

    Args:
        evaluate: all experts.
        x_BCHW: pictures.
        priors_N: λ.
        where: over log-SNR, for the weights.
        steps: intervals.
        num_pairs: mirrored noise draws for the weights of each point.
        num_probes: Hutchinson probes, 2 or more for a standard error.
        seed: of draws and probes.
        on_step: called after each interval.
    """
    generator = torch.Generator().manual_seed(derive_seed("probes", seed))
    signs = torch.randint(2, (num_probes, *x_BCHW.shape[1:]), generator=generator, dtype=torch.int64)
    probes_KCHW = signs.to(x_BCHW.dtype) * 2 - 1
    totals_KBN = torch.zeros(num_probes, len(x_BCHW), len(priors_N), dtype=torch.float64)
    times, weights = [(step + 0.5) / steps for step in range(steps)], []
    x_BCHW, before_BD = x_BCHW * (1 - times[0]), None
    for t in times:
        weights_BN = weigh_point(evaluate, x_BCHW, t, priors_N, where, num_pairs=num_pairs, generator=generator)
        velocities_NBCHW, divergences_KNB = _probe(evaluate, x_BCHW, t, probes_KCHW)
        flat_NBD = velocities_NBCHW.flatten(2).double()
        mixed_BD = torch.einsum("bn,nbd->bd", weights_BN, flat_NBD)
        turning_NB = -(1 - t) / t * ((flat_NBD - mixed_BD) * flat_NBD).sum(dim=2)
        totals_KBN += (weights_BN.T * (divergences_KNB + turning_NB)).transpose(1, 2) / steps
        weights.append(weights_BN)
        # The last step has half the length of the others.
        length = min(1 / steps, 1 - t)
        ahead_BD = mixed_BD if before_BD is None else mixed_BD + (mixed_BD - before_BD) * (length * steps / 2)
        x_BCHW, before_BD = x_BCHW + (ahead_BD * length).to(x_BCHW.dtype).view_as(x_BCHW), mixed_BD
        on_step()
    errors_BN = totals_KBN.std(dim=0) / num_probes**0.5 if num_probes > 1 else torch.full_like(totals_KBN[0], torch.nan)
    return PathCredit(
        contributions_BN=totals_KBN.mean(dim=0),
        standard_errors_BN=errors_BN,
        times_T=times,
        weights_TBN=torch.stack(weights),
        end_BCHW=x_BCHW,
    )


def _probe(evaluate: EvaluateExperts, x_BCHW: torch.Tensor, t: float, probes_KCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocities [N, B, C, H, W] and eᵀ(∂v_i/∂x)e [K, N, B]."""
    with torch.enable_grad():
        leaf_BCHW = x_BCHW.detach().requires_grad_(True)
        velocities_NBCHW = evaluate(leaf_BCHW, t)
        rows = []
        for probe_CHW in probes_KCHW:
            for velocity_BCHW in velocities_NBCHW:
                (pulled,) = torch.autograd.grad((velocity_BCHW * probe_CHW).sum(), leaf_BCHW, retain_graph=True)
                rows.append((pulled * probe_CHW).double().flatten(1).sum(dim=1))
    divergences_KNB = torch.stack(rows).view(len(probes_KCHW), len(velocities_NBCHW), len(x_BCHW))
    return velocities_NBCHW.detach(), divergences_KNB
