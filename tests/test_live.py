"""The bar in a real kernel: it leaves nothing, and the stop button keeps what was learnt."""

import os
import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).resolve().parents[1]
TRAINING = """
learnt = []
for step in training.progress(1000):
    learnt.append(step)
    training.note(loss=1 / (step + 1))
    time.sleep(0.01)
print("the cell goes on")
"""


class Page:
    """Cells that are run one after the other, as a front end would show them."""

    def __init__(self, client, manager):
        self.client, self.manager = client, manager

    def run(self, code, interrupt_after=None):
        """Outputs of the cell; with `interrupt_after` seconds the stop button is pressed once."""
        message = self.client.execute(code)
        outputs, places, deadline = [], {}, time.monotonic() + 60
        press = None if interrupt_after is None else time.monotonic() + interrupt_after
        while time.monotonic() < deadline:
            if press and time.monotonic() > press:
                self.manager.interrupt_kernel()
                press = None
            if not self.client.iopub_channel.msg_ready():
                time.sleep(0.02)
                continue
            got = self.client.get_iopub_msg(timeout=1)
            content, kind = got["content"], got["msg_type"]
            if got["parent_header"].get("msg_id") != message:
                continue
            if kind in ("display_data", "update_display_data"):
                place = content["transient"].get("display_id")
                if kind == "display_data":
                    places[place] = len(outputs)
                    outputs.append(content["data"])
                else:
                    outputs[places[place]] = content["data"]
            elif kind == "stream":
                outputs.append({"text/plain": content["text"]})
            elif kind == "error":
                outputs.append({"text/plain": "\n".join(content["traceback"])})
            elif kind == "status" and content["execution_state"] == "idle":
                return outputs
        raise TimeoutError(code)

    def text(self, code, **options):
        return "".join(output.get("text/plain", "") for output in self.run(code, **options))


@pytest.fixture(scope="module")
def page():
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    manager, client = start_new_kernel(kernel_name="python3", env=environment | {"PYTHONPATH": path})
    try:
        page = Page(client, manager)
        page.run("import time; from course_utils import live, runtime, training; run = runtime.start()")
        yield page
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_finished_bar_leaves_an_empty_output(page):
    outputs = page.run("for step in training.progress(3, 'short'): pass")
    assert outputs == [{"text/html": ""}]


def test_a_bar_shows_its_numbers_and_picture_while_it_runs(page):
    code = """
from course_utils.plots import Picture
for step in training.progress(2):
    training.note(Picture(b"png", "four words of text"), loss_d=0.25)
    seen = live._bars[-1]._bundle()["text/html"]
print(seen)
"""
    text = page.text(code)
    assert "1 of 2" in text and "loss d 0.25" in text and 'alt="four words of text"' in text


def test_the_stop_button_ends_a_training_after_a_step_and_keeps_what_was_learnt(page):
    text = page.text(TRAINING, interrupt_after=1)
    assert "of 1,000 steps. What was learnt until then is kept" in text and "the cell goes on" in text
    kept = int(page.text("print(len(learnt))"))
    assert 0 < kept < 1000 and f"Stopped after {kept:,} of" in text


def test_after_a_stop_the_button_has_its_usual_meaning_again(page):
    page.run(TRAINING, interrupt_after=0.5)
    assert "KeyboardInterrupt" in page.text("time.sleep(30)", interrupt_after=0.5)


def test_in_a_loop_of_trainings_the_stop_button_ends_the_cell_in_one_line(page):
    code = """
finished = []
for name in training.progress(["a", "b"], "contest"):
    for step in training.progress(1000):
        time.sleep(0.01)
    finished.append(name)
"""
    outputs = page.run(code, interrupt_after=0.5)
    assert [output.get("text/html") for output in outputs[:2]] == ["", ""]
    assert outputs[2:] == [{"text/plain": "Stopped after 0 of 2 (contest): run the cell again to begin it anew."}]
    assert page.text("print(finished, live._bars)") == "[] []\n"


def test_an_error_in_the_loop_leaves_no_bar_behind(page):
    outputs = page.run("for step in training.progress(5): 1 / 0")
    assert outputs[0] == {"text/html": ""} and "ZeroDivisionError" in outputs[-1]["text/plain"]
    assert "KeyboardInterrupt" in page.text("time.sleep(30)", interrupt_after=0.5)


def test_a_cell_whose_names_are_missing_says_which_cells_come_first(page):
    text = page.text("print(nowhere_made)")
    assert "NameError" in text
    assert "`nowhere_made` is made by a cell further up" in text and "Run All Above Selected Cell" in text


def test_a_note_without_a_bar_does_nothing(page):
    assert page.run("training.note(loss=1.0)") == []
