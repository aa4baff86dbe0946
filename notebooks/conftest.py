"""nbval runs a notebook as Jupyter does, with the course's options, from whatever folder pytest is called.

Longest first, so that several processes end together (`-n auto --dist loadfile --no-loadscope-reorder`), or with
`--changed-first` what was committed last first. A cell may
take PATIENCE times as long as its whole notebook took when it was built; after one that takes longer the rest of the
notebook is skipped. `COURSE_TEST_UNTIL` (seconds since 1970) leaves out notebooks that would not end before.
"""

import json
import os
import subprocess
import time
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATIENCE, AT_LEAST = 6, 300  # times the build's seconds; seconds
SLOWER = 1.5  # how much longer than its build a notebook may take, with one thread and others beside it

# Kernels inherit these: the small budget, no progress bars, and the course_utils of this checkout.
os.environ.setdefault("COURSE_BUDGET", "quick")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@lru_cache
def build_seconds(path: Path) -> float:
    """How long the notebook took when it was built, as it says itself; 0 where it does not."""
    facts = json.loads(path.read_text("utf-8"))["metadata"].get("course", {})
    return facts.get("build_seconds", 0)


@lru_cache
def committed(path: Path) -> int:
    """When the notebook was committed last, in seconds since 1970; 0 outside git."""
    command = ["git", "log", "-1", "--format=%ct", "--", path.name]
    try:
        found = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return 0
    return int(found.stdout or 0)


def pytest_addoption(parser):
    parser.addoption("--changed-first", action="store_true", help="notebooks in the order of their last commits")


def pytest_collection_modifyitems(config, items):
    def order(item):
        if item.path.suffix != ".ipynb":
            return 1, 0
        changed = -committed(item.path) if config.getoption("--changed-first") else 0
        return changed, -build_seconds(item.path)

    items.sort(key=order)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the kernel starts: is there time; and before every cell: how long may it take."""
    if item.path.suffix != ".ipynb":
        return
    notebook, usual = item.parent, build_seconds(item.path)
    until = float(os.environ.get("COURSE_TEST_UNTIL") or "inf")
    if notebook.kernel is None and time.time() + SLOWER * usual > until:
        pytest.skip(f"{item.path.name} left out: it needs about {SLOWER * usual:.0f} s and there is less time left")
    if notebook.timed_out:
        pytest.skip(f"{item.path.name}: an earlier cell took too long, so the rest was not run")
    item.config.option.nbval_cell_timeout = max(AT_LEAST, PATIENCE * usual)


def pytest_configure(config):
    if not (getattr(config.option, "nbval", False) or getattr(config.option, "nbval_lax", False)):
        return
    from nbval.kernel import RunningKernel
    from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

    if not config.option.nbval_sanitize_with:
        config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval_sanitize.cfg")
    if not config.option.nbval_kernel_name:
        config.option.nbval_current_env = True

    def execute_cell_input(self, cell_input, allow_stdin=None):
        # IPython looks for a trailing `;` in its history, and nbval keeps none (nbval issue 194).
        return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)

    def compare_like_other_pictures(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        self.skip_compare = (*self.skip_compare, "image/gif")

    def run_or_say_that_time_is_up(self):
        try:
            run(self)
        except NbCellError:
            if not self.parent.timed_out:
                raise
        if self.parent.timed_out:  # whatever the interrupted cell made of it
            raise OutOfTime(
                f"Cell {self.cell_num} of {self.path.name} took longer than {self.config.option.nbval_cell_timeout:.0f}"
                f" s: try again on a quieter machine. It begins with `{self.cell.source.splitlines()[0]}`"
            )

    def one_sentence_when_time_is_up(self, excinfo):
        return str(excinfo.value) if isinstance(excinfo.value, OutOfTime) else explain(self, excinfo)

    RunningKernel.execute_cell_input = execute_cell_input
    initialise = IPyNbFile.__init__
    IPyNbFile.__init__ = compare_like_other_pictures
    run, explain = IPyNbCell.runtest, IPyNbCell.repr_failure
    IPyNbCell.runtest, IPyNbCell.repr_failure = run_or_say_that_time_is_up, one_sentence_when_time_is_up
    IPyNbCell.setup = lambda self: None  # nbval would expect the cells after one that took too long to fail


class OutOfTime(Exception):
    """A cell took longer than it may."""
