"""Claims are measured, and checks let right answers through and name the mistake in wrong ones."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases.nb02 import DiscriminatorOfTheLesson, generator_32
from grading import strict
from IPython.core.interactiveshell import InteractiveShell

from course_utils.checks import WrongAnswer, nb02
from course_utils.claims import ClaimError, claim, stored

ROOT = Path(__file__).resolve().parents[1]

# --- claims -------------------------------------------------------------------------------------------------


HELD = [
    (3, {"at_most": 3}),
    ([1, 2, torch.tensor(3.0)], {"at_least": 1}),
    (np.array([1.0, 2.0]), {"between": (1, 2)}),
    (torch.tensor(1e-9), {"equal": 0, "tolerance": 1e-6}),
    (8, {"equal": 8}),
    (-math.inf, {"at_most": 0}),
    (True, {}),
    (np.bool_(True), {}),
    (torch.tensor([True]), {}),
]
BROKEN = [
    (3, {"at_least": 4}, "measured: 3, claimed: at least 4"),
    ([1, 9, 2], {"at_most": 5}, "measured: 9, claimed: at most 5"),
    ([0.5, math.nan], {"at_most": 1}, "measured: nan"),
    ([0.5, math.nan], {"between": (0, 1)}, "measured: nan"),
    (-math.inf, {"at_least": 0}, "measured: -inf"),
    (3.0, {"between": (1, 2)}, "measured: 3, claimed: 1 to 2"),
    (1e-3, {"equal": 0, "tolerance": 1e-6}, "equal to 0 ± 1e-06"),
    (np.bool_(False), {}, "$"),
]


@pytest.mark.parametrize(("value", "bound"), HELD)
def test_a_claim_that_holds_is_printed(capsys, value, bound) -> None:
    claim("Two is more than one", value, **bound)
    assert capsys.readouterr().out == "✓ Two is more than one\n"


@pytest.mark.parametrize(("value", "bound", "said"), BROKEN)
def test_a_claim_that_breaks_its_bound_raises_with_what_was_measured(capsys, value, bound, said) -> None:
    with pytest.raises(ClaimError, match=f"^Not borne out: One is more than two.*{said}"):
        claim("One is more than two", value, **bound)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["False", 1, 0.3, None, [], torch.tensor(1.0), np.float64(0), lambda: True])
def test_what_is_no_truth_value_needs_a_bound(capsys, value) -> None:
    with pytest.raises(TypeError):
        claim("This would always hold, or never", value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "bound"), [(True, {"at_most": 1}), ("a", {"equal": 1}), (1, {"at_most": 1, "equal": 1})]
)
def test_a_bound_is_one_and_for_numbers(value, bound) -> None:
    with pytest.raises(TypeError):
        claim("This is no claim", value, **bound)


def test_claims_are_collected_with_bound_value_and_margin(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COURSE_CLAIMS", str(tmp_path / "claims.jsonl"))
    claim("FD is below 20", 15, at_most=20)
    claim("FD is below 10", 15, at_most=10)  # collected, too, and the notebook goes on
    lines = [json.loads(line) for line in (tmp_path / "claims.jsonl").read_text("utf-8").splitlines()]
    assert [(line["bound"], line["value"], line["holds"]) for line in lines] == [
        ("at most 20", 15, True), ("at most 10", 15, False),
    ]  # fmt: skip
    assert [line["margin"] for line in lines] == [0.25, -0.5]
    assert "✗ FD is below 10 (measured: 15, claimed: at most 10)" in capsys.readouterr().out


def test_a_stored_number_says_where_it_comes_from_and_is_no_claim(capsys) -> None:
    origin = {"date": "2026-11-24", "seeds": 3, "spread": 0.05}
    stored("FD is below 4 in the table", 3.2, at_most=4, **origin)
    assert capsys.readouterr().out == "▪ FD is below 4 in the table (stored 2026-11-24, 3 seeds, spread 0.05)\n"
    with pytest.raises(ClaimError, match="Not in the table"):
        stored("FD is below 3 in the table", 3.2, at_most=3, **origin)


def test_a_stored_number_is_collected_with_its_origin(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_CLAIMS", str(tmp_path / "claims.jsonl"))
    stored("FD is below 4 in the table", 3, at_most=4, date="2026-11-24", seeds=1, spread=None)
    line = json.loads((tmp_path / "claims.jsonl").read_text("utf-8"))
    assert line["stored"] == {"date": "2026-11-24", "seeds": 1, "spread": None}
    assert line["margin"] == 0.25


@pytest.mark.parametrize(
    ("value", "bound", "margin"),
    [
        (3, {"at_least": 2}, 0.5),
        (3, {"between": (2, 6)}, 0.5),
        (0.25, {"equal": 0, "tolerance": 1}, 0.75),
        (1, {"at_least": 0}, None),
        (8, {"equal": 8}, None),
    ],
)
def test_a_margin_is_a_share_of_the_size_of_the_bound(tmp_path, monkeypatch, value, bound, margin) -> None:
    monkeypatch.setenv("COURSE_CLAIMS", str(tmp_path / "claims.jsonl"))
    claim("A bound has a size, or none", value, **bound)
    assert json.loads((tmp_path / "claims.jsonl").read_text("utf-8"))["margin"] == margin


# --- an answer as it is shown ---------------------------------------------------------------------------------


class Unnamed:
    """A callable without a `__name__`, as functools.partial or a module gives."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __call__(self, *args):
        return self.answer(*args)


def test_an_answer_need_not_be_a_plain_function(capsys) -> None:
    nb02.generator_loss(Unnamed(lambda x: -F.logsigmoid(x).mean()))
    assert "correct" in capsys.readouterr().out
    with strict(), pytest.raises(WrongAnswer, match="Unnamed returned None"):
        nb02.generator_loss(Unnamed(lambda x: None))


def test_a_forgotten_return_is_named(capsys) -> None:
    def my_answer(*args) -> None:
        pass

    with strict(), pytest.raises(WrongAnswer, match="my_answer returned None: does it end with a return statement"):
        nb02.slerp(my_answer)
    assert capsys.readouterr().out == ""


def test_the_lessons_pair_would_have_trained_on_four_scores_a_picture() -> None:
    """What exercise 2.2 is about: 32 x 32 pictures run through without an error."""
    with torch.no_grad():
        assert DiscriminatorOfTheLesson()(generator_32()(torch.randn(3, 100, 1, 1))).shape == (12,)


def test_a_wrong_answer_is_shown_as_one_line_without_a_traceback(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell()
    shell.run_cell("from course_utils.checks import nb02\nnb02.transposed_size(lambda n, k, s, p: n)")
    said = capsys.readouterr()
    assert (said.out + said.err).strip().splitlines() == [
        "Exercise 2.1: not yet. for size 1, kernel 7, stride 1, padding 0 the layer gives 7 and your function 1."
    ]


# --- consoles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("utf-8", "✓ γ is small"), ("cp1253", "ok γ is small"), ("cp1252", "ok ? is small"), ("ascii", "ok ? is small")],
)
def test_a_claim_never_fails_for_a_character_that_the_console_lacks(encoding: str, line: str) -> None:
    code = "from course_utils.claims import claim; claim('\\u03b3 is small', True)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=kept | {"PYTHONIOENCODING": encoding}, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip() == line
