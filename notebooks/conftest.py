"""nbval runs a notebook as Jupyter does, with the course's options, from whatever folder pytest is called."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Kernels inherit these: the small budget, no progress bars, and the course_utils of this checkout.
os.environ.setdefault("COURSE_BUDGET", "quick")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_configure(config):
    if not (getattr(config.option, "nbval", False) or getattr(config.option, "nbval_lax", False)):
        return
    from nbval.kernel import RunningKernel
    from nbval.plugin import IPyNbFile

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

    RunningKernel.execute_cell_input = execute_cell_input
    initialise = IPyNbFile.__init__
    IPyNbFile.__init__ = compare_like_other_pictures
