"""Answers to the exercises of notebook 02."""

from cases import Case

CASES: list[Case] = []
