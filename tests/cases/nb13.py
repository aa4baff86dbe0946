"""Answers to the exercises of notebook 13."""

from __future__ import annotations

import numpy as np
import torch

from cases import Case
from course_utils.checks import nb13 as checks
from course_utils.lessons import nb13_fast_sampling as nb13

# --- 13.1 ---


def heun_step(denoise, x, s, s_next):
    slope = (x - denoise(x, s)) / s
    x_next = x + (s_next - s) * slope
    if s_next == 0:
        return x_next
    slope_next = (x_next - denoise(x_next, s_next)) / s_next
    return x + (s_next - s) * (slope + slope_next) / 2


def by_predictions(denoise, x, s, s_next):
    """The same, with the last step written as the prediction itself."""
    first = denoise(x, s)
    if not s_next > 0:
        return first
    end = first + s_next / s * (x - first)
    second = denoise(end, torch.tensor(s_next))
    return torch.lerp(end, x + (s_next - s) * (end - second) / s_next, 0.5)


def sample_by_sample(denoise, x, s, s_next):
    """Slopes by a loop over rows, predictions for all at once."""
    pred = denoise(x, s)
    slopes = torch.stack([(row - p) / s for row, p in zip(x, pred)])
    x_next = x + (s_next - s) * slopes
    if s_next <= 0:
        return x_next
    pred = denoise(x_next, s_next)
    return torch.stack([r + (s_next - s) * (a + (n - p) / s_next) / 2 for r, a, n, p in zip(x, slopes, x_next, pred)])


def published(denoise, x, s, s_next):
    slope = (x - denoise(x, s)) / s
    x_next = x + (s_next - s) * slope
    slope_next = (x_next - denoise(x, s_next)) / s_next
    return x + (s_next - s) * (slope + slope_next)


def variant(ask_x=False, mean=2.0, at_zero="euler", from_next=False, end_only=False, sign=1, level=None):
    def answer(denoise, x, s, s_next):
        slope = (x - denoise(x, s)) / s
        x_next = x + (s_next - s) * slope
        if s_next == 0 and at_zero == "euler":
            return x_next
        if s_next == 0 and at_zero == "half":
            return x + (s_next - s) * slope / 2
        pred = denoise(x if ask_x else x_next, s_next if level is None else s)
        slope_next = (x_next - pred) / (s if level == "divide" else s_next)
        if end_only:
            return x + (s_next - s) * slope_next
        return (x_next if from_next else x) + sign * (s_next - s) * (slope + slope_next) / mean

    return answer


def asks_again(denoise, x, s, s_next):
    denoise(x, s)
    return heun_step(denoise, x, s, s_next)


def in_place(denoise, x, s, s_next):
    x += (s_next - s) * (x - denoise(x, s)) / s
    return x


HEUN = Case(
    checks.heun_step,
    right=[
        heun_step,
        by_predictions,
        sample_by_sample,
        lambda denoise, x, s, s_next: list(heun_step(denoise, x=x, s=s, s_next=s_next)),
    ],
    wrong=[
        (published, "the two slopes are added, and the second prediction was asked for x"),
        (variant(mean=1), "the two slopes are added: take their mean"),
        (variant(ask_x=True), "the second prediction was asked for x: ask for x_next"),
        (variant(at_zero="none"), "s = 0|divide by it"),
        (variant(at_zero="half"), "the whole Euler step"),
        (lambda denoise, x, s, s_next: x + (s_next - s) * (x - denoise(x, s)) / s, "this is Euler's step"),
        (variant(end_only=True), "slope at the end alone"),
        (variant(from_next=True), "begins at x"),
        (variant(sign=-1), "sign is turned around"),
        (asks_again, "asked the network 3 times"),
        (in_place, "changes a tensor"),
        (lambda denoise, x, s, s_next: x, "is not x"),
    ],
)

# --- 13.2 ---


def by_loop(n, smallest, largest, power=7):
    low, high = smallest ** (1 / power), largest ** (1 / power)
    return [(high + i / max(n - 1, 1) * (low - high)) ** power for i in range(n)]


def by_numpy(n, smallest, largest, power=7):
    return np.linspace(largest ** (1 / power), smallest ** (1 / power), num=n) ** power


def log_spaced(n, smallest, largest, power=7):
    return torch.logspace(np.log10(largest), np.log10(smallest), n)


KARRAS = Case(
    checks.karras,
    right=[
        nb13.karras,
        by_loop,
        by_numpy,
        lambda n, smallest, largest, power=7: tuple(by_loop(n, smallest, largest, power)),
    ],
    wrong=[
        (lambda n, a, b, power=7: by_numpy(n, a, b, power)[::-1].copy(), "noisiest level comes first"),
        (lambda n, a, b, power=7: torch.linspace(b, a, n), "space their roots evenly"),
        (log_spaced, "evenly spaced in the logarithm"),
        (lambda n, a, b, power=7: torch.linspace(b ** (1 / power), a ** (1 / power), n), "these are the roots"),
        (
            lambda n, a, b, power=7: torch.linspace(b**power, a**power, n) ** (1 / power),
            "exponents are exchanged|the second is",
        ),
        (lambda n, a, b, power=7: [*by_loop(n, a, b, power), 0.0], "leave out the last level"),
        (lambda n, a, b, power=7: by_loop(n + 1, a, b, power)[:n], "smallest level is missing"),
        (lambda n, a, b, power=7: by_loop(n, a, b, 7), "for 4 levels|the second is"),
        (lambda n, a, b, power=7: by_loop(n + 1, a, b, power), "not 5"),
        (lambda n, a, b, power=7: by_loop(n, a, b, power) if n > 1 else [a], "one level is the largest"),
    ],
)

# --- 13.3 ---


def by_slope(x0, x0_before, h, h_before):
    slope = (x0 - x0_before) / h_before
    return x0 + slope * (h / 2)


def by_weights(x0, x0_before, h, h_before):
    """As in the paper: r is the step before over this one."""
    r = h_before / h
    return (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before


def rows_one_by_one(x0, x0_before, h, h_before):
    return torch.stack([torch.lerp(b, a, 1 + h / (2 * h_before)) for a, b in zip(x0, x0_before)])


def in_place_middle(x0, x0_before, h, h_before):
    x0 += (x0 - x0_before) * h / (2 * h_before)
    return x0


MIDDLE = Case(
    checks.middle,
    right=[
        nb13.middle,
        by_slope,
        by_weights,
        rows_one_by_one,
        lambda x0, x0_before, h, h_before: by_slope(x0.double(), x0_before.double(), h, h_before=h_before),
    ],
    wrong=[
        (lambda x0, b, h, hb: x0 + (x0 - b) * h / hb, "end of the step"),
        (lambda x0, b, h, hb: x0 - (x0 - b) * h / (2 * hb), "sign is turned around"),
        (lambda x0, b, h, hb: (x0 + b) / 2, "between the two predictions"),
        (lambda x0, b, h, hb: x0 + (x0 - b) * hb / (2 * h), "lengths are exchanged"),
        (lambda x0, b, h, hb: x0 + (x0 - b) / 2, "differ in length"),
        (lambda x0, b, h, hb: b + (x0 - b) * h / (2 * hb), "begins at x0"),
        (lambda x0, b, h, hb: x0.clone(), "nothing is extrapolated"),
        (lambda x0, b, h, hb: (x0 - b) * h / (2 * hb), "change alone"),
        (lambda x0, b, h, hb: by_slope(x0, b, int(h), hb), "nothing is extrapolated|goes on by"),
        (in_place_middle, "changes a tensor"),
    ],
)

# --- 13.4 ---


def choice(rows, budget):
    affordable = [row for row in rows if 2 * row["nfe"] <= budget]
    return min(affordable, key=lambda row: row["fd"])


def by_loop_over_rows(rows, budget):
    best = None
    for row in rows:
        if row["nfe"] * 2 <= budget and (best is None or row["fd"] < best["fd"]):
            best = row
    return best


def by_sorting(rows, budget):
    for row in sorted(rows, key=lambda row: row["fd"]):
        if row["nfe"] <= budget // 2:
            return dict(row)
    return None


def sorts_in_place(rows, budget):
    rows.sort(key=lambda row: row["fd"])
    return choice(rows, budget)


CHOICE = Case(
    checks.choice,
    right=[choice, by_loop_over_rows, by_sorting, lambda rows, budget: choice(list(rows), budget=budget)],
    wrong=[
        (
            lambda rows, budget: min((r for r in rows if r["nfe"] <= budget), key=lambda r: r["fd"]),
            "with guidance, and the budget",
        ),
        (
            lambda rows, budget: min(
                (r for r in rows if 2 * r["nfe"] < budget), key=lambda r: r["fd"], default=rows[0]
            ),
            "has a lower FD|and the budget",
        ),
        (lambda rows, budget: max((r for r in rows if 2 * r["nfe"] <= budget), key=lambda r: r["fd"]), "highest FD"),
        (
            lambda rows, budget: max((r for r in rows if 2 * r["nfe"] <= budget), key=lambda r: r["nfe"]),
            "has a lower FD",
        ),
        (lambda rows, budget: choice(rows, budget)["fd"], "one of the rows, whole"),
        (lambda rows, budget: min(rows, key=lambda r: r["fd"]), "the budget is 20"),
        (sorts_in_place, "list of rows was changed"),
    ],
)

CASES = [HEUN, KARRAS, MIDDLE, CHOICE]
