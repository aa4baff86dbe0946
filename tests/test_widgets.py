"""Controls without a browser: values change, buttons are clicked, and the picture follows."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import ipywidgets
import matplotlib.pyplot as plt
import pytest

from course_utils import plots, saving, widgets


class Counter:
    """A simulation that can be looked into: it notes what it was made with and how far it went."""

    made: list["Counter"] = []

    def __init__(self, kind, speed):
        self.kind, self.count = kind, 0
        Counter.made.append(self)

    def step(self, kind, speed):
        self.count += speed

    def draw(self, kind, speed):
        figure, axis = plt.subplots(figsize=(1, 1))
        axis.text(0, 0, str(self.count))
        return plots.render(figure, f"The counter {kind} stands at {self.count}.")


@pytest.fixture
def published(monkeypatch):
    outputs = []
    monkeypatch.setattr(widgets, "publish_display_data", lambda data, metadata: outputs.append((data, metadata)))
    return outputs


@pytest.fixture
def box(published):
    Counter.made.clear()
    return widgets.play(
        Counter,
        Counter.step,
        Counter.draw,
        restart_on=["kind"],
        kind=widgets.choice(["a", "b"], "kind"),
        speed=widgets.slider(1, 10, 1, "speed"),
    )


def parts(box):
    kind, speed, row, screen = box.children
    player, one_step, again, _ = row.children
    return kind, speed, player, one_step, again, screen


def words(screen):
    return re.search(r'alt="([^"]+)"', screen.value)[1]


def test_one_step_advances_by_one_frame_and_draws_it(box):
    _, _, _, one_step, _, screen = parts(box)
    before = screen.value
    one_step.click()
    assert Counter.made[-1].count == 1
    assert words(screen) == "The counter a stands at 1." and screen.value != before


def test_every_count_of_the_player_is_a_frame_at_the_present_speed(box):
    _, speed, player, _, _, screen = parts(box)
    player.value = 1
    speed.value = 5
    assert words(screen).endswith("at 1.")  # a changed speed counts from the next frame on
    player.value = 2
    assert words(screen).endswith("at 6.")


def test_stop_and_start_again_begin_anew(box):
    _, _, player, one_step, again, screen = parts(box)
    player.value = 3
    player.value = 0  # what the front end's square does
    assert len(Counter.made) == 2 and words(screen).endswith("at 0.")
    one_step.click()
    again.click()
    assert len(Counter.made) == 3 and words(screen).endswith("at 0.")


def test_a_control_named_in_restart_on_begins_anew_with_its_value(box):
    kind, _, _, one_step, _, screen = parts(box)
    one_step.click()
    kind.value = "b"
    assert Counter.made[-1].kind == "b" and words(screen) == "The counter b stands at 0."


def test_the_output_holds_the_live_view_and_a_described_picture(published, box):
    ((data, metadata),) = published
    assert data[widgets.VIEW]["model_id"] == box.model_id
    assert data["text/plain"] == "[picture] The counter a stands at 0." and metadata == {}
    assert data["text/html"].startswith('<img alt="The counter a stands at 0."')


def test_a_still_stands_for_the_player_where_there_are_no_widgets(published):
    figure, _ = plt.subplots(figsize=(1, 1))
    still = plots.render(figure, "A film strip of four frames.")
    controls = {"kind": widgets.choice(["a"]), "speed": widgets.slider(1, 2, 1)}
    widgets.play(Counter, Counter.step, Counter.draw, still=still, **controls)
    assert published[-1][0]["text/plain"] == "[picture] A film strip of four frames."


def test_an_unknown_name_in_restart_on_is_refused(published):
    with pytest.raises(ValueError, match="no control size"):
        widgets.play(Counter, Counter.step, Counter.draw, restart_on=["size"], kind=widgets.choice(["a"]))


def test_explore_draws_again_when_a_control_moves(published):
    box = widgets.explore(lambda n: Counter("x", 1).draw("x" * n, 1), n=widgets.slider(1, 3, 1))
    before = box.children[-1].value
    box.children[0].value = 3
    assert box.children[-1].value != before and "xxx" in words(box.children[-1])


def test_only_widgets_that_ipywidgets_7_also_has_are_used(box):
    names = ("ToggleButtons", "IntSlider", "HBox", "HTML", "Play", "Button", "Label")
    old = tuple(getattr(ipywidgets, name) for name in names)
    assert all(isinstance(child, old) for child in [*box.children, *box.children[-2].children])
    assert isinstance(widgets.switch(True, "on"), ipywidgets.Checkbox)


def test_a_new_simulation_ends_the_one_before(published):
    """A player counts in the front end, also when its cell is run again or its output is cleared."""
    controls = {"kind": widgets.choice(["a"]), "speed": widgets.slider(1, 2, 1)}
    first = widgets.play(Counter, Counter.step, Counter.draw, **controls)
    player = first.children[-2].children[0]
    playing = "playing" if player.has_trait("playing") else "_playing"  # ipywidgets 8 or 7
    setattr(player, playing, True)
    second = widgets.play(Counter, Counter.step, Counter.draw, **controls)
    assert not getattr(player, playing) and player.comm is None and first.comm is None
    assert second.comm is not None and [box for _, box in widgets._players] == [second]


def test_all_labels_have_one_width_so_that_the_controls_begin_at_one_line(published):
    controls = {"n": widgets.slider(1, 3, 1, "n"), "x": widgets.slider(1.0, 3.0, 1.0, "a long label")}
    widgets.explore(lambda n, x: Counter("x", 1).draw("x", 1), **controls)
    assert len({control.style.description_width for control in controls.values()}) == 1
    assert len({control.layout.width for control in controls.values()}) == 1


def test_what_a_widget_draws_is_unknown_to_pyplot(published):
    """Callbacks run in another thread, and pyplot would show their figure in whatever cell runs then."""
    before = plt.get_fignums()
    figure, _ = plots.subplots(figsize=(1, 1))
    assert plt.get_fignums() == before
    assert plots.render(figure, "An empty pair of axes.").png


def test_the_notebooks_draw_nothing_for_widgets_with_pyplot():
    sources = Path(__file__).resolve().parents[1] / "notebooks" / "src"
    for path in sources.glob("*.py"):
        for name in re.findall(r"widgets\.explore\(\s*(\w+),", path.read_text("utf-8")):
            body = re.search(rf"def {name}\(.*?\n(?=\S)", path.read_text("utf-8"), re.DOTALL)[0]
            assert "plt.subplots" not in body and "plots.subplots" in body, (path.name, name)


# --- what is saved -------------------------------------------------------------------------------------------


def saved(output, **course):
    model = {"type": "notebook", "content": {"metadata": course, "cells": [{"outputs": [output]}]}}
    saving.leave_out_live_views(model, path="x.ipynb", contents_manager=None)
    return model["content"]["cells"][0]["outputs"]


def test_a_saved_notebook_of_the_course_holds_the_picture_and_no_live_view(published, box):
    data, _ = published[-1]
    (output,) = saved({"output_type": "display_data", "data": dict(data), "metadata": {}}, course={})
    assert set(output["data"]) == {"text/html", "text/plain"}


def test_a_finished_bar_is_not_saved_and_all_other_outputs_are(box):
    assert saved({"output_type": "display_data", "data": {"text/html": ""}, "metadata": {}}, course={}) == []
    stream = {"output_type": "stream", "name": "stdout", "text": "1"}
    only_live = {"output_type": "display_data", "data": {widgets.VIEW: {}}, "metadata": {}}
    for output in (stream, only_live):
        assert saved(output, course={}) == [output]


def test_notebooks_of_other_people_are_saved_as_they_are():
    output = {"output_type": "display_data", "data": {widgets.VIEW: {}, "text/plain": "x"}, "metadata": {}}
    assert saved(output) == [output]
    saving.leave_out_live_views({"type": "file", "content": "text"})
