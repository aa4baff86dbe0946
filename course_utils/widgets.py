"""Controls with a static fallback.

A widget's picture is published as one output that holds both: the live view, which a front end with ipywidgets
(7 or 8) shows, and a PNG with alt text, which everything else shows (GitHub, nbconvert, nbval, a printed page).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from IPython.display import publish_display_data

from .plots import Picture

VIEW = "application/vnd.jupyter.widget-view+json"


def slider(low: float, high: float, value: float, label: str = "", step: float = 1) -> ipywidgets.Widget:
    """An integer or a float slider, by the type of its bounds, that reports while it is dragged."""
    whole = all(isinstance(v, int) for v in (low, high, value, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(min=low, max=high, value=value, step=step, description=label, style={"description_width": "initial"})


def choice(options: list, label: str = "", value: Any = None) -> ipywidgets.Widget:
    """A drop-down list."""
    first = options[0] if value is None else value
    style = {"description_width": "initial"}
    return ipywidgets.Dropdown(options=options, value=first, description=label, style=style)


def switch(value: bool, label: str = "") -> ipywidgets.Widget:
    """A box to tick."""
    return ipywidgets.Checkbox(value=value, description=label, indent=False)


def explore(draw: Callable[..., Picture], /, **controls: ipywidgets.Widget) -> ipywidgets.Widget:
    """Show `draw(**values)` under its controls and draw again whenever one moves.

    Args:
        draw: takes one keyword argument a control and returns a `Picture` (see `plots.render`).
        controls: widgets with a `value`, by argument name.

    Returns:
        The box that is shown, its children being the controls and then the picture (for tests).
    """
    screen = ipywidgets.HTML()

    def redraw(_: Any = None) -> Picture:
        picture = draw(**_values(controls))
        screen.value = picture.tag()
        return picture

    for control in controls.values():
        control.observe(redraw, names="value")
    first = redraw()
    return _published(ipywidgets.VBox([*controls.values(), screen]), first)


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
    kernel only plays slowly. Its square (stop) counts from 0 again, which begins again here too.

    Args:
        make: `make(**values)` returns the state at the start.
        step: `step(state, **values)` advances the state by one frame, in place.
        draw: `draw(state, **values)` returns a `Picture` of it.
        still: what a viewer without widgets shows, such as a film strip; else the first picture.
        restart_on: names of the controls whose change begins again; any other counts from the next frame on.
        milliseconds: pause between two frames while playing.
        controls: widgets with a `value`, by argument name.

    Returns:
        The box that is shown, its children being the controls, the row (Play, "one step", "start again"), the picture.
    """
    if unknown := set(restart_on) - set(controls):
        raise ValueError(f"There is no control {', '.join(sorted(unknown))} to begin again on.")
    screen = ipywidgets.HTML()
    player = ipywidgets.Play(min=0, max=1_000_000, value=0, interval=milliseconds)
    one_step = ipywidgets.Button(description="one step", icon="step-forward")
    again = ipywidgets.Button(description="start again", icon="refresh")
    state: list[Any] = []

    def redraw(_: Any = None) -> Picture:
        picture = draw(state[0], **_values(controls))
        screen.value = picture.tag()
        return picture

    def restart(_: Any = None) -> Picture:
        state[:] = [make(**_values(controls))]
        return redraw()

    def advance(_: Any = None) -> None:
        step(state[0], **_values(controls))
        redraw()

    one_step.on_click(advance)
    again.on_click(restart)
    player.observe(lambda change: advance() if change["new"] > change["old"] else restart(), names="value")
    for name, control in controls.items():
        control.observe(restart if name in restart_on else redraw, names="value")
    first = restart()
    row = ipywidgets.HBox([player, one_step, again])
    return _published(ipywidgets.VBox([*controls.values(), row, screen]), still or first)


def _values(controls: dict[str, ipywidgets.Widget]) -> dict[str, Any]:
    return {name: control.value for name, control in controls.items()}


def _published(box: ipywidgets.Widget, still: Picture) -> ipywidgets.Widget:
    """Show the box, with `still` for every viewer that has no widgets, as one output."""
    data, metadata = still.bundle()
    data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    publish_display_data(data, metadata)
    return box
