"""Answers to the exercises of notebook 09."""

from __future__ import annotations

import math

import numpy as np
import torch

from cases import Case
from course_utils.checks import nb09 as checks
from course_utils.lessons import nb09_evaluation_and_release as nb09

# --- 9.1 ---


def nearest(fake, other):
    return torch.cdist(fake, other).min(dim=1).values


def by_loops(fake, train, held_out):
    n = min(len(train), len(held_out))
    votes = [float((f - train[:n]).norm(dim=1).min() < (f - held_out[:n]).norm(dim=1).min()) for f in fake]
    return sum(votes) / len(votes)


def by_numpy(fake, train, held_out):
    n = min(train.shape[0], held_out.shape[0])
    f, t, h = (x.numpy() for x in (fake, train[:n], held_out[:n]))
    d = [np.square(f[:, None] - x[None]).sum(-1).min(1) for x in (t, h)]
    return np.mean(d[0] < d[1])


def as_tensor(fake, train, held_out):
    n = min(len(train), len(held_out))
    return (nearest(fake, train[:n]) < nearest(fake, held_out[:n])).float().mean()


def published(fake, train, held_out):
    return (nearest(fake, train) < nearest(fake, held_out)).float().mean()


def train_cut(fake, train, held_out):
    return published(fake, train[: len(held_out)], held_out)


def held_cut(fake, train, held_out):
    return published(fake, train, held_out[: len(train)])


def mean_distance(fake, train, held_out):
    n = min(len(train), len(held_out))
    return (torch.cdist(fake, train[:n]).mean(1) < torch.cdist(fake, held_out[:n]).mean(1)).double().mean()


COPY = Case(
    checks.copy_share,
    right=[nb09.copy_share, by_loops, by_numpy, as_tensor],
    wrong=[
        (published, "still unequal"),
        (train_cut, "only the training set is cut"),
        (held_cut, "only the held-out set is cut"),
        (lambda *a: 1 - by_numpy(*a), "turned round"),
        (mean_distance, "mean distances"),
        (lambda *a: 100 * by_numpy(*a), "between 0 and 1"),
        (lambda *a: 0.5, "with 200 training"),
    ],
)

# --- 9.2 ---


def by_lstsq(ns, fds):
    a = np.stack([np.ones(len(ns)), 1 / np.array(ns)], axis=1)
    return np.linalg.lstsq(a, np.array(fds), rcond=None)[0][0]


def by_moments(ns, fds):
    x = torch.tensor([1 / n for n in ns], dtype=torch.float64)
    y = torch.tensor(fds, dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return y.mean() - slope * x.mean()


def fit(power, which=1):
    return lambda ns, fds: np.polyfit(np.array(ns, dtype=float) ** power, fds, 1)[which]


LIMIT = Case(
    checks.fd_infinity,
    right=[nb09.fd_infinity, by_lstsq, by_moments, fit(-1)],
    wrong=[
        (fit(-1, 0), "slope"),
        (fit(1), "line in n"),
        (fit(-0.5), "sqrt"),
        (lambda ns, fds: fds[int(np.argmax(ns))], "most pictures"),
        (lambda ns, fds: np.mean(fds), "mean of the distances"),
        (lambda ns, fds: by_lstsq([ns[0], ns[-1]], [fds[0], fds[-1]]), "two of the points"),
        (lambda ns, fds: by_lstsq(ns, fds) + 1, "the intercept is"),
    ],
)

# --- 9.3 ---


def by_torch(coefficients, signs, limit):
    c, s = torch.tensor(coefficients), torch.tensor(signs)
    limited = torch.where(s != 0, c / (c.abs() + limit), 0.0)
    return ((limited * s).sum((1, 2)) / limited.square().sum((1, 2)).sqrt()).nan_to_num()


def by_mask(coefficients, signs, limit):
    inside = signs != 0
    rows = coefficients[:, inside]
    rows = rows / (abs(rows) + limit)
    return rows @ signs[inside] / (np.linalg.norm(rows, axis=1) + 1e-12)


def one_by_one(coefficients, signs, limit):
    found = []
    for c in coefficients:
        bent = np.where(signs == 0, 0, c / (np.abs(c) + limit))
        found.append(float(np.sum(bent * signs) / math.sqrt(np.sum(bent**2))) if bent.any() else 0.0)
    return found


def score(bend, inside=True, ending=lambda s, n: s / np.sqrt(n)):
    def answer(c, signs, limit):
        bent = bend(c, limit)
        norm = np.square(bent * (signs != 0) if inside else bent).sum((1, 2))
        return ending((bent * signs).sum((1, 2)), norm)

    return answer


def bend(c, limit):
    return c / (np.abs(c) + limit)


Z = Case(
    checks.z_scores,
    right=[nb09.z_scores, by_torch, by_mask, one_by_one],
    wrong=[
        (score(bend, inside=False), "outside the band"),
        (score(lambda c, limit: c), "not limited"),
        (score(lambda c, limit: c / (np.abs(c) + 4)), "not always 4"),
        (score(lambda c, limit: c / (c + limit)), "loses the sign"),
        (score(lambda c, limit: np.sign(c)), "only the signs"),
        (score(bend, ending=lambda s, n: s / n), "root is missing"),
        (score(bend, ending=lambda s, n: s), "not divided"),
        (score(bend, ending=lambda s, n: -s / np.sqrt(n)), "turned round"),
        (score(bend, ending=lambda s, n: 2 * s / np.sqrt(n)), "the first score is"),
        (score(bend), "all 0 has the score 0"),
    ],
)

# --- 9.4 ---


def by_sorted(scores, rate):
    allowed = int(rate * len(scores) + 1e-9)
    return sorted(scores, reverse=True)[allowed]


def by_counting(scores, rate):
    fine = [s for s in scores if (scores > s).mean() <= rate + 1e-12]
    return min(fine)


def by_partition(scores, rate):
    k = len(scores) - 1 - math.floor(len(scores) * rate + 1e-9)
    return torch.tensor(np.partition(scores, k)[k])


THRESHOLD = Case(
    checks.threshold,
    right=[nb09.threshold, by_sorted, by_counting, by_partition],
    wrong=[
        (lambda s, rate: np.quantile(s, 1 - rate), "between two|exceed it"),
        (lambda s, rate: np.sort(s)[int(rate * len(s) + 1e-9)], "lower end"),
        (lambda s, rate: s.mean() + s.std() * 2.326, "exceed it|between two"),
        (lambda s, rate: by_sorted(np.abs(s), rate), "magnitudes"),
        (lambda s, rate: s[len(s) - 1 - int(rate * len(s) + 1e-9)], "not sorted"),
        (lambda s, rate: np.max(s), "take a smaller score"),
        (lambda s, rate: np.sort(s)[-int(rate * len(s) + 1e-9) - 3], "a rate of"),
    ],
)

# --- 9.5 ---


def in_a_loop(measured, limits):
    bad = []
    for name in sorted(limits):
        value = measured.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            bad.append(name)
        elif math.isnan(value) or value < limits[name][0] or value > limits[name][1]:
            bad.append(name)
    return bad


def with_exceptions(measured, limits):
    def kept(name):
        low, high = limits[name]
        try:
            return type(measured[name]) is not bool and low <= measured[name] <= high
        except (KeyError, TypeError):
            return False

    return tuple(sorted(name for name in limits if not kept(name)))


def by_sets(measured, limits):
    kept = {
        name for name, value in measured.items()
        if name in limits and type(value) in (int, float) and limits[name][0] <= value <= limits[name][1]
    }  # fmt: skip
    return sorted(set(limits) - kept)


def published_gate(measured, limits):
    for name, (low, high) in limits.items():
        value = measured.get(name, low)
        if value < low or value > high:
            return [name]
    return []


def all_but_nan(measured, limits):
    return sorted(n for n, (low, high) in limits.items()
                  if not isinstance(measured.get(n), (int, float)) or isinstance(measured[n], bool)
                  or measured[n] < low or measured[n] > high)  # fmt: skip


def forgives_missing(measured, limits):
    return in_a_loop({n: 0.5 for n in limits} | measured, limits)


FAULTS = Case(
    checks.faults,
    right=[nb09.faults, in_a_loop, with_exceptions, by_sets],
    wrong=[
        (published_gate, "NaN passes"),
        (all_but_nan, "NaN passes"),
        (forgives_missing, "missing number passes"),
        (lambda m, limits: in_a_loop(m, limits)[:1], "not the first one"),
        (lambda m, limits: in_a_loop(m, limits)[::-1], "not sorted"),
        (lambda m, limits: sorted(n for n in limits if not limits[n][0] <= m[n] <= limits[n][1]), "raises KeyError"),
        (lambda m, limits: sorted(n for n in limits if n not in m or not limits[n][0] < m[n] < limits[n][1]),
         "ends of a range"),
        (lambda m, limits: in_a_loop({n: 1 if v is True else v for n, v in m.items()}, limits), "True counts as 1"),
        (lambda m, limits: [] if not in_a_loop(m, limits) else ["FD"], "below its range"),
        (lambda m, limits: not in_a_loop(m, limits), "list of names"),
    ],
)  # fmt: skip

CASES = [COPY, LIMIT, Z, THRESHOLD, FAULTS]
