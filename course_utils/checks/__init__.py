"""Exercise checks: one module a notebook.

A check takes the learner's answer and prints one line: that it is right, or that it was not attempted (the stub
still returns `...`). A wrong answer raises `WrongAnswer`, whose message says what was expected and what to look at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..console import say


class WrongAnswer(Exception):
    """The learner's answer is not right yet; shown as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks an exception for this
        return [f"Not yet: {self}"]


def exercise(number: str) -> Callable[[Callable], Callable]:
    """Make a check of a function that raises `WrongAnswer` or returns nothing.

    The check's first argument is the learner's function. The wrapped check gives it back through `attempt`, which
    turns a stub's `...` into "not attempted".
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def run(answer: Callable, *args: Any) -> None:
            try:
                # later cells draw the same random numbers with an answer and without one
                with torch.random.fork_rng(devices=[]):
                    check(lambda *a, **k: attempt(answer, *a, **k), *args)
            except NotAttempted:
                say(f"Exercise {number}: not attempted yet.")
            else:
                say(f"Exercise {number}: correct.")

        return run

    return decorate


class NotAttempted(Exception):
    """The stub was left as it was."""


def attempt(answer: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function; an ellipsis means the stub, None a forgotten return."""
    result = answer(*args, **kwargs)
    if result is ...:
        raise NotAttempted
    name = getattr(answer, "__name__", "your function")
    expect(result is not None, f"{name} returned None: does it end with a return statement?")
    return result


def expect(condition: bool, message: str) -> None:
    """Raise `WrongAnswer(message)` unless the condition holds."""
    if not condition:
        raise WrongAnswer(message)
