"""Answers to the exercises of notebook 04."""

from cases import Case

CASES: list[Case] = []
