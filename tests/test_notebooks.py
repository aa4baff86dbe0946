"""Every stored notebook keeps the rules, and all that is made from the texts is in step."""

import sys
from pathlib import Path

import pytest
import warm

from authoring import rules, seeds
from authoring.build import check
from authoring.cells import claims, read_notebook
from authoring.course import Course

COURSE = Course(Path(__file__).resolve().parents[1])
STORED = sorted(COURSE.notebooks.glob("*.ipynb"))


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__.removesuffix("_problems"))
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_notebook_keeps_the_rule(path, rule):
    assert rule(read_notebook(path)) == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_notebook_is_small_and_has_the_stamped_setup_cell(path):
    nb = read_notebook(path)
    assert rules.size_problems(nb, path) + rules.setup_problems(nb, COURSE.setup_cell()) == []


def test_texts_notebooks_lessons_and_readme_are_in_step():
    assert check(COURSE) == []


def test_lessons_import_silently_the_last_one_first(tmp_path):
    """In one process: that a lesson needs no other than those it imports is the matter of test_rooms."""
    stems = [COURSE.lesson(name).stem for name in reversed(COURSE.names()) if COURSE.lesson(name).exists()]
    code = "; ".join(f"import course_utils.lessons.{stem}" for stem in stems)
    imported = warm.run([sys.executable, "-c", code], tmp_path, cwd=COURSE.root)
    assert (imported.returncode, imported.stdout) == (0, ""), imported.stderr


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_page_of_claims_has_every_sentence_that_a_notebook_prints(path):
    page = (COURSE.root / seeds.PAGE).read_text("utf-8")
    listed = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()}
    printed = [seeds._plain(sentence) for sentence in claims(read_notebook(path))]
    assert [sentence for sentence in printed if sentence not in listed] == []
    assert "Not measured yet" not in page and "| ✗" not in page
