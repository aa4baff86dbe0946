"""Answers to every exercise, right and wrong: one module a notebook, each with a list CASES.

A case is one check with right answers in at least three styles (float32, float64 or Python numbers;
lists for tuples; loops; keyword arguments; another formula for the same thing) and at least five
wrong ones, each with words of the message that it must get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One exercise's check with its answers.

    Attributes:
        check: such as course_utils.checks.nb02.slerp.
        right: answers that pass.
        wrong: pairs of an answer that does not pass and a regular expression for its message.
    """

    check: Callable
    right: Sequence[Callable]
    wrong: Sequence[tuple[Callable, str]]
