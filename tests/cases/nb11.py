"""Answers to the exercises of notebook 11."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from scipy.sparse.csgraph import connected_components

from cases import Case
from course_utils.checks import nb11 as checks
from course_utils.lessons import nb11_your_own_pictures as nb11

# --- 11.1 ---


def apart(bits):
    return (bits[:, None, :] ^ bits[None, :, :]).sum(-1)


def by_scipy(bits, at_most):
    _, label = connected_components((apart(bits) <= at_most).numpy(), directed=False)
    return torch.tensor([int(np.flatnonzero(label == group)[0]) for group in label])


def by_union_find(bits, at_most):
    parent = list(range(len(bits)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(bits)):
        for j in range(i):
            if (bits[i] != bits[j]).sum() <= at_most:
                a, b = sorted((root(i), root(j)))
                parent[b] = a
    return [root(i) for i in range(len(bits))]


def by_powers(bits, at_most):
    reach = (apart(bits) <= at_most).float()
    for _ in range(6):
        reach = ((reach @ reach) > 0).float()
    return reach.argmax(dim=1)


def once(bits, at_most):
    return (apart(bits) <= at_most).int().argmax(dim=1)


def twice(bits, at_most):
    linked = (apart(bits) <= at_most).float()
    return ((linked @ linked) > 0).int().argmax(dim=1)


def less(bits, at_most):
    return by_scipy(bits, at_most - 1)


def numbered(bits, at_most):
    return torch.unique(by_scipy(bits, at_most), return_inverse=True)[1]


def last(bits, at_most):
    group = by_scipy(bits, at_most)
    return torch.tensor([int((group == g).nonzero()[-1]) for g in group])


GROUPS = Case(
    checks.groups,
    right=[nb11.duplicate_groups, by_scipy, by_union_find, by_powers],
    wrong=[
        (once, "only once"),
        (twice, "only twice"),
        (less, "exactly"),
        (numbered, "numbered anew"),
        (last, "largest"),
        (lambda bits, at_most: apart(bits) <= at_most, "shape"),
        (lambda bits, at_most: torch.arange(len(bits)) - 1, "whole numbers from 0"),
        (lambda bits, at_most: torch.arange(len(bits)).flip(0), "belongs to|exactly|only once"),
    ],
)

# --- 11.2 ---


def by_torchvision(x, along):
    height, width = x.shape[1:]
    side = min(height, width)
    return transforms.crop(x, round(along * (height - side)), round(along * (width - side)), side, side)


def by_narrow(x, along):
    axis = 1 if x.shape[1] >= x.shape[2] else 2
    side = min(x.shape[1:])
    return x.narrow(axis, round(along * (x.shape[axis] - side)), side)


def by_numpy(x, along):
    values = x.numpy()
    room = values.shape[1] - values.shape[2]
    start = int(np.rint(along * abs(room)))
    side = min(values.shape[1:])
    return values[:, start : start + side] if room > 0 else values[:, :, start : start + side]


def placed(place):
    def answer(x, along):
        side, room = min(x.shape[1:]), abs(x.shape[1] - x.shape[2])
        start = place(along, room, max(x.shape[1:]))
        return x.narrow(1 if x.shape[1] > x.shape[2] else 2, start, side)

    return answer


SQUARE = Case(
    checks.square,
    right=[nb11.square, by_torchvision, by_narrow, by_numpy],
    wrong=[
        (lambda x, along: transforms.center_crop(x, [min(x.shape[1:])] * 2), "is the middle"),
        (placed(lambda along, room, whole: room - round(along * room)), "other end"),
        (placed(lambda along, room, whole: 0), "always begins"),
        (placed(lambda along, room, whole: int(along * room)), "cut down|round"),
        (placed(lambda along, room, whole: min(round(along * whole), room)), "share of the room"),
        (lambda x, along: transforms.resize(x, [min(x.shape[1:])] * 2), "pixels stay as they are"),
        (lambda x, along: transforms.resize(x, [max(x.shape[1:])] * 2), "longer side"),
        (lambda x, along: by_narrow(x, along).mT, "exchanged"),
        (lambda x, along: x, "comes back whole"),
    ],
)

# --- 11.3 ---


def by_view(out, mean, std):
    return torch.clip(out.mul(std.view(1, 3, 1, 1)).add(mean.view(1, 3, 1, 1)), 0, 1)


def by_normalise(out, mean, std):
    return transforms.normalize(out, mean=(-mean / std).tolist(), std=(1 / std).tolist()).clamp(0, 1)


def by_channels(out, mean, std):
    return np.stack([np.clip(out[:, c].numpy() * float(std[c]) + float(mean[c]), 0, 1) for c in range(3)], axis=1)


def shaped(formula):
    return lambda out, mean, std: formula(out, mean[:, None, None], std[:, None, None]).clamp(0, 1)


PIXELS = Case(
    checks.to_pixels,
    right=[nb11.to_pixels, by_view, by_normalise, by_channels],
    wrong=[
        (lambda out, mean, std: (out + 1) / 2, "published line"),
        (shaped(lambda out, m, s: (out + 1) / 2), "published line"),
        (lambda out, mean, std: out * std[:, None, None] + mean[:, None, None], "clamp"),
        (shaped(lambda out, m, s: (out - m) / s), "once more"),
        (shaped(lambda out, m, s: (out + m) * s), "first times std"),
        (shaped(lambda out, m, s: out * s - m), "subtracted"),
        (shaped(lambda out, m, s: out / s + m), "std divides"),
        (shaped(lambda out, m, s: out * m + s), "exchanged"),
        (lambda out, mean, std: (out * std + mean).clamp(0, 1), r"\(3, 1, 1\)"),
        (shaped(lambda out, m, s: out * s.mean() + m.mean()), "each channel"),
        (shaped(lambda out, m, s: 0.9 * (out * s + m)), "is off by"),
    ],
)

# --- 11.4 ---


def by_dictionary(y, power):
    classes = y.tolist()
    weight = [classes.count(c) ** -power for c in classes]
    return [w / sum(weight) for w in weight]


def by_softmax(y, power):
    return torch.softmax(-power * y.bincount()[y].double().log(), dim=0)


def by_unique(y, power):
    _, inverse, count = np.unique(y.numpy(), return_inverse=True, return_counts=True)
    weight = count.astype(float)[inverse] ** -power
    return weight / weight.sum()


def of_count(formula):
    return lambda y, power: formula(y.bincount()[y].double(), power)


def normed(w):
    return w / w.sum()


WEIGHTS = Case(
    checks.weights,
    right=[nb11.class_weights, by_dictionary, by_softmax, by_unique],
    wrong=[
        (of_count(lambda n, power: n**-power), "add up to 1"),
        (of_count(lambda n, power: normed(n**power)), "turned round"),
        (of_count(lambda n, power: normed(1 / n)), "every class equally"),
        (lambda y, power: torch.full((len(y),), 1 / len(y)), "every picture equally"),
        (lambda y, power: normed(y.bincount().double() ** -power), "one for each picture"),
        (of_count(lambda n, power: n**-power / len(n)), "number of pictures"),
        (of_count(lambda n, power: normed(n ** (-power / 2))), "is drawn with"),
    ],
)

CASES = [GROUPS, SQUARE, PIXELS, WEIGHTS]
