"""What a reader sees while a cell runs: a bar, numbers and a picture beside it, and what the stop button does.

In Jupyter a bar is one output that is updated and, at the end, emptied, so that nothing of it stays in the file.
The square button ends a training after the step that it is in: what was learnt until then is kept.
"""

from __future__ import annotations

import contextlib
import html
import signal
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from IPython import get_ipython
from IPython.display import display, update_display

from .console import say

if TYPE_CHECKING:
    from .plots import Picture

REFRESH = 0.5  # seconds between two updates
_bars: list[Bar] = []  # those that run now, the innermost last


class Stopped(KeyboardInterrupt):
    """A cell was interrupted; shown as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks an exception for this
        return [str(self)]


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, so that there is a page to show something on."""
    return getattr(get_ipython(), "kernel", None) is not None


class Bar:
    """A bar over `items` as an output of a Jupyter page; iterate over it once.

    Args:
        items: what to go through; a number n means `range(n)`, the steps of a training, which may end early.
        label: the words before the bar.
    """

    def __init__(self, items: int | Iterable, label: str) -> None:
        self.stoppable = isinstance(items, int)
        self.items = range(items) if isinstance(items, int) else list(items)
        self.label, self.done, self.asked_to_stop = label, 0, False
        self.numbers: dict[str, float] = {}
        self.picture: Picture | None = None

    def __iter__(self) -> Iterator[Any]:
        self.began = self.shown = time.perf_counter()
        self.place = display(self._bundle(), raw=True, display_id=True).display_id
        self.handler = _catch_interrupts()
        _bars.append(self)
        get_ipython().events.register("post_run_cell", _end_all)  # for a loop that an error left
        try:
            for item in self.items:
                yield item
                self.done += 1
                if self.asked_to_stop:
                    break
                if time.perf_counter() - self.shown > REFRESH:
                    self.refresh()
        finally:
            self.end()
        if self.asked_to_stop:
            say(
                f"Stopped after {self.done:,} of {len(self.items):,} steps. What was learnt until then is kept;"
                " sentences that a later cell checks may need the whole training."
            )

    def refresh(self) -> None:
        """Show the present state."""
        self.shown = time.perf_counter()
        update_display(self._bundle(), raw=True, display_id=self.place)

    def end(self) -> None:
        """Empty the output and give the stop button its usual meaning back; a second call does nothing."""
        if self in _bars:
            _bars.remove(self)
            update_display({"text/html": ""}, raw=True, display_id=self.place)
            if self.handler is not None:
                signal.signal(signal.SIGINT, self.handler)

    def _bundle(self) -> dict[str, str]:
        words = html.escape(f"{self.label}: {self._state()}")
        label = html.escape(self.label)
        bar = f'<progress value="{self.done}" max="{len(self.items)}" aria-label="{label}"></progress>'
        picture = f"<br>{self.picture.tag()}" if self.picture else ""
        return {"text/html": f"<div>{bar} {words}{picture}</div>", "text/plain": words}

    def _state(self) -> str:
        parts = [f"{self.done:,} of {len(self.items):,}"]
        passed = time.perf_counter() - self.began
        if self.done:
            parts.append(f"{passed / self.done * (len(self.items) - self.done):.0f} s left")
        parts += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.numbers.items()]
        return ", ".join(parts)


def note(picture: Picture | None = None, **numbers: float) -> None:
    """Show numbers, and a picture, beside the innermost bar from now on; without a bar nothing happens."""
    if _bars:
        _bars[-1].numbers |= numbers
        _bars[-1].picture = picture or _bars[-1].picture
        if picture is not None:
            _bars[-1].refresh()


def _catch_interrupts() -> Any:
    """Let the stop button end a training in order; returns what it did before, None outside the main thread."""
    with contextlib.suppress(ValueError):  # a widget's callback has no signals
        return signal.signal(signal.SIGINT, _on_interrupt)
    return None


def _on_interrupt(*_: Any) -> None:
    """A training of its own ends after this step; a second press, or one within a loop of loops, ends the cell."""
    if len(_bars) == 1 and _bars[0].stoppable and not _bars[0].asked_to_stop:
        _bars[0].asked_to_stop = True
        return
    outer = f" after {_bars[0].done} of {len(_bars[0].items)} ({_bars[0].label})" if _bars else ""
    raise Stopped(f"Stopped{outer}: run the cell again to begin it anew.")


def _end_all(*_: Any) -> None:
    """At the end of a cell: no bar stays behind, whatever happened to its loop."""
    for bar in reversed(_bars.copy()):
        bar.end()
    with contextlib.suppress(ValueError):  # taken off already
        get_ipython().events.unregister("post_run_cell", _end_all)


def explain_missing_names() -> None:
    """In Jupyter, a NameError is followed by a line that says what to do after a restart of the kernel."""
    shell = get_ipython()
    if shell is None:
        return

    def explain(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        if not isinstance(error, UnboundLocalError):
            say(
                f"`{error.name}` is made by a cell further up: after a restart of the kernel run the cells above first"
                " (menu Run, Run All Above Selected Cell). Otherwise look at the spelling."
            )

    shell.set_custom_exc((NameError,), explain)
