"""Answers to the exercises of notebook 05."""

from cases import Case

CASES: list[Case] = []
