"""Notebooks for a class, for nbgrader: without solutions and outputs."""

from __future__ import annotations

import re
from collections import Counter

from nbformat import NotebookNode

from .cells import defined_names, stored_or_source, strip, tags, write_notebook
from .course import Course


def mark_solution(stub: str) -> str:
    """The stub with nbgrader's markers around its `...` only, so that the signature survives a release."""
    stub = re.sub(r"(?m)^( *)((?:def|class)\b.*:) *(\.\.\.|return \.\.\.) *$", r"\1\2\n\1    \3", stub)
    hole = r"(?m)^( *)((?:return |[\w, ]+ = )?\.\.\. *(?:#.*)?)$"
    marked = re.sub(hole, r"\1### BEGIN SOLUTION\n\1\2\n\1### END SOLUTION", stub)
    return marked if marked != stub else f"### BEGIN SOLUTION\n{stub}\n### END SOLUTION"


def imported(cell: NotebookNode, name: str) -> str:
    """What stands for a dropped solution where later cells need it: the same names, from the lesson."""
    return f"from course_utils.lessons.nb{name} import {', '.join(defined_names(cell.source))}"


def student_version(nb: NotebookNode, name: str) -> NotebookNode:
    """No solutions (nor a second check right after one), no outputs; exercises and checks are graded."""
    cells, made, points, dropped = [], Counter(), 1, False
    for cell in nb.cells:
        skip = "solution" in tags(cell) or (dropped and "check" in tags(cell))
        dropped = skip
        if skip and "export" in tags(cell):
            cell.source, cell.metadata = imported(cell, name), NotebookNode()
        elif skip:
            continue
        if level := re.search(r"difficulty (\d)/5", cell.source if cell.cell_type == "markdown" else ""):
            points = int(level[1])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        role = next((tag for tag in ("exercise", "check") if tag in tags(cell)), None)
        if role:
            made[role] += 1
            graded = role == "check"
            flags = {"task": False, "solution": not graded, "grade": graded, "locked": graded}
            grade_id = f"nb{name[:2]}_{role}_{made[role]}"
            cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **flags}
        if role == "exercise":
            cell.source = mark_solution(cell.source)
        if role == "check":
            cell.metadata["nbgrader"]["points"] = points
        cells.append(cell)
    nb.cells = cells
    return nb


def students(course: Course) -> None:
    for name in course.names():
        path = course.root / "build" / "student" / f"{name}.ipynb"
        write_notebook(path, student_version(strip(stored_or_source(course, name)), name))
        print(f"build/student/{name}.ipynb")
