"""Answers to the exercises of notebook 08."""

from __future__ import annotations

import math

import numpy as np
import torch

from cases import Case
from course_utils import phantoms
from course_utils.checks import nb08 as checks
from course_utils.lessons import nb08_medical_synthesis as nb08

# --- 8.1 ---


def by_ends(values, slope, intercept, centre, width):
    low, high = centre - width / 2, centre + width / 2
    hu = torch.clip(values * slope + intercept, low, high)
    return (hu - low) / (high - low)


def by_numpy(values, slope, intercept, centre, width):
    hu = values.numpy() * slope + intercept
    return np.interp(hu, [centre - width / 2, centre + width / 2], [0, 1])


def published(values, slope, intercept, centre, width):
    return (values - values.min()) / (values.max() - values.min())


def unclipped(values, slope, intercept, centre, width):
    return (slope * values + intercept - centre) / width + 0.5


WINDOW = Case(
    checks.window,
    right=[nb08.window, by_ends, by_numpy],
    wrong=[
        (
            lambda x, slope, intercept, centre, width: (
                (slope * x + intercept - centre + 0.5) / (width - 1) + 0.5
            ).clamp(0, 1),
            "LINEAR_EXACT",
        ),
        (published, "of the picture's own"),
        (unclipped, "not clipped"),
        (lambda v, s, i, c, w: nb08.window(v, s, i, c + w / 2, w), "not at its lower end"),
        (lambda v, s, i, c, w: nb08.window(v, s, i, c, 2 * w), "twice as wide"),
        (lambda v, s, i, c, w: nb08.window(v, s, 0, c, w), "left out"),
        (lambda v, s, i, c, w: nb08.window(v, s, -i, c, w), "added, not taken away"),
        (lambda v, s, i, c, w: 1 - nb08.window(v, s, i, c, w), "exchanged"),
        (lambda v, s, i, c, w: 255 * nb08.window(v, s, i, c, w), r"\[0, 255\]"),
        (lambda v, s, i, c, w: 0.9 * nb08.window(v, s, i, c, w), "off by"),
    ],
)

# --- 8.2 ---


def by_columns(parameters):
    found = []
    for k in (0, 1, 3, 4, 5):
        _, low, high = list(phantoms.PARAMETERS.values())[k]
        found.append((parameters[:, k] - low) / (high - low) * 2 - 1)
    angle = torch.deg2rad(parameters[:, 2])
    found += [angle.cos(), angle.sin()]
    numbers = torch.stack(found, dim=1)
    numbers = torch.where(numbers.isnan(), torch.zeros_like(numbers), numbers)
    return torch.cat([numbers, torch.isnan(parameters).float()], dim=1)


def by_rows(parameters):
    rows = []
    for row in parameters.double().numpy():
        middle, half = ((phantoms.HIGH + s * phantoms.LOW).double().numpy() / 2 for s in (1, -1))
        scaled = (row - middle) / half
        angle = row[2] / 180 * math.pi
        numbers = [*scaled[[0, 1, 3, 4, 5]], np.cos(angle), np.sin(angle)]
        rows.append([*np.nan_to_num(numbers), *np.isnan(row)])
    return rows


def changed(change):
    return lambda parameters: change(nb08.encode(parameters), parameters)


def zeros_first(parameters):
    return torch.cat([nb08.encode(parameters.nan_to_num(0.0))[:, :7], parameters.isnan().float()], dim=1)


def without_radians(parameters):
    return nb08.encode(torch.cat([parameters[:, :2], parameters[:, 2:3] * 180 / math.pi, parameters[:, 3:]], dim=1))


def in_place(parameters):
    missing = parameters.isnan()
    parameters[missing] = 0
    return nb08.encode(parameters)


ENCODE = Case(
    checks.encode,
    right=[nb08.encode, by_columns, by_rows],
    wrong=[
        (lambda p: nb08.encode(p) * torch.tensor([0.5] * 5 + [1.0] * 8), r"\[-1/2, 1/2\]"),
        (zeros_first, "like a value of 0"),
        (without_radians, "radians"),
        (in_place, "changes the requests"),
        (changed(lambda e, p: torch.cat([e[:, :7], 1 - e[:, 7:]], dim=1)), "turned round"),
        (changed(lambda e, p: e[:, [0, 1, 2, 3, 4, 6, 5, *range(7, 13)]]), "exchanged"),
        (changed(lambda e, p: torch.cat([e[:, :7], 0 * e[:, 7:]], dim=1)), "flags are all 0"),
        (changed(lambda e, p: e[:, :7]), "has the shape"),
        (changed(lambda e, p: e.masked_fill(e == 0, math.nan)), "is NaN"),
        (changed(lambda e, p: e.flip(1)), "column"),
    ],
)

# --- 8.3 ---


def by_einsum(features, embedded, score):
    return torch.einsum("nf,nf->n", features, embedded) / math.sqrt(features.shape[1]) + score


def by_diagonal(features, embedded, score):
    return score + (features @ embedded.T).diagonal() * features.shape[1] ** -0.5


def by_lists(features, embedded, score):
    return [float(s + f @ e / len(f) ** 0.5) for f, e, s in zip(features, embedded, score)]


PROJECTED = Case(
    checks.projected,
    right=[nb08.projected, by_einsum, by_diagonal, by_lists],
    wrong=[
        (lambda f, e, s: s + (f * e).sum(1), "not divided"),
        (lambda f, e, s: s + (f * e).mean(1), "not by F"),
        (lambda f, e, s: (f * e).sum(1) / f.shape[1] ** 0.5, "alone is left out"),
        (lambda f, e, s: s, "inner product is left out"),
        (lambda f, e, s: s + torch.cosine_similarity(f, e), "cosine"),
        (lambda f, e, s: s + (f * e).sum() / f.shape[1] ** 0.5, "whole batch"),
        (lambda f, e, s: s + f @ e.T / f.shape[1] ** 0.5, "its own request"),
        (lambda f, e, s: s - (f * e).sum(1) / f.shape[1] ** 0.5, "taken away"),
    ],
)

# --- 8.4 ---


def by_sets(patient, share, rng):
    people = sorted(set(patient.tolist()))
    order = torch.randperm(len(people), generator=rng).tolist()
    chosen = {people[i] for i in order[: round(share * len(people))]}
    test = [i for i, who in enumerate(patient.tolist()) if who in chosen]
    train = [i for i, who in enumerate(patient.tolist()) if who not in chosen]
    return train, test


def by_marks(patient, share, rng):
    people, whose = patient.unique(return_inverse=True)
    marks = torch.rand(len(people), generator=rng)
    tested = torch.zeros(len(people), dtype=torch.bool)
    tested[marks.argsort()[: round(share * len(people))]] = True
    return torch.where(~tested[whose])[0], torch.where(tested[whose])[0]


def by_slices(patient, share, rng):
    order = torch.randperm(len(patient), generator=rng)
    n = round(share * len(patient))
    return order[n:], order[:n]


def without_rng(patient, share, rng):
    return nb08.split(patient, share, torch.Generator().manual_seed(0))


def first_people(patient, share, rng):
    people = patient.unique()
    test = torch.isin(patient, people[: round(share * len(people))])
    return torch.where(~test)[0], torch.where(test)[0]


def few_left(patient, share, rng):
    train, test = nb08.split(patient, share, rng)
    return train[:-1], test


SPLIT = Case(
    checks.split,
    right=[nb08.split, by_sets, by_marks],
    wrong=[
        (by_slices, "deal people, not slices"),
        (without_rng, "with `rng`"),
        (first_people, "with `rng`"),
        (few_left, "missing or doubled"),
        (lambda p, s, r: nb08.split(p, s, r)[::-1], "exchanged|belong into the test"),
        (lambda p, s, r: nb08.split(p, min(1.0, 2 * s), r), "people belong into the test"),
        (lambda p, s, r: nb08.split(p, s, r)[0], "return two things"),
    ],
)

# --- 8.5 ---


def by_ranks(members, others):
    order = torch.cat([others, members])
    below = (order[:, None] > order).double().sum(1) + 0.5 * (order[:, None] == order).double().sum(1)
    ranks = below[len(others) :].sum() - 0.5 * len(members) - members.new_tensor(0).double()
    inner = (members[:, None] > members).double().sum() + 0.5 * ((members[:, None] == members).double().sum())
    return float((ranks + 0.5 * len(members) - inner) / (len(members) * len(others)))


def by_loops(members, others):
    total = 0.0
    for m in members.tolist():
        for o in others.tolist():
            total += 1.0 if m > o else 0.5 if m == o else 0.0
    return total / len(members) / len(others)


def by_sign(members, others):
    return (torch.sign(members.unsqueeze(1) - others).mean() + 1) / 2


AUC = Case(
    checks.auc,
    right=[nb08.auc, by_ranks, by_loops, by_sign],
    wrong=[
        (lambda m, o: max(a := nb08.auc(m, o), 1 - a), "below one half is told as it is"),
        (lambda m, o: 1 - nb08.auc(m, o), "exchanged"),
        (lambda m, o: (m[:, None] > o).double().mean(), "yours counts 0"),
        (lambda m, o: (m[:, None] >= o).double().mean(), "yours counts 1"),
        (lambda m, o: m.mean() - o.mean(), "difference of means"),
        (lambda m, o: nb08.auc(m, o) * len(m) * len(o), "number of pairs"),
        (lambda m, o: (m > o).double().mean(), "every member with every other"),
        (lambda m, o: 0.9 * nb08.auc(m, o), "and yours"),
    ],
)

CASES = [WINDOW, ENCODE, PROJECTED, SPLIT, AUC]
