"""The checks of notebook 06, against right answers and published mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("diffusers")

from course_utils.checks import WrongAnswer
from course_utils.checks import nb06 as checks


def loop(start: bool = True, steps_draw: bool = True, timesteps: bool = True, unit: bool = True) -> Callable:
    """The pipeline's loop, with one of its parts left out."""

    @torch.no_grad()
    def answer(unet, scheduler, n, steps, generator):
        if timesteps:
            scheduler.set_timesteps(steps)
        size = unet.config.sample_size
        x = torch.randn(n, unet.config.in_channels, size, size, generator=generator if start else None)
        for t in scheduler.timesteps if timesteps else reversed(range(steps)):
            draw = {"generator": generator} if steps_draw else {}
            x = scheduler.step(unet(x, t).sample, t, x, **draw).prev_sample
        return (x / 2 + 0.5).clamp(0, 1) if unit else x

    return answer


def with_gradients(unet, scheduler, n, steps, generator):
    return unet.gain * 0 + loop()(unet, scheduler, n, steps, generator)


def asserting(approved):
    assert approved, "needs approval"
    return "stable-diffusion-v1-5/stable-diffusion-v1-5"


def gate(name: str, truthy: bool = False) -> Callable:
    def answer(approved):
        if not approved if truthy else approved is not True:
            raise PermissionError("an approval is missing: ask the ethics board")
        return name

    return answer


def last(timesteps, strength):
    n = int(len(timesteps) * strength)
    return timesteps[len(timesteps) - n :]


def negative(wanted, unwanted, guidance):
    return unwanted + guidance * (wanted - unwanted)


def merged(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


def in_place(W, A, B, alpha):
    W += alpha / len(A) * B @ A
    return W


KEPT, GONE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"
MISTAKES = [
    ("loop", loop(timesteps=False), "set_timesteps"),  # ERRATA 3
    ("loop", loop(start=False), "two different results"),
    ("loop", loop(steps_draw=False), "two different results"),
    ("loop", loop(unit=False), r"\[0, 1\]"),
    ("loop", with_gradients, "no_grad"),
    ("gate", asserting, "python -O"),  # ERRATA 6
    ("gate", gate(KEPT, truthy=True), "let through"),
    ("gate", lambda approved: KEPT, "let through"),
    ("gate", gate(GONE), "deleted in August 2024"),  # ERRATA 8
    ("gate", gate("somewhere/else"), "maintained copy"),
    ("timesteps", lambda t, strength: t[: int(len(t) * strength)], "noisiest"),
    ("timesteps", lambda t, strength: t[int(len(t) * strength) :], "runs"),
    ("timesteps", lambda t, strength: t[-int(len(t) * strength) :], "runs 0"),
    ("timesteps", lambda t, strength: last(t, strength)[::-1], "should run"),
    ("negative", lambda w, u, g: w + g * (u - w), "exchanged"),
    ("negative", lambda w, u, g: w + g * (w - u), "too much"),
    ("negative", lambda w, u, g: g * (w - u), "unwanted \\+ guidance"),
    ("negative", lambda w, u, g: (w - u).mean(), "shaped like"),
    ("merge", in_place, "itself was changed"),
    ("merge", lambda W, A, B, alpha: W + alpha * B @ A, "too large"),
    ("merge", lambda W, A, B, alpha: W + (alpha / len(A) * B @ A).flip(0), "should equal"),
    ("merge", lambda W, A, B, alpha: W @ A.T, "shaped like W"),
]


RIGHT = [("loop", loop()), ("gate", gate(KEPT)), ("timesteps", last), ("negative", negative), ("merge", merged)]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_right_answers_pass(name: str, answer: Callable, capsys: pytest.CaptureFixture) -> None:
    getattr(checks, name)(answer)
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, _ in RIGHT])
def test_stubs_are_not_attempted(name: str, capsys: pytest.CaptureFixture) -> None:
    getattr(checks, name)(lambda *args: ...)
    assert "not attempted" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "answer", "message"), MISTAKES)
def test_mistakes_are_named(name: str, answer: Callable, message: str) -> None:
    with pytest.raises(WrongAnswer, match=message):
        getattr(checks, name)(answer)
