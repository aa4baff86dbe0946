"""Answers to the exercises of notebook 06."""

from cases import Case

CASES: list[Case] = []
