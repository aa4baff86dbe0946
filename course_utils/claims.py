"""Claims and stored numbers: sentences of the course that were compared with a measurement.

A claim carries its bound, so that it can be seen how far it holds: `make seeds` collects sentence, bound and value of
every claim on three seeds in notebooks/CLAIMS.md.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from typing import Any

from .console import say


class ClaimError(RuntimeError):
    """A sentence of the course that the measurement did not bear out."""


def claim(
    sentence: str,
    value: Any,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    between: tuple[float, float] | None = None,
    equal: float | None = None,
    tolerance: float = 0.0,
) -> None:
    """Print `✓ sentence` if the value keeps its bound, else raise ClaimError.

    Args:
        sentence: what is claimed; it reads alone, and the same on every machine: no measured decimals.
        value: a number, or several (list, tensor, array), of which the worst counts. A truth value
            without a bound serves for what is equal exactly, such as two files.
        at_most, at_least, between: the bound, ends included; exactly one bound is given.
        equal: what the value is, to within `tolerance` (0: exactly).

    With `COURSE_CLAIMS=file` in the environment every claim is written to that file, one JSON object
    a line, and one that fails prints `✗` and lets the notebook go on, so that all are measured.

    Raises:
        ClaimError: the value breaks its bound; NaN keeps none.
        TypeError: no bound and no truth value, several bounds, or no number.
    """
    holds, bound, worst = _judged(value, at_most, at_least, between, equal, tolerance)
    if path := os.environ.get("COURSE_CLAIMS"):
        found = {"sentence": sentence, "bound": bound, "value": worst, "holds": holds}
        found |= {"margin": _margin(worst, at_most, at_least, between, equal, tolerance)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        if not holds:
            say(f"✗ {sentence} (measured: {_number(worst)}, claimed: {bound})")
            return
    if not holds:
        measured = f" (measured: {_number(worst)}, claimed: {bound})" if bound else ""
        raise ClaimError(f"Not borne out: {sentence}{measured}")
    say(f"✓ {sentence}")


def stored(
    sentence: str,
    value: Any,
    *,
    date: str,
    seeds: int,
    spread: float | None,
    at_most: float | None = None,
    at_least: float | None = None,
    between: tuple[float, float] | None = None,
    equal: float | None = None,
    tolerance: float = 0.0,
) -> None:
    """Print `▪ sentence` for what a stored table says, measured on another day, with its origin.

    Args:
        sentence, value and the bounds: as in `claim`.
        date: when the table was measured, such as "2026-11-24".
        seeds: on how many seeds.
        spread: the standard deviation of one value over seeds, in the value's unit; None where it
            is unknown, as it is for one seed, and the line says so.

    Raises:
        ClaimError: the table does not say so.
        TypeError: as in `claim`.
    """
    holds, bound, worst = _judged(value, at_most, at_least, between, equal, tolerance)
    if not holds:
        raise ClaimError(f"Not in the table: {sentence} (stored: {_number(worst)}, said: {bound})")
    runs = "one run" if seeds == 1 else f"{seeds} seeds"
    wide = "spread unknown" if spread is None else f"spread {spread:.2g}"
    say(f"▪ {sentence} (stored {date}, {runs}, {wide})")


def _judged(value: Any, *bounds: Any) -> tuple[bool, str, float | bool]:
    """Whether a value keeps its bound, the bound in words, and the worst of several values."""
    at_most, at_least, between, equal, tolerance = bounds
    given = [bound for bound in (at_most, at_least, between, equal) if bound is not None]
    if len(given) > 1:
        raise TypeError("A claim has one bound: at_most, at_least, between or equal.")
    values = _plain(value)
    if not given:
        if len(values) != 1 or not isinstance(values[0], bool):
            kind = type(value).__name__
            raise TypeError(
                f"A {kind} wants a bound (at_most, at_least, between or equal); only a truth value stands alone."
            )
        return values[0], "", values[0]
    for number in values:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"A bound is for a number, not for a {type(number).__name__}.")
    worst = min(values, key=lambda number: _margin_or_nan(number, *bounds))
    return _keeps(worst, *bounds), _in_words(*bounds), worst


def _plain(value: Any) -> list[Any]:
    """One value or several as Python's own numbers and truth values."""
    value = value.tolist() if hasattr(value, "tolist") else value  # tensors and arrays
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        numbers = [number for part in value for number in _plain(part)]
        if not numbers:
            raise TypeError("A claim about no value at all is empty.")
        return numbers
    return [value]


def _distance(number: float, *bounds: Any) -> float:
    """How far inside its bound a number lies; negative outside, NaN for NaN."""
    at_most, at_least, between, equal, tolerance = bounds
    if at_most is not None:
        return float(at_most) - number
    if at_least is not None:
        return number - float(at_least)
    if between is not None:
        low, high = map(float, between)
        return min(number - low, high - number)
    return float(tolerance) - abs(number - float(equal))


def _margin_or_nan(number: float, *bounds: Any) -> float:
    distance = _distance(number, *bounds)
    return -math.inf if math.isnan(distance) else distance


def _keeps(number: float, *bounds: Any) -> bool:
    return _distance(number, *bounds) >= 0


def _margin(number: float | bool, *bounds: Any) -> float | None:
    """The distance to the bound as a share of the bound's size; None for what has no bound or no size."""
    at_most, at_least, between, equal, tolerance = bounds
    if at_most is not None or at_least is not None:
        size = abs(float(at_least if at_most is None else at_most))
    elif between is not None:
        size = (float(between[1]) - float(between[0])) / 2
    else:
        size = float(tolerance) if equal is not None else 0.0
    return _distance(number, *bounds) / size if size else None


def _in_words(*bounds: Any) -> str:
    at_most, at_least, between, equal, tolerance = bounds
    if at_most is not None:
        return f"at most {_number(at_most)}"
    if at_least is not None:
        return f"at least {_number(at_least)}"
    if between is not None:
        return f"{_number(between[0])} to {_number(between[1])}"
    return f"equal to {_number(equal)}" + (f" ± {_number(tolerance)}" if tolerance else "")


def _number(value: Any) -> str:
    """A number in four digits."""
    return str(value) if isinstance(value, (bool, int)) else f"{float(value):.4g}"
