"""Checks for notebook 12, by independent references and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import WrongAnswer, exercise, expect, number, reject, tensor
from . import use as use
from .nb04 import normal, same, two, untouched


@exercise("12.1")
def new_centres(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`answer(x, nearest, centres)`: means of the rows of each centre; a centre without rows stays."""
    for dtype in (torch.float32, torch.float64):
        x, centres = normal(24, 3, dtype=dtype), normal(5, 3, dtype=dtype, seed=2)
        full = torch.arange(24) % 5
        gaps = torch.tensor([0, 1, 3])[torch.arange(24) % 3]  # the third and the last centre have no rows
        for nearest in (full, gaps, torch.full((24,), 2)):
            _centres_at(answer, x, nearest, centres)


def _centres_at(answer: Callable, x: Tensor, nearest: Tensor, centres: Tensor) -> None:
    found = tensor(untouched(answer, x, nearest, centres), "the new centres", centres.shape)
    wanted, empty = centres.clone(), torch.ones(len(centres), dtype=torch.bool)
    for j in nearest.unique().tolist():
        wanted[j], empty[j] = x[nearest == j].mean(dim=0), False
    if same(found, wanted):
        return
    expect(
        not found[empty].isnan().any(),
        "the mean of no pictures is NaN, and every distance from it is NaN, too: a centre without pictures stays.",
    )
    expect(
        found.isfinite().all(),
        "some centre is not finite: divide by the number of its pictures, and leave a centre without any as it is.",
    )
    if same(found[~empty], wanted[~empty]):
        moved = int((found - centres).abs().amax(dim=1).mul(empty).argmax())
        expect(
            not (found[empty] == 0).all(),
            f"centre {moved} has no pictures and went to 0: it stays where it is.",
        )
        raise WrongAnswer(f"centre {moved} has no pictures and moved: it stays where it is.")
    shares = torch.stack([(nearest == j).sum() for j in range(len(centres))])[:, None]
    slips = {
        "these are sums: divide each by the number of its pictures.": torch.where(shares > 0, wanted * shares, centres),
        "these are sums over the number of all pictures: divide each by the number of its own.": torch.where(
            shares > 0, wanted * shares / len(x), centres
        ),
        "the centres are as they were: move each to the mean of its pictures.": centres,
    }
    reject(found, slips, same)
    worst = int((found - wanted).abs().amax(dim=1).argmax())
    raise WrongAnswer(f"centre {worst} is not the mean of the {int(shares[worst])} rows whose nearest is {worst}.")


@exercise("12.2")
def gain_and_error(answer: Callable) -> None:
    """`answer(alpha, sigma, variance)`: the gain alpha l / (alpha^2 l + sigma^2), and l sigma^2 over the same."""
    cases = ((0.8, 0.6, 2.0), (0.6, 0.8, 0.5), (1.0, 0.0, 0.3), (0.0, 1.0, 0.7), (0.28, 0.96, 1.0), (0.5, 0.5, 0.04))
    for alpha, sigma, variance in cases:
        gain, error = (number(part, "a gain or an error") for part in two(answer(alpha, sigma, variance), "both"))
        _gain_is(gain, alpha, sigma, variance)
        _error_is(error, alpha, sigma, variance)
    alpha, sigma = torch.tensor([[0.8], [0.6]]), torch.tensor([[0.6], [0.8]])
    variances = torch.tensor([0.1, 1.0, 2.0])
    parts = two(untouched(answer, alpha, sigma, variances), "the gain and the error, for tensors")
    gain, error = (tensor(part, "the gain or the error", (2, 3)) for part in parts)
    of_x = alpha**2 * variances + sigma**2
    expect(
        same(gain, alpha * variances / of_x) and same(error, variances * sigma**2 / of_x),
        "for tensors that broadcast the result is not that of the numbers one by one.",
    )


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7)


def _gain_is(found: float, alpha: float, sigma: float, variance: float) -> None:
    of_x = alpha**2 * variance + sigma**2
    wanted = alpha * variance / of_x
    if _alike(found, wanted):
        return
    slips = {
        "the gain of x0 is alpha l over the variance of x: alpha once, not squared.": alpha**2 * variance / of_x,
        "the gain lacks alpha: the covariance of x0 and x is alpha l.": variance / of_x,
        "the variance of x is alpha^2 l + sigma^2: square alpha.": alpha * variance / (alpha * variance + sigma**2),
        "the variance of x is alpha^2 l + sigma^2: square sigma.": alpha * variance / (alpha**2 * variance + sigma),
        "this is the error; the gain comes first.": variance * sigma**2 / of_x,
        "1 / alpha only undoes the shrinking, and keeps all of the noise.": 1 / alpha if alpha else math.inf,
    }
    reject(found, slips, _alike)
    raise WrongAnswer(
        f"for alpha = {alpha}, sigma = {sigma} and variance {variance} the gain is {wanted:.4f}, and yours {found:.4f}."
    )


def _error_is(found: float, alpha: float, sigma: float, variance: float) -> None:
    of_x = alpha**2 * variance + sigma**2
    wanted = variance * sigma**2 / of_x
    if _alike(found, wanted):
        return
    slips = {
        "this is the root of the error: leave it squared.": wanted**0.5,
        "this is the variance of the prediction, and not that of what is missed.": variance - wanted,
        "all of the variance is left only where alpha is 0: x knows something of x0.": variance,
        "the error in x0 is not the noise in x.": sigma**2,
    }
    reject(found, slips, _alike)
    raise WrongAnswer(
        f"for alpha = {alpha}, sigma = {sigma} and variance {variance} the mean squared error is {wanted:.4f}, and"
        f" yours {found:.4f}."
    )


@exercise("12.3")
def newton_schulz(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(X)`: a X + b A X + c A^2 X with A = X X^T."""
    a, b, c = 3.4445, -4.7750, 2.0315
    for dtype in (torch.float32, torch.float64):
        for shape in ((3, 5), (4, 4), (2, 3, 7), (1, 6)):
            X = 0.4 * normal(*shape, dtype=dtype)
            found = tensor(untouched(answer, X), "X after the round", X.shape)
            A = X @ X.mT
            wanted = a * X + b * A @ X + c * A @ A @ X
            if same(found, wanted):
                continue
            slips = {
                "the last term has A twice: A A X.": a * X + b * A @ X + c * A @ X,
                "the middle term is missing.": a * X + c * A @ A @ X,
                "the last term is missing.": a * X + b * A @ X,
                "b and c are swapped.": a * X + c * A @ X + b * A @ A @ X,
                "X itself is missing: a X comes first.": b * A @ X + c * A @ A @ X,
                "b is negative: it pulls large singular values down.": a * X - b * A @ X + c * A @ A @ X,
                "A is X times its transpose, a product of matrices: with * the numbers are multiplied one by one.": a
                * X
                + (b * X * X + c * X**4) * X,
            }
            reject(found, slips, same)
            before, after = (torch.linalg.svdvals(m.double()).flatten()[0].item() for m in (X, found))
            right = a * before + b * before**3 + c * before**5
            raise WrongAnswer(
                f"a singular value of {before:.3f} should become {right:.3f}; your result's largest is {after:.3f}."
            )


@exercise("12.4")
def lr_factor(answer: Callable[[int, int], float]) -> None:
    """`answer(step, num_steps)`: up over 50 steps, level, and down to 0 over the second half."""
    for num_steps in (1200, 400, 60, 1):
        for step in sorted({0, 1, 10, 29, 48, 49, 50, num_steps // 2, num_steps // 2 + 1, num_steps - 1}):
            if step >= num_steps:
                continue
            found = number(answer(step, num_steps), f"the factor at step {step} of {num_steps}")
            wanted = min(1, (step + 1) / 50, 2 * (1 - step / num_steps))
            if math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9):
                continue
            at = f"at step {step} of {num_steps} the factor is {wanted:.4f}, and yours {found:.4f}"
            expect(found > 0, f"{at}: the first step counts, too, and the last one still moves.")
            slips = {
                f"{at}: the first step is step 0, and its factor 1/50.": min(1, step / 50, 2 * (1 - step / num_steps)),
                f"{at}: it holds at 1 until half of the steps are over.": min(1, (step + 1) / 50, 1 - step / num_steps),
                f"{at}: it never falls.": min(1, (step + 1) / 50),
                f"{at}: it does not rise at the beginning.": min(1, 2 * (1 - step / num_steps)),
            }
            slips = {said: value for said, value in slips.items() if not math.isclose(value, wanted)}
            reject(found, slips, partial(math.isclose, rel_tol=1e-6))
            raise WrongAnswer(f"{at}: 1/50 a step upwards, at most 1, and 2 (1 - step / num_steps) in the second half.")
