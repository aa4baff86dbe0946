"""Exercise checks: one module a notebook; none imports a lesson.

A check takes the learner's function and prints one line: that it is right, what is not right yet, or
that it was not attempted (the stub still returns `...`). The notebook runs on in every case. Under
`COURSE_STRICT=1`, and where nbgrader grades, everything that is not right raises.
"""

from __future__ import annotations

import functools
import math
import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..console import say

Function = TypeVar("Function", bound=Callable)
STRICT = (
    "COURSE_STRICT",
    "NBGRADER_EXECUTION",
    "NBGRADER_VALIDATING",
)  # nbgrader sets the last two
# where a line is not the learner's: the course's own package, libraries, Python itself
NOT_THE_LEARNERS = (
    str(Path(__file__).resolve().parents[1]),
    sysconfig.get_path("purelib"),
    sysconfig.get_path("stdlib"),
    "<frozen",
)
NEED_A_SIZE = ("randint() received an invalid", "full() received an invalid")  # whose size may not be a bare number


class WrongAnswer(Exception):
    """The learner's answer is not right yet; shown as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks an exception for this
        return [str(self)]


class NotAttempted(WrongAnswer):
    """The stub was left as it was."""


def strict() -> bool:
    """Whether what is not right raises: `COURSE_STRICT=1`, or a variable that nbgrader sets."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in STRICT)


# by id, what was tried and whether it passed; the function is kept alive, so that its id stays its own
_verdicts: dict[int, tuple[Callable, bool]] = {}


def exercise(number: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a check of a function that raises `WrongAnswer` or returns nothing.

    The check's first argument is the learner's function, wrapped in `attempt`. The check that this
    makes takes the function itself and `solution=True` for the course's own, which must pass.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def run(answer: Callable, *, solution: bool = False) -> None:
            __tracebackhide__ = True
            fault = _fault(check, answer)
            if fault is None:
                _verdicts[id(answer)] = answer, True
                whose = f"Solution {number} passes the check." if solution else f"Exercise {number}: correct."
                return say(whose)
            not_attempted = isinstance(fault, NotAttempted)
            if not not_attempted:
                _verdicts[id(answer)] = answer, False
            said = "not attempted yet." if not_attempted else f"not yet. {fault}"
            line = f"{'Solution' if solution else 'Exercise'} {number}: {said}"
            if solution or strict():
                raise type(fault)(line) from None
            say(line)

        run.number = number
        return run

    return decorate


def _fault(check: Callable[..., None], answer: Callable) -> WrongAnswer | None:
    """What is wrong with an answer, None if nothing is; any exception of the answer's becomes one line."""
    try:
        # later cells draw the same random numbers with an answer and without one
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            check(lambda *args, **kwargs: attempt(answer, *args, **kwargs))
    except WrongAnswer as fault:
        return fault
    except Exception as error:
        return WrongAnswer(_one_line(error, answer))
    return None


def _one_line(error: Exception, answer: Callable) -> str:
    """An exception as one sentence that names the learner's own line."""
    said = " ".join(str(error).split()).split(", but expected one of:")[0] or "no message"  # PyTorch lists all forms
    said += ": its size is a tuple, such as (n,)" if said.startswith(NEED_A_SIZE) else ""
    kind, name = type(error).__name__, _name(answer)
    trace = traceback.extract_tb(error.__traceback__)
    if frames := [frame for frame in trace if not frame.filename.startswith(NOT_THE_LEARNERS)]:
        line = f"Line {frames[-1].lineno} of your cell" + f", `{frames[-1].line}`," * bool(frames[-1].line)
        return f"{line} raises {kind}: {said}"
    if trace[-1].name == "attempt":
        return f"{name} cannot be called as the exercise calls it ({kind}: {said})."
    return f"What {name} returns cannot be compared ({kind}: {said})."


def _name(answer: Callable) -> str:
    return getattr(answer, "__name__", type(answer).__name__)


def use(mine: Function, ours: Function) -> Function:
    """The learner's function if it passed its check, else the course's; says so when it was tried."""
    if id(mine) not in _verdicts:
        return ours
    _, passed = _verdicts[id(mine)]
    if passed:
        say(f"From here on the notebook uses your {_name(mine)}.")
        return mine
    say(f"Until {_name(mine)} passes its check, the notebook uses the course's {_name(ours)}.")
    return ours


def attempt(answer: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function; an ellipsis means the stub, None a forgotten return."""
    result = answer(*args, **kwargs)
    if result is ...:
        raise NotAttempted("not attempted yet.")
    expect(result is not None, f"{_name(answer)} returned None: does it end with a return statement?")
    return result


# --- what checks are made of ----------------------------------------------------------------------------


def expect(condition: object, message: str) -> None:
    """Raise `WrongAnswer(message)` unless the condition holds (a tensor of several values: all of them)."""
    if isinstance(condition, Tensor):
        condition = condition.all()
    if not bool(condition):
        raise WrongAnswer(message)


def number(found: object, what: str) -> float:
    """A learner's number as a float, from Python's, NumPy's or a tensor of one element.

    Raises:
        WrongAnswer: it is none, or a whole tensor of numbers.
    """
    if isinstance(found, Sequence) and len(found) == 1:
        found = found[0]
    count = found.numel() if isinstance(found, Tensor) else getattr(found, "size", 1)
    if isinstance(count, int) and count > 1:
        raise WrongAnswer(f"{what} is one number, and you return {count} of them: is a mean or a sum missing?")
    try:
        return float(found.detach() if isinstance(found, Tensor) else found)
    except (TypeError, ValueError):
        raise WrongAnswer(f"{what} is one number, not {_shown(found)}.") from None


def tensor(found: object, what: str, shape: Sequence[int] | None = None) -> Tensor:
    """A learner's tensor, detached, in float64 (or complex128), also from a list, a tuple or an array.

    Raises:
        WrongAnswer: it is none, or of another shape than `shape`.
    """
    try:
        parts = [torch.as_tensor(part) for part in found] if isinstance(found, (list, tuple)) else None
        found = torch.stack(parts) if parts else torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        raise WrongAnswer(f"{what} is a tensor, not {_shown(found)}.") from None
    if shape is not None and tuple(found.shape) != tuple(shape):
        raise WrongAnswer(f"{what} has the shape {tuple(shape)}, and yours is {tuple(found.shape)}.")
    return found.detach().to(torch.complex128 if found.is_complex() else torch.float64).cpu()


def close(a: object, b: object, tolerance: float = 1e-5) -> bool:
    """Whether two numbers or tensors of one shape agree, absolutely or relatively, to `tolerance`."""
    pair = [torch.as_tensor(v).detach().cpu() for v in (a, b)]
    kind = torch.complex128 if any(v.is_complex() for v in pair) else torch.float64
    first, second = (v.to(kind) for v in pair)
    return first.shape == second.shape and torch.allclose(first, second, atol=tolerance, rtol=tolerance)


def reject(found: object, slips: Mapping[str, object], same: Callable[[Any, Any], bool] = close) -> None:
    """Raise `WrongAnswer` with the message of the known slip whose value was found."""
    for message, wrong in slips.items():
        if same(found, wrong):
            raise WrongAnswer(message)


def _shown(found: object) -> str:
    """What was returned, short enough for one line."""
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    text = " ".join(repr(found).split())
    return text if len(text) <= 60 else f"a {type(found).__name__}"
