"""Checks for notebook 04, by invariance, brute force and published mistake.

What an answer is compared with is worked out here in another way than in the notebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import exercise, expect


class Level(NamedTuple):
    """A stand-in for the notebook's class of this name, so that checks need nothing that the notebook builds."""

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> Tensor:
        return torch.tensor(math.log(self.alpha / self.sigma) if self.sigma else math.inf, dtype=torch.float64)


def _level(alpha_bar: float) -> Level:
    return Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def _same(a: object, b: Tensor | float, tolerance: float = 1e-6) -> bool:
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        return False
    return torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def _points(found: object, like: Tensor, what: str) -> Tensor:
    expect(isinstance(found, Tensor), f"{what} is a tensor, not {type(found).__name__}.")
    expect(found.shape == like.shape, f"{what} has the shape {tuple(like.shape)}, yours {tuple(found.shape)}.")
    return found


@exercise("4.1")
def noisy(answer: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """`answer(x0, noise, betas, t)`: the jump to step t, against the chain's small steps and the tutorial's slips."""
    betas, (x0, noise) = torch.linspace(0.01, 0.3, 12, dtype=torch.float64), _random(2, 40, 3)
    for t in (0, 5, 11):
        mean, variance = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        for beta in betas[: t + 1]:  # the chain itself, one small step after another
            mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        found = _points(answer(x0, noise, betas, t), x0, "x_t")
        signal = answer(x0, torch.zeros_like(noise), betas, t)
        grain = answer(torch.zeros_like(x0), noise, betas, t)
        whole = (1 - betas).prod()
        before = (1 - betas[:t]).prod()
        expect(
            t == 11 or not _same(signal, whole.sqrt() * x0),
            f"at t = {t} your signal has shrunk as if all {len(betas)} steps were taken: the product ends at t.",
        )
        expect(
            not _same(signal, before.sqrt() * x0),
            f"at t = {t} a factor is missing: t counts from 0, so step t itself is `betas[: t + 1]`.",
        )
        expect(
            not _same(signal, mean**2 * x0),
            "the signal is multiplied by the root of alpha_bar, so that its *variance* is.",
        )
        expect(
            not _same(grain, variance * noise) and not _same(grain, (1 - whole) * noise),
            f"at t = {t} your noise has the standard deviation 1 - alpha_bar, which is the *variance*: take the root.",
        )
        expect(
            _same(signal, mean * x0),
            f"at t = {t} the small steps shrink x0 by {mean:.4f}; compare with your factor.",
        )
        expect(
            _same(grain, variance.sqrt() * noise),
            f"at t = {t} the small steps leave noise of standard deviation {variance.sqrt():.4f}.",
        )
        expect(_same(found, mean * x0 + variance.sqrt() * noise), "x_t is the sum of its signal and its noise.")


@exercise("4.2")
def respaced(answer: Callable[[int, int], list[int]]) -> None:
    """`answer(T, steps)`: the start, the count, the order, and jumps of one length, the last one to -1 among them."""
    for T, steps in ((1000, 50), (1000, 300), (1000, 7), (1000, 1000), (50, 49), (10, 2), (1000, 1)):
        found = [int(t) for t in answer(T, steps)]
        case = f"for T = {T} and {steps} steps"
        expect(len(found) == steps, f"{case} you return {len(found)} timesteps.")
        expect(
            found[0] == T - 1,
            f"{case} you start at {found[0]}: pure noise belongs to the last level, {T - 1}."
            + (" Yours runs upwards." if found[-1] == T - 1 and steps > 1 else ""),
        )
        expect(found[-1] >= 0, f"{case} you end at {found[-1]}: the step to -1 is added later, so stop before it.")
        jumps = [a - b for a, b in zip(found, [*found[1:], -1])]
        expect(min(jumps) > 0, f"{case} timesteps repeat or run upwards.")
        expect(
            found[-1] > 0 or min(jumps[:-1], default=1) < 3,
            f"{case} you end at 0: the last step, from 0 to -1 (clean), has the length 1, the others up to"
            f" {max(jumps)}. Spread T - 1 to -1 evenly, and leave out the -1.",
        )
        expect(
            max(jumps) - min(jumps) <= 1,
            f"{case} the jumps, with the last one to -1, lie between {min(jumps)} and {max(jumps)}: spread them"
            " evenly, and round.",
        )


@exercise("4.3")
def from_v(answer: Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]) -> None:
    """`answer(v, x, alpha, sigma)`: x0 and eps, by the definition of v and by sign slips."""
    x0, eps = _random(2, 30, 2)
    for alpha_bar in (0.9, 0.3):
        alpha, sigma = _level(alpha_bar)
        x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
        found = answer(v, x, alpha, sigma)
        expect(isinstance(found, (tuple, list)) and len(found) == 2, "return two tensors, x0 and eps.")
        first, second = found
        expect(not (_same(first, eps) and _same(second, x0)), "these are eps and x0: return x0 first, then eps.")
        expect(
            not _same(first, alpha * x + sigma * v),
            "your x0 has the sign of v wrong: put x = alpha x0 + sigma eps and v = alpha eps - sigma x0 into it.",
        )
        expect(
            not _same(second, sigma * x - alpha * v),
            "your eps has the sign of v wrong: put x = alpha x0 + sigma eps and v = alpha eps - sigma x0 into it.",
        )
        expect(_same(first, x0), "your x0 is not the one that v was made of: compute alpha x - sigma v by hand.")
        expect(_same(second, eps), "your eps is not the one that v was made of: compute sigma x + alpha v by hand.")


def _posterior(x0: float, x: float, now: tuple, then: tuple) -> tuple[float, float]:
    """Mean and variance by Bayes' rule on a grid: no formula of the answer's kind is used."""
    a = now[0] / then[0]
    grid = torch.linspace(-8, 8, 64001, dtype=torch.float64)
    log_product = -((x - a * grid) ** 2) / (2 * (now[1] ** 2 - (a * then[1]) ** 2))
    log_product = log_product - (grid - then[0] * x0) ** 2 / (2 * then[1] ** 2)
    weights = log_product.softmax(0)
    mean = (weights * grid).sum()
    return mean.item(), (weights * (grid - mean) ** 2).sum().item()


@exercise("4.4")
def posterior(answer: Callable) -> None:
    """`answer(x0, x, now, then)`: against Bayes' rule on a grid, for neighbours and for a gap, and likely slips."""
    for bar_now, bar_then in ((0.6, 0.7), (0.2, 0.8), (0.95, 0.97)):
        now, then = _level(bar_now), _level(bar_then)
        beta = 1 - bar_now / bar_then
        for x0, x in ((-1.0, 0.5), (2.0, -0.3)):
            found = answer(*(torch.tensor([v], dtype=torch.float64) for v in (x0, x)), now, then)
            expect(isinstance(found, (tuple, list)) and len(found) == 2, "return two things: mean and variance.")
            mean, variance = (torch.as_tensor(v).double().reshape(-1)[0].item() for v in found)
            right_mean, right_variance = _posterior(x0, x, now, then)
            expect(
                not (_same(mean, right_variance, 1e-5) and _same(variance, right_mean, 1e-5)),
                "these are variance and mean: return the mean first, then the variance.",
            )
            case = f"for x0 = {x0}, x = {x}, alpha_bar from {bar_now} back to {bar_then}"
            slips = {
                beta: "your variance is that of the step forward. Knowing x0 as well leaves less: multiply it by"
                " (sigma_then / sigma_now)^2.",
                math.sqrt(right_variance): "this is the standard deviation; return the variance.",
                beta * now.sigma**2 / then.sigma**2: "the fraction in your variance is upside down: the posterior"
                " is *narrower* than the step forward.",
                now.sigma**2 - then.sigma**2: "from `then` to `now` the old noise shrinks too: b = sigma_now^2 -"
                " a^2 sigma_then^2, with a = alpha_now / alpha_then.",
            }
            for wrong, message in slips.items():
                expect(not _same(variance, wrong, 1e-5), f"{case}: {message}")
            expect(
                _same(variance, right_variance, 1e-5),
                f"{case} Bayes on a grid has the variance {right_variance:.5f}, yours {variance:.5f}.",
            )
            expect(not _same(mean, _posterior(x, x0, now, then)[0], 1e-5), f"{case}: x0 and x have changed places.")
            expect(
                _same(mean, right_mean, 1e-5),
                f"{case} Bayes on a grid has the mean {right_mean:.5f}, yours {mean:.5f}: weigh x / a by a^2 / b and"
                " alpha_then x0 by 1 / sigma_then^2, then divide by the sum of the weights.",
            )


def _steps() -> list[tuple]:
    levels = [_level(bar) for bar in (0.05, 0.3, 0.6, 0.97)]
    return [*zip(levels, levels[1:]), (levels[0], levels[2])]


def _mean_and_small(x: Tensor, x0: Tensor, now: tuple, then: tuple) -> tuple[Tensor, float]:
    """The posterior from precisions that add up."""
    a = now[0] / then[0]
    b = now[1] ** 2 - (a * then[1]) ** 2
    precision = a**2 / b + 1 / then[1] ** 2
    return (a / b * x + then[0] / then[1] ** 2 * x0) / precision, 1 / precision


@exercise("4.5")
def ancestral_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, noise)`: the posterior's mean, noise of variance beta, none at clean data."""
    x, x0, noise = _random(3, 20, 2)
    for now, then in _steps():
        (mean, small), large = _mean_and_small(x, x0, now, then), 1 - (now.alpha / then.alpha) ** 2
        without = _points(answer(x, x0, now, then, torch.zeros_like(x)), x, "the new x")
        expect(_same(without, mean), "without noise the step goes to the posterior's mean: use `posterior`.")
        grain = answer(x, x0, now, then, noise) - without
        expect(
            not _same(grain, large * noise),
            "noise is multiplied by the standard deviation, the root of the variance.",
        )
        expect(
            not _same(grain, small**0.5 * noise),
            "this is the small variance, the posterior's own; the exercise asks for beta, `transition(now, then)[1]`.",
        )
        expect(_same(grain, large**0.5 * noise), "the noise has the variance beta, `transition(now, then)[1]`.")
    last = answer(x, x0, _level(0.99), Level(1.0, 0.0), noise)
    expect(bool(torch.isfinite(last).all()), "at the last step something is divided by then.sigma, which is 0.")
    expect(
        _same(last, x0),
        f"at the last step the result must be x0 itself; yours differs by up to {(last - x0).abs().max():.3f}:"
        " noise was added to the finished sample.",
    )


@exercise("4.6")
def ddim_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, eta, noise)`: the total noise at the new level, both ends of eta, published slips."""
    x0, eps, noise = _random(3, 20, 2)
    zero = torch.zeros_like(x0)
    for now, then in _steps():
        x = now.alpha * x0 + now.sigma * eps
        small = _mean_and_small(x, x0, now, then)[1]
        still = _points(answer(x, x0, now, then, 0.0, noise), x, "the new x")
        expect(
            _same(still, then.alpha * x0 + then.sigma * eps),
            "with eta = 0 the result is alpha x0 + sigma eps at the *new* level, with the eps that x was made of.",
        )
        for eta in (0.5, 1.0):
            # for x0 = 0: what is kept of the old noise, and what is new
            kept = answer(now.sigma * eps, zero, now, then, eta, zero)
            fresh = answer(zero, zero, now, then, eta, noise)
            share = (fresh * noise).sum() / noise.square().sum()
            total = share**2 + ((kept * eps).sum() / eps.square().sum()) ** 2
            upside_down = now.sigma**2 / then.sigma**2 * (1 - (now.alpha / then.alpha) ** 2)
            expect(
                not _same(share**2, eta**2 * upside_down),
                f"with eta = {eta} new noise of variance {share**2:.3f} is added where the level holds"
                f" {then.sigma**2:.3f}: sigma_now^2 / sigma_then^2 is upside down.",
            )
            expect(
                bool(torch.isfinite(kept).all()) and share**2 <= then.sigma**2 + 1e-9,
                f"with eta = {eta} new noise of variance {share**2:.3f} is added where the level holds only"
                f" {then.sigma**2:.3f}, so that the root is imaginary: check s^2.",
            )
            expect(
                not _same(share, eta * small),
                "eta and the small variance give s^2; noise is multiplied by its root, s.",
            )
            expect(
                eta == 1.0 or not _same(share**2, eta * small),
                "the variance is eta *squared* times the small variance.",
            )
            expect(
                not _same(share**2, eta**2 * (1 - (now.alpha / then.alpha) ** 2)),
                "s^2 is built on the small variance of the posterior, not on beta.",
            )
            expect(
                _same(share**2, eta**2 * small),
                f"with eta = {eta} the new noise should have the variance {eta**2 * small:.4f}, yours {share**2:.4f}.",
            )
            expect(
                _same(total, then.sigma**2),
                f"old and new noise together must have the variance {then.sigma**2:.4f} of the new level, yours have"
                f" {total:.4f}: what is added must be taken from the old.",
            )
            x_then = answer(x, x0, now, then, eta, noise)
            mean = then.alpha * x0 + math.sqrt(then.sigma**2 - eta**2 * small) * eps
            expect(_same(x_then, mean + eta * math.sqrt(small) * noise), "the three parts must be added up.")
    now, then = _level(0.3), _level(0.6)
    try:
        hidden = answer(x0, x0, now, then, 3.0, noise)
    except (ValueError, ArithmeticError, AssertionError, RuntimeError):
        return
    expect(
        hidden.is_complex() or bool(hidden.isnan().any()),
        "eta = 3 asks for more noise than the next level holds, and your step goes on as if that were possible: raise"
        " a ValueError, and do not clamp.",
    )


@exercise("4.7")
def dpmpp_2m_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, previous)`: DDIM at both ends, the extrapolated guess between, likely slips."""
    x, x0, x0_before = _random(3, 20, 2)

    def ddim(guess: Tensor, now: tuple, then: tuple) -> Tensor:
        return then[0] * guess + then[1] * (x - now[0] * guess) / now[1]

    def lam(level: tuple) -> float:
        return math.log(level[0] / level[1])

    before, now, then = (_level(bar) for bar in (0.1, 0.4, 0.9))
    first = _points(answer(x, x0, now, then, None), x, "the new x")
    expect(_same(first, ddim(x0, now, then)), "at the first step (previous is None) take DDIM's step.")
    last = answer(x, x0, now, Level(1.0, 0.0), (x0_before, before))
    expect(bool(torch.isfinite(last).all()), "on the way to a clean level h is infinite: take DDIM's step there.")
    expect(_same(last, x0), "on the way to a clean level DDIM's step lands on x0.")
    found = answer(x, x0, now, then, (x0_before, before))
    h, h_before = lam(then) - lam(now), lam(now) - lam(before)

    def extrapolated(factor: float) -> Tensor:
        return ddim(x0 + factor * (x0 - x0_before), now, then)

    slips = {
        0.0: "this is still DDIM's step: the guess before is not used.",
        h / h_before: "the line is followed to the end of the step; take its value *half-way*, with h / (2 h').",
        h_before / (2 * h): "the ratio of the two steps is upside down: a longer step goes further along the line.",
        -h / (2 * h_before): "the sign is wrong: go on in the direction from the last guess to this one.",
        0.5: "the steps in lambda are not equally long: multiply by h / h'.",
    }
    for factor, message in slips.items():
        expect(not _same(found, extrapolated(factor)), message)
    expect(
        not _same(found, ddim(x0_before + h / (2 * h_before) * (x0 - x0_before), now, then)),
        "start from the guess at this level, not from the one before.",
    )
    expect(
        _same(found, extrapolated(h / (2 * h_before))),
        f"here h = {h:.3f} and h' = {h_before:.3f}: give DDIM the guess x0 + h / (2 h') (x0 - x0_before).",
    )
