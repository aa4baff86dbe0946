"""Answers to the exercises of notebook 01."""

from cases import Case

CASES: list[Case] = []
