"""Claims and stored numbers: sentences of the course that were compared with a measurement.

A claim carries its bound, so that it can be seen how far it holds: `make seeds` collects sentence,
bound and value of every claim on three seeds in notebooks/CLAIMS.md.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        sentence: what is claimed; it reads alone, and the same on every machine, so that it has no
            measured decimals.
        value: a number, or several (list, tensor, array), of which the worst counts. A truth value
            without a bound serves for what is equal exactly, such as two files.
        at_most, at_least, between: the bound, ends included; exactly one bound is given.
        equal: what the value is, to within `tolerance` (0: exactly).

    With `COURSE_CLAIMS=file` in the environment every claim is written to the file, one JSON object
    a line, and one that fails prints `✗` and lets the notebook go on, so that all are measured.

    Raises:
        ClaimError: the value breaks its bound; NaN keeps none.
        TypeError: no bound and no truth value, several bounds, or no number.
    """
    bound = Bound.of(at_most, at_least, between, equal, tolerance)
    holds, worst = _judged(value, bound)
    if not _recorded(sentence, worst, bound, holds):
        measured = f" (measured: {_number(worst)}, claimed: {bound.words})" if bound else ""
        raise ClaimError(f"Not borne out: {sentence}{measured}")
    if holds:
        say(f"✓ {sentence}")


def origin(rows: Sequence[Mapping[str, Any]], spread: str = "fd_spread") -> dict[str, Any]:
    """Date, number of draws and widest spread of rows of a stored table, as `stored` wants them.

    Args:
        rows: each with "date", "draws" and, under the name `spread`, the standard deviation over its draws.
    """
    return {
        "date": max(row["date"] for row in rows),
        "seeds": min(row["draws"] for row in rows),
        "spread": max(row[spread] for row in rows),
    }


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

    `COURSE_CLAIMS` works as in `claim`.
    """
    bound = Bound.of(at_most, at_least, between, equal, tolerance)
    holds, worst = _judged(value, bound)
    origin = {"date": date, "seeds": seeds, "spread": spread}
    if not _recorded(sentence, worst, bound, holds, stored=origin):
        found = f" (stored: {_number(worst)}, said: {bound.words})" if bound else ""
        raise ClaimError(f"Not in the table: {sentence}{found}")
    if holds:
        runs = "one run" if seeds == 1 else f"{seeds} seeds"
        wide = "spread unknown" if spread is None else f"spread {spread:.2g}"
        say(f"▪ {sentence} (stored {date}, {runs}, {wide})")


@dataclass(frozen=True)
class Bound:
    """From `low` to `high`, ends included; an end that is infinite bounds nothing."""

    low: float
    high: float
    words: str

    @classmethod
    def of(
        cls,
        at_most: float | None,
        at_least: float | None,
        between: tuple[float, float] | None,
        equal: float | None,
        tolerance: float,
    ) -> Bound | None:
        """The one bound that is given; None for none."""
        given = sum(bound is not None for bound in (at_most, at_least, between, equal))
        if given > 1:
            raise TypeError("A claim has one bound: at_most, at_least, between or equal.")
        if at_most is not None:
            return cls(-math.inf, float(at_most), f"at most {_number(at_most)}")
        if at_least is not None:
            return cls(float(at_least), math.inf, f"at least {_number(at_least)}")
        if between is not None:
            low, high = between
            return cls(float(low), float(high), f"{_number(low)} to {_number(high)}")
        if equal is not None:
            words = f"equal to {_number(equal)}"
            words += f" ± {_number(tolerance)}" if tolerance else ""
            return cls(float(equal) - float(tolerance), float(equal) + float(tolerance), words)
        return None

    def distance(self, number: float) -> float:
        """How far inside the bound a number lies; negative outside, minus infinity for NaN."""
        ends = [number - self.low] if self.low > -math.inf else []
        ends += [self.high - number] if self.high < math.inf else []
        return -math.inf if math.isnan(number) else min(ends)

    def margin(self, number: float) -> float | None:
        """The distance as a share of the bound's size; None for a bound without a size."""
        if math.isinf(self.low) or math.isinf(self.high):
            size = abs(self.high if math.isinf(self.low) else self.low)
        else:
            size = (self.high - self.low) / 2
        return self.distance(number) / size if size else None


def _judged(value: Any, bound: Bound | None) -> tuple[bool, float | bool]:
    """Whether a value keeps its bound, and the worst of several values."""
    values = _plain(value)
    if bound is None:
        if len(values) != 1 or not isinstance(values[0], bool):
            raise TypeError(
                f"A {type(value).__name__} wants a bound (at_most, at_least, between or equal); "
                "only a truth value stands alone."
            )
        return values[0], values[0]
    for number in values:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"A bound is for a number, not for a {type(number).__name__}.")
    worst = min(values, key=bound.distance)
    return bound.distance(worst) >= 0, worst


def _recorded(sentence: str, worst: float | bool, bound: Bound | None, holds: bool, **more: Any) -> bool:
    """Write what was found to the file in COURSE_CLAIMS; whether the notebook may go on."""
    path = os.environ.get("COURSE_CLAIMS")
    if not path:
        return holds
    words = bound.words if bound else ""
    found = {"sentence": sentence, "bound": words, "value": worst, "holds": holds}
    found |= {"margin": bound.margin(worst) if bound else None, **more}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    if not holds:
        say(f"✗ {sentence} (measured: {_number(worst)}, claimed: {words or 'true'})")
    return True


def _plain(value: Any) -> list[Any]:
    """One value or several as Python's own numbers and truth values."""
    value = value.tolist() if hasattr(value, "tolist") else value  # tensors and arrays
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        numbers = [number for part in value for number in _plain(part)]
        if not numbers:
            raise TypeError("A claim about no value at all is empty.")
        return numbers
    return [value]


def _number(value: Any) -> str:
    """A number in four digits."""
    return str(value) if isinstance(value, (bool, int)) else f"{float(value):.4g}"
