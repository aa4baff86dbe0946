"""Checks as a grader runs them: what is not right raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def strict() -> Iterator[None]:
    """As under COURSE_STRICT=1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_STRICT", "1")
        yield
