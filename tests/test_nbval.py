"""How notebooks are tested: longest first, what takes too long in one sentence, what has no time left out."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    """A folder with the course's settings, in which a cell may take one second."""
    settings = (ROOT / "notebooks" / "conftest.py").read_text("utf-8")
    assert "AT_LEAST = 6, 300" in settings
    (tmp_path / "conftest.py").write_text(settings.replace("AT_LEAST = 6, 300", "AT_LEAST = 6, 1"), "utf-8")
    return tmp_path


def write(folder, name, sources, build_seconds=0.0):
    """A notebook whose cells print nothing, or what they say after `#:`."""
    cells = []
    for count, source in enumerate(sources, start=1):
        said = source.partition("#:")[2]
        outputs = [new_output("stream", name="stdout", text=said + "\n")] if said else []
        cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
    nb = new_notebook(cells=cells, metadata={"course": {"build_seconds": build_seconds}})
    nbformat.write(nb, folder / f"{name}.ipynb")


def nbval(folder, *options, **environment):
    sanitize = ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]
    command = [sys.executable, "-m", "pytest", "--nbval", *sanitize, "-p", "no:cacheprovider", "-ra", *options]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_cell_that_takes_too_long_gives_one_sentence_and_the_rest_is_skipped(folder):
    write(folder, "slow", ["x = 1", "import time; time.sleep(60)", "print(1) #:1", "print(2) #:2"])
    code, report = nbval(folder)
    assert code == 1 and "1 failed, 1 passed, 2 skipped" in report
    assert "Cell 1 of slow.ipynb took longer than 1 s: try again on a quieter machine." in report
    assert "XPASS" not in report and "KeyboardInterrupt" not in report and len(report.splitlines()) < 25


def test_a_cell_that_swallows_the_interrupt_has_still_taken_too_long(folder):
    patient = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    write(folder, "patient", [patient])
    code, report = nbval(folder)
    assert code == 1 and "took longer than 1 s" in report


def test_a_cell_may_take_six_times_as_long_as_its_notebook_took(folder):
    write(folder, "usual", ["import time; time.sleep(2)"], build_seconds=1.0)
    assert nbval(folder)[0] == 0


def test_what_would_not_end_in_time_is_left_out_and_named(folder):
    write(folder, "long", ["x = 1"], build_seconds=100.0)
    write(folder, "short", ["x = 1"], build_seconds=1.0)
    code, report = nbval(folder, COURSE_TEST_UNTIL=str(time.time() + 60))
    assert code == 0 and "1 passed, 1 skipped" in report
    assert "long.ipynb left out: it needs about 150 s" in report


def order(folder, *options):
    """The notebooks in the order in which they would run; no kernel need start for it."""
    code, report = nbval(folder, "--collect-only", "-q", *options)
    assert code == 0
    return re.findall(r"(\w+)\.ipynb::Cell 0$", report, re.M)


def test_the_longest_notebook_comes_first(folder):
    for name, seconds in (("a", 1.0), ("b", 30.0), ("c", 5.0)):
        write(folder, name, ["x = 1"], build_seconds=seconds)
    assert order(folder) == ["b", "c", "a"]


def test_what_was_committed_last_can_come_first(folder):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    for day, name in enumerate(("old", "new"), start=1):
        write(folder, name, ["x = 1"], build_seconds=10.0 - day)
        subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
        date = {"GIT_COMMITTER_DATE": f"2026-01-0{day}T12:00:00"}
        subprocess.run([*git, "commit", "-q", "-m", name], cwd=folder, check=True, env=os.environ | date)
    for options, first in (([], "old"), (["--changed-first"], "new")):
        assert order(folder, *options, ".")[0] == first


def test_as_many_processes_as_cores_that_have_memory_for_a_notebook():
    place = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    conftest = importlib.util.module_from_spec(place)
    place.loader.exec_module(conftest)
    assert conftest.processes(cores=2, free_gb=24) == 2
    assert conftest.processes(cores=8, free_gb=6) == 2
    assert conftest.processes(cores=4, free_gb=1) == 1
    assert conftest.processes(cores=4, free_gb=float("inf")) == 4
    assert conftest.cores() >= 1 and conftest.free_gb() > 0
