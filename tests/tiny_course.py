"""A small course: one notebook with an exercise, pictures and a check, in a folder of its own."""

from pathlib import Path

from authoring.course import Course
from course_utils.files import write

ROOT = Path(__file__).resolve().parents[1]
# One pixel each.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

PYPROJECT = """\
[project]
name = "tiny"

[project.urls]
Repository = "https://github.com/OWNER/tiny" # a comment that stays
Issues = "https://github.com/OWNER/tiny/issues"
"""
README = """\
# Tiny

[![Open In Colab](x)](https://colab.research.google.com/github/OWNER/tiny/blob/main/notebooks/02_tiny.ipynb)

<!-- notebooks:begin -->
old
<!-- notebooks:end -->
between
<!-- picture:begin -->
<!-- picture:end -->
The end of OWNER/tiny.
"""
EXERCISE = '''\
# %% [markdown]
# **Exercise 2.{n}** · difficulty {n}/5 · 10 minutes
#
# {task}

# %% tags=["exercise"]
def add_{n}(x):
    """x + {n}, for instance 0.5 for x = 0."""
    ...

# %% tags=["check"]
check_{n}(add_{n})

# %% tags=["solution"]
# @title Solution {n}
def add_{n}(x):
    """x + {n}"""
    return x + {n}


check_{n}(add_{n})

'''
SOURCE = (
    '''\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   course:
#     title: Tiny
#     summary: How a small notebook is made
#     minutes_cpu: 1
#     minutes_gpu: 0.5
# ---

# %% [markdown]
# # 02 · Tiny
#
# **Time:** 1 minute on a 2-core CPU, 0.5 on a GPU
#
# ## What you will be able to do
#
# - Nothing much.

# %% tags=["setup"]
pass

# %% tags=["export"]
import math

# %% [markdown]
# The factor is 0.25, which the next cell prints. Goodfellow et al. (2014) report 225.5.

# %% tags=["export"]
def scaled(x):
    return math.floor(x) * 0.25

# %%
import os
from IPython.display import display

def make_check(n):
    def check(function):
        value = function(1)
        right = f"✓ exercise {n} adds {n}" if value == 1 + n else "wrong"
        print("not attempted" if value is None else right)
    return check

check_1, check_2, check_3, check_4 = map(make_check, (1, 2, 3, 4))
print(scaled(1))
print("✓ the share is 0.25 < 1 for every_seed")

# %%
PNG = (
    "'''
    + PNG[:60]
    + '''"
    "'''
    + PNG[60:]
    + '''"
)
GIF = "'''
    + GIF
    + """"
alt = {"alt": "A dark & \\"small\\" pixel"}
display({"image/png": PNG, "text/plain": "A dark pixel"}, raw=True, metadata={"image/png": alt})
display({"image/gif": GIF}, raw=True, metadata={"image/gif": {"alt": "A pixel that moves"}})

# %%
41 + 1;

# %% tags=["widget", "nbval-ignore-output"]
from ipywidgets import IntSlider

display(IntSlider())
display({"image/png": PNG}, raw=True, metadata={"image/png": {"alt": "What the slider shows"}})

"""
    + "".join(EXERCISE.format(n=n, task="Find the bug." if n == 4 else "Add a number.") for n in (1, 2, 3, 4))
    + """\
# %% [markdown]
# ## What was measured
# ## What went wrong, and what helped
# ## Further reading
# ## Next
"""
)


def make_course(root: Path, source: str = SOURCE) -> Course:
    course = Course(root)
    for path, text in {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        "course_utils/__init__.py": "",
        "notebooks/src/02_tiny.py": source,
    }.items():
        write(root / path, text)
    return course


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def cell_with(nb, text: str):
    return next(cell for cell in nb.cells if text in cell.source)
