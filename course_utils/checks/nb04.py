"""Checks for notebook 04, by invariance, brute force and published mistake.

What an answer is compared with is worked out here in another way than in the notebook. A right
answer passes before any slip is thought of, so that no slip is named that was not made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import WrongAnswer, exercise, expect, reject, tensor
from . import use as use


class Level(NamedTuple):
    """A stand-in for the notebook's class of this name: checks need nothing that it builds."""

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> Tensor:
        found = math.log(self.alpha / self.sigma) if self.sigma else math.inf
        return torch.tensor(found, dtype=torch.float64)


CLEAN = Level(1.0, 0.0)


def level_at(alpha_bar: float) -> Level:
    """The variance-preserving level with this alpha_bar."""
    return Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 4) -> Tensor:
    """Standard normal numbers, the same at every call."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)


def same(found: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Whether they agree to `tolerance` of the largest value, so that small ones count too."""
    found, wanted = (torch.as_tensor(v).detach().cpu() for v in (found, wanted))
    if found.is_complex() or found.shape != wanted.shape:
        return False
    gap = (found.double() - wanted.double()).abs()
    return bool((gap <= tolerance * wanted.double().abs().max() + 1e-9).all())


def untouched(answer: Callable, *args: Any) -> Any:
    """The answer for these arguments, which must be as they were afterwards."""
    before = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    found = answer(*args)
    for old, arg in zip(before, args):
        if isinstance(arg, Tensor) and not torch.equal(old, arg):
            raise WrongAnswer(
                "your function changes a tensor that it was given: make a new one, without"
                " operations such as += or mul_."
            )
    return found


def repeats(first: Tensor, again: Any) -> None:
    """The same arguments give the same result: no noise but that which was passed."""
    expect(
        first.shape == torch.as_tensor(again).shape and same(first, again),
        "the same arguments give two different results: use the `noise` that is passed, and draw none.",
    )


def two(found: Any, what: str) -> tuple[Any, Any]:
    """Two results, from a tuple, a list or a tensor that stacks them."""
    parts = (found,)
    if isinstance(found, Iterable) and not isinstance(found, (str, dict)) and _rows(found) != 0:
        parts = tuple(found)
    expect(len(parts) == 2, f"return two things, {what}.")
    return parts[0], parts[1]


def _rows(found: Any) -> int:
    return 0 if getattr(found, "ndim", 1) == 0 else 1


def _points(found: Any, like: Tensor, what: str) -> Tensor:
    return tensor(found, what, like.shape)


@exercise("4.1")
def noisy(answer: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """`answer(x0, noise, betas, t)`: the jump to step t, against the chain's small steps."""
    for dtype in (torch.float64, torch.float32):
        betas = torch.linspace(0.01, 0.3, 12, dtype=torch.float64).roll(5).to(dtype)
        x0, noise = normal(2, 7, 3, dtype=dtype)
        for t in (0, 1, 5, 10, 11):
            _noisy_at(answer, x0, noise, betas, t)


def _noisy_at(answer: Callable, x0: Tensor, noise: Tensor, betas: Tensor, t: int) -> None:
    mean, variance = 1.0, 0.0
    for beta in betas[: t + 1].tolist():  # the chain itself, one small step after another
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    deviation = math.sqrt(variance)
    found = _points(untouched(answer, x0, noise, betas, t), x0, "x_t")
    if same(found, mean * x0 + deviation * noise):
        return
    repeats(found, answer(x0, noise, betas, t))
    signal = _points(answer(x0, torch.zeros_like(noise), betas, t), x0, "x_t")
    grain = _points(answer(torch.zeros_like(x0), noise, betas, t), x0, "x_t")
    whole = math.prod((1 - betas).tolist())
    before = math.prod((1 - betas[:t]).tolist())
    beta = betas[t].item()
    variances = " which is the *variance*: take the root."
    if not same(signal, mean * x0):
        slips = {
            f"at t = {t} your signal has shrunk as if all {len(betas)} steps were taken: the"
            " product ends at t.": math.sqrt(whole) * x0,
            f"at t = {t} a factor is missing: t counts from 0, so step t itself is `betas[: t + 1]`.": math.sqrt(before)
            * x0,
            "the signal is multiplied by the root of alpha_bar, so that its *variance* is.": (mean**2 * x0),
            f"at t = {t} your signal has shrunk by the last step alone: multiply all factors up to t.": math.sqrt(
                1 - beta
            )
            * x0,
            "signal and noise have changed places: x0 is multiplied by the root of alpha_bar.": (deviation * x0),
        }
        reject(signal, slips, same)
        raise WrongAnswer(f"at t = {t} the small steps shrink x0 by {mean:.4f}; compare with your factor.")
    slips = {
        f"at t = {t} your noise has the standard deviation 1 - alpha_bar,{variances}": (variance * noise),
        f"at t = {t} your noise has the standard deviation 1 - alpha_bar at the last step,{variances}": (1 - whole)
        * noise,
        f"at t = {t} your noise is that of all {len(betas)} steps: the product ends at t.": (
            math.sqrt(1 - whole) * noise
        ),
        f"at t = {t} your noise lacks a step: t counts from 0, so step t itself is `betas[: t + 1]`.": math.sqrt(
            1 - before
        )
        * noise,
        f"at t = {t} your noise is that of the last step alone: it is 1 - alpha_bar whose root you need.": math.sqrt(
            beta
        )
        * noise,
        "the noise is multiplied by the root of 1 - alpha_bar, not by 1 minus a root.": ((1 - mean) * noise),
    }
    reject(grain, slips, same)
    expect(
        same(grain, deviation * noise),
        f"at t = {t} the small steps leave noise of standard deviation {deviation:.4f}.",
    )
    raise WrongAnswer("x_t is the sum of its signal and its noise.")


def whole_numbers(found: Any, what: str) -> list[int]:
    """Whole numbers in any dress: a list, a range, a tensor, an array, an iterator."""
    try:
        values = [float(value) for value in found]
    except (TypeError, ValueError):
        raise WrongAnswer(f"{what} are whole numbers in a list.") from None
    for value in values:
        expect(
            math.isfinite(value) and value == round(value),
            f"{what} are whole numbers, and {value:g} is among yours: round.",
        )
    return [round(value) for value in values]


def evenly(found: list[int], T: int, case: str) -> None:
    """Each timestep lies where an even spread from T - 1 to -1 puts it, rounded up or down."""
    for i, t in enumerate(found):
        place = T - 1 - i * T / len(found)
        expect(
            abs(t - place) < 1 + 1e-6,
            f"{case} timestep number {i + 1} is {t}, and an even spread from {T - 1} to -1 puts it"
            f" at {place:.1f}: spread them evenly, and round each place, not the length of a step.",
        )


LENGTHS = ((1000, 50), (1000, 300), (1000, 7), (1000, 1000), (50, 49), (10, 2), (10, 3), (1000, 1))


@exercise("4.2")
def respaced(answer: Callable[[int, int], list[int]]) -> None:
    """`answer(T, steps)`: the start, the count, the order, and jumps of one length down to -1."""
    for T, steps in (*LENGTHS, (7, 5), (1, 1)):
        found = whole_numbers(answer(T, steps), "timesteps")
        case = f"for T = {T} and {steps} steps"
        expect(len(found) == steps, f"{case} you return {len(found)} timesteps.")
        expect(
            found[0] == T - 1,
            f"{case} you start at {found[0]}: pure noise belongs to the last level, {T - 1}."
            + (" Yours runs upwards." if found[-1] == T - 1 and steps > 1 else ""),
        )
        expect(
            found[-1] >= 0,
            f"{case} you end at {found[-1]}: the step to -1 is added later, so stop before it.",
        )
        jumps = [a - b for a, b in zip(found, [*found[1:], -1])]
        expect(min(jumps) > 0, f"{case} timesteps repeat or run upwards.")
        expect(
            found[-1] > 0 or min(jumps[:-1], default=1) < 3,
            f"{case} you end at 0: the last step, from 0 to -1 (clean), has the length 1, the"
            f" others up to {max(jumps)}. Spread T - 1 to -1 evenly, and leave out the -1.",
        )
        expect(
            max(jumps) - min(jumps) <= 1,
            f"{case} the jumps, with the last one to -1, lie between {min(jumps)} and"
            f" {max(jumps)}: spread them evenly, and round.",
        )
        evenly(found, T, case)


@exercise("4.3")
def from_v(answer: Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]) -> None:
    """`answer(v, x, alpha, sigma)`: x0 and eps, by the definition of v and by sign slips."""
    by_hand = ": put x = alpha x0 + sigma eps and v = alpha eps - sigma x0 into it."
    for dtype in (torch.float64, torch.float32):
        x0, eps = normal(2, 7, 3, dtype=dtype)
        for alpha_bar in (0.9, 0.3, 0.29, 0.99, 0.01):
            alpha, sigma = level_at(alpha_bar)
            x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
            first, second = two(untouched(answer, v, x, alpha, sigma), "x0 and eps")
            first, second = _points(first, x0, "x0"), _points(second, x0, "eps")
            expect(
                not (same(first, eps) and same(second, x0)),
                "these are eps and x0: return x0 first, then eps.",
            )
            if not same(first, x0):
                slips = {
                    f"your x0 has the sign of v wrong{by_hand}": alpha * x + sigma * v,
                    "alpha and sigma have changed places in your x0.": sigma * x - alpha * v,
                    "your x0 takes v for the noise: v is a mixture of both.": ((x - sigma * v) / alpha),
                    "your x0 lacks nothing but its sign: turn it around.": -x0,
                }
                reject(first, slips, same)
                raise WrongAnswer("your x0 is not the one that v was made of: compute alpha x - sigma v by hand.")
            if not same(second, eps):
                slips = {
                    f"your eps has the sign of v wrong{by_hand}": sigma * x - alpha * v,
                    "alpha and sigma have changed places in your eps.": alpha * x + sigma * v,
                    "your eps is v itself, which is a mixture of both.": v,
                    "your eps lacks nothing but its sign: turn it around.": -eps,
                }
                reject(second, slips, same)
                raise WrongAnswer("your eps is not the one that v was made of: compute sigma x + alpha v by hand.")


def _posterior(x0: float, x: float, now: Level, then: Level) -> tuple[float, float]:
    """Mean and variance by Bayes' rule on a grid: no formula of the answer's kind is used."""
    a = now.alpha / then.alpha
    grid = torch.linspace(-8, 8, 64001, dtype=torch.float64)
    log_product = -((x - a * grid) ** 2) / (2 * (now.sigma**2 - (a * then.sigma) ** 2))
    log_product = log_product - (grid - then.alpha * x0) ** 2 / (2 * then.sigma**2)
    weights = log_product.softmax(0)
    mean = (weights * grid).sum()
    return mean.item(), (weights * (grid - mean) ** 2).sum().item()


# far apart, neighbours, near pure noise and near clean data
PAIRS = ((0.6, 0.7), (0.2, 0.8), (0.95, 0.97), (0.5, 0.51), (0.02, 0.03), (0.99, 0.995))


@exercise("4.4")
def posterior(answer: Callable) -> None:
    """`answer(x0, x, now, then)`: against Bayes' rule on a grid, for neighbours and for gaps."""
    at_x0, at_x = [-1.0, 2.0, 0.3], [0.5, -0.3, 0.3]
    for bar_now, bar_then in PAIRS:
        now, then = level_at(bar_now), level_at(bar_then)
        grid = [_posterior(*pair, now, then) for pair in zip(at_x0, at_x)]
        wanted, variance = torch.tensor([mean for mean, _ in grid]).double(), grid[0][1]
        for dtype in (torch.float64, torch.float32):
            x0, x = (torch.tensor(values, dtype=dtype) for values in (at_x0, at_x))
            case = f"for alpha_bar from {bar_now} back to {bar_then}"
            _posterior_at(answer, x0, x, now, then, wanted, variance, case)


def _posterior_at(
    answer: Callable,
    x0: Tensor,
    x: Tensor,
    now: Level,
    then: Level,
    wanted: Tensor,
    variance: float,
    case: str,
) -> None:
    found = two(untouched(answer, x0, x, now, then), "mean and variance")
    mean, spread = (tensor(part, "what you return") for part in found)
    shapes = [tuple(part.shape) for part in (mean, spread)]
    if spread.shape == x.shape and mean.numel() == 1 and same(mean.reshape(()), variance, 1e-3):
        raise WrongAnswer("these are variance and mean: return the mean first, then the variance.")
    expect(
        mean.shape == x.shape,
        f"the mean has one value for each point, {tuple(x.shape)}, and yours has the shape {shapes[0]}.",
    )
    try:
        spread = spread.expand(x.shape)
    except RuntimeError:
        raise WrongAnswer(
            f"the variance is one number, or one for each point, and yours has the shape {shapes[1]}."
        ) from None
    right = torch.full(x.shape, variance, dtype=torch.float64)
    expect(
        not (same(mean, right, 1e-3) and same(spread, wanted, 1e-3)),
        "these are variance and mean: return the mean first, then the variance.",
    )
    beta = 1 - (now.alpha / then.alpha) ** 2
    if not same(spread, right, 1e-3):
        slips = {
            "your variance is that of the step forward. Knowing x0 as well leaves less: multiply"
            " it by (sigma_then / sigma_now)^2.": beta,
            "this is the standard deviation; return the variance.": math.sqrt(variance),
            "the fraction in your variance is upside down: the posterior is *narrower* than the step forward.": beta
            * now.sigma**2
            / then.sigma**2,
            "from `then` to `now` the old noise shrinks too: b = sigma_now^2 - a^2 sigma_then^2,"
            " with a = alpha_now / alpha_then.": now.sigma**2 - then.sigma**2,
            "this is the precision, 1 / variance; turn it around.": 1 / variance,
            "the fraction in your variance has standard deviations: square them.": (beta * then.sigma / now.sigma),
        }
        slips = {f"{case}: {said}": torch.full_like(right, v) for said, v in slips.items()}
        reject(spread, slips, lambda a, b: same(a, b, 1e-3))
        i = int((spread - right).abs().nan_to_num(math.inf).argmax())
        raise WrongAnswer(f"{case} Bayes on a grid has the variance {variance:.5f}, yours {spread[i]:.5f}.")
    if not same(mean, wanted, 1e-3):
        turned = torch.tensor([_posterior(*pair, now, then)[0] for pair in zip(x, x0)])
        reject(mean, {f"{case}: x0 and x have changed places.": turned}, lambda a, b: same(a, b, 1e-3))
        i = int((mean - wanted).abs().nan_to_num(math.inf).argmax())
        raise WrongAnswer(
            f"{case}, x0 = {x0[i]:g} and x = {x[i]:g}, Bayes on a grid has the mean"
            f" {wanted[i]:.5f}, yours {mean[i]:.5f}: weigh x / a by a^2 / b and alpha_then x0 by"
            " 1 / sigma_then^2, then divide by the sum of the weights."
        )


@exercise("4.5")
def middle_term(answer: Callable) -> None:
    """`answer(x0, x0_pred, now, then)`: the KL of two posteriors, (N,), against their means and variance."""
    for dtype in (torch.float64, torch.float32):
        for n, d in ((5, 3), (1, 1), (3, 1)):
            x0, x0_pred = normal(2, n, d, dtype=dtype)
            for bar_now, bar_then in PAIRS:
                _middle_at(answer, x0, x0_pred, level_at(bar_now), level_at(bar_then))


def _middle_at(answer: Callable, x0: Tensor, x0_pred: Tensor, now: Level, then: Level) -> None:
    found = tensor(untouched(answer, x0, x0_pred, now, then), "the middle term")
    case = f"for alpha_bar from {now.alpha**2:.3f} back to {then.alpha**2:.3f}"
    zero = torch.zeros_like(x0)
    mean, small = _mean_and_small(zero, x0.double(), now, then)  # of the same x, which cancels
    other, _ = _mean_and_small(zero, x0_pred.double(), now, then)
    each = (mean - other).square() / (2 * small)
    wanted = each.sum(dim=1)
    if same(found, wanted, 1e-3):
        return
    expect(found.numel() > 1 or len(x0) == 1, "return one number for each point, (N,): no mean or sum over points.")
    beta = 1 - (now.alpha / then.alpha) ** 2
    snr_now, snr_then = ((level.alpha / level.sigma) ** 2 for level in (now, then))
    error = (x0.double() - x0_pred.double()).square().sum(dim=1)
    slips = {
        "the half is missing: the divergence is the squared distance of the means over *twice* the variance.": (
            2 * wanted
        ),
        "it is negative: SNR grows from `now` to `then`, so subtract the one of `now`.": -wanted,
        "the coordinates of a point add up: take the sum over them, not the mean.": each.mean(dim=1),
        "this is the squared error alone: it counts by the gain in SNR.": error,
        "this is half of the squared error: it counts by the gain in SNR.": error / 2,
        "SNR is alpha^2 / sigma^2: square both.": (then.alpha / then.sigma - now.alpha / now.sigma) / 2 * error,
        "this divides by the variance of the step forward, beta: the posterior's own variance is smaller.": (
            (mean - other).square().sum(dim=1) / (2 * beta)
        ),
        "this is the ratio of the SNRs minus 1: it belongs to the error in the noise; for x0 it is the difference.": (
            (snr_then / snr_now - 1) / 2 * error
        ),
        "the error is to be squared.": (snr_then - snr_now) / 2 * (x0.double() - x0_pred.double()).abs().sum(dim=1),
    }
    reject(found, {f"{case}: {said}": value for said, value in slips.items()}, lambda a, b: same(a, b, 1e-3))
    expect(
        found.shape == wanted.shape,
        f"return one number for each point, {tuple(wanted.shape)}: yours has the shape {tuple(found.shape)}.",
    )
    i = int((found - wanted).abs().nan_to_num(math.inf).argmax())
    raise WrongAnswer(
        f"{case} the two Gaussians lie {wanted[i]:.5f} nats apart, and you return {found[i]:.5f}: square the"
        " distance of their means and divide by twice the small variance."
    )


def _steps() -> list[tuple[Level, Level]]:
    levels = [level_at(bar) for bar in (0.05, 0.3, 0.6, 0.97)]
    close_by = [(level_at(now), level_at(then)) for now, then in PAIRS[3:]]
    return [*zip(levels, levels[1:]), (levels[0], levels[2]), *close_by]


def _mean_and_small(x: Tensor, x0: Tensor, now: Level, then: Level) -> tuple[Tensor, float]:
    """The posterior from precisions that add up."""
    a = now.alpha / then.alpha
    b = now.sigma**2 - (a * then.sigma) ** 2
    precision = a**2 / b + 1 / then.sigma**2
    return (a / b * x + then.alpha / then.sigma**2 * x0) / precision, 1 / precision


@exercise("4.6")
def ancestral_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, noise)`: the posterior's mean and noise of variance beta."""
    for dtype in (torch.float64, torch.float32):
        x, x0, noise = normal(3, 7, 2, dtype=dtype)
        for now, then in _steps():
            _ancestral_at(answer, x, x0, now, then, noise)
        for now in (level_at(0.99), level_at(0.4)):
            last = _points(untouched(answer, x, x0, now, CLEAN, noise), x, "the new x")
            if same(last, x0):
                continue
            expect(
                last.isfinite(),
                "at the last step something is divided by then.sigma, which is 0.",
            )
            gap = last - x0.double()
            share = (gap * noise).sum() / noise.double().square().sum()
            said = "at the last step the result must be x0 itself; yours differs by up to"
            expect(
                not same(gap, share * noise.double(), 1e-3),
                f"{said} {gap.abs().max():.3f}: noise was added to the finished sample.",
            )
            raise WrongAnswer(f"{said} {gap.abs().max():.3f}.")


def _ancestral_at(answer: Callable, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Tensor) -> None:
    (mean, small), large = _mean_and_small(x, x0, now, then), 1 - (now.alpha / then.alpha) ** 2
    found = _points(untouched(answer, x, x0, now, then, noise), x, "the new x")
    grain = found - mean.double()
    if same(grain, large**0.5 * noise, 1e-3):
        return
    repeats(found, answer(x, x0, now, then, noise))
    without = _points(answer(x, x0, now, then, torch.zeros_like(x)), x, "the new x")
    if not same(without, mean, 1e-3):
        swapped = _mean_and_small(x0, x, now, then)[0]
        slips = {
            "x and x0 have changed places in the posterior.": swapped,
            "this is DDIM's step: ancestral sampling goes to the posterior's mean.": (
                then.alpha * x0 + then.sigma * (x - now.alpha * x0) / now.sigma
            ),
        }
        reject(without, slips, lambda a, b: same(a, b, 1e-3))
        raise WrongAnswer("without noise the step goes to the posterior's mean: use `posterior`.")
    grain = found - without
    slips = {
        "noise is multiplied by the standard deviation, the root of the variance.": large * noise,
        "this is the small variance, the posterior's own; the exercise asks for beta,"
        " `transition(now, then)[1]`.": small**0.5 * noise,
        "noise is multiplied by the standard deviation of beta, and yours by the small variance.": small * noise,
        "no noise is added, though this is not the last step: only a clean `then` adds none.": (0 * noise),
        "your noise is that of the whole level `then`: a step adds beta only.": then.sigma * noise,
        "your noise is that of the whole level `now`: a step adds beta only.": now.sigma * noise,
    }
    reject(grain, slips, lambda a, b: same(a, b, 1e-3))
    share = (grain * noise).sum() / noise.double().square().sum()
    raise WrongAnswer(
        "the noise has the variance beta, `transition(now, then)[1]`: its factor should be"
        f" {large**0.5:.4f}, and yours is {share:.4f}."
    )


@exercise("4.7")
def ddim_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, eta, noise)`: the noise at the new level, for eta from 0 to 1."""
    for dtype in (torch.float64, torch.float32):
        x0, eps, noise = normal(3, 7, 2, dtype=dtype)
        for now, then in _steps():
            for eta in (0.0, 0.5, 1.0, 0.1, 0.9, 1, 0):
                _ddim_at(answer, x0, eps, noise, now, then, eta)
        now = level_at(0.9)
        x = now.alpha * x0 + now.sigma * eps
        for eta in (0.0, 0.5, 1.0):
            last = _points(untouched(answer, x, x0, now, CLEAN, eta, noise), x, "the new x")
            expect(
                same(last, x0),
                f"at the last step, to clean data, the result is x0 itself; with eta = {eta:g}"
                f" yours differs by up to {(last - x0).abs().max():.3f}.",
            )
        for now, then in ((level_at(0.3), level_at(0.6)), (level_at(0.02), level_at(0.9))):
            _too_much_noise(answer, x0, now, then, noise)


def _ddim_at(
    answer: Callable,
    x0: Tensor,
    eps: Tensor,
    noise: Tensor,
    now: Level,
    then: Level,
    eta: float,
) -> None:
    zero, alike = torch.zeros_like(x0), lambda a, b: same(a, b, 1e-3)
    x = now.alpha * x0 + now.sigma * eps
    small = _mean_and_small(x, x0, now, then)[1]
    beta = 1 - (now.alpha / then.alpha) ** 2
    fresh, kept = eta * math.sqrt(small), math.sqrt(then.sigma**2 - eta**2 * small)
    wanted = then.alpha * x0 + kept * eps + fresh * noise
    # with x0 = 0 old and new noise can be told apart
    grain = untouched(answer, zero, zero, now, then, eta, noise)
    found = untouched(answer, x, x0, now, then, eta, noise)
    found, grain = (_points(part, x, "the new x") for part in (found, grain))
    if same(found, wanted) and alike(grain, fresh * noise):
        return
    case = f"with eta = {eta:g}"
    repeats(found, answer(x, x0, now, then, eta, noise))
    if eta == 0:
        slips = {
            "this is x itself: the noise in it is (x - alpha x0) / sigma at the *old* level, and is"
            " put together at the *new* level.": x,
            f"{case} the noise must shrink to sigma at the *new* level: yours is as strong as before.": then.alpha * x0
            + now.sigma * eps,
            "x is no noise: what stands beside x0 at the *new* level is eps, (x - alpha x0) / sigma.": then.alpha * x0
            + then.sigma * x,
            "the divisor sigma is missing: eps is (x - alpha x0) / sigma.": (
                then.alpha * x0 + then.sigma * now.sigma * eps
            ),
        }
        reject(found, slips, alike)
        raise WrongAnswer(
            f"{case} the result is alpha x0 + sigma eps at the *new* level, with the eps that x was made of."
        )
    share = ((grain * noise).sum() / noise.double().square().sum()).item()
    upside_down = now.sigma**2 / then.sigma**2 * beta
    slips = {
        f"{case} new noise of variance {share**2:.3f} is added where the level holds"
        f" {then.sigma**2:.3f}: sigma_now^2 / sigma_then^2 is upside down.": (eta * math.sqrt(upside_down) * noise),
        "eta and the small variance give sigma_new^2; noise is multiplied by its root, sigma_new.": (
            eta**2 * small * noise
        ),
        "the small variance is no standard deviation: take its root before it multiplies eta.": (eta * small * noise),
        "sigma_new^2 is built on the small variance of the posterior, not on beta.": (eta * math.sqrt(beta) * noise),
        f"{case} no new noise is added.": 0 * noise,
    }
    if eta < 1:
        said = "the variance is eta *squared* times the small variance."
        slips[said] = math.sqrt(eta * small) * noise
    if not alike(grain, fresh * noise):
        reject(grain, slips, alike)
        expect(
            bool(grain.isfinite().all()) and share**2 <= then.sigma**2 + 1e-9,
            f"{case} new noise of variance {share**2:.3f} is added where the level holds only"
            f" {then.sigma**2:.3f}, so that the root is imaginary: check sigma_new^2.",
        )
        raise WrongAnswer(f"{case} the new noise should have the variance {fresh**2:.4f}, yours {share**2:.4f}.")
    old = _points(answer(now.sigma * eps, zero, now, then, eta, zero), x, "the new x")
    total = share**2 + (((old * eps).sum() / eps.double().square().sum()) ** 2).item()
    expect(
        alike(old, kept * eps),
        f"{case} old and new noise together must have the variance {then.sigma**2:.4f} of the new"
        f" level, yours have {total:.4f}: what is added must be taken from the old.",
    )
    raise WrongAnswer(f"{case} the three parts must be added up: alpha x0 at the new level, the old noise and the new.")


def _too_much_noise(answer: Callable, x0: Tensor, now: Level, then: Level, noise: Tensor) -> None:
    try:
        hidden = answer(x0, x0, now, then, 3.0, noise)
    except WrongAnswer:
        raise
    except Exception:  # a step that fails does what was asked, whatever the exception is called
        return
    hidden = torch.as_tensor(hidden)
    expect(
        hidden.is_complex() or bool(hidden.isnan().any()),
        "eta = 3 asks for more noise than the next level holds, and your step goes on as if that"
        " were possible: raise a ValueError, and do not clamp.",
    )


@exercise("4.8")
def dpmpp_2m_step(answer: Callable) -> None:
    """`answer(x, x0, now, then, previous)`: DDIM at both ends, between them the line's value."""
    # steps in lambda that grow, that shrink, neighbours, and a `then` near clean data
    for bars in ((0.1, 0.4, 0.9), (0.05, 0.6, 0.7), (0.5, 0.51, 0.53), (0.6, 0.9, 0.999)):
        for dtype in (torch.float64, torch.float32):
            x, x0, x0_before = normal(3, 7, 2, dtype=dtype)
            _dpmpp_at(answer, x, x0, x0_before, *(level_at(bar) for bar in bars))


def _dpmpp_at(
    answer: Callable,
    x: Tensor,
    x0: Tensor,
    x0_before: Tensor,
    before: Level,
    now: Level,
    then: Level,
) -> None:
    def ddim(guess: Tensor) -> Tensor:
        return then.alpha * guess + then.sigma * (x - now.alpha * guess) / now.sigma

    kept = x0_before.clone()
    first = _points(untouched(answer, x, x0, now, then, None), x, "the new x")
    expect(same(first, ddim(x0)), "at the first step (previous is None) take DDIM's step.")
    last = _points(untouched(answer, x, x0, now, CLEAN, (x0_before, before)), x, "the new x")
    expect(last.isfinite(), "on the way to a clean level h is infinite: take DDIM's step there.")
    expect(torch.equal(kept, x0_before), "your function changes the last guess: make a new tensor.")
    expect(same(last, x0), "on the way to a clean level DDIM's step lands on x0.")
    found = _points(untouched(answer, x, x0, now, then, (x0_before, before)), x, "the new x")
    expect(torch.equal(kept, x0_before), "your function changes the last guess: make a new tensor.")
    h, h_before = (math.log(b.alpha / b.sigma) - math.log(a.alpha / a.sigma) for a, b in ((now, then), (before, now)))

    def extrapolated(factor: float) -> Tensor:
        return ddim(x0 + factor * (x0 - x0_before))

    half = h / (2 * h_before)
    if same(found, extrapolated(half)):
        return
    slips = {
        "this is still DDIM's step: the guess before is not used.": ddim(x0),
        "the line is followed to the end of the step; take its value *half-way*, with h / (2 h').": (
            extrapolated(h / h_before)
        ),
        "the ratio of the two steps is upside down: a longer step goes further along the line.": (
            extrapolated(h_before / (2 * h))
        ),
        "the sign is wrong: go on in the direction from the last guess to this one.": (extrapolated(-half)),
        "the steps in lambda are not equally long: multiply by h / h'.": extrapolated(0.5),
        "start from the guess at this level, not from the one before.": (ddim(x0_before + half * (x0 - x0_before))),
        "the factor lacks h', the length of the last step: it is h / (2 h').": extrapolated(h / 2),
        "this is DDIM's step from the guess before alone.": ddim(x0_before),
        "this is the extrapolated guess itself: put it into DDIM's step.": (x0 + half * (x0 - x0_before)),
    }
    reject(found, slips, same)
    raise WrongAnswer(
        f"here h = {h:.3f} and h' = {h_before:.3f}: give DDIM the guess x0 + h / (2 h') (x0 - x0_before)."
    )
