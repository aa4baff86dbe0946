"""Run the notebooks as Colab does: its Python and pins, a folder with nothing but the notebook, the package by git.

    python -m authoring.colab [05]

The real set-up cell fetches the package, from a bare clone of this repository that git takes for the address on
GitHub. Afterwards the list of packages must be the one from before plus the course. Prints seconds and peak memory.
The environment (6 GB) lies in COURSE_COLAB_VENV, else build/colab/venv, and is made once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
PINS = Path(__file__).with_name("colab.txt")
PYTHON = "python3.13"
ADDRESS = "https://github.com/alice/gan-course"
PACKAGE = "gans-to-diffusion"
NO_SETTINGS = ("COURSE_", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
PEAK = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


def environment_python() -> Path:
    """The Python of an environment with Colab's pins, made where it is missing; Colab's own version if it is here."""
    folder = Path(os.environ.get("COURSE_COLAB_VENV") or ROOT / "build" / "colab" / "venv")
    python = folder / "bin" / "python"
    stamp = folder / "pins.txt"
    if not stamp.exists() or stamp.read_text("utf-8") != PINS.read_text("utf-8"):
        base = shutil.which(PYTHON)
        if base is None:
            base = sys.executable
            print(f"{PYTHON}, Colab's Python, is not here: this is {sys.version.split()[0]} with Colab's packages.")
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "setuptools>=77", "wheel", "-r", str(PINS)],
            check=True,
        )
        shutil.copy(PINS, stamp)
    return python


def packages(python: Path) -> dict[str, str]:
    """What is installed, by name, with its version."""
    command = [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def colab_environment(bare: Path) -> dict[str, str]:
    """Colab's variables, nothing of this session's, and git's rule that the address is a folder here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NO_SETTINGS)}
    rule = {"COUNT": "1", "KEY_0": f"url.{bare.as_uri()}.insteadOf", "VALUE_0": ADDRESS}
    rule = {f"GIT_CONFIG_{name}": value for name, value in rule.items()}
    backend = "module://matplotlib_inline.backend_inline"
    data = {
        "COURSE_DATA": os.environ.get("COURSE_DATA", "embedded"),
        "COURSE_BUDGET": "quick",
        "TQDM_DISABLE": "1",
    }
    return kept | rule | data | {"MPLBACKEND": backend, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


def stamped(path: Path) -> nbformat.NotebookNode:
    """The stored notebook with the address in its set-up cell, as `make badge` puts it there."""
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace("https://github.com/OWNER/gans-to-diffusion", ADDRESS)
    return nb


def run(name: str, python: Path, environment: dict[str, str]) -> str:
    """One notebook in an empty folder; returns "" or what went wrong, and leaves the environment as it was."""
    before = packages(python)
    nb = stamped(ROOT / "notebooks" / f"{name}.ipynb")
    nb.cells.append(nbformat.v4.new_code_cell(PEAK))
    begun = time.perf_counter()
    problem = ""
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = str(python)
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(nb, km=manager, timeout=None, resources=resources, store_widget_state=False)
        try:
            client.execute(env=environment, cleanup_kc=True)
        except CellExecutionError as error:
            problem = str(error).strip().splitlines()[-1]
    seconds = time.perf_counter() - begun
    after = packages(python)
    added = {key: value for key, value in after.items() if before.get(key) != value}
    moved = {key: value for key, value in before.items() if after.get(key) != value}
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", PACKAGE], check=True)
    if set(added) != {PACKAGE} or moved:
        problem = problem or f"the set-up cell changed the environment: {added}, {moved}"
    peak = "" if problem else f", {int(nb.cells[-1].outputs[0].text) / 1e6:.2f} GB"
    print(f"{name}: {problem or 'all cells'}, {seconds:.0f} s{peak}", flush=True)
    return problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", default="", help="a prefix such as 05; all when left out")
    prefix = parser.parse_args().notebook
    names = sorted(path.stem for path in (ROOT / "notebooks").glob(f"{prefix}*.ipynb"))
    python = environment_python()
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "course.git"
        subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(bare)], check=True)
        subprocess.run(["git", "-C", str(bare), "update-ref", "refs/heads/main", "HEAD"], check=True)
        problems = [run(name, python, colab_environment(bare)) for name in names]
    return 1 if any(problems) or not names else 0


if __name__ == "__main__":
    sys.exit(main())
