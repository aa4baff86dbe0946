"""Every exercise: right answers pass in any style, wrong ones are told what to look at."""

import importlib
import os
import pkgutil
import re

import cases
import pytest
import torch

from course_utils import checks
from course_utils.checks import NotAttempted, WrongAnswer, nb02, nb05

MODULES = [name for _, name, _ in pkgutil.iter_modules(checks.__path__)]
CASES = [case for name in MODULES for case in importlib.import_module(f"cases.{name}").CASES]


def exercises(module: str) -> list:
    """The checks of a module, in its order."""
    members = vars(importlib.import_module(f"course_utils.checks.{module}")).values()
    return [check for check in members if callable(check) and hasattr(check, "number")]  # numpy has a `number`, too


EXERCISES = [check for name in MODULES for check in exercises(name)]


def named(case: cases.Case) -> str:
    return f"{case.check.number} {case.check.__name__}"


def each(part: str) -> list:
    """One parameter for each answer of every case."""
    return [
        pytest.param(case.check, answer, id=f"{named(case)} {i}")
        for case in CASES
        for i, answer in enumerate(getattr(case, part))
    ]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in checks.STRICT:
        monkeypatch.delenv(name, raising=False)


def test_every_exercise_has_its_cases() -> None:
    assert {case.check for case in CASES} == set(EXERCISES) and len(CASES) == len(EXERCISES)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_case_has_three_styles_and_five_slips(case: cases.Case) -> None:
    assert len(case.right) >= 3 and len(case.wrong) >= 5


@pytest.mark.parametrize(("check", "answer"), each("right"))
def test_a_right_answer_passes(check, answer, capsys) -> None:
    check(answer)
    assert capsys.readouterr().out == f"Exercise {check.number}: correct.\n"


@pytest.mark.parametrize(("check", "wrong"), each("wrong"))
def test_a_wrong_answer_is_told_what_to_look_at_in_one_line(check, wrong, capsys) -> None:
    answer, words = wrong
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith(f"Exercise {check.number}: not yet. ") and said.count("\n") == 1
    assert re.search(words, said), said


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_wrong_answer_raises_where_it_is_graded(case, monkeypatch) -> None:
    """One of each exercise: raising is the machinery's doing and the same for all messages."""
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(WrongAnswer, match="not yet"):
        case.check(case.wrong[0][0])


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("stub", [lambda *a, **k: ..., lambda *a: (..., ...)[0]])
def test_a_stub_is_not_attempted(check, stub, capsys, monkeypatch) -> None:
    check(stub)
    assert capsys.readouterr().out == f"Exercise {check.number}: not attempted yet.\n"
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(NotAttempted, match="not attempted yet"):
        check(stub)


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: check.__name__)
def test_an_exception_is_one_line_that_names_the_learners_line(check, capsys) -> None:
    def mine(*args, **kwargs):
        return undefined + 1  # noqa: F821

    check(mine)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "Traceback" not in said
    assert "`return undefined + 1  # noqa: F821`, raises NameError" in said


def test_what_pytorch_lists_of_its_forms_is_left_out(capsys) -> None:
    def my_timesteps(n, T):
        return torch.randint(0, T, n)

    nb05.timesteps(my_timesteps)
    said = capsys.readouterr().out
    assert "got (int, int, int): its size is a tuple, such as (n,)" in said and len(said) < 300


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("answer", [lambda *a, **k: None, lambda *a, **k: "later", lambda *a, **k: {}])
def test_what_is_no_answer_at_all_is_one_line(check, answer, capsys) -> None:
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith(f"Exercise {check.number}: not yet. ") and said.count("\n") == 1


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_check_leaves_random_numbers_and_gradients_as_they_were(case: cases.Case) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        case.check(case.right[0])
    assert torch.equal(torch.get_rng_state(), before)


# --- the machinery ------------------------------------------------------------------------------------


@checks.exercise("0.1")
def square(answer) -> None:
    """`answer(x)`: the square of a number."""
    found = checks.number(answer(3), "a square")
    checks.reject(found, {"this is twice the number.": 6.0})
    checks.expect(checks.close(found, 9.0), f"the square of 3 is 9, not {found:g}.")


def test_a_solution_says_that_it_passes_and_must(capsys) -> None:
    square(lambda x: x * x, solution=True)
    assert capsys.readouterr().out == "Solution 0.1 passes the check.\n"
    with pytest.raises(WrongAnswer, match="Solution 0.1: not yet. this is twice"):
        square(lambda x: 2 * x, solution=True)


def test_the_learners_function_is_used_once_it_has_passed(capsys) -> None:
    def my_square(x):
        return x**2

    def ours(x):
        return x * x

    assert checks.use(my_square, ours) is ours and not capsys.readouterr().out
    square(my_square)
    assert checks.use(my_square, ours) is my_square
    assert "From here on the notebook uses your my_square." in capsys.readouterr().out


def test_a_function_that_failed_is_not_used_and_the_notebook_says_so(capsys) -> None:
    def my_square(x):
        return 2 * x

    square(my_square)
    assert checks.use(my_square, abs) is abs
    assert "Until my_square passes its check, the notebook uses the course's abs." in (capsys.readouterr().out)


@pytest.mark.parametrize("nine", [9, 9.0, torch.tensor(9.0), torch.tensor([9.0]), [9.0], True * 9])
def test_a_number_may_come_in_any_dress(nine, capsys) -> None:
    square(lambda x: nine)
    assert "correct" in capsys.readouterr().out


def test_a_function_that_cannot_be_called_is_told_so(capsys) -> None:
    nb02.slerp(lambda: 9)
    assert "cannot be called as the exercise calls it" in capsys.readouterr().out


def test_grading_is_strict_by_the_variables_that_nbgrader_sets(monkeypatch) -> None:
    for name in checks.STRICT:
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, name, "autograde")
            assert checks.strict()
    monkeypatch.setenv("COURSE_STRICT", "0")
    assert not checks.strict()


@pytest.mark.parametrize("name", MODULES)
def test_a_notebook_finds_use_beside_its_checks(name) -> None:
    assert importlib.import_module(f"course_utils.checks.{name}").use is checks.use
