"""A notebook run from top to bottom in a fresh kernel."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from .course import Course, CourseError


def progress(text: str, last: bool = False) -> None:
    """One line that is overwritten on a terminal, one line for each cell in a log."""
    terminal = sys.stderr.isatty()
    end = "\n" if last or not terminal else ""
    print(("\r\x1b[K" if terminal else "") + text, end=end, file=sys.stderr, flush=True)


def kernel_environment(course: Course) -> dict[str, str]:
    """The kernel gets this checkout's course_utils, the small budget unless another is asked for, no bars."""
    path = os.pathsep.join(filter(None, [str(course.root), os.environ.get("PYTHONPATH")]))
    budget = os.environ.get("COURSE_BUDGET", "quick")
    return {**os.environ, "COURSE_BUDGET": budget, "TQDM_DISABLE": "1", "PYTHONPATH": path}


def processor_seconds() -> float:
    """Of all child processes that have ended; Windows does not say, there it is the time of day."""
    times = os.times()
    return times.children_user + times.children_system if os.name == "posix" else time.time()


def execute(nb: NotebookNode, course: Course, name: str) -> float:
    """Run every cell in a fresh kernel, as a learner's browser would; return the processor seconds that it took.

    With one thread these are the seconds of a quiet machine, also where other work runs beside it.
    """
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in nb.cells)
    begun, at, before = time.perf_counter(), [0, nb.cells[0]], processor_seconds()

    def cell_begins(cell: NotebookNode, cell_index: int) -> None:
        at[:] = [at[0] + 1, cell]
        if sys.stderr.isatty():
            progress(f"{name}: cell {at[0]} of {total} runs, {time.perf_counter() - begun:.0f} s so far")

    def cell_ends(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        if execute_reply["content"]["status"] == "ok":
            progress(
                f"{name}: cell {at[0]} of {total} done, {time.perf_counter() - begun:.0f} s",
                last=at[0] == total,
            )

    client = NotebookClient(
        nb,
        timeout=None,  # budgets count steps: a slow machine takes longer and learns the same
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(course.notebooks)}},
        on_cell_execute=cell_begins,
        on_cell_executed=cell_ends,
    )
    stopped: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: (stopped.append(number), usual(number, frame)))
    try:
        client.execute(env=kernel_environment(course))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if stopped:
            raise KeyboardInterrupt from None  # the kernel heard it as well and died of it
        trace = getattr(error, "traceback", "") or str(error)
        end = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", trace).strip().splitlines()[-12:])
        first = next(iter(at[1].source.splitlines()), "")
        raise CourseError(f"\n{name}: cell {at[0]} of {total} failed; it begins with\n    {first}\n{end}") from None
    finally:
        signal.signal(signal.SIGINT, usual)
    return processor_seconds() - before
