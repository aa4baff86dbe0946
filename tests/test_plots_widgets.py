"""Every picture has words, is small, shows the right greys and colours, and stands without a widget."""

import base64
import html
import io
import math
import re
from itertools import combinations

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_rgb
from PIL import Image

from course_utils import data, plots, widgets

ALT = "A line that rises to the right"


@pytest.fixture
def shown(monkeypatch, tmp_path) -> list[dict]:
    """The outputs that a notebook would store, in order."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", CapturingDisplayPublisher())
    yield shell.display_pub.outputs
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def default_style():
    with plt.rc_context():
        yield
    plt.close("all")


def line() -> plt.Figure:
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot([0, 1], [0, 1])
    return figure


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


TAG = re.compile(r'<img alt="([^"]*)" width="(\d+)" style="[^"]*" src="data:image/(\w+);base64,([^"]+)">')


def stored_image(output: dict) -> bytes:
    return base64.b64decode(TAG.fullmatch(output["data"]["text/html"])[4])


def clothes(n: int) -> torch.Tensor:
    return data.to_unit_range(data.embedded("fashion_mnist", "test")[0][:n])


# --- alt text -----------------------------------------------------------------------------------------------


def test_alt_text_is_stored_where_front_ends_look_for_it(shown) -> None:
    """JupyterLab, Notebook and nbconvert show the words of an <img> in HTML only; terminals show the plain text."""
    plots.show(line(), f"  {ALT}\n   over <time> ")
    tag = TAG.fullmatch(shown[0]["data"]["text/html"])
    assert html.unescape(tag[1]) == f"{ALT} over <time>"
    assert shown[0]["data"]["text/plain"] == f"[picture] {ALT} over <time>"
    assert set(shown[0]["data"]) == {"text/html", "text/plain"} and shown[0]["metadata"] == {}


def test_figures_are_sharp_at_two_pixels_a_point(shown) -> None:
    plots.show(line(), ALT)
    _, width, kind, _ = TAG.fullmatch(shown[0]["data"]["text/html"]).groups()
    picture = opened(stored_image(shown[0]))
    assert picture.width == 2 * int(width) and kind == picture.format.lower() == "webp"


def test_every_kind_of_picture_stores_its_alt_text(shown) -> None:
    x = clothes(4)
    plots.image_grid(x, ALT)
    plots.film_strip([x, x[:2]], ["real", "generated"], ALT)
    plots.animation([x, -x], ALT).show()
    assert [TAG.fullmatch(output["data"]["text/html"])[1] for output in shown] == [ALT] * 3


@pytest.mark.parametrize("alt", ["", "   ", "a plot", "figure of line", None])
def test_a_picture_without_a_sentence_of_alt_text_is_refused(alt) -> None:
    pictures = clothes(2)
    for draw in (
        lambda: plots.show(line(), alt),
        lambda: plots.render(line(), alt),
        lambda: plots.image_grid(pictures, alt),
        lambda: plots.film_strip([pictures], ["real"], alt),
        lambda: plots.animation([pictures], alt),
    ):
        with pytest.raises(ValueError, match="Alt text of at least four words"):
            draw()


def test_alt_text_cannot_be_left_out() -> None:
    with pytest.raises(TypeError):
        plots.show(line())


# --- pixels -------------------------------------------------------------------------------------------------


def test_minus_one_is_black_and_one_is_white_and_the_middle_is_not_clipped() -> None:
    """make_grid leaves [-1, 1] and imshow then clips half of it away (ERRATA 5)."""
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert plots.tile(x).tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert plots.to_unit_interval(torch.tensor([-1.2, 1.3])).tolist() == [0, 1]


def test_a_tile_has_rows_of_columns_between_white_lines() -> None:
    x = -torch.ones(5, 1, 4, 4)
    x[3] = 0.5
    tile = plots.tile(x, columns=3, padding=1)
    assert tile.shape == (2 * 5 + 1, 3 * 5 + 1)
    assert (tile[0] == 1).all() and (tile[:, 5] == 1).all()
    assert (tile[6:10, 1:5] == 0.75).all()  # the fourth picture begins the second row
    assert plots.tile(torch.zeros(2, 3, 4, 4)).shape == (6, 11, 3)


def test_a_single_picture_without_its_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) are wanted, not \(28, 28\)"):
        plots.tile(torch.zeros(28, 28))


def test_grey_pictures_are_grey_with_and_without_the_courses_style(shown) -> None:
    plots.image_grid(clothes(8), ALT)
    plots.film_strip([clothes(3)], [""], ALT)
    plots.use_style()
    plots.image_grid(clothes(8), ALT)
    for output in shown:
        pixels = np.asarray(opened(stored_image(output)).convert("RGB")).astype(int)
        assert (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 4


def test_a_grid_shows_the_whole_range_also_for_dim_pictures(shown) -> None:
    """Without fixed limits imshow would stretch a dim picture to black and white."""
    plots.image_grid(torch.linspace(-0.2, 0.2, 28 * 28).reshape(1, 1, 28, 28), ALT, columns=1)
    pixels = np.asarray(opened(stored_image(shown[0])).convert("L"))
    assert pixels[pixels < 250].min() > 90 and pixels[pixels < 250].max() < 165


def test_a_film_strip_wants_a_label_for_every_row() -> None:
    with pytest.raises(ValueError, match="2 rows need as many labels, not 1"):
        plots.film_strip([clothes(2), clothes(2)], ["real"], ALT)


def test_figures_are_small_and_closed(shown) -> None:
    plots.use_style()
    plots.image_grid(clothes(64), ALT, title="Sixty-four clothes")
    plots.show(line(), ALT)
    assert [len(stored_image(output)) < limit for output, limit in zip(shown, (120e3, 20e3), strict=True)] == [True] * 2
    assert plt.get_fignums() == []


# --- animation ----------------------------------------------------------------------------------------------


def test_an_animation_of_ten_frames_of_64_pictures_is_a_small_animated_png() -> None:
    noise = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    frames = [torch.lerp(clothes(64), noise, 0.25 * (1 - step / 9)) for step in range(10)]
    picture = plots.animation(frames, ALT, milliseconds=300)
    film = opened(picture.png)
    assert film.format == "PNG" and film.is_animated and film.n_frames == 1 + 10
    still = np.asarray(film.convert("L"))
    durations = []
    for frame in range(1, film.n_frames):
        film.seek(frame)
        durations.append(film.info["duration"])
    assert durations == [300] * 9 + [1200]
    assert (np.asarray(film.convert("L")) == still).all()  # what does not move shows the last frame
    assert film.info["loop"] == 0  # for ever
    moving = plots.animation([clothes(64).roll(k, dims=0) for k in range(10)], ALT)
    assert len(moving.png) < 135e3  # 128,333 bytes with the oldest libraries


def test_the_frames_of_an_animation_are_the_pictures_in_order() -> None:
    frames = [torch.full((1, 1, 2, 2), value) for value in (-1.0, 0.2, 1.0)]
    film = opened(plots.animation(frames, ALT, zoom=3).png)
    greys = []
    for frame in range(1, film.n_frames):  # frame 0 is what stands where nothing moves
        film.seek(frame)
        greys.append(np.asarray(film.convert("L")).max())
    assert film.size == (6, 6)
    assert greys == pytest.approx([0, 0.6 * 255, 255], abs=15)  # 10 levels of grey


def test_an_animation_of_colour_pictures_keeps_their_colours() -> None:
    red, blue = torch.tensor([[1.0, -1, -1], [-1, -1, 1]]).reshape(2, 1, 3, 1, 1)
    film = opened(plots.animation([red, blue], ALT, zoom=1).png)
    film.seek(1)
    assert film.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    film.seek(2)
    assert film.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_a_label_stands_on_white_over_its_frame() -> None:
    black = torch.full((4, 1, 28, 28), -1.0)
    film = opened(plots.animation([black, black], ALT, columns=4, labels=["step 1", "step 1,000"]).png)
    words = []
    for frame in (1, 2):
        film.seek(frame)
        line = np.asarray(film.convert("L"))[:18]
        assert line[0].min() == 255  # white above the words
        words.append((line < 128).sum())
    assert 0 < words[0] < words[1]
    with pytest.raises(ValueError, match="2 frames need as many labels, not 1"):
        plots.animation([black, black], ALT, labels=["step 1"])


def test_an_animation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        plots.animation([], ALT)


# --- tables -------------------------------------------------------------------------------------------------


def test_a_table_is_one_for_readers_of_html_and_aligned_for_others(shown) -> None:
    plots.table(["", "FD", "a < b"], [["real", "1.1", 3], ["a longer label", "20.3", 12]])
    assert shown[0]["data"]["text/plain"].splitlines() == [
        "                  FD  a < b",
        "real             1.1      3",
        "a longer label  20.3     12",
    ]
    page = shown[0]["data"]["text/html"]
    assert "white-space: nowrap" in page and page.count("<tr>") == 3 and "a &lt; b" in page
    with pytest.raises(ValueError, match="Each row needs 2 cells"):
        plots.table(["", "FD"], [["real"]])


# --- colours ------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0, on linear RGB
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen_as(colour: str, vision: str) -> np.ndarray:
    """CIELAB coordinates of an sRGB colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = RGB_TO_XYZ @ (VISION[vision] @ linear).clip(0, 1) / RGB_TO_XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def least_difference(colours, vision: str) -> float:
    """The smallest CIE 1976 colour difference; about 2 is just noticeable side by side."""
    return min(np.linalg.norm(seen_as(a, vision) - seen_as(b, vision)) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("vision", VISION)
def test_the_courses_colours_can_be_told_apart(vision: str) -> None:
    assert least_difference(plots.COLOURS, vision) > 12


def test_the_colour_test_itself_finds_matplotlibs_red_and_green_too_close() -> None:
    assert least_difference(["tab:red", "tab:green"], "full") > 60
    assert least_difference(["tab:red", "tab:green"], "deuteranopia") < 12


def test_the_courses_colours_arrive_unchanged_in_a_picture_of_many_colours() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    left.imshow(np.linspace(0, 1, 40_000).reshape(200, 200), cmap="viridis")
    for k, colour in enumerate(plots.COLOURS):
        right.axhspan(k, k + 0.8, color=colour)
    image = opened(plots.render(figure, ALT).png).convert("RGB")
    arrived = {colour for _, colour in image.getcolors(image.width * image.height)}
    assert {tuple(round(255 * part) for part in to_rgb(colour)) for colour in plots.COLOURS} <= arrived


def test_lines_are_drawn_in_the_courses_colours() -> None:
    plots.use_style()
    _, axes = plt.subplots()
    drawn = [axes.plot([0, 1])[0].get_color() for _ in plots.COLOURS]
    assert drawn == list(plots.COLOURS)


# --- widgets ------------------------------------------------------------------------------------------------


def slope_picture(slope: float, kind: str = "line") -> plots.Picture:
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, 1], [0, slope])
    axes.set_ylim(0, 10)
    return plots.render(figure, f'A {kind} with slope {slope} & a "steep" <end>')


def pixels_on_screen(box: ipywidgets.Widget) -> np.ndarray:
    picture = opened(base64.b64decode(TAG.fullmatch(box.children[-1].value)[4]))
    return np.asarray(picture.convert("L").resize((40, 40)), dtype=float)


def test_a_widget_is_one_output_with_a_live_view_and_a_still_picture(shown) -> None:
    box = widgets.explore(slope_picture, slope=widgets.slider(0, 10, 2))
    (output,) = shown
    assert output["data"][widgets.VIEW]["model_id"] == box.model_id
    still = output["data"]["text/html"]
    assert still == slope_picture(2).tag() == box.children[-1].value
    assert html.unescape(TAG.fullmatch(still)[1]) == 'A line with slope 2 & a "steep" <end>'
    assert output["data"]["text/plain"].startswith("[picture] A line with slope 2")


def test_moving_a_control_draws_again_and_publishes_nothing_more(shown) -> None:
    slope, kind = widgets.slider(0, 10, 2), widgets.choice(["line", "ray"])
    box = widgets.explore(slope_picture, slope=slope, kind=kind)
    slope.value = 7
    wanted, before = (np.asarray(opened(slope_picture(s).png).convert("L").resize((40, 40)), float) for s in (7, 2))
    seen = pixels_on_screen(box)  # at a lower density, since it has to come soon
    assert np.abs(seen - wanted).mean() < np.abs(seen - before).mean() / 3
    kind.value = "ray"
    assert "A ray with slope 7" in box.children[-1].value
    assert len(shown) == 1


def test_the_box_holds_its_controls_in_order_and_then_the_picture(shown) -> None:
    kind, slope = widgets.choice(["line", "ray"]), widgets.slider(0, 10, 2)
    box = widgets.explore(slope_picture, kind=kind, slope=slope)
    assert box.children[:-1] == (kind, slope) and isinstance(box.children[-1], ipywidgets.HTML)


def test_alt_text_is_escaped_inside_html(shown) -> None:
    html = widgets.explore(slope_picture, slope=widgets.slider(0, 10, 2)).children[-1].value
    assert 'alt="A line with slope 2 &amp; a &quot;steep&quot; &lt;end&gt;"' in html
    assert html.count("<") == 1


def test_a_slider_is_whole_when_its_numbers_are() -> None:
    whole, real = widgets.slider(0, 10, 2, "steps"), widgets.slider(0, 1, 0.5, "t", step=0.1)
    assert isinstance(whole, ipywidgets.IntSlider) and isinstance(real, ipywidgets.FloatSlider)
    assert (whole.min, whole.max, whole.value, whole.description) == (0, 10, 2, "steps")
    assert (real.min, real.max, real.value, real.step) == (0, 1, 0.5, 0.1)


def test_a_choice_starts_with_its_first_option_or_the_one_named() -> None:
    assert widgets.choice([0, 1]).value == 0
    assert widgets.choice([0, 1], value=1).value == 1


def test_bytes_are_shown_right_and_other_ranges_are_refused() -> None:
    raw = torch.tensor([0, 255] * 8, dtype=torch.uint8).reshape(1, 1, 4, 4)
    assert torch.equal(plots.tile(raw, 1), plots.tile(raw.float() / 127.5 - 1, 1))
    for wrong in (raw.float(), raw / 255, raw * math.nan, raw.numpy()):
        with pytest.raises(ValueError, match=r"Pictures in \[-1, 1\] are wanted, not"):
            plots.tile(wrong, 1)


def test_frames_of_two_sizes_are_kept_on_white() -> None:
    frames = [torch.full((1, 1, 2, 2), -1.0), torch.full((2, 1, 2, 2), -1.0)]
    film = opened(plots.animation(frames, ALT, columns=1, zoom=1).png)
    assert film.n_frames == 1 + 2
    last = film.size[1] - 2
    film.seek(1)
    assert film.convert("L").getpixel((1, last)) == 255
    film.seek(2)
    assert film.convert("L").getpixel((1, last)) == 0
