"""Answers to the exercises of notebook 12."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cases import Case
from course_utils.checks import nb12 as checks
from course_utils.lessons import nb12_two_minutes as nb12

# --- 12.1 ---


def published(x, nearest, centres):
    return torch.stack([x[nearest == j].mean(dim=0) for j in range(len(centres))])


def by_mask(x, nearest, centres):
    rows = [x[nearest == j] for j in range(len(centres))]
    return torch.stack([r.mean(dim=0) if len(r) else c for r, c in zip(rows, centres)])


def by_matrix(x, nearest, centres):
    of = torch.nn.functional.one_hot(nearest, len(centres)).to(x)  # (N, k)
    counts = of.sum(dim=0)[:, None]
    return torch.where(counts > 0, of.T @ x / counts.clamp(min=1), centres)


def by_numpy_means(x, nearest, centres):
    found = centres.numpy().copy()
    for j in set(nearest.tolist()):
        found[j] = x.numpy()[nearest.numpy() == j].mean(axis=0)
    return found


def sums(x, nearest, centres):
    return torch.where(counts(nearest, centres) > 0, totals(x, nearest, centres), centres)


def totals(x, nearest, centres):
    return torch.zeros_like(centres).index_add_(0, nearest, x)


def counts(nearest, centres):
    return nearest.bincount(minlength=len(centres))[:, None]


def in_place_centres(x, nearest, centres):
    for j in nearest.unique():
        centres[j] = x[nearest == j].mean(dim=0)
    return centres


CENTRES = Case(
    checks.new_centres,
    right=[
        nb12.new_centres,
        by_mask,
        by_matrix,
        by_numpy_means,
        lambda x, nearest, centres: list(by_mask(x, nearest=nearest, centres=centres)),
    ],
    wrong=[
        (published, "mean of no pictures is NaN"),
        (lambda x, nearest, centres: totals(x, nearest, centres) / counts(nearest, centres).clamp(min=1), "went to 0"),
        (lambda x, nearest, centres: totals(x, nearest, centres) / (counts(nearest, centres) + 1e-8), "went to 0"),
        (lambda x, nearest, centres: torch.nan_to_num(published(x, nearest, centres), nan=1.0), "and moved"),
        (sums, "these are sums:"),
        (lambda x, nearest, centres: torch.where(counts(nearest, centres) > 0, totals(x, nearest, centres) / len(x),
                                                 centres), "number of all"),
        (lambda x, nearest, centres: centres.clone(), "as they were"),
        (lambda x, nearest, centres: by_mask(x, nearest.flip(0), centres), "is not the mean of the"),
        (lambda x, nearest, centres: by_mask(x, nearest, centres)[:2], "has the shape"),
        (in_place_centres, "changes a tensor"),
    ],
)  # fmt: skip

# --- 12.2 ---


def by_hand(alpha, sigma, variance):
    of_x = alpha * alpha * variance + sigma * sigma
    return alpha * variance / of_x, variance * sigma * sigma / of_x


def by_precision(alpha, sigma, variance):
    """Through the share of the signal in x; the error is what is left of the variance."""
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return gain, variance * (1 - alpha * gain)


def by_expectation(alpha, sigma, variance):
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return [gain, (1 - gain * alpha) ** 2 * variance + gain**2 * sigma**2]


def gain_with(gain: Callable = None, error: Callable = None) -> Callable:
    """Another gain or error of alpha, sigma, the variance and the variance of x."""

    def answer(alpha, sigma, variance):
        right, of_x = by_hand(alpha, sigma, variance), alpha**2 * variance + sigma**2
        return (
            gain(alpha, sigma, variance, of_x) if gain else right[0],
            error(alpha, sigma, variance, of_x) if error else right[1],
        )

    return answer


GAIN = Case(
    checks.gain_and_error,
    right=[
        nb12.gain_and_error,
        by_hand,
        by_precision,
        by_expectation,
        lambda alpha, sigma, variance: (
            np.array(by_hand(alpha, sigma, variance))
            if isinstance(alpha, float)
            else by_hand(alpha, sigma, variance=variance)
        ),
        lambda alpha, sigma, variance: iter(by_hand(alpha, sigma, variance)),
    ],
    wrong=[
        (gain_with(lambda a, s, v, of_x: a**2 * v / of_x), "alpha once"),
        (gain_with(lambda a, s, v, of_x: v / of_x), "lacks alpha"),
        (gain_with(lambda a, s, v, of_x: a * v / (a * v + s**2)), "square alpha"),
        (gain_with(lambda a, s, v, of_x: a * v / (a**2 * v + s)), "square sigma"),
        (lambda alpha, sigma, variance: by_hand(alpha, sigma, variance)[::-1], "gain comes first"),
        (gain_with(lambda a, s, v, of_x: 1.01 * a * v / of_x), "the gain is"),
        (gain_with(error=lambda a, s, v, of_x: (v * s**2 / of_x) ** 0.5), "root of the error"),
        (gain_with(error=lambda a, s, v, of_x: v - v * s**2 / of_x), "variance of the prediction"),
        (gain_with(error=lambda a, s, v, of_x: v), "only where alpha is 0"),
        (gain_with(error=lambda a, s, v, of_x: s**2), "not the noise in x"),
        (gain_with(error=lambda a, s, v, of_x: 1.01 * v * s**2 / of_x), "squared error is"),
        (lambda alpha, sigma, variance: by_hand(alpha, sigma, variance)[0], "."),
    ],
)

# --- 12.3 ---

A, B, C = 3.4445, -4.7750, 2.0315


def by_terms(X):
    A_ = X @ X.mT
    return A * X + B * (A_ @ X) + C * (A_ @ A_ @ X)


def by_singular_values(X):
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return U @ torch.diag_embed(A * s + B * s**3 + C * s**5) @ Vh


def by_nesting(X):
    A_ = X @ X.mT
    return A * X + A_ @ (B * X + C * (A_ @ X))


def by_numpy_round(X):
    X = X.numpy()
    A_ = X @ np.swapaxes(X, -1, -2)
    return A * X + (B * A_ + C * A_ @ A_) @ X


def rounded(a=A, b=B, c=C, last=2) -> Callable:
    def answer(X):
        A_ = X @ X.mT
        return a * X + b * A_ @ X + c * (A_ @ A_ if last == 2 else A_) @ X

    return answer


def in_place_round(X):
    A_ = X @ X.mT
    return X.mul_(A) + (B * A_ + C * A_ @ A_) @ X / A


ROUND = Case(
    checks.newton_schulz,
    right=[nb12.newton_schulz, by_terms, by_singular_values, by_nesting, by_numpy_round],
    wrong=[
        (rounded(last=1), "A twice"),
        (rounded(b=0.0), "middle term"),
        (rounded(c=0.0), "last term is missing"),
        (rounded(b=C, c=B), "swapped"),
        (rounded(a=0.0), "a X comes first"),
        (rounded(b=-B), "b is negative"),
        (rounded(a=3.5), "should become"),
        (lambda X: A * X + (B * X * X + C * X**4) * X, "product of matrices"),
        (lambda X: by_terms(X).mT, "has the shape|should become"),
        (in_place_round, "changes a tensor"),
    ],
)

# --- 12.4 ---


def by_branches(step, num_steps):
    up = (step + 1) / 50
    down = 2 - 2 * step / num_steps
    if up < down:
        return up if up < 1 else 1
    return down if down < 1 else 1


def by_arrays(step, num_steps):
    return np.minimum(np.minimum(1.0, (step + 1) / 50), 2 * (num_steps - step) / num_steps)


def by_tensors(step, num_steps):
    return torch.tensor([1.0, (step + 1) / 50, 2 * (1 - step / num_steps)], dtype=torch.float64).min()


RATE = Case(
    checks.lr_factor,
    right=[
        lambda step, num_steps: min(1, (step + 1) / 50, 2 * (1 - step / num_steps)),
        by_branches,
        by_arrays,
        by_tensors,
        lambda step, num_steps: by_branches(step, num_steps=num_steps),
    ],
    wrong=[
        (lambda step, num_steps: min(1, step / 50, 2 * (1 - step / num_steps)), "first step"),
        (lambda step, num_steps: min(1, (step + 1) / 50), "never falls|the factor is"),
        (lambda step, num_steps: min(1, 2 * (1 - step / num_steps)), "does not rise"),
        (lambda step, num_steps: min(1, (step + 1) / 50, 1 - step / num_steps), "until half|the factor is"),
        (lambda step, num_steps: min(1, (step + 1) / 50, 2 * (1 - (step + 1) / num_steps)), "the factor is"),
        (lambda step, num_steps: min(1.0, (step + 1) / 100, 2 * (1 - step / num_steps)), "the factor is"),
        (lambda step, num_steps: 1.0, "the factor is"),
    ],
)

CASES = [CENTRES, GAIN, ROUND, RATE]
