"""Controls without a browser: values change, buttons are clicked, and the picture follows."""

import re

import matplotlib

matplotlib.use("Agg")
import ipywidgets
import matplotlib.pyplot as plt
import pytest

from course_utils import plots, widgets


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
    return kind, speed, *row.children, screen


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
    assert data["image/png"] and metadata["image/png"]["alt"] == "The counter a stands at 0."


def test_a_still_stands_for_the_player_where_there_are_no_widgets(published):
    figure, _ = plt.subplots(figsize=(1, 1))
    still = plots.render(figure, "A film strip of four frames.")
    controls = {"kind": widgets.choice(["a"]), "speed": widgets.slider(1, 2, 1)}
    widgets.play(Counter, Counter.step, Counter.draw, still=still, **controls)
    assert published[-1][1]["image/png"]["alt"] == "A film strip of four frames."


def test_an_unknown_name_in_restart_on_is_refused(published):
    with pytest.raises(ValueError, match="no control size"):
        widgets.play(Counter, Counter.step, Counter.draw, restart_on=["size"], kind=widgets.choice(["a"]))


def test_explore_draws_again_when_a_control_moves(published):
    box = widgets.explore(lambda n: Counter("x", 1).draw("x" * n, 1), n=widgets.slider(1, 3, 1))
    before = box.children[-1].value
    box.children[0].value = 3
    assert box.children[-1].value != before and "xxx" in words(box.children[-1])


def test_only_widgets_that_ipywidgets_7_also_has_are_used(box):
    names = ("Dropdown", "IntSlider", "HBox", "HTML", "Play", "Button")
    old = tuple(getattr(ipywidgets, name) for name in names)
    assert all(isinstance(child, old) for child in [*box.children, *box.children[-2].children])
    assert isinstance(widgets.switch(True, "on"), ipywidgets.Checkbox)
