"""What a class hands in is graded rightly: nbgrader gives a check its points if its cell raises nothing."""

import ast
import importlib
from functools import lru_cache

import pytest

from authoring.cells import read_source, tags
from authoring.course import ROOT, Course
from authoring.student import student_version
from course_utils import checks

COURSE = Course(ROOT)


@lru_cache
def graded(name: str) -> list[tuple[str, str]]:
    """Exercise and check of every graded cell of the version for a class, as source."""
    cells = [cell for cell in student_version(read_source(COURSE, name), name).cells if cell.cell_type == "code"]
    pairs = zip(cells, cells[1:])
    return [(a.source, b.source) for a, b in pairs if "exercise" in tags(a) and "check" in tags(b)]


def right_answers(number: str) -> dict:
    """A right answer for each check of a notebook, by the check's name."""
    cases = importlib.import_module(f"cases.nb{number}").CASES
    return {case.check.__name__: case.right[0] for case in cases}


def wrong_answers(number: str) -> dict:
    cases = importlib.import_module(f"cases.nb{number}").CASES
    return {case.check.__name__: case.wrong[0][0] for case in cases}


def calls(check: str) -> list[tuple[str, str]]:
    """(name of the check, name of the learner's function) of each check that a cell calls."""
    found = [node for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Call)]
    return [(node.func.attr, node.args[0].id) for node in found if isinstance(node.func, ast.Attribute)]


def points(name: str, hand_in) -> list[bool]:
    """Which checks give their points when `hand_in(check's name, stub)` stands for the learner's functions."""
    result = []
    for stub, check in graded(name):
        space = {"checks": importlib.import_module(f"course_utils.checks.nb{name[:2]}")}
        for which, mine in calls(check):
            space[mine] = hand_in(which, stub)
        try:
            exec(compile(check, "check", "exec"), space)
            result.append(True)
        except checks.WrongAnswer:
            result.append(False)
    return result


@pytest.fixture(autouse=True)
def as_nbgrader(monkeypatch) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")


def untouched(which, stub):
    space = {}
    exec(stub.replace("### BEGIN SOLUTION", "pass").replace("### END SOLUTION", "pass"), space)
    return next(value for key, value in space.items() if callable(value) and key.startswith("my_"))


@pytest.mark.parametrize("name", COURSE.names())
def test_hand_ins_get_the_points_that_they_deserve(name, capsys) -> None:
    right, wrong = right_answers(name[:2]), wrong_answers(name[:2])
    count = len(graded(name))
    assert count >= 4
    assert points(name, untouched) == [False] * count
    assert points(name, lambda which, stub: lambda *a, **k: None) == [False] * count
    assert points(name, lambda which, stub: right[which]) == [True] * count
    one = next(iter(right))
    one_wrong = points(name, lambda which, stub: wrong[which] if which == one else right[which])
    assert one_wrong.count(False) == 1
