"""The schedules and steps of notebook 04 against diffusers' schedulers, step for step, in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from course_utils.lessons import nb04_diffusion_math as nb04

diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")

T = 1000
NAMES = {"linear": "linear", "scaled linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
KINDS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
RANGES = {"linear": (1e-4, 0.02), "scaled linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}
every = pytest.mark.parametrize("kind", KINDS)
each = pytest.mark.parametrize("name", NAMES)


def reference(scheduler: type, name: str, kind: str, **options: object):
    start, end = RANGES[name]
    made = scheduler(
        num_train_timesteps=T,
        beta_start=start,
        beta_end=end,
        beta_schedule=NAMES[name],
        prediction_type=KINDS[kind],
        **options,
    )
    # diffusers computes its tables in float32: the same formulas in float64, so that what is compared are the steps
    made.alphas_cumprod = (1 - nb04.BETAS[name](T)).cumprod(0)
    made.betas, made.alphas = nb04.BETAS[name](T), 1 - nb04.BETAS[name](T)
    return made


def network(x: Tensor, t: int) -> Tensor:
    """A stand-in whose output depends on the picture and on the time."""
    return torch.sin(1.7 * x + 0.003 * t) + 0.2 * x.mean()


def our_denoiser(schedule: nb04.Schedule, kind: str):
    def denoise(x: Tensor, level: nb04.Level) -> Tensor:
        t = int((schedule.alphas_bar.sqrt() - level.alpha).abs().argmin())
        return nb04.x0_from(kind, network(x, t), x, level)

    return denoise


@pytest.fixture
def start() -> Tensor:
    return torch.randn(3, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@each
def test_the_betas_are_diffusers(name: str) -> None:
    start, end = RANGES[name]
    theirs = diffusers.DDPMScheduler(T, start, end, NAMES[name]).betas
    assert torch.allclose(theirs.double(), nb04.BETAS[name](T), rtol=1e-5, atol=1e-8)


@each
@every
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_steps_are_ddpm_scheduler(name: str, kind: str, variance: str, start: Tensor) -> None:
    steps = nb04.respaced(T, 25)
    theirs = reference(diffusers.DDPMScheduler, name, kind, variance_type=f"fixed_{variance}", clip_sample=False)
    theirs.set_timesteps(timesteps=steps)
    schedule, seen, x, draw = nb04.Schedule.named(name, T), [], start, torch.Generator().manual_seed(1)
    for t in steps:
        x = theirs.step(network(x, t), t, x, generator=draw).prev_sample
        seen.append(x)
    ours = []
    nb04.sample(
        our_denoiser(schedule, kind), start, schedule.levels(25),
        nb04.Solver(partial(nb04.ancestral_step, variance=variance), "noise"),
        torch.Generator().manual_seed(1), observe=lambda x, x0, level: ours.append(x),
    )  # fmt: skip
    assert len(ours) == len(seen) == 25
    if variance == "large":  # diffusers adds noise even on the way to the clean level, unless it starts from t = 0
        without = reference(diffusers.DDPMScheduler, name, kind, variance_type="fixed_small", clip_sample=False)
        without.set_timesteps(timesteps=steps)
        seen[-1] = without.step(network(seen[-2], steps[-1]), steps[-1], seen[-2]).prev_sample
    for i, (a, b) in enumerate(zip(ours, seen)):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-5), f"step {i}: {(a - b).abs().max()}"


@each
@every
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_steps_are_ddim_scheduler(name: str, kind: str, eta: float, start: Tensor) -> None:
    theirs = reference(
        diffusers.DDIMScheduler, name, kind, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    theirs.set_timesteps(25)
    schedule, x, ours = nb04.Schedule.named(name, T), start, start
    draw, our_draw = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    denoise = our_denoiser(schedule, kind)
    solver = nb04.Solver(partial(nb04.ddim_step, eta=eta), "noise") if eta else nb04.DDIM
    for t in theirs.timesteps.tolist():
        then = t - T // 25
        x = theirs.step(network(x, t), t, x, eta=eta, generator=draw).prev_sample
        levels = [schedule.level(t), schedule.level(max(then, -1))]
        ours = nb04.sample(denoise, ours, levels, solver, our_draw if eta else None)
        assert torch.allclose(ours, x, atol=1e-5, rtol=1e-5), f"t = {t}: {(ours - x).abs().max()}"


@each
@every
@pytest.mark.parametrize("count", [10, 25])
def test_dpmpp_2m_steps_are_dpm_solver_multistep(name: str, kind: str, count: int, start: Tensor) -> None:
    steps = nb04.respaced(T, count)
    theirs = reference(
        diffusers.DPMSolverMultistepScheduler, name, kind, algorithm_type="dpmsolver++", solver_order=2,
        solver_type="midpoint", final_sigmas_type="zero", thresholding=False,
    )  # fmt: skip
    theirs.set_timesteps(timesteps=steps)
    sigmas = ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod).sqrt()
    theirs.sigmas = torch.cat([sigmas[steps], torch.zeros(1, dtype=torch.float64)])
    schedule, seen, x = nb04.Schedule.named(name, T), [], start
    for t in steps:
        x = theirs.step(network(x, t), t, x).prev_sample
        seen.append(x)
    ours = []
    nb04.sample(
        our_denoiser(schedule, kind),
        start,
        schedule.levels(count),
        nb04.DPMPP_2M,
        observe=lambda x, x0, level: ours.append(x),
    )
    for i, (a, b) in enumerate(zip(ours, seen)):
        assert torch.allclose(a, b.double(), atol=1e-5, rtol=1e-5), f"step {i}: {(a - b).abs().max()}"
