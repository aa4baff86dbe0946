"""Controls with a static fallback.

A widget's picture is published as one output that holds both: the live view, which a front end with ipywidgets
(7 or 8) shows, and a picture with alt text, which everything else shows (GitHub, nbconvert, nbval, a printed page).
A saved live view is an error message the next day, so the course's set-up lets the Jupyter server leave it out of what
it saves (`course_utils.saving`): there, too, the picture is what a reopened notebook shows.

Callbacks run in a thread of their own in JupyterLab 4.4 and later. So what they draw stays outside pyplot
(`plots.subplots`), and what they need of torch's settings (`no_grad`) they set themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from IPython.display import publish_display_data

from .plots import Picture, live
from .saving import VIEW

LAYOUT = {"width": "480px", "max_width": "100%"}  # of sliders and boxes: as long, where the page is wide enough


def slider(low: float, high: float, value: float, label: str = "", step: float = 1) -> ipywidgets.Widget:
    """An integer or a float slider, by the type of its bounds, that reports while it is dragged."""
    whole = all(isinstance(v, int) for v in (low, high, value, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(min=low, max=high, value=value, step=step, description=label, layout=LAYOUT)


def choice(options: list, label: str = "", value: Any = None) -> ipywidgets.Widget:
    """A row of buttons, one for each option: one click, and the keyboard works (a list's arrow keys move the page)."""
    first = options[0] if value is None else value
    beside = {"display": "flex", "flex_flow": "row"}  # the label and the buttons
    style = {"button_width": "auto"}
    return ipywidgets.ToggleButtons(options=options, value=first, description=label, style=style, layout=beside)


def switch(value: bool, label: str = "") -> ipywidgets.Widget:
    """A box to tick."""
    return ipywidgets.Checkbox(value=value, description=label, layout=LAYOUT)


def _aligned(controls: dict[str, ipywidgets.Widget]) -> list[ipywidgets.Widget]:
    """The controls with one width for all their labels, so that they begin at one line."""
    longest = max((len(control.description) for control in controls.values()), default=0)
    for control in controls.values():
        control.style.description_width = f"{7 * longest + 14}px"
    return list(controls.values())


def explore(draw: Callable[..., Picture], /, **controls: ipywidgets.Widget) -> ipywidgets.Widget:
    """Show `draw(**values)` under its controls and draw again whenever one moves.

    Args:
        draw: takes one keyword argument a control and returns a `Picture` (see `plots.render`).
        controls: widgets with a `value`, by argument name.

    Returns:
        The box that is shown, its children being the controls and then the picture (for tests).
    """
    screen = ipywidgets.HTML()

    def redraw(_: Any = None) -> None:
        screen.value = _frame(draw, **_values(controls)).tag()

    for control in controls.values():
        control.observe(redraw, names="value")
    first = draw(**_values(controls))
    screen.value = first.tag()
    return _published(ipywidgets.VBox([*_aligned(controls), screen]), first)


def _frame(draw: Callable[..., Picture], *args: Any, **values: Any) -> Picture:
    """What `draw` draws, as soon as it can be had."""
    token = live.set(True)
    try:
        return draw(*args, **values)
    finally:
        live.reset(token)


_players: list[tuple[ipywidgets.Widget, ipywidgets.Widget]] = []  # the one that may play, and its box


def _stop_earlier_players() -> None:
    """Stop and take away what still plays: a player counts on when its cell is run again or its output cleared."""
    while _players:
        player, box = _players.pop()
        for name in ("playing", "_playing"):  # ipywidgets 8 and 7
            if player.has_trait(name):
                setattr(player, name, False)
        player.close()
        box.close()


def play(
    make: Callable[..., Any],
    step: Callable[..., None],
    draw: Callable[..., Picture],
    /,
    *,
    still: Picture | None = None,
    restart_on: Sequence[str] = (),
    milliseconds: int = 100,
    **controls: ipywidgets.Widget,
) -> ipywidgets.Widget:
    """A simulation that can be played, paused, advanced by one frame and begun again.

    The front end's `Play` counts up while it plays, and every count asks for one frame: no thread runs, and a slow
    kernel only plays slowly. Its square (stop) counts from 0 again, which begins again here too. One simulation plays
    at a time: a new one ends the one before, also when its cell is run again.

    Args:
        make: `make(**values)` returns the state at the start.
        step: `step(state, **values)` advances the state by one frame, in place.
        draw: `draw(state, **values)` returns a `Picture` of it.
        still: what a viewer without widgets shows, such as a film strip; else the first picture.
        restart_on: names of the controls whose change begins again; any other counts from the next frame on.
        milliseconds: pause between two frames while playing.
        controls: widgets with a `value`, by argument name.

    Returns:
        The box that is shown, its children being the controls, the row (Play, "one step", "start again", their
        meaning), the picture.
    """
    if unknown := set(restart_on) - set(controls):
        raise ValueError(f"There is no control {', '.join(sorted(unknown))} to begin again on.")
    _stop_earlier_players()
    screen = ipywidgets.HTML()
    player = ipywidgets.Play(min=0, max=1_000_000, value=0, interval=milliseconds, show_repeat=False)
    one_step = ipywidgets.Button(description="one step", icon="step-forward", layout={"width": "auto"})
    again = ipywidgets.Button(description="start again", icon="refresh", layout={"width": "auto"})
    state: list[Any] = []

    def redraw(_: Any = None) -> None:
        screen.value = _frame(draw, state[0], **_values(controls)).tag()

    def restart(_: Any = None) -> None:
        state[:] = [make(**_values(controls))]
        redraw()

    def advance(_: Any = None) -> None:
        step(state[0], **_values(controls))
        redraw()

    one_step.on_click(advance)
    again.on_click(restart)
    player.observe(lambda change: advance() if change["new"] > change["old"] else restart(), names="value")
    for name, control in controls.items():
        control.observe(restart if name in restart_on else redraw, names="value")
    restart()
    words = ipywidgets.Label("triangle: play, square: back to the start")
    row = ipywidgets.HBox([player, one_step, again, words], layout={"flex_flow": "row wrap"})
    box = ipywidgets.VBox([*_aligned(controls), row, screen])
    _players.append((player, box))
    return _published(box, still or draw(state[0], **_values(controls)))


def _values(controls: dict[str, ipywidgets.Widget]) -> dict[str, Any]:
    return {name: control.value for name, control in controls.items()}


def _published(box: ipywidgets.Widget, still: Picture) -> ipywidgets.Widget:
    """Show the box, with `still` for every viewer that has no widgets, as one output."""
    data, metadata = still.bundle()
    data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    publish_display_data(data, metadata)
    return box
