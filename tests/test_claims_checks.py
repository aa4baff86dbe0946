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
from grading import strict
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

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


# --- answers to the exercises of notebook 02 ----------------------------------------------------------------


def transposed_size(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size - 1) * stride - 2 * padding + kernel


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    return -F.logsigmoid(fake_logits).mean()


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.acos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    if angle < 1e-3:
        return torch.lerp(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def up(before: int, after: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.ConvTranspose2d(before, after, kernel, stride, padding)


def down(before: int, after: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.Conv2d(before, after, kernel, stride, padding)


def generator_28() -> nn.Module:
    """1 -> 7 -> 14 -> 28"""
    norm = nn.BatchNorm2d(8)
    return nn.Sequential(up(100, 8, 7, 1, 0), norm, nn.ReLU(), up(8, 4), nn.ReLU(), up(4, 1), nn.Tanh())


def discriminator_28() -> nn.Module:
    """28 -> 14 -> 7 -> 1"""
    return nn.Sequential(down(1, 4), nn.LeakyReLU(0.2), down(4, 8), nn.LeakyReLU(0.2), down(8, 1, 7, 1, 0))


def generator_32() -> nn.Module:
    """1 -> 4 -> 8 -> 16 -> 32, said to be 28 (ERRATA 1)."""
    return nn.Sequential(up(100, 8, 4, 1, 0), nn.ReLU(), up(8, 8), nn.ReLU(), up(8, 4), nn.ReLU(), up(4, 1), nn.Tanh())


class DiscriminatorOfTheLesson(nn.Module):
    """28 -> 14 -> 7 -> 3 -> 1, or 32 -> 16 -> 8 -> 4 -> 2: then four scores a picture, flattened (ERRATA 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            down(1, 4), nn.ReLU(), down(4, 8), nn.ReLU(), down(8, 8), nn.ReLU(), down(8, 1, 3, 1, 0)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).view(-1)


class FourScores(nn.Module):
    """Written for 28 x 28, one convolution too short."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(down(1, 4), nn.ReLU(), down(4, 8), nn.ReLU(), down(8, 1, 6, 1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).view(-1)


class ScoreOfTheBatch(nn.Module):
    """Normalises over the batch in eval mode too, so that a picture's score depends on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.net = discriminator_28()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x - x.mean(dim=0))


def matching_pair() -> tuple[nn.Module, nn.Module]:
    return generator_28(), discriminator_28()


CHECKS = {
    "2.1": (nb02.transposed_size, transposed_size),
    "2.2": (nb02.matching_pair, matching_pair),
    "2.3": (nb02.generator_loss, generator_loss),
    "2.4": (nb02.slerp, slerp),
}


@pytest.mark.parametrize("number", CHECKS)
def test_an_untouched_stub_is_not_attempted_which_is_no_failure(capsys, number: str) -> None:
    CHECKS[number][0](lambda *args: ...)
    assert capsys.readouterr().out == f"Exercise {number}: not attempted yet.\n"


@pytest.mark.parametrize("number", CHECKS)
def test_a_right_answer_is_correct(capsys, number: str) -> None:
    check, answer = CHECKS[number]
    check(answer)
    assert capsys.readouterr().out == f"Exercise {number}: correct.\n"


def test_other_right_answers_are_correct_too(capsys) -> None:
    nb02.transposed_size(lambda n, k, s, p: s * (n - 1) + k - 2 * p)
    nb02.generator_loss(lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)))
    nb02.generator_loss(lambda x: F.softplus(-x).mean())
    nb02.matching_pair(lambda: (generator_28(), DiscriminatorOfTheLesson()))  # right for 28 x 28
    assert capsys.readouterr().out.count("correct") == 4


@pytest.mark.parametrize("number", CHECKS)
def test_a_forgotten_return_is_named(capsys, number: str) -> None:
    def my_answer(*args) -> None:
        pass

    with strict(), pytest.raises(WrongAnswer, match="my_answer returned None: does it end with a return statement"):
        CHECKS[number][0](my_answer)
    assert capsys.readouterr().out == ""


class Unnamed:
    """A callable without a `__name__`, as functools.partial or a module gives."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __call__(self, *args):
        return self.answer(*args)


def test_an_answer_need_not_be_a_plain_function(capsys) -> None:
    nb02.generator_loss(Unnamed(generator_loss))
    assert "correct" in capsys.readouterr().out
    with strict(), pytest.raises(WrongAnswer, match="Unnamed returned None"):
        nb02.generator_loss(Unnamed(lambda x: None))


@pytest.mark.parametrize("number", CHECKS)
def test_a_check_leaves_the_random_state_as_it_found_it(number: str) -> None:
    """Else all that comes after an exercise would differ between one who did it and one who did not."""
    before = torch.get_rng_state()
    CHECKS[number][0](CHECKS[number][1])
    assert torch.equal(before, torch.get_rng_state())


def lerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    return (1 - t) * a + t * b


def normalised_lerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    return F.normalize(lerp(a, b, t), dim=0) * a.norm()


def unguarded_slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.acos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    angle = torch.where(torch.equal(a, b) * torch.ones(()) > 0, 0.0, angle)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


MISTAKES = {
    "a convolution's size": (
        nb02.transposed_size,
        lambda n, k, s, p: (n + 2 * p - k) // s + 1,
        "a convolution's rule, not its transpose's",
    ),
    "padding once": (nb02.transposed_size, lambda n, k, s, p: (n - 1) * s - p + k, "the layer gives .* your function"),
    "size times stride": (nb02.transposed_size, lambda n, k, s, p: n * s, "the layer gives 7 and your function 1"),
    "saturating loss": (
        nb02.generator_loss,
        lambda x: torch.log(1 - torch.sigmoid(x)).mean(),
        "saturating loss.*gradient is almost zero",
    ),
    "saturating loss, stable": (nb02.generator_loss, lambda x: F.logsigmoid(-x).mean(), "saturating loss"),
    "log of a sigmoid": (nb02.generator_loss, lambda x: -torch.log(torch.sigmoid(x)).mean(), "yours is inf: .*logits"),
    "log of a sigmoid and a bit": (
        nb02.generator_loss,
        lambda x: -torch.log(torch.sigmoid(x) + 1e-8).mean(),
        "logit of -200 the loss is 200, and yours is 18.4",
    ),
    "cross-entropy on a sigmoid": (
        nb02.generator_loss,
        lambda x: F.binary_cross_entropy(torch.sigmoid(x), torch.ones_like(x)),
        "yours is 100: work with the logits",
    ),
    "sign": (nb02.generator_loss, lambda x: F.logsigmoid(x).mean(), "the sign is wrong"),
    "label of a fake": (
        nb02.generator_loss,
        lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)),
        "D's loss .*label 1",
    ),
    "one loss a picture": (nb02.generator_loss, lambda x: -F.logsigmoid(x), "one number: take the mean"),
    "sum over the batch": (nb02.generator_loss, lambda x: -F.logsigmoid(x).sum(), "take the mean, not the sum"),
    "a Python number": (nb02.generator_loss, lambda x: -F.logsigmoid(x).mean().item(), "autograd cannot follow"),
    "a size that is no whole number": (
        nb02.transposed_size,
        lambda n, k, s, p: float(s * (n - 1) + k - 2 * p),
        "whole number of pixels",
    ),
    "angle without lengths": (
        nb02.slerp,
        lambda a, b, t: torch.sin((1 - t) * torch.acos(a @ b)) / torch.sin(torch.acos(a @ b)) * a,
        "NaN: divide a.b by both lengths",
    ),
    "straight line": (nb02.slerp, lerp, "length should be the same.*straight line cuts through"),
    "normalised line": (nb02.slerp, normalised_lerp, "angle .* should grow evenly with t"),
    "ends swapped": (nb02.slerp, lambda a, b, t: slerp(b, a, t), "at t = 0 the path should be at the first point"),
    "division by the sine of zero": (nb02.slerp, unguarded_slerp, "equal vectors.*guard the division"),
    "the lesson's pair": (
        nb02.matching_pair,
        lambda: (generator_32(), DiscriminatorOfTheLesson()),
        r"the generator makes \(1, 1, 32, 32\); Fashion-MNIST is \(1, 1, 28, 28\)",
    ),
    "four scores a picture": (
        nb02.matching_pair,
        lambda: (generator_28(), FourScores()),
        r"1 picture\(s\) get 4 scores: .*flattening hides it",
    ),
    "a score of the batch": (
        nb02.matching_pair,
        lambda: (generator_28(), ScoreOfTheBatch()),
        "should not depend on which others are in the batch",
    ),
    "one network": (nb02.matching_pair, generator_28, "return two networks"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_answer_is_told_what_to_look_at(capsys, mistake: str) -> None:
    check, answer, hint = MISTAKES[mistake]
    with strict(), pytest.raises(WrongAnswer, match=hint) as refusal:
        check(answer)
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_the_lessons_pair_would_have_trained_on_four_scores_a_picture() -> None:
    """What the exercise is about: 32 x 32 pictures run through without an error."""
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
