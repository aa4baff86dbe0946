"""Printing that no console can make fail."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print `text`; where the console's encoding lacks a character (Windows, a pipe, a log) a plain one stands for it.

    A tick becomes `ok`, a square `=`, everything else that is missing a question mark.
    """
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        print(text.replace("✓", "ok").replace("▪", "=").encode(encoding, errors="replace").decode(encoding))
