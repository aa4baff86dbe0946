"""Answers to the exercises of notebook 03."""

from cases import Case

CASES: list[Case] = []
