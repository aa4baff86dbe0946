"""nbgrader itself grades hand-ins: every exercise of the course, in one assignment, by four students.

Runs where nbgrader is installed, or where COURSE_NBGRADER names its command (another environment's, say).
"""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_grading import COURSE, calls

from authoring.cells import read_source, tags
from authoring.student import student_version

ROOT = Path(__file__).resolve().parents[1]
NBGRADER = os.environ.get("COURSE_NBGRADER") or shutil.which("nbgrader")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NBGRADER, reason="nbgrader is not installed (COURSE_NBGRADER may name its command)"),
]


def assignment() -> nbformat.NotebookNode:
    """Every exercise and check of the version for a class, and the import that a check needs."""
    cells = []
    for name in COURSE.names():
        cells.append(nbformat.v4.new_code_cell(f"from course_utils.checks import nb{name[:2]} as checks"))
        kept = student_version(read_source(COURSE, name), name).cells
        cells += [cell for cell in kept if {"exercise", "check"} & set(tags(cell))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def answered(nb: nbformat.NotebookNode, answer) -> nbformat.NotebookNode:
    """A hand-in: each exercise is replaced by `answer(notebook's number, check's name, learner's function)`."""
    number, made = "", nbformat.from_dict(nb)
    for cell, following in zip(made.cells, made.cells[1:]):
        if cell.source.startswith("from course_utils.checks"):
            number = cell.source.split(" nb")[1][:2]
        if "check" in tags(following):
            cell.source = "\n".join(answer(number, *call) for call in calls(following.source))
    return made


def case(number: str, check: str, mine: str, kind: str) -> str:
    """Source that takes the first right or wrong answer from the table of cases."""
    table = f"{{c.check.__name__: c for c in importlib.import_module('cases.nb{number}').CASES}}['{check}']"
    which = "right[0]" if kind == "right" else "wrong[0][0]"
    return f"import importlib\n{mine} = {table}.{which}"


def first_check() -> str:
    return importlib.import_module("cases.nb01").CASES[0].check.__name__


def run(folder: Path, *arguments: str) -> str:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "JUPYTER_PATH": str(folder / "jupyter")}
    more["PATH"] = os.pathsep.join([str(Path(NBGRADER).parent), os.environ["PATH"]])  # it calls alembic
    done = subprocess.run([NBGRADER, *arguments], cwd=folder, env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty course for nbgrader whose kernel is this Python."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}), "utf-8")
    (tmp_path / "nbgrader_config.py").write_text(
        "c = get_config()\n"
        "c.CourseDirectory.course_id = 'course'\n"
        "c.Execute.timeout = 300\n"
        f"c.CourseDirectory.root = {str(tmp_path)!r}\n",
        "utf-8",
    )
    return tmp_path


def test_blank_stub_solved_and_one_wrong_get_their_points(folder) -> None:
    nb = assignment()
    points = {
        call: cell.metadata.nbgrader.points
        for cell in nb.cells
        if "check" in tags(cell)
        for call, _ in calls(cell.source)[:1]
    }
    source = folder / "source" / "all" / "course.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(nb, source)
    run(folder, "generate_assignment", "all")
    released = nbformat.read(folder / "release" / "all" / "course.ipynb", 4)
    assert not any("BEGIN SOLUTION" in cell.source for cell in released.cells)

    def one_wrong(number, check, mine):
        return case(number, check, mine, "wrong" if check == first_check() else "right")

    hand_ins = {
        "blank": released,
        "stub": answered(released, lambda number, check, mine: f"def {mine}(*args, **options):\n    return None"),
        "solved": answered(released, lambda number, check, mine: case(number, check, mine, "right")),
        "wrong": answered(released, one_wrong),
    }
    for student, hand_in in hand_ins.items():
        path = folder / "submitted" / student / "all" / "course.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(hand_in, path)
    run(folder, "autograde", "all", "--create")
    run(folder, "export", "--to", "grades.csv")
    with (folder / "grades.csv").open(newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    full = float(sum(cell.metadata.nbgrader.points for cell in nb.cells if "check" in tags(cell)))
    assert len(points) >= 30
    assert scores == {"blank": 0, "stub": 0, "solved": full, "wrong": full - points[first_check()]}
