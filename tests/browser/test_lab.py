"""What a learner sees: simulations that play, pictures with words, bars that leave nothing; and the next day."""

import html
import re
from pathlib import Path

import nbformat
import pytest

from .conftest import ROOT, wait_for

STORED = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
START = """
import time, torch
from course_utils import plots, runtime, training, widgets
from course_utils.lessons.nb01_gan_theory import gan_lab
plots.use_style()
torch.set_num_threads(1)
"""
PLAYER = "lab = gan_lab()"
EXPLORER = """
def draw(n, kind):
    figure, axis = plots.subplots(figsize=(3, 1.5))
    axis.plot([0, n])
    axis.set_title(kind)
    return plots.render(figure, f"A line that rises to {n} of kind {kind}")

kinds = widgets.choice(["thin", "thick"], "a longer label")
view = widgets.explore(draw, n=widgets.slider(0, 9, 3, "height"), kind=kinds)
"""
TRAINING = """
learnt = []
for step in training.progress(2000):
    learnt.append(step)
    training.note(loss=1 / (step + 1))
    time.sleep(0.01)
print(f"{len(learnt) < 2000}")
"""
SIZES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(
    i => [i.alt, i.naturalWidth, i.clientWidth, i.closest('.jp-OutputArea-output').clientWidth])"""
SHOWN = "plots.image_grid(torch.zeros(4, 1, 28, 28), 'Four grey squares side by side.', columns=4)"


def playing_frames(lab, index, at_least):
    """Wait until the simulation has drawn so many new frames."""
    seen = set()

    def more():
        seen.add(lab.cell(index).locator("img").first.get_attribute("alt"))
        return len(seen) > at_least

    wait_for(more, 60)


def kernel_is_quiet(lab) -> bool:
    """Idle in ten looks in a row."""
    status = lab.page.locator(".jp-Notebook-ExecutionIndicator").first
    return all(status.get_attribute("data-status") == "idle" for _ in range(10) if not lab.page.wait_for_timeout(50))


def test_a_playing_simulation_leaves_other_cells_alone_and_ends_when_its_cell_runs_again(lab):
    lab.write("play.ipynb", [START, PLAYER, *["print('a student goes on')"] * 12])
    lab.open("play.ipynb")
    lab.run(0)
    lab.run(1)
    lab.cell(1).locator(".widget-play button, .jupyter-widgets.widget-play button").first.click()
    playing_frames(lab, 1, at_least=2)
    for index in range(2, 14):
        lab.run(index, wait=False)
    wait_for(lambda: all(lab.prompt(i) not in ("[ ]:", "[*]:") for i in range(2, 14)), 120)
    assert [lab.text(i).strip() for i in range(2, 14)] == ["a student goes on"] * 12
    assert sum(lab.cell(i).locator("img").count() for i in range(2, 14)) == 0
    before = lab.prompt(1)
    lab.run(1, wait=False)
    wait_for(lambda: lab.prompt(1) not in (before, "[*]:"), 120)
    wait_for(lambda: kernel_is_quiet(lab), 30)
    assert lab.cell(1).locator("img").first.get_attribute("alt").startswith("Step 0:")


def test_controls_begin_at_one_line_and_move_by_keyboard(lab):
    lab.write("explore.ipynb", [START, EXPLORER])
    lab.open("explore.ipynb")
    lab.run(0)
    lab.run(1)
    picture = lab.cell(1).locator("img").first
    assert picture.get_attribute("alt") == "A line that rises to 3 of kind thin"
    lab.cell(1).locator(".noUi-handle").first.focus()
    lab.page.keyboard.press("ArrowRight")
    wait_for(lambda: picture.get_attribute("alt") == "A line that rises to 4 of kind thin", 20)
    lab.cell(1).get_by_role("button", name="thick").focus()
    lab.page.keyboard.press("Enter")
    wait_for(lambda: picture.get_attribute("alt") == "A line that rises to 4 of kind thick", 20)
    labels = [lab.cell(1).locator(".widget-label", has_text=text).first for text in ("height", "a longer label")]
    assert len({round(label.bounding_box()["width"]) for label in labels}) == 1


def test_the_stop_button_keeps_what_was_learnt_and_the_bar_leaves_no_gap(lab):
    lab.write("train.ipynb", [START, TRAINING])
    lab.open("train.ipynb")
    lab.run(0)
    lab.run(1, wait=False)
    lab.cell(1).locator("progress").wait_for(timeout=60_000)
    wait_for(lambda: "loss" in lab.text(1), 30)
    lab.page.locator('[data-command="notebook:interrupt-kernel"], button[title*="nterrupt"]').first.click()
    wait_for(lambda: "Stopped after" in lab.text(1), 30)
    assert "True" in lab.text(1) and lab.cell(1).locator("progress").count() == 0
    height = lab.cell(1).locator(".jp-OutputArea-child").first.bounding_box()["height"]
    assert height < 12
    outputs = lab.save().cells[1].outputs
    assert {output.output_type for output in outputs} == {"stream"}


def test_a_notebook_opened_the_next_day_shows_its_pictures_and_no_error(lab, browser):
    lab.write("day.ipynb", [START, EXPLORER, PLAYER, "for step in training.progress(3): pass", SHOWN])
    lab.open("day.ipynb")
    for index in range(5):
        lab.run(index)
    nb = lab.save()
    kinds = {kind for cell in nb.cells for out in cell.outputs for kind in out.get("data", {})}
    assert kinds == {"text/html", "text/plain"} and nb.cells[3].outputs == []
    kernels = lab.page.request.get(f"{lab.address}/api/sessions?token=course").json()
    for session in kernels:
        lab.page.request.delete(f"{lab.address}/api/sessions/{session['id']}?token=course")
    page = browser.new_page(viewport={"width": 800, "height": 900})
    try:
        again = type(lab)(page, lab.address, lab.folder)
        again.open("day.ipynb")
        assert "model not found" not in page.content() and "Loading widget" not in page.content()
        alts = [page.locator(".jp-OutputArea img").nth(i).get_attribute("alt") for i in range(3)]
        assert alts[0].startswith("A line") and alts[1].startswith("Step 0") and alts[2].startswith("Four grey")
    finally:
        page.close()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (800, "dark")])
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_picture_of_a_stored_notebook_arrives_with_its_words(lab, path: Path, width: int, theme: str):
    """As cloned: JupyterLab does not trust it and cleans its HTML."""
    lab.page.set_viewport_size({"width": width, "height": 900})
    lab.page.emulate_media(color_scheme=theme)
    nb = nbformat.read(path, as_version=4)
    pages = [out.get("data", {}).get("text/html", "") for cell in nb.cells for out in cell.get("outputs", [])]
    words = {html.unescape(found) for page in pages for found in re.findall('<img alt="([^"]*)"', page)}
    for cell in nb.cells:
        cell.source = "" if cell.cell_type == "code" else cell.source  # only outputs are looked at
    nbformat.write(nb, lab.folder / path.name)
    lab.open(path.name)
    panel = lab.page.locator(".jp-WindowedPanel-outer").first
    seen: dict[str, tuple] = {}

    def look() -> bool:
        for alt, *sizes in lab.page.evaluate(SIZES):
            seen[alt] = tuple(sizes)
        panel.evaluate("p => p.scrollBy(0, p.clientHeight * 0.6)")
        return set(seen) >= words

    wait_for(look, 180)
    assert words and set(seen) == words
    assert all(natural > 0 and 0 < shown <= room + 1 for natural, shown, room in seen.values())
    assert lab.page.locator(".jp-OutputArea-output script").count() == 0


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_line_of_code_is_cut_off_beside_the_file_list(lab, path) -> None:
    """The widest line of each kind of cell, at 1280 pixels with the file list open."""
    nb = nbformat.read(path, as_version=4)
    lines = {line for cell in nb.cells if cell.cell_type == "code" for line in cell.source.splitlines()}
    longest = sorted(lines, key=len)[-3:]
    lab.write(path.name, ["\n".join(f"# {line}"[: len(line)] for line in longest)])
    lab.open(path.name)
    assert lab.page.locator("#jp-left-stack").is_visible()
    scroller = lab.cell(0).locator(".cm-scroller")
    seen, needed = scroller.evaluate("element => [element.clientWidth, element.scrollWidth]")
    assert needed <= seen, f"{needed - seen} pixels of {len(longest[-1])} columns are cut off"
