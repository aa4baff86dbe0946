"""A claim is code: a sentence that was checked against a measurement."""

from __future__ import annotations

from .console import say


class ClaimError(RuntimeError):
    """A sentence of the course that the measurement did not bear out."""


def claim(sentence: str, holds: bool, measured: str = "") -> None:
    """Print `✓ sentence` if it holds, else raise ClaimError.

    Args:
        sentence: what is claimed, without measured decimals, so that it reads the same on every machine.
        holds: a truth value that was computed (a bool, or a one-element tensor or array of bool).
        measured: what was measured, shown only when the claim fails.

    Raises:
        ClaimError: the claim is false.
        TypeError: `holds` is no truth value (a string or a number would always "hold").
    """
    value = holds.item() if hasattr(holds, "item") else holds
    if not isinstance(value, bool):
        raise TypeError(f"A claim wants a truth value, not {type(value).__name__}: compare the measurement first.")
    if not value:
        raise ClaimError(f"Not borne out: {sentence}" + (f" (measured: {measured})" if measured else ""))
    say(f"✓ {sentence}")


def close(a: float, b: float, tolerance: float) -> bool:
    """Whether two finite numbers differ by at most `tolerance`; NaN is close to nothing."""
    return abs(a - b) <= tolerance
