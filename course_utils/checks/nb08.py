"""Checks for notebook 08, by hand-made cases, invariance and published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils import phantoms

from . import WrongAnswer, exercise, expect, number, reject, tensor
from . import use as use
from .nb04 import normal, same, two, untouched


@exercise("8.1")
def window(answer: Callable[[Tensor, float, float, float, float], Tensor]) -> None:
    """`answer(stored, slope, intercept, centre, width)`: rescaled, windowed, in [0, 1]."""
    for slope, intercept, centre, width in (
        (1.0, -1024.0, 40.0, 80.0),
        (2.0, -500.0, 50.0, 400.0),
        (0.5, 0, -600, 1500),
    ):
        stored = (torch.linspace(-1200, 1400, 40).view(2, 1, 4, 5) - intercept) / slope
        found = tensor(untouched(answer, stored, slope, intercept, centre, width), "what is shown", stored.shape)
        stored, hu = stored.double(), (slope * stored + intercept).double()

        def seen(values: Tensor, low: float = centre - width / 2, wide: float = width) -> Tensor:
            return ((values - low) / wide).clamp(0, 1)

        wanted = seen(hu)
        if same(found, wanted):
            continue
        slips = {
            "the result is not clipped: below the window all is 0, above it 1.": (hu - centre + width / 2) / width,
            "this is a window of the picture's own, from its least to its largest value: the same tissue gets another"
            " grey in each picture.": (stored - stored.min()) / (stored.max() - stored.min()),
            "the centre is in the middle of the window, not at its lower end.": seen(hu, centre),
            "the width is the whole window: this one is twice as wide.": seen(hu, centre - width, 2 * width),
            "the window is only half as wide as asked.": seen(hu, centre - width / 4, width / 2),
            "slope and intercept are left out: stored values are no HU.": seen(stored),
            "the intercept is left out: it turns stored values into HU, with the slope.": seen(slope * stored),
            "the slope is left out.": seen(stored + intercept),
            "first times the slope, then plus the intercept: HU = slope x stored + intercept.": seen(
                slope * (stored + intercept)
            ),
            "the intercept is added, not taken away.": seen(slope * stored - intercept),
            "black and white are exchanged.": 1 - wanted,
            "this is DICOM's LINEAR, which takes half off the centre and 1 off the width: its LINEAR_EXACT is asked"
            " for.": ((hu - centre + 0.5) / (width - 1) + 0.5).clamp(0, 1),
            "this is in [-1, 1]: [0, 1] is asked for.": 2 * wanted - 1,
            "this is in [0, 255]: [0, 1] is asked for.": 255 * wanted,
        }
        reject(found, slips, same)
        worst = (found - wanted).abs().max().item()
        raise WrongAnswer(f"with a centre of {centre:g} and a width of {width:g} some value is off by {worst:.3f}.")


def _encoded(parameters: Tensor, turn: float = math.pi / 180) -> Tensor:
    low, high = phantoms.LOW.double(), phantoms.HIGH.double()
    scaled = 2 * (parameters - low) / (high - low) - 1
    angle = parameters[:, 2:3] * turn
    numbers = torch.cat([scaled[:, :2], scaled[:, 3:], angle.cos(), angle.sin()], dim=1)
    return torch.cat([numbers, parameters.isnan().double()], dim=1)


@exercise("8.2")
def encode(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(parameters)`: five scaled numbers, cosine and sine, six flags."""
    rng = torch.Generator().manual_seed(3)
    whole = phantoms.draw_parameters(7, rng)
    holes = whole.clone()
    holes[0, 0] = holes[1, 2] = holes[2, 5] = holes[3, 1] = holes[3, 3] = math.nan
    holes[4] = math.nan
    for parameters in (whole, holes, whole[:1]):
        n = len(parameters)
        given = parameters.clone()
        found = tensor(answer(given), "the encoding", (n, 13))
        expect(
            torch.equal(given.nan_to_num(-1e6), parameters.nan_to_num(-1e6)),
            "your function changes the requests that it was given: make a new tensor.",
        )
        wanted = _encoded(parameters.double())
        expect(
            found.isfinite().all(),
            "some number is NaN: what is missing is 0 in the first seven, and its flag says so.",
        )
        filled = wanted.nan_to_num(0.0)
        if same(found, filled):
            continue
        raw = parameters.double().nan_to_num(0.0)
        unit = torch.cat([(filled[:, :5] + 1) / 2 * wanted[:, :5].isfinite(), filled[:, 5:]], dim=1)
        present = torch.cat([filled[:, :7], 1 - filled[:, 7:]], dim=1)
        slips = {
            "the flags are turned round: 1 is for what is missing.": present,
            "cosine and sine are exchanged: the cosine comes first.": filled[:, [0, 1, 2, 3, 4, 6, 5, *range(7, 13)]],
            "the angle is in degrees, and cosine and sine want radians.": _encoded(parameters.double(), 1.0).nan_to_num(
                0.0
            ),
            "this is scaled to [0, 1]: [-1, 1] is asked for.": unit,
            "this is scaled to [-1/2, 1/2]: [-1, 1] is asked for.": torch.cat(
                [filled[:, :5] / 2, filled[:, 5:]], dim=1
            ),
            "what is missing is encoded like a value of 0: put zeros there after the scaling.": torch.cat(
                [_encoded(raw)[:, :7], filled[:, 7:]], dim=1
            ),
            "the numbers are not scaled: radius and dose have other sizes.": torch.cat(
                [raw[:, :2], raw[:, 3:], filled[:, 5:]], dim=1
            ),
            "the flags are all 0, and something is missing.": torch.cat([filled[:, :7], 0 * filled[:, 7:]], dim=1),
        }
        reject(found, {said: value for said, value in slips.items() if not same(value, filled)}, same)
        first = next(column for column in range(13) if not same(found[:, column], filled[:, column]))
        raise WrongAnswer(
            f"column {first}, counted from 0, is the first that is off: look at its scale, and at the order in the"
            " exercise's text."
        )


@exercise("8.3")
def projected(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`answer(features, embedded, score)`: score + <features, embedded> / sqrt(F)."""
    for n, f in ((3, 5), (4, 4), (1, 9)):
        features, embedded, score = (normal(*shape, seed=s) for shape, s in (((n, f), 1), ((n, f), 2), ((n,), 3)))
        try:
            found = untouched(answer, features, embedded, score)
        except RuntimeError as error:
            if "size" in str(error) or "shape" in str(error):
                raise WrongAnswer("the shapes do not fit: sum over the F features of each picture, dim=1.") from None
            raise
        expect(
            getattr(found, "ndim", 1) == 1,
            f"one score a picture is wanted, ({n},): each picture meets its own request, and no other one's.",
        )
        found = tensor(found, "the scores", (n,))
        inner = (features * embedded).sum(dim=1)
        wanted = score + inner / f**0.5
        if same(found, wanted):
            continue
        cosine = inner / features.norm(dim=1) / embedded.norm(dim=1)
        slips = {
            "the inner product is not divided by the root of F.": score + inner,
            "divide by the root of F, not by F: this is the mean.": score + inner / f,
            "the score of the picture alone is left out.": inner / f**0.5,
            "the inner product is left out.": score,
            "this is the cosine: the lengths of both are part of the inner product.": score + cosine,
            "this sums over the whole batch: sum over the features of each picture, dim=1.": score
            + inner.sum() / f**0.5,
            "the score is divided, too: only the inner product is.": (score + inner) / f**0.5,
            "the inner product is taken away: a fitting picture gets more.": score - inner / f**0.5,
        }
        reject(found, {said: value for said, value in slips.items() if not same(value, wanted)}, same)
        raise WrongAnswer(f"the first score is {wanted[0]:.4f}, and yours {found[0]:.4f}.")


@exercise("8.4")
def split(answer: Callable[[Tensor, float, torch.Generator], tuple[Tensor, Tensor]]) -> None:
    """`answer(patient, share, rng)`: indices for training and test, no patient in both."""
    mixed = torch.tensor([7, 7, 3, 3, 3, 3, 3, 9, 9, 12, 40, 40, 5, 5, 5, 8, 2, 2, 11, 11])
    shuffled = torch.arange(30).repeat(4)
    for patient, share in ((mixed, 0.3), (shuffled, 0.25), (torch.arange(8).repeat_interleave(3), 0.5)):
        seen = set()
        for seed in range(4):
            rng = torch.Generator().manual_seed(seed)
            parts = two(untouched(answer, patient, share, rng), "training and test")
            train, test = (tensor(part, "indices").long() for part in parts)
            expect(train.ndim == 1 and test.ndim == 1, "indices of slices are wanted, two tensors with one axis each.")
            if len(parts[0]) == len(patient) and torch.as_tensor(parts[0]).dtype == torch.bool:
                raise WrongAnswer("these are masks: indices of slices are wanted.")
            both = torch.cat([train, test])
            inside = bool(len(both) == 0 or (0 <= both.min() and both.max() < len(patient)))
            expect(inside, "an index is not that of a slice: did you return patients instead of slices?")
            shared = set(patient[train].tolist()) & set(patient[test].tolist())
            expect(
                not shared,
                f"patient {min(shared, default=0)} is in training and in the test: deal people, not slices.",
            )
            expect(
                sorted(both.tolist()) == list(range(len(patient))),
                "each slice belongs to one side, once: some are missing or doubled.",
            )
            people, tested = len(patient.unique()), len(patient[test].unique())
            wanted = round(share * people)
            if tested == people - wanted and tested != wanted:
                raise WrongAnswer("training and test are exchanged: the test is returned second and has the share.")
            expect(tested == wanted, f"{wanted} of {people} people belong into the test, and {tested} are there.")
            seen.add(tuple(sorted(test.tolist())))
        again = two(answer(patient, share, torch.Generator().manual_seed(3)), "training and test")[1]
        expect(
            sorted(tensor(again, "indices").long().tolist()) == sorted(test.tolist()),
            "the same `rng` gives two different splits: draw with it, and with nothing else.",
        )
        expect(len(seen) > 1, "other random numbers give the same split: draw the people with `rng`.")


@exercise("8.5")
def auc(answer: Callable[[Tensor, Tensor], float]) -> None:
    """`answer(members, others)`: the share of pairs in which the member has more; ties count a half."""
    cases = (
        (normal(7, seed=1) + 0.6, normal(5, seed=2)),
        (torch.tensor([3.0, 1.0, 1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0]).double()),
        (torch.tensor([2.0, 2.0]).double(), torch.tensor([2.0, 2.0, 2.0]).double()),
        (torch.tensor([-1.0]).double(), torch.tensor([-4.0, -3.0]).double()),
        (normal(7, seed=3) - 0.6, normal(5, seed=4)),  # the last: here alone members have less
    )
    for members, others in cases:
        try:
            found = number(untouched(answer, members, others), "the AUC")
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise WrongAnswer("compare every member with every other: members[:, None] and others.") from None
            raise
        pairs = [(float(m), float(o)) for m in members for o in others]
        more, ties = sum(m > o for m, o in pairs) / len(pairs), sum(m == o for m, o in pairs) / len(pairs)
        wanted = more + ties / 2
        if same(found, wanted):
            continue
        middle = torch.cat([members, others]).median()
        expect(
            wanted > 0.5 or not same(found, 1 - wanted),
            "an AUC below one half is told as it is: do not take the larger of it and 1 minus it.",
        )
        slips = {
            "the sides are exchanged: a member with more counts 1.": 1 - wanted,
            "a tie counts a half, and yours counts 0.": more,
            "a tie counts a half, and yours counts 1.": more + ties,
            "this is a number of pairs: their share is wanted.": wanted * len(pairs),
            "this is the difference of means, not a share of pairs.": (members.mean() - others.mean()).item(),
            "this is the accuracy at one threshold: the AUC needs none.": (
                ((members > middle).double().mean() + (others <= middle).double().mean()) / 2
            ).item(),
        }
        reject(found, {said: value for said, value in slips.items() if not same(value, wanted)}, same)
        raise WrongAnswer(
            f"for {len(members)} members and {len(others)} others it is {wanted:.4f}, and yours {found:.4f}."
        )
