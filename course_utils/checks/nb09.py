"""Checks for notebook 09."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from . import WrongAnswer, exercise, expect, number, reject, tensor
from . import use as use
from .nb04 import normal, same, untouched


def _share(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    to_train, to_others = (torch.cdist(fake, x).amin(dim=1) for x in (train, held_out))
    return (to_train < to_others).double().mean().item()


@exercise("9.1")
def copy_share(answer: Callable[[Tensor, Tensor, Tensor], float]) -> None:
    """`answer(fake, train, held_out)`: share of `fake` nearer to `train`, with sets of one size."""
    tried = []
    for n_train, n_held, seed in ((200, 50, 1), (40, 200, 2), (60, 60, 3)):
        fake, train, held = normal(90, 3), normal(n_train, 3, seed=seed), normal(n_held, 3, seed=seed + 10)
        fake[:20] = train[:20] + 0.01
        n = min(n_train, n_held)
        found = number(untouched(answer, fake, train, held), "the share")
        tried.append((fake, train, held, n, found, _share(fake, train[:n], held[:n])))
    right = [same(found, wanted) for *_, found, wanted in tried]
    for fake, train, held, n, found, wanted in tried:
        if same(found, wanted):
            continue
        n_train, n_held = len(train), len(held)
        if same(found, _share(fake, train, held)) and right[0] and n_held > n_train:
            raise WrongAnswer("only the training set is cut, and here the held-out set is the larger one: cut both.")
        if same(found, _share(fake, train, held)) and right[1] and n_train > n_held:
            raise WrongAnswer("only the held-out set is cut, and here the training set is the larger one: cut both.")
        if not 0 <= found <= 1:
            raise WrongAnswer("a share lies between 0 and 1: is it a count, a sum, or a share in per cent?")
        average = [torch.cdist(fake, x[:n]).mean(dim=1) for x in (train, held)]
        slips = {
            "the sets are still unequal: the larger one has the nearer neighbour by its size alone.": _share(
                fake, train, held
            ),
            "the comparison is turned round: count samples that are nearer to the training set.": 1 - wanted,
            "these are mean distances: the nearest neighbour's distance is the smallest one.": (
                (average[0] < average[1]).double().mean().item()
            ),
            "this looks from the training pictures at the samples: each sample has one vote.": _share(
                train[:n], fake[: len(held[:n])], held[:n]
            ),
        }
        reject(found, slips, same)
        raise WrongAnswer(f"with {n_train} training and {n_held} held-out rows it is {wanted:.3f}, yours {found:.3f}.")


@exercise("9.2")
def fd_infinity(answer: Callable[[Sequence[int], Sequence[float]], float]) -> None:
    """`answer(ns, fds)`: where the line through (1 / n, FD) meets 0, by least squares."""
    for ns, wobble in (([500, 1000, 2000], 0.3), ([250, 800, 1600, 4000], 0.5), ([4000, 100, 900], 0.0)):
        x = 1 / np.array(ns, dtype=float)
        fds = 4 + 900 * x + wobble * np.cos(np.arange(len(ns)) * 2.0)
        found = number(answer(list(ns), fds.tolist()), "the distance")
        slope, wanted = np.polyfit(x, fds, 1)
        if same(found, wanted):
            continue
        ends = np.argsort(ns)[[0, -1]]
        line = np.polyfit(x[ends], fds[ends], 1)
        slips = {
            "this is the slope: the value where 1 / n is 0 is the intercept.": slope,
            "this is a line in n: the bias falls like 1 / n.": np.polyfit(ns, fds, 1)[1],
            "this is a line in 1 / sqrt(n): the bias falls like 1 / n.": np.polyfit(x**0.5, fds, 1)[1],
            "this is the distance of the most pictures: go on to infinitely many.": fds[int(np.argmax(ns))],
            "this is the smallest distance: go on to infinitely many pictures.": fds.min(),
            "this is the mean of the distances.": fds.mean(),
            "this is the line through two of the points: all count, by least squares.": line[1],
        }
        reject(found, slips, lambda a, b, wanted=wanted: same(a, b) and not same(b, wanted))
        raise WrongAnswer(f"for n of {ns} the intercept is {wanted:.4f}, yours {found:.4f}.")


@exercise("9.3")
def z_scores(answer: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> None:
    """`answer(coefficients, signs, limit)`: sum of limited coefficients times signs over their norm."""
    for shape, limit in (((3, 12, 10), 4.0), ((2, 7, 9), 1.5)):
        c = 5 * normal(*shape).numpy() ** 3
        signs = np.sign(normal(*shape[1:], seed=5).numpy())
        signs[:3, :4] = 0
        before = c.copy()
        found = answer(c, signs, limit)
        expect(np.array_equal(before, c), "your function changes the coefficients that it was given: make a new array.")
        found = tensor(found, "the scores", shape[:1]).numpy()

        def score(limited: np.ndarray, signs: np.ndarray = signs, inside: bool = True) -> np.ndarray:
            norm = np.square(limited * (signs != 0) if inside else limited).sum(axis=(1, 2))
            return (limited * signs).sum(axis=(1, 2)) / np.sqrt(norm)

        limited = c / (np.abs(c) + limit)
        wanted = score(limited)
        if same(found, wanted):
            continue
        slips = {
            "the norm counts coefficients outside the band, too: leave out those whose sign is 0.": score(
                limited, inside=False
            ),
            "the coefficients are not limited: a few large ones decide.": score(c),
            "the limit is the one that is given, and not always 4.": score(c / (np.abs(c) + 4)),
            "without the absolute value, c / (c + limit) loses the sign.": score(c / (c + limit)),
            "only the signs of the coefficients are left: small ones should count less.": score(np.sign(c)),
            "the coefficients are cut off at the limit: the formula bends them, c / (|c| + limit).": score(
                np.clip(c / limit, -1, 1)
            ),
            "the root is missing in the denominator.": (limited * signs).sum(axis=(1, 2))
            / np.square(limited * (signs != 0)).sum(axis=(1, 2)),
            "the sum is not divided by its norm.": (limited * signs).sum(axis=(1, 2)),
            "the sign is turned round.": -wanted,
        }
        reject(found, slips, same)
        raise WrongAnswer(f"with a limit of {limit} the first score is {wanted[0]:.4f}, yours {found[0]:.4f}.")
    c, signs = np.stack([np.zeros((7, 9)), normal(7, 9).numpy()]), np.sign(normal(7, 9, seed=5).numpy())
    with np.errstate(all="ignore"):  # of 0 / 0, which may be mended afterwards
        found = tensor(answer(c, signs, 4.0), "the scores", (2,)).numpy()
    expect(found[0] == 0, "a picture whose coefficients in the band are all 0 has the score 0, and not NaN.")
    expect(np.isfinite(found).all(), "one picture without coefficients spoils the score of the other one.")


@exercise("9.4")
def threshold(answer: Callable[[np.ndarray, float], float]) -> None:
    """`answer(scores, rate)`: the smallest score that at most `rate` of the scores exceed."""
    for n, rate in ((1000, 0.01), (250, 0.1), (90, 0.05), (60, 0.0)):
        scores = normal(n, seed=n).numpy()
        found = number(answer(scores.copy(), rate), "the threshold")
        allowed = math.floor(rate * n + 1e-9)
        ordered = np.sort(scores)
        wanted = ordered[n - 1 - allowed]
        if same(found, wanted):
            continue
        above = int((scores > found).sum())
        slips = {
            "this is the lower end: few scores should be above the threshold, and not below it.": ordered[allowed],
            "this is mean and deviations of a normal distribution: take the scores as they are.": scores.mean()
            + scores.std() * _normal_quantile(1 - rate),
            "this is a quantile of the magnitudes: a score far below 0 is no mark.": np.sort(np.abs(scores))[
                n - 1 - allowed
            ],
            "the scores are not sorted first.": scores[n - 1 - allowed],
        }
        reject(found, slips, lambda a, b, wanted=wanted: same(a, b) and not same(b, wanted))
        if above > allowed:
            raise WrongAnswer(f"{above} of {n} scores exceed it, and a rate of {rate} allows {allowed}.")
        if not np.isclose(scores, found).any():
            raise WrongAnswer("the threshold is one of the scores, and not a value between two of them.")
        raise WrongAnswer(f"{above} of {n} scores exceed it, and {allowed} may: take a smaller score.")


def _normal_quantile(p: float) -> float:
    if not 0 < p < 1:
        return math.inf
    return float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(p)))


@exercise("9.5")
def faults(answer: Callable[[Mapping, Mapping], Sequence[str]]) -> None:
    """`answer(measured, limits)`: sorted names of all limits that are not kept."""
    limits = {"recall": (0.3, 1.0), "FD": (0.0, 30.0), "copies": (0.0, 0.6)}
    good = {"recall": 0.5, "FD": 12.0, "copies": 0.5}
    cases = [
        (good, "a set that keeps all limits has no faults."),
        (good | {"FD": 30.0, "recall": 0.3}, "the ends of a range are kept: [low, high]."),
        (good | {"FD": 2}, "a whole number is a number."),
        (good | {"extra": 7.0}, "what has no limit is no fault."),
        (good | {"FD": 31.0}, "a value above its range is a fault."),
        (good | {"recall": 0.2}, "a value below its range is a fault."),
        (good | {"FD": math.nan}, "NaN passes: every comparison with it is false, so ask whether the value is inside."),
        ({"recall": 0.5, "copies": 0.5}, "a missing number passes: what was not measured is a fault."),
        (good | {"FD": None}, "None is no measurement: it is a fault, and no exception."),
        (good | {"FD": "low"}, "a text is no measurement: it is a fault, and no exception."),
        (good | {"recall": True}, "True counts as 1 in a comparison: a truth value is no measurement."),
        (good | {"FD": math.inf}, "infinity is outside of every range."),
        (good | {"FD": 99.0, "copies": 0.9}, "all faults are wanted, not the first one."),
        ({}, "all faults are wanted, and sorted by name."),
    ]
    for measured, said in cases:
        try:
            found = answer(dict(measured), dict(limits))
        except (TypeError, KeyError) as error:
            raise WrongAnswer(f"{said} Yours raises {type(error).__name__}.") from None
        expect(isinstance(found, (list, tuple)), "a list of names is wanted.")
        if list(found) != _faults(measured, limits):
            if sorted(found) == _faults(measured, limits):
                raise WrongAnswer("the names are right, but not sorted.")
            raise WrongAnswer(said)


def _faults(measured: Mapping, limits: Mapping) -> list[str]:
    def kept(name: str) -> bool:
        value, (low, high) = measured.get(name), limits[name]
        return type(value) in (int, float) and low <= value <= high

    return sorted(name for name in limits if not kept(name))
