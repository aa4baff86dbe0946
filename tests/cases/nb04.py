"""Answers to the exercises of notebook 04."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from cases import Case
from course_utils.checks import nb04 as checks
from course_utils.lessons import nb04_diffusion_math as lesson

# --- 4.1 ------------------------------------------------------------------------------------------


def by_cumprod(x0, noise, betas, t):
    bar = (1 - betas).cumprod(0)[t]
    return bar**0.5 * x0 + (1 - bar) ** 0.5 * noise


def by_logarithms(x0, noise, betas, t):
    log_bar = torch.log1p(-betas.double())[: t + 1].sum()
    return (log_bar / 2).exp() * x0 + (-torch.expm1(log_bar)).sqrt() * noise


def by_plain_numbers(x0, noise, betas, t):
    bar = 1.0
    for beta in betas.tolist()[: t + 1]:
        bar *= 1 - beta
    return math.sqrt(bar) * x0 + math.sqrt(1 - bar) * noise


def by_numpy(x0, noise, betas, t):
    bar = np.prod(1 - betas.numpy()[: t + 1])
    return np.sqrt(bar) * x0.numpy() + np.sqrt(1 - bar) * noise.numpy()


def by_rows(x0, noise, betas, t):
    return torch.stack([by_cumprod(a, b, betas, t) for a, b in zip(x0, noise)])


class Noisy:
    def __call__(self, x0, noise, betas, t):
        return by_cumprod(x0, noise, betas, t).double()


def noisy(bar_of: Callable, deviation: Callable = lambda bar: (1 - bar) ** 0.5) -> Callable:
    """A jump with another product or another factor of the noise."""

    def answer(x0, noise, betas, t):
        bar = bar_of(1 - betas, t)
        return bar.sqrt() * x0 + deviation(bar) * noise

    return answer


def to_t(factors, t):
    return factors[: t + 1].prod()


def in_place_noisy(x0, noise, betas, t):
    bar = (1 - betas).cumprod(0)[t]
    x0 *= bar.sqrt()
    return x0 + (1 - bar).sqrt() * noise


NOISY = Case(
    checks.noisy,
    right=[by_cumprod, by_logarithms, by_plain_numbers, by_numpy, by_rows, Noisy()],
    wrong=[
        (noisy(lambda factors, t: factors.prod(), lambda bar: 1 - bar), "product ends at t"),
        (noisy(lambda factors, t: factors.prod()), "product ends at t"),
        (noisy(to_t, lambda bar: 1 - bar), r"which is the \*variance\*: take the root"),
        (noisy(lambda factors, t: factors[:t].prod()), r"betas\[: t \+ 1\]"),
        (
            lambda *a: by_cumprod(a[0] * 0, *a[1:]) + to_t(1 - a[2], a[3]) * a[0],
            "root of alpha_bar",
        ),
        (noisy(lambda factors, t: factors[t]), "last step alone"),
        (lambda x0, noise, b, t: by_cumprod(noise, x0, b, t), "changed places"),
        (noisy(to_t, lambda bar: 1 - bar.sqrt()), "not by 1 minus a root"),
        (
            lambda x0, noise, b, t: by_cumprod(x0, 0 * noise, b, t) + b[t].sqrt() * noise,
            "last step",
        ),
        (lambda x0, noise, b, t: by_cumprod(x0, torch.randn_like(x0), b, t), "draw none"),
        (in_place_noisy, "changes a tensor"),
        (lambda *args: by_cumprod(*args).mean(), "has the shape"),
        (lambda x0, noise, b, t: by_cumprod(x0, noise, b, min(t, 10)), "at t = 11 "),
        (noisy(lambda factors, t: (1 - (1 - factors)[: t + 1].sum()).abs()), "small steps shrink"),
    ],
)

# --- 4.2 ------------------------------------------------------------------------------------------


def rounded(T, steps):
    return [round(T - i * T / steps) - 1 for i in range(steps)]


def one_by_one(T, steps):
    for i in range(steps):
        yield T - 1 - i * T // steps


def jumps_sorted(T, steps):
    short, long_ones = T // steps, T % steps
    found = [T - 1]
    for i in range(steps - 1):
        found.append(found[-1] - short - (i < long_ones))
    return found


RESPACED = Case(
    checks.respaced,
    right=[
        rounded,
        lambda T, n: torch.linspace(T - 1, -1, n + 1, dtype=torch.float64).round()[:-1].long(),
        lambda T, n: tuple(np.linspace(T - 1, -1, n, endpoint=False).round().astype(int)),
        lambda T, n: [math.ceil(T - i * T / n) - 1 for i in range(n)],
        one_by_one,
        lambda T, n: [torch.tensor(t) for t in rounded(T, n)],
        lambda T, n: np.array(rounded(T, n), dtype=float),
    ],
    wrong=[
        (lambda T, n: list(range(0, T, T // n))[::-1], "start at 980"),
        (lambda T, n: [t + 1 for t in range(0, T, T // n)][::-1], "start at 981"),
        (lambda T, n: list(range(T - 1, -1, -(T // n))), "300 steps you return 334"),
        (
            lambda T, n: torch.linspace(T - 1, 0, n).round().long().tolist(),
            "you end at 0: the last step",
        ),
        (lambda T, n: torch.linspace(T - 1, -1, n).round().long().tolist(), "end at -1"),
        (lambda T, n: torch.linspace(0, T - 1, n).long().tolist(), "runs upwards"),
        (lambda T, n: list(range(n))[::-1], "start at 49"),
        (lambda T, n: [T - 1, *range(n - 1, 0, -1)], "spread them evenly"),
        (jumps_sorted, "round each place, not the length of a step"),
        (lambda T, n: [T - 1 - i * T / n for i in range(n)], "are whole numbers, and .* round"),
        (lambda T, n: [*rounded(T, n), -1], "50 steps you return 51"),
        (lambda T, n: [] if n == 1 else rounded(T, n), "1 steps you return 0"),
        (lambda T, n: [(t, t - 1) for t in rounded(T, n)], "whole numbers in a list"),
        (lambda T, n: T - 1, "whole numbers in a list"),
        (lambda T, n: [T - 1] * n, "repeat"),
    ],
)

# --- 4.3 ------------------------------------------------------------------------------------------


def turned(v, x, alpha, sigma):
    return alpha * x - sigma * v, sigma * x + alpha * v


def by_elimination(v, x, alpha, sigma):
    eps = (sigma * x + alpha * v) / (alpha**2 + sigma**2)
    return [(x - sigma * eps) / alpha, eps]


def by_solving(v, x, alpha, sigma):
    matrix = torch.tensor([[alpha, sigma], [-sigma, alpha]], dtype=torch.float64)
    found = torch.linalg.solve(matrix, torch.stack([x, v]).double().flatten(1))
    return found.reshape(2, *x.shape)


def in_place_from_v(v, x, alpha, sigma):
    eps = sigma * x + alpha * v
    return x.mul_(alpha).sub_(sigma * v), eps


FROM_V = Case(
    checks.from_v,
    right=[
        turned,
        by_elimination,
        by_solving,
        lambda *args: torch.stack(turned(*args)),
        lambda *args: list(turned(*args)),
        lambda *args: (part for part in turned(*args)),
        lambda v, x, a, s: (a * x.numpy() - s * v.numpy(), s * x.numpy() + a * v.numpy()),
    ],
    wrong=[
        (lambda v, x, a, s: (a * x + s * v, s * x + a * v), "x0 has the sign of v wrong"),
        (lambda v, x, a, s: (a * x - s * v, s * x - a * v), "eps has the sign of v wrong"),
        (lambda v, x, a, s: (s * x + a * v, a * x - s * v), "x0 first, then eps"),
        (lambda v, x, a, s: ((x - s * v) / a, v), "takes v for the noise"),
        (lambda v, x, a, s: (a * x - s * v, v), "eps is v itself"),
        (lambda v, x, a, s: (s * x - a * v, a * x + s * v), "changed places in your x0"),
        (lambda v, x, a, s: (a * x - s * v, a * x + s * v), "changed places in your eps"),
        (lambda v, x, a, s: (a * x - s * v, (x - a * v) / s), "eps is not the one"),
        (lambda v, x, a, s: (a * x - s * v).mean(0), "return two things|shape"),
        (lambda v, x, a, s: a * x - s * v, "return two things"),
        (lambda v, x, a, s: (*turned(v, x, a, s), a), "return two things"),
        (lambda v, x, a, s: (turned(v, x, a, s)[0].mean(), turned(v, x, a, s)[1]), "shape"),
        (lambda v, x, a, s: (x / a, s * x + a * v), "x0 is not the one"),
        (in_place_from_v, "changes a tensor"),
        (lambda v, x, a, s: (s * v - a * x, s * x + a * v), "nothing but its sign"),
    ],
)

# --- 4.4 ------------------------------------------------------------------------------------------


def transition(now, then):
    a = now.alpha / then.alpha
    return a, now.sigma**2 - a**2 * then.sigma**2


def by_precisions(x0, x, now, then):
    (alpha_now, sigma_now), (alpha, sigma) = now, then
    a = alpha_now / alpha
    b = sigma_now**2 - a**2 * sigma**2
    precision = a**2 / b + 1 / sigma**2
    return (a / b * x + alpha / sigma**2 * x0) / precision, 1 / precision


def as_printed(x0, x, now, then):
    bar, bar_before = now.alpha**2, then.alpha**2
    beta = 1 - bar / bar_before
    mean = bar_before**0.5 * beta / (1 - bar) * x0
    mean = mean + (1 - beta) ** 0.5 * (1 - bar_before) / (1 - bar) * x
    return mean, (1 - bar_before) / (1 - bar) * beta


def in_tensors(x0, x, now, then):
    now, then = (checks.Level(*(torch.tensor(v) for v in level)) for level in (now, then))
    return lesson.posterior(x0, x, now, then)


def point_by_point(x0, x, now, then):
    means = [by_precisions(a, b, now, then)[0] for a, b in zip(x0.tolist(), x.tolist())]
    return means, [by_precisions(0.0, 0.0, now, then)[1]] * len(means)


def by_conditioning(x0, x, now, then):
    """The Gaussian of (x_then, x_now) given x0, conditioned on x_now."""
    a, _ = transition(now, then)
    gain = a * then.sigma**2 / now.sigma**2
    mean = then.alpha * x0 + gain * (x - now.alpha * x0)
    return mean, torch.tensor(then.sigma**2 - gain * a * then.sigma**2)


def with_variance(of: Callable) -> Callable:
    def answer(x0, x, now, then):
        mean, variance = lesson.posterior(x0, x, now, then)
        return mean, of(variance, now, then)

    return answer


def with_mean(of: Callable) -> Callable:
    def answer(x0, x, now, then):
        return of(x0, x, now, then), by_precisions(x0, x, now, then)[1]

    return answer


POSTERIOR = Case(
    checks.posterior,
    right=[
        lesson.posterior,
        by_precisions,
        as_printed,
        in_tensors,
        point_by_point,
        by_conditioning,
        lambda *args: list(lesson.posterior(*args)),
        with_variance(lambda variance, now, then: variance.reshape(1)),
        lambda x0, x, n, t: by_precisions(x0.numpy(), x.numpy(), n, t),
        lambda *args: tuple(torch.broadcast_tensors(*lesson.posterior(*args))),
    ],
    wrong=[
        (with_variance(lambda v, now, then: transition(now, then)[1]), "step forward"),
        (with_variance(lambda v, now, then: v.sqrt()), "standard deviation"),
        (lambda x0, x, n, t: lesson.posterior(x, x0, n, t), "changed places"),
        (lambda *args: lesson.posterior(*args)[::-1], "mean first, then the variance"),
        (lambda *args: by_precisions(*args)[::-1], "mean first, then the variance"),
        (
            with_variance(lambda v, n, t: transition(n, t)[1] * n.sigma**2 / t.sigma**2),
            "upside down",
        ),
        (with_mean(lambda x0, x, n, t: t.alpha * x0), "Bayes on a grid has the mean"),
        (with_mean(lambda x0, x, n, t: x / transition(n, t)[0]), "has the mean"),
        (with_variance(lambda v, n, t: n.sigma**2 - t.sigma**2), "old noise shrinks too"),
        (with_variance(lambda v, n, t: 1 / v), "precision, 1 / variance"),
        (
            with_variance(lambda v, n, t: transition(n, t)[1] * t.sigma / n.sigma),
            "has standard deviations: square them",
        ),
        (with_variance(lambda v, n, t: t.sigma**2), "has the variance"),
        (with_variance(lambda v, n, t: v * 1.02), "has the variance"),
        (lambda *args: lesson.posterior(*args)[0], "return two things"),
        (with_mean(lambda x0, x, n, t: by_precisions(x0, x, n, t)[0].mean()), "one value for each"),
        (with_variance(lambda v, n, t: [v, v]), "one number, or one for each"),
        (with_mean(lambda x0, x, n, t: by_precisions(x0, x, n, t)[0] + 0.01), "has the mean"),
    ],
)

# --- 4.5 ------------------------------------------------------------------------------------------


def gap_in_snr(now, then):
    return (then.alpha / then.sigma) ** 2 - (now.alpha / now.sigma) ** 2


def by_two_posteriors(x0, x0_pred, now, then):
    x = torch.ones_like(x0)
    (mean, variance), (other, _) = (lesson.posterior(each, x, now, then) for each in (x0, x0_pred))
    return ((mean - other) ** 2 / (2 * variance)).sum(1)


def by_torch(x0, x0_pred, now, then):
    x = torch.zeros_like(x0)
    p, q = (
        torch.distributions.Normal(mean, variance.sqrt())
        for mean, variance in (lesson.posterior(each, x, now, then) for each in (x0, x0_pred))
    )
    return torch.distributions.kl_divergence(p, q).sum(dim=-1)


def point_after_point(x0, x0_pred, now, then):
    gain = gap_in_snr(now, then)
    return [0.5 * gain * sum((a - b) ** 2 for a, b in zip(*two)) for two in zip(x0.tolist(), x0_pred.tolist())]


def middle_in_numpy(x0, x0_pred, now, then):
    return gap_in_snr(now, then) / 2 * np.square(x0.numpy() - x0_pred.numpy()).sum(1)


def scaled(factor: Callable) -> Callable:
    """Another factor before the squared error."""
    return lambda x0, pred, now, then: factor(now, then) * (x0 - pred).square().sum(1)


def in_place_middle(x0, x0_pred, now, then):
    x0 -= x0_pred
    return gap_in_snr(now, then) / 2 * x0.square().sum(1)


MIDDLE = Case(
    checks.middle_term,
    right=[
        lesson.middle_term,
        by_two_posteriors,
        by_torch,
        point_after_point,
        middle_in_numpy,
        lambda a, b, n, t: gap_in_snr(n, t) / 2 * torch.linalg.vector_norm(a - b, dim=1) ** 2,
    ],
    wrong=[
        (scaled(gap_in_snr), "half is missing"),
        (scaled(lambda n, t: -gap_in_snr(n, t) / 2), "it is negative"),
        (lambda a, b, n, t: gap_in_snr(n, t) / 2 * (a - b).square().mean(1), "sum over them"),
        (lambda a, b, n, t: (gap_in_snr(n, t) / 2 * (a - b).square()).sum(), "one number for each point"),
        (lambda a, b, n, t: gap_in_snr(n, t) / 2 * (a - b).square(), "one number for each point|the shape"),
        (scaled(lambda n, t: 1), "squared error alone"),
        (scaled(lambda n, t: 0.5), "half of the squared error"),
        (scaled(lambda n, t: (t.alpha / t.sigma - n.alpha / n.sigma) / 2), "square both"),
        (
            scaled(lambda n, t: ((t.alpha / t.sigma) ** 2 / (n.alpha / n.sigma) ** 2 - 1) / 2),
            "it belongs to the error in the noise",
        ),
        (lambda a, b, n, t: gap_in_snr(n, t) / 2 * (a - b).abs().sum(1), "is to be squared"),
        (scaled(lambda n, t: 0.51 * gap_in_snr(n, t)), "nats apart"),
        (in_place_middle, "changes a tensor"),
    ],
)

# --- 4.6 ------------------------------------------------------------------------------------------


def large_step(x, x0, now, then, noise):
    mean, _ = lesson.posterior(x0, x, now, then)
    return mean if then.sigma == 0 else mean + transition(now, then)[1] ** 0.5 * noise


def in_one_line(x, x0, now, then, noise):
    beta = 1 - (now.alpha / then.alpha) ** 2
    mean = as_printed(x0, x, now, then)[0]
    return mean + math.sqrt(beta) * (then.sigma > 0) * noise


def sample_by_sample(x, x0, now, then, noise):
    return [large_step(*one, now, then, grain) for *one, grain in zip(x, x0, noise)]


def always_noise(x, x0, now, then, noise):
    mean, _ = lesson.posterior(x0, x, now, then)
    return mean + transition(now, then)[1] ** 0.5 * noise


def step_with(factor: Callable) -> Callable:
    """The posterior's mean and noise with another factor, none at the clean level."""

    def answer(x, x0, now, then, noise):
        mean, small = lesson.posterior(x0, x, now, then)
        if then.sigma == 0:
            return mean
        return mean + factor(float(small), transition(now, then)[1], now, then) * noise

    return answer


def no_noise_near_clean(x, x0, now, then, noise):
    return large_step(x, x0, now, then, noise * (then.sigma > 0.1))


def at_the_end(of: Callable) -> Callable:
    def answer(x, x0, now, then, noise):
        return of(x, x0, now, noise) if then.sigma == 0 else large_step(x, x0, now, then, noise)

    return answer


def in_place_step(x, x0, now, then, noise):
    found = large_step(x, x0, now, then, noise)
    return x.copy_(found)


ANCESTRAL = Case(
    checks.ancestral_step,
    right=[
        large_step,
        partial(lesson.ancestral_step, variance="large"),
        in_one_line,
        sample_by_sample,
        lambda *args: large_step(*args).double(),
        at_the_end(lambda x, x0, now, noise: x0.clone()),
        lambda x, x0, n, t, e: large_step(x.double(), x0.double(), now=n, then=t, noise=e.double()),
    ],
    wrong=[
        (at_the_end(lambda x, x0, now, noise: x0 + now.sigma * noise), "finished sample"),
        (always_noise, "finished sample"),
        (lesson.ancestral_step, "small variance"),
        (step_with(lambda small, beta, n, t: beta), "root of the variance"),
        (lambda x, x0, n, t, e: lesson.ddim_step(x, x0, n, t), "posterior's mean"),
        (step_with(lambda small, beta, n, t: small), "by the small variance"),
        (step_with(lambda small, beta, n, t: 0), "no noise is added"),
        (no_noise_near_clean, "no noise is added"),
        (step_with(lambda small, beta, n, t: t.sigma), "whole level `then`"),
        (step_with(lambda small, beta, n, t: n.sigma), "whole level `now`"),
        (step_with(lambda small, beta, n, t: 1.05 * beta**0.5), "its factor should be"),
        (lambda x, x0, n, t, e: large_step(x0, x, n, t, e), "changed places"),
        (lambda x, x0, n, t, e: large_step(x, x0, n, t, torch.randn_like(x)), "draw none"),
        (at_the_end(lambda x, x0, now, noise: x), r"yours differs by up to \d\.\d+\.$"),
        (at_the_end(lambda x, x0, now, noise: x / 0), "divided by then.sigma"),
        (in_place_step, "changes a tensor"),
    ],
)

# --- 4.7 ------------------------------------------------------------------------------------------


def ddim(x, x0, now, then, eta, noise):
    small = transition(now, then)[1] * then.sigma**2 / now.sigma**2
    fresh = eta**2 * small
    if fresh > then.sigma**2:
        raise Exception("more noise than there can be")
    eps = (x - now.alpha * x0) / now.sigma
    return then.alpha * x0 + (then.sigma**2 - fresh) ** 0.5 * eps + fresh**0.5 * noise


def ddim_nan(x, x0, now, then, eta, noise):
    fresh = torch.tensor(eta**2 * transition(now, then)[1] * then.sigma**2 / now.sigma**2)
    kept = (then.sigma**2 - fresh).sqrt()
    return then.alpha * x0 + kept * (x - now.alpha * x0) / now.sigma + fresh.sqrt() * noise


def ddim_with(fresh_of: Callable, kept_of: Callable = lambda every, new: every - new) -> Callable:
    """DDIM with another variance of the new noise, or of the old."""

    def step(x, x0, now, then, eta, noise):
        b = transition(now, then)[1]
        small = b * then.sigma**2 / now.sigma**2
        eps = (x - now.alpha * x0) / now.sigma
        fresh = fresh_of(eta, small, b, now, then)
        return then.alpha * x0 + kept_of(then.sigma**2, fresh) ** 0.5 * eps + fresh**0.5 * noise

    return step


def clamped(every, new):
    return max(every - new, 0.0)


def squared(eta, small, *_):
    return eta**2 * small


def upside_down(eta, small, b, now, then):
    beta = 1 - now.alpha**2 / then.alpha**2
    return eta**2 * (now.sigma**2 / max(then.sigma, 1e-9) ** 2) * beta


def without_the_root(x, x0, now, then, eta, noise):
    fresh = squared(eta, transition(now, then)[1] * then.sigma**2 / now.sigma**2)
    eps = (x - now.alpha * x0) / now.sigma
    return then.alpha * x0 + (then.sigma**2 - fresh) ** 0.5 * eps + fresh * noise


def noise_at_the_end(x, x0, now, then, eta, noise):
    return x0 + 0.1 * noise if then.sigma == 0 else ddim(x, x0, now, then, eta, noise)


def in_place_ddim(x, x0, now, then, eta, noise):
    found = ddim(x, x0, now, then, eta, noise)
    x0 += 1
    return found


DDIM = Case(
    checks.ddim_step,
    right=[
        ddim,
        ddim_nan,
        lambda *args: lesson.ddim_step(*args),
        lambda x, x0, n, t, eta, noise: lesson.ddim_step(x, x0, n, t, eta=eta, noise=noise),
        lambda x, x0, *rest: ddim(x.double(), x0.double(), *rest).float(),
        lambda x, x0, n, t, eta, e: [ddim(a, b, n, t, eta, c) for a, b, c in zip(x, x0, e)],
        ddim_with(squared),  # a negative number to the power 0.5 is complex
    ],
    wrong=[
        (ddim_with(upside_down, clamped), "upside down"),
        (ddim_with(squared, lambda every, new: every), "taken from the old"),
        (ddim_with(lambda eta, small, *_: eta * small), r"eta \*squared\*"),
        (ddim_with(lambda eta, small, b, *_: eta**2 * b, clamped), "not on beta"),
        (ddim_with(squared, clamped), "do not clamp"),
        (lambda x, x0, n, t, eta, e: t.alpha * x0 + t.sigma * x, r"x is no noise.* \*new\* level"),
        (lambda x, x0, n, t, eta, e: ddim(x, x0, n, t, 0.0, e), "no new noise"),
        (lambda x, x0, n, t, eta, e: ddim(x, x0, n, t, 1.0, e), "with eta = 0 "),
        (without_the_root, "multiplied by its root"),
        (ddim_with(lambda eta, small, *_: (eta * small) ** 2), "take its root"),
        (lambda x, *rest: x, "this is x itself"),
        (
            lambda x, x0, n, t, eta, e: t.alpha * x0 + x - n.alpha * x0,
            "noise must shrink to sigma",
        ),
        (
            lambda x, x0, n, t, eta, e: t.alpha * x0 + t.sigma * (x - n.alpha * x0),
            "divisor sigma is missing",
        ),
        (noise_at_the_end, "clean data, the result is x0 itself"),
        (in_place_ddim, "changes a tensor"),
        (lambda *args: ddim(*args[:5], torch.randn_like(args[0])), "draw none"),
        (lambda x, x0, n, t, eta, e: ddim(x, x0, n, t, min(eta, 1.0), e), "do not clamp"),
        (ddim_with(lambda eta, small, *_: 1.1 * eta**2 * small), "should have the variance"),
        (lambda x, x0, n, t, eta, e: ddim(x, x0, n, t, round(eta + 0.1), e), "variance"),
    ],
)

LOUD = checks.level_at(0.01)

# --- 4.8 ------------------------------------------------------------------------------------------


def with_factor(factor: Callable) -> Callable:
    def step(x, x0, now, then, previous):
        if previous is None or then.sigma == 0:
            return lesson.ddim_step(x, x0, now, then)
        lambdas = [level.half_log_snr.item() for level in (previous[1], now, then)]
        h, h_before = lambdas[2] - lambdas[1], lambdas[1] - lambdas[0]
        return lesson.ddim_step(x, x0 + factor(h, h_before) * (x0 - previous[0]), now, then)

    return step


def midpoint(h, h_before):
    return h / (2 * h_before)


def as_in_the_paper(x, x0, now, then, previous=None):
    """Lu et al. 2022, algorithm 2, with r and D."""
    if then.sigma == 0:
        return x0
    h = then.half_log_snr - now.half_log_snr
    D = x0
    if previous is not None:
        guess, before = previous
        r = (now.half_log_snr - before.half_log_snr) / h
        D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * guess
    return then.sigma / now.sigma * x - then.alpha * torch.expm1(-h) * D


def by_lerp(x, x0, now, then, previous):
    if previous is None or not math.isfinite(then.half_log_snr):
        return ddim(x, x0, now, then, 0.0, x0)
    x0_before, before = previous
    clocks = [float(level.half_log_snr) for level in (before, now, then)]
    middle = (clocks[1] + clocks[2]) / 2
    weight = (middle - clocks[0]) / (clocks[1] - clocks[0])
    return ddim(x, torch.lerp(x0_before, x0, weight), now, then, 0.0, x0)


def from_before(x, x0, now, then, previous):
    h, h_before = then.half_log_snr - now.half_log_snr, now.half_log_snr - previous[1].half_log_snr
    guess = previous[0] + h / (2 * h_before) * (x0 - previous[0])
    return lesson.ddim_step(x, guess.to(x.dtype), now, then)


def only_between(of: Callable) -> Callable:
    """DDIM at both ends, and `of` between them."""

    def step(x, x0, now, then, previous):
        if previous is None or then.sigma == 0:
            return lesson.ddim_step(x, x0, now, then)
        return of(x, x0, now, then, previous)

    return step


def near_clean_is_clean(x, x0, now, then, previous):
    previous = previous if then.sigma > 0.1 else None
    return lesson.dpmpp_2m_step(x, x0, now, then, previous)


def in_place_2m(x, x0, now, then, previous):
    found = lesson.dpmpp_2m_step(x, x0, now, then, previous)
    if previous is not None:
        previous[0].copy_(x0)
    return found


DPMPP = Case(
    checks.dpmpp_2m_step,
    right=[
        lesson.dpmpp_2m_step,
        with_factor(midpoint),
        as_in_the_paper,
        by_lerp,
        lambda x, x0, now, then, previous: as_in_the_paper(
            x.double(), x0.double(), now=now, then=then, previous=previous
        ),
        lambda *args: lesson.dpmpp_2m_step(*args).numpy(),
    ],
    wrong=[
        (with_factor(lambda h, h_before: 0.0), "still DDIM"),
        (with_factor(lambda h, h_before: h / h_before), "half-way"),
        (with_factor(lambda h, h_before: h_before / (2 * h)), "upside down"),
        (with_factor(lambda h, h_before: -h / (2 * h_before)), "sign is wrong"),
        (with_factor(lambda h, h_before: 0.5), "not equally long"),
        (with_factor(lambda h, h_before: h / 2), "lacks h'"),
        (with_factor(lambda h, h_before: 1.05 * midpoint(h, h_before)), "here h ="),
        (only_between(from_before), "start from the guess at this level"),
        (
            only_between(lambda x, x0, n, t, p: lesson.ddim_step(x, p[0], n, t)),
            "guess before alone",
        ),
        (
            lambda x, x0, n, t, p: lesson.dpmpp_2m_step(x, x0, n, t, p or (0 * x0, LOUD)),
            "at the first step",
        ),
        (
            lambda x, x0, n, t, p: x if t.sigma == 0 else lesson.dpmpp_2m_step(x, x0, n, t, p),
            "lands on x0",
        ),
        (
            lambda x, x0, n, t, p: x / 0 if t.sigma == 0 else lesson.dpmpp_2m_step(x, x0, n, t, p),
            "h is infinite",
        ),
        (near_clean_is_clean, "still DDIM"),
        (in_place_2m, "changes the last guess"),
        (only_between(lambda x, x0, n, t, p: x0 + 0 * x), "here h ="),
        (lambda *args: lesson.dpmpp_2m_step(*args).mean(), "has the shape"),
    ],
)
CASES = [NOISY, RESPACED, FROM_V, POSTERIOR, MIDDLE, ANCESTRAL, DDIM, DPMPP]
