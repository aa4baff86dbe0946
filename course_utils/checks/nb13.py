"""Checks for notebook 13, by exact answers on data whose denoiser is known and by published mistake."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import WrongAnswer, exercise, expect, reject, tensor
from . import use as use
from .nb04 import normal, same, untouched


class _Denoiser:
    """The exact denoiser of a Gaussian of mean 0.3 and variance 0.5, which writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, float]] = []

    def of(self, x: Tensor, s: float) -> Tensor:
        return 0.3 + 0.5 / (0.5 + s * s) * (x - 0.3)

    def __call__(self, x: Tensor, s: float) -> Tensor:
        expect(float(s) > 0, "denoise was asked at s = 0: the last step, to 0, is plain Euler.")
        self.asked.append((x.clone(), float(s)))
        return self.of(x, float(s))


@exercise("13.1")
def heun_step(answer: Callable[[Callable, Tensor, float, float], Tensor]) -> None:
    """`answer(denoise, x, s, s_next)`: Heun's step in sigma / alpha, Euler's to 0."""
    for dtype in (torch.float64, torch.float32):
        for s, s_next in ((2.0, 0.7), (80.0, 5.0), (0.9, 0.8), (0.3, 0.0), (6.0, 0.0)):
            _heun_from(answer, normal(5, 4, dtype=dtype) * (1 + s), s, s_next)


def _heun_from(answer: Callable, x: Tensor, s: float, s_next: float) -> None:
    denoise = _Denoiser()
    try:
        returned = untouched(lambda given: answer(denoise, given, s, s_next), x)
    except ZeroDivisionError:
        raise WrongAnswer("s_next is 0 in the last step, and you divide by it: return Euler's step there.") from None
    found = tensor(returned, "the next x", x.shape)
    slope = (x - denoise.of(x, s)) / s
    euler = x + (s_next - s) * slope
    if s_next == 0:
        wanted = euler
    else:
        slope_next = (euler - denoise.of(euler, s_next)) / s_next
        wanted = x + (s_next - s) * (slope + slope_next) / 2
    limit = 1 if s_next == 0 else 2
    if same(found, wanted):
        expect(
            len(denoise.asked) <= limit,
            f"the step from {s:g} to {s_next:g} asked the network {len(denoise.asked)} times, and {limit} are enough:"
            " keep its answers.",
        )
        return
    expect(
        found.isfinite().all(),
        f"the step from {s:g} to {s_next:g} is not finite: the last step, to 0, is plain Euler.",
    )
    if s_next == 0:
        reject(
            found,
            {"the last step, to 0, is the whole Euler step, not half of it.": x + (s_next - s) * slope / 2},
            same,
        )
        raise WrongAnswer("the last step, to s = 0, is Euler's: it ends at the prediction itself.")
    at_x = (euler - denoise.of(x, s_next)) / s_next
    slips = {
        "the two slopes are added: take their mean.": x + (s_next - s) * (slope + slope_next),
        "the two slopes are added, and the second prediction was asked for x and not for x_next.": (
            x + (s_next - s) * (slope + at_x)
        ),
        "the second prediction was asked for x: ask for x_next, where the step would end.": (
            x + (s_next - s) * (slope + at_x) / 2
        ),
        "this is Euler's step: Heun's averages the slope with that at the end.": euler,
        "this takes the slope at the end alone: average it with the one at the beginning.": (
            x + (s_next - s) * slope_next
        ),
        "the sign is turned around: s falls, so that s_next - s is below 0.": (
            x - (s_next - s) * (slope + slope_next) / 2
        ),
        "Heun's step begins at x, and yours at x_next.": euler + (s_next - s) * (slope + slope_next) / 2,
        "the slope at the end divides by s_next, not by s.": (
            x + (s_next - s) * (slope + (euler - denoise.of(euler, s_next)) / s) / 2
        ),
        "the second prediction belongs to the level s_next, not to s.": (
            x + (s_next - s) * (slope + (euler - denoise.of(euler, s)) / s_next) / 2
        ),
    }
    reject(found, slips, same)
    raise WrongAnswer(f"the step from {s:g} to {s_next:g} is not x + (s_next - s) times the mean of both slopes.")


@exercise("13.2")
def karras(answer: Callable[..., Any]) -> None:
    """`answer(n, smallest, largest, power=7)`: n levels from the largest down, even in the 1/power-th power."""
    for n, smallest, largest, power in (
        (5, 0.002, 80.0, 7),
        (10, 0.02, 20.0, 7),
        (4, 0.5, 8.0, 3),
        (6, 0.1, 5.0, 1),
        (2, 0.3, 4.0, 7),
        (1, 0.01, 9.0, 7),
    ):
        returned = answer(n, smallest, largest) if power == 7 else answer(n, smallest, largest, power)
        _karras_is(_numbers(returned), n, smallest, largest, power)


def _numbers(returned: Any) -> Tensor:
    """Levels as a float64 tensor of one axis, from a tensor, an array, or a list of numbers."""
    if isinstance(returned, (list, tuple)):
        returned = torch.tensor([float(value) for value in returned], dtype=torch.float64)
    return tensor(returned, "the levels").double().flatten()


def _karras_is(found: Tensor, n: int, smallest: float, largest: float, power: float) -> None:
    def even(a: float, b: float, count: int = n) -> Tensor:
        return torch.linspace(a, b, count, dtype=torch.float64)

    wanted = even(largest ** (1 / power), smallest ** (1 / power)) ** power
    case = f"for {n} levels from {largest:g} to {smallest:g}"
    if len(found) == n + 1 and _near(found[:n], wanted) and found[n] == 0:
        raise WrongAnswer(f"{case}: leave out the last level, 0.")
    expect(len(found) == n, f"{case} there are {len(found)} numbers, not {n}.")
    if _near(found, wanted):
        return
    slips = {
        "the noisiest level comes first: turn them around.": wanted.flip(0),
        "these are evenly spaced themselves: space their roots evenly.": even(largest, smallest),
        "these are evenly spaced in the logarithm, which is the exponential spacing.": (
            even(math.log(largest), math.log(smallest)).exp()
        ),
        "these are the roots: raise them to the power at the end.": even(
            largest ** (1 / power), smallest ** (1 / power)
        ),
        "the exponents are exchanged: first the root, 1 / power, then the power.": (
            even(largest**power, smallest**power) ** (1 / power)
        ),
        "the smallest level is missing at the end: both ends are included.": (
            even(largest ** (1 / power), smallest ** (1 / power), n + 1)[:n] ** power
        ),
    }
    if n > 1:
        reject(found, slips, _near)
    else:
        raise WrongAnswer(f"one level is the largest, {largest:g}, and yours is {found.item():g}.")
    raise WrongAnswer(f"{case} the second is {wanted[1]:.4g}, and yours {found[1]:.4g}.")


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=2e-4, atol=1e-9)


@exercise("13.3")
def middle(answer: Callable[[Tensor, Tensor, float, float], Tensor]) -> None:
    """`answer(x0, x0_before, h, h_before)`: the value in the middle of the step on the line through both."""
    for dtype in (torch.float32, torch.float64):
        for h, h_before in ((0.5, 0.8), (1.2, 0.4), (1.0, 1.0), (0.3, 0.3), (2, 1)):
            _middle_at(answer, h, h_before, dtype)


def _middle_at(answer: Callable, h: float, h_before: float, dtype: torch.dtype) -> None:
    x0, before = normal(3, 1, 4, 4, dtype=dtype), normal(3, 1, 4, 4, dtype=dtype, seed=5)
    returned = untouched(lambda a, b: answer(a, b, h, h_before), x0, before)
    found, change = tensor(returned, "the value in the middle", x0.shape), x0 - before
    if same(found, x0 + change * h / (2 * h_before)):
        return
    slips = {
        "this is the value at the end of the step: half of the way is wanted.": x0 + change * h / h_before,
        "this goes back into the step before: the sign is turned around.": x0 - change * h / (2 * h_before),
        "this lies between the two predictions: the middle of the step lies beyond the later one.": (x0 + before) / 2,
        "the steps' lengths are exchanged: divide by h_before.": x0 + change * h_before / (2 * h),
        "the steps differ in length: multiply by h / h_before.": x0 + change / 2,
        "the line begins at x0, the later prediction.": before + change * h / (2 * h_before),
        "this is x0 as it is: nothing is extrapolated.": x0,
        "this is the change alone: add it to x0.": change * h / (2 * h_before),
    }
    if h != h_before:
        reject(found, slips, same)
    raise WrongAnswer(
        f"for steps of {h_before:g} and then {h:g} the line goes on by {h / (2 * h_before):g} of the change."
    )


@exercise("13.4")
def choice(answer: Callable[[Sequence[Mapping[str, Any]], int], Any]) -> None:
    """`answer(rows, budget)`: the row with the lowest FD whose guided cost, 2 nfe, is at most the budget."""
    rows = [
        {"name": "a", "nfe": 10, "fd": 4.0},
        {"name": "b", "nfe": 5, "fd": 6.5},
        {"name": "c", "nfe": 9, "fd": 3.4},
        {"name": "d", "nfe": 20, "fd": 2.9},
        {"name": "e", "nfe": 7, "fd": 9.0},
        {"name": "f", "nfe": 50, "fd": 3.1},
    ]
    for rows_given in (rows, rows[::-1]):
        for budget, wanted in ((20, "c"), (10, "b"), (19, "c"), (18, "c"), (17, "b"), (40, "d"), (1000, "d")):
            given = copy.deepcopy(rows_given)
            found = answer(given, budget)
            expect(given == rows_given, "the list of rows was changed: leave it as it is.")
            _choice_is(found, rows, budget, wanted)


def _choice_is(found: Any, rows: Sequence[Mapping[str, Any]], budget: int, wanted: str) -> None:
    expect(
        isinstance(found, Mapping) and "name" in found,
        f"return one of the rows, whole, and not {found!r}.",
    )
    if found["name"] == wanted:
        return
    affordable = [row for row in rows if 2 * row["nfe"] <= budget]
    cost = 2 * found["nfe"]
    expect(
        cost <= budget,
        f"row {found['name']} asks {found['nfe']} times, {cost} with guidance, and the budget is {budget}.",
    )
    expect(
        found["fd"] != max(row["fd"] for row in affordable) or len(affordable) == 1,
        "this is the highest FD: the lowest is the best.",
    )
    best = min(affordable, key=lambda row: row["fd"])
    raise WrongAnswer(
        f"with a budget of {budget} row {best['name']}, {2 * best['nfe']} evaluations with guidance, has a lower FD,"
        f" {best['fd']}, than your {found['fd']}."
    )
