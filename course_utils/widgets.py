"""Controls with a static fallback.

A widget's picture is published as one output that holds both: the live view, which a front end with ipywidgets
(7 or 8) shows, and a PNG with alt text, which everything else shows (GitHub, nbconvert, nbval, a printed page).
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
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
        picture = draw(**{name: control.value for name, control in controls.items()})
        encoded = base64.b64encode(picture.png).decode()
        screen.value = f'<img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{encoded}">'
        return picture

    for control in controls.values():
        control.observe(redraw, names="value")
    first = redraw()
    box = ipywidgets.VBox([*controls.values(), screen])
    data, metadata = first.bundle()
    data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    publish_display_data(data, metadata)
    return box
