"""A small GPU helper package for the course: only what several notebooks share and what is not the lesson."""

__version__ = "0.1.0"
