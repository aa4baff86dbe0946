"""The notebook tools, on a small course made here and executed once."""

import ast
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from tiny_course import PNG, ROOT, SOURCE, cell_with, edit

from authoring import rules
from authoring.__main__ import main
from authoring.build import check
from authoring.cells import (
    KERNELSPEC,
    read_notebook,
    read_source,
    strip,
    tags,
    with_outputs,
    write_notebook,
)
from authoring.course import Course, CourseError
from authoring.lessons import silent, update_lesson
from authoring.pages import FORMULA, _mathml, web_page
from authoring.readme import PICTURE, readme_text, update_readme
from authoring.stamps import change_address, stamp_text, with_badge
from authoring.student import mark_solution, student_version
from course_utils.files import write
from course_utils.saving import VIEW as WIDGET_VIEW

# -------------------------------------------------------------------------------------------------- the build


def test_the_built_notebook_keeps_every_rule_and_is_in_step(built, nb):
    assert [problem for rule in rules.RULES for problem in rule(nb)] == []
    assert rules.size_problems(nb, built.stored("02_tiny")) == []
    assert rules.setup_problems(nb, built.setup_cell()) == []
    assert check(built) == []


def test_what_must_go_is_stripped_and_what_must_stay_is_kept(built, nb):
    assert set(nb.metadata) == {"kernelspec", "language_info", "course"}
    assert nb.metadata.kernelspec == KERNELSPEC
    text = built.stored("02_tiny").read_text("utf-8")
    for leftover in ("execution", "outputId", "widget-view", "lines_to_next_cell"):
        assert f'"{leftover}"' not in text and WIDGET_VIEW not in text
    assert [list(out.data) for out in cell_with(nb, "IntSlider").outputs] == [["image/png"]]
    assert cell_with(nb, "41 + 1").outputs == []
    solution = cell_with(nb, "# @title Solution 1")
    assert solution.metadata == {
        "tags": ["solution"],
        "jupyter": {"source_hidden": True},
        "cellView": "form",
    }
    assert not list(built.root.rglob("*.tmp"))


def test_colab_leftovers_go_and_adjacent_streams_are_joined():
    def stream(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    view = {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "IntSlider()"}
    cell = nbformat.v4.new_code_cell("1", metadata={"outputId": "x", "id": "y", "executionInfo": {}})
    cell.metadata["tags"] = ["long", "nbval-ignore-output"]
    cell.outputs = [
        stream("a"), stream("b"), stream("c", "stderr"), stream("d"),
        nbformat.v4.new_output("display_data", view),
        nbformat.v4.new_output("display_data", {**view, "image/png": PNG}),
    ]  # fmt: skip
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"colab": {}, "widgets": {}, "course": {"title": "t"}})
    strip(nb)
    assert nb.cells[0].metadata == {"tags": ["long", "nbval-ignore-output"]}
    assert "widgets" not in nb.metadata and "colab" not in nb.metadata
    assert [out.get("text") for out in nb.cells[0].outputs] == ["ab", "c", "d", None]
    assert set(nb.cells[0].outputs[-1].data) == {"image/png", "text/plain"}


def test_a_progress_bar_that_would_be_lost_and_missed_by_nbval_is_refused():
    cell = nbformat.v4.new_code_cell("load(place)")
    cell.outputs = [nbformat.v4.new_output("display_data", {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "0%"})]
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"course": {"title": "t"}})
    with pytest.raises(CourseError, match=r"progress bar.*load\(place\)"):
        strip(nb)


def test_unchanged_cells_keep_their_id_and_outputs_and_new_ones_get_their_own(course, nb):
    for number, cell in enumerate(nb.cells):
        cell.id = f"old-{number}"
    path = course.source("02_tiny")
    edit(path, "# %%\n41 + 1;", "# %%\nprint('new')\n\n# %%\nprint('new')\n\n# %%\n41 + 1;")
    changed = with_outputs(read_source(course, "02_tiny"), nb)
    new = [cell for cell in changed.cells if not cell.id.startswith("old-")]
    assert [cell.source for cell in new] == ["print('new')"] * 2
    assert len({cell.id for cell in changed.cells}) == len(changed.cells)
    assert not any(cell.outputs for cell in new)
    kept = [cell for cell in changed.cells if cell.id.startswith("old-")]
    assert [(cell.id, cell.get("outputs")) for cell in kept] == [(cell.id, cell.get("outputs")) for cell in nb.cells]


def test_a_tag_that_was_taken_off_stays_off(course, nb):
    cell_with(nb, "41 + 1").metadata["tags"] = ["long"]
    changed = with_outputs(read_source(course, "02_tiny"), nb)
    assert "tags" not in cell_with(changed, "41 + 1").metadata


def test_a_failing_cell_is_named_and_leaves_the_stored_notebook_as_it_was(course, capsys):
    before = course.stored("02_tiny").read_bytes()
    source = SOURCE[: SOURCE.index("# %%\nPNG")] + "# %%\n# why\nmissing_name + 1\n"
    course.source("02_tiny").write_text(source, "utf-8")
    assert main(["build", "02"], root=course.root) == 1
    message = capsys.readouterr().err
    assert "cell 5 of 5 failed" in message and "# why" in message
    assert message.rstrip().endswith("NameError: name 'missing_name' is not defined") and "\x1b" not in message
    assert course.stored("02_tiny").read_bytes() == before
    assert not list(course.root.rglob("*.tmp"))


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, "new")
    assert path.read_text() == "old"


def test_changed_prose_is_taken_over_without_running_and_changed_code_is_not(course, nb, capsys):
    edit(course.source("02_tiny"), "- Nothing much.", "- Something.")
    assert main(["text", "02"], root=course.root) == 0
    changed = read_notebook(course.stored("02_tiny"))
    assert "- Something." in changed.cells[0].source
    kept = [(cell.id, cell.outputs) for cell in nb.cells if cell.cell_type == "code"]
    assert [(cell.id, cell.outputs) for cell in changed.cells if cell.cell_type == "code"] == kept
    assert check(course) == []
    edit(course.source("02_tiny"), "print(scaled(1))", "print(scaled(2))")
    assert main(["text", "02"], root=course.root) == 1
    assert "make notebooks NB=02" in capsys.readouterr().err


def test_the_readme_shows_the_picture_of_the_tagged_cell(course):
    assert "![" not in readme_text(course).split("picture:begin")[1].split("picture:end")[0]
    nb = read_notebook(course.stored("02_tiny"))
    cell_with(nb, "GIF = ").metadata["tags"] = ["readme"]
    write_notebook(course.stored("02_tiny"), nb)
    update_readme(course)
    assert f'![A dark & "small" pixel]({PICTURE})' in course.readme.read_text("utf-8")
    assert (course.root / PICTURE).read_bytes()[:4] == b"\x89PNG"
    (course.root / PICTURE).write_bytes(b"another picture")
    assert any(PICTURE in problem for problem in check(course))


def test_an_unknown_prefix_names_the_notebooks_that_exist(built, capsys):
    assert main(["build", "07"], root=built.root) == 1
    assert capsys.readouterr().err.strip() == "No notebook begins with '07'; there is 02_tiny."


def test_a_page_needs_no_network_and_keeps_solutions_folded(course):
    nb = read_notebook(course.stored("02_tiny"))
    nb.cells.append(nbformat.v4.new_markdown_cell(r"So $\frac{a}{b}$ costs 5$ and `$x$` and $$\sum_i x_i \le 1$$"))
    page = BeautifulSoup(web_page(nb, "02_tiny"), "html.parser")
    assert page.find("mfrac") and page.find("math", display="block") and "5$" in page.text and "$x$" in page.text
    assert not page.find_all("script") and not page.find_all("link", href=re.compile("^http"))
    assert not page.find_all("img", src=re.compile("^http"))
    solutions = page.find_all("details")
    assert [s.find("summary").text for s in solutions] == [f"Solution {n}" for n in (1, 2, 3, 4)]
    assert "def " in solutions[0].find("pre").text and not any(s.has_attr("open") for s in solutions)


def test_every_formula_of_the_course_becomes_mathml():
    course, found = Course(ROOT), 0
    for name in course.names():
        for cell in read_source(course, name).cells:
            if cell.cell_type == "markdown":
                text, number = FORMULA.subn(_mathml, cell.source)
                found += number
                assert not re.search(r"<math[^>]*>(?:(?!</math>).)*\\[a-zA-Z]", text, re.DOTALL), cell.source
    assert found > 500


def test_no_formula_begins_a_list_for_an_engine_that_reads_markdown_first():
    course = Course(ROOT)
    for name in course.names():
        for cell in read_source(course, name).cells:
            for block in re.findall(r"(?s)\$\$.+?\$\$", cell.source if cell.cell_type == "markdown" else ""):
                assert not re.search(r"(?m)^\s*[-+*] ", block), block


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "build/x.html"),
            "build/x.html: No space left on device. Make room",
        ),
        (KeyboardInterrupt(), "Stopped. Nothing was written; the same command begins again."),
    ],
)
def test_a_full_disk_and_an_interrupt_are_one_sentence(course, monkeypatch, capsys, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("authoring.build.execute", fail)
    assert main(["run"], root=course.root) in (1, 130)
    assert said in capsys.readouterr().err and (course.root / "build").is_dir()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    (tmp_path / "x.txt").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError):
        write(tmp_path / "x.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_one_digit_names_a_notebook(course):
    assert course.names("2") == course.names("02") == ["02_tiny"]


def test_run_leaves_html_with_alt_texts_and_no_change_to_the_stored_notebook(course, capsys):
    before = course.stored("02_tiny").read_bytes()
    assert main(["run"], root=course.root) == 0
    page = (course.root / "build" / "02_tiny.html").read_text("utf-8")
    pictures = BeautifulSoup(page, "html.parser").select(".jp-RenderedImage img")
    assert [(picture["alt"], picture["src"][:14]) for picture in pictures] == [
        ('A dark & "small" pixel', "data:image/png"),
        ("A pixel that moves", "data:image/gif"),
        ("What the slider shows", "data:image/png"),
    ]
    assert "No description has been provided" not in page
    assert course.stored("02_tiny").read_bytes() == before
    assert "cell 19 of 19 done" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- stamps and addresses


def run_setup_cell(course, monkeypatch, installed: bool, status: int = 0) -> list:
    calls = []

    def run(command):
        calls.append(command)
        return types.SimpleNamespace(returncode=status)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace() if installed else None)
    monkeypatch.setattr(subprocess, "run", run)
    exec(course.setup_cell(), {})
    return calls


def test_the_setup_cell_installs_nothing_where_the_package_is(built, monkeypatch):
    assert run_setup_cell(built, monkeypatch, installed=True) == []


def test_the_setup_cell_without_an_address_says_what_to_do(built, monkeypatch):
    with pytest.raises(ImportError, match=r"pip install -e \..*make badge REPO=owner/name"):
        run_setup_cell(built, monkeypatch, installed=False)


def test_the_setup_cell_installs_the_package_and_nothing_else_from_its_address(course, monkeypatch):
    change_address(course, "someone/fork")
    (command,) = run_setup_cell(course, monkeypatch, installed=False)
    assert command[1:] == [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "git+https://github.com/someone/fork@main",
    ]


def test_a_fetch_that_fails_is_said_in_a_sentence(course, monkeypatch):
    change_address(course, "someone/fork")
    with pytest.raises(ImportError, match="someone/fork@main: is that public, and is there a network?") as failure:
        run_setup_cell(course, monkeypatch, installed=False, status=1)
    assert failure.value.__context__ is None and "\n" not in str(failure.value)


def test_the_setup_cell_is_short_and_valid_python(built):
    assert len(built.setup_cell().splitlines()) < 16
    ast.parse(built.setup_cell())
    formatter = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=100", "-"]
    formatted = subprocess.run(formatter, input=built.setup_cell() + "\n", capture_output=True, text=True)
    assert formatted.stdout == built.setup_cell() + "\n"  # formatting the texts leaves the stamp alone


def test_stamping_twice_changes_nothing_and_keeps_the_authors_lines(course):
    text = course.source("02_tiny").read_text("utf-8")
    assert stamp_text(text, course, "02_tiny") == text
    assert stamp_text(SOURCE, course, "02_tiny") == text
    added = [line for line in text.splitlines() if line not in SOURCE.splitlines()]
    assert {line.lstrip("# ") for line in added} <= {*map(str.lstrip, course.setup_cell().splitlines())} | {
        line.lstrip("# ") for line in [*course.setup_cell().splitlines(), course.badge("02_tiny")]
    }


def test_a_badge_of_another_spelling_is_replaced(built):
    old = "# T\n\n[![Open in Colab](a.svg)](https://colab.research.google.com/)\n\nText."
    assert with_badge(old, built.badge("02_tiny")) == f"# T\n\n{built.badge('02_tiny')}\n\nText."


def test_badges_that_an_editor_has_folded_become_one(built):
    badge = built.badge("02_tiny")
    folded = badge.replace("Open In ", "Open In\n"), badge.replace("Open In ", "Open In\n\n")
    assert with_badge("\n\n".join(["# T", badge, *folded, "Text."]), badge) == f"# T\n\n{badge}\n\nText."


def test_a_text_without_setup_cell_or_facts_is_refused_in_one_sentence(course, capsys):
    course.source("02_tiny").write_text(SOURCE.replace('tags=["setup"]', ""), "utf-8")
    assert main(["stamp"], root=course.root) == 1
    assert "exactly one cell must be" in capsys.readouterr().err
    course.source("02_tiny").write_text(SOURCE.replace("#     summary:", "#     theme:"), "utf-8")
    assert main(["lessons"], root=course.root) == 1
    assert "lacks summary" in capsys.readouterr().err


def test_badge_moves_every_address_and_executes_nothing(course, nb):
    assert main(["badge", "some-one/my.fork"], root=course.root) == 0
    for path in (
        course.root / "pyproject.toml",
        course.readme,
        course.source("02_tiny"),
        course.stored("02_tiny"),
    ):
        text = path.read_text("utf-8")
        assert "OWNER/tiny" not in text and "some-one/my.fork" in text
    assert "# a comment that stays" in (course.root / "pyproject.toml").read_text("utf-8")
    assert check(course) == []
    moved = read_notebook(course.stored("02_tiny"))
    assert [(cell.id, cell.get("outputs")) for cell in moved.cells] == [
        (cell.id, cell.get("outputs")) for cell in nb.cells
    ]


@pytest.mark.parametrize("wrong", ["someone", "a/b/c", "https://github.com/a/b", "a b/c", "/b", "a/"])
def test_badge_refuses_what_is_not_owner_and_name(course, wrong, capsys):
    assert main(["badge", wrong], root=course.root) == 1
    assert "owner/name" in capsys.readouterr().err
    assert "OWNER/tiny" in course.source("02_tiny").read_text("utf-8")


# ---------------------------------------------------------------------------------------------------- lessons


def test_a_lesson_holds_the_exported_cells_in_order_and_works(built):
    text = built.lesson("02_tiny").read_text("utf-8")
    assert text.startswith("# Generated by authoring from notebooks/src/02_tiny.py: edit the notebook.\n")
    assert text.index("import math") < text.index("def scaled") and "check" not in text
    namespace = {}
    exec(text, namespace)
    assert namespace["scaled"](2.5) == 0.5 and "Tiny" in namespace["__doc__"]
    assert ast.get_docstring(ast.parse((built.lessons / "__init__.py").read_text("utf-8")))


def test_a_lesson_leaves_out_titles_and_calls_such_as_checks():
    cell = "# @title Solution\ndef f():\n    return g()\n\n\nx = f()\nclaim(\n    f(),\n)\nprint(x)"
    assert silent(cell) == "def f():\n    return g()\n\n\nx = f()"


def test_a_lesson_that_uses_an_undefined_name_is_a_problem(course):
    edit(course.source("02_tiny"), '# %% tags=["export"]\nimport math', "# %%\nimport math")
    update_lesson(course, "02_tiny")
    assert any("F821" in problem and "math" in problem for problem in check(course))


def test_a_notebook_that_exports_nothing_has_no_lesson(course):
    edit(course.source("02_tiny"), '# %% tags=["export"]', "# %%")
    assert any("the exported cells" in problem for problem in check(course))
    update_lesson(course, "02_tiny")
    assert not course.lesson("02_tiny").exists()


# ------------------------------------------------------------------------------------------------------ check


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (
            "notebooks/src/02_tiny.py",
            "print(scaled(1))",
            "print(scaled(2))",
            "differs from the text",
        ),
        ("notebooks/src/02_tiny.py", '"widget", ', "", "differs from the text"),
        ("notebooks/src/02_tiny.py", "minutes_cpu: 1", "minutes_cpu: 2", "`course` metadata"),
        ("notebooks/src/02_tiny.py", "# ## Next\n", "# ## Next\n\n# %%\n1\n", "cells, the text"),
        ("notebooks/src/02_tiny.py", "find_spec(", "find_spec( ", "not the stamped one"),
        ("notebooks/src/02_tiny.py", "blob/main", "blob/old", "not the stamped one"),
        ("notebooks/02_tiny.ipynb", "Add a number.", "Add two numbers.", "differs from the text"),
        (
            "notebooks/02_tiny.ipynb",
            '"source_hidden": true',
            '"source_hidden": false',
            "differs from the text",
        ),
        ("course_utils/lessons/nb02_tiny.py", "0.25", "0.5", "exported cells"),
        ("README.md", "How a small", "How a large", "README.md"),
    ],
)
def test_check_sees_what_is_out_of_step(course, path, old, new, said):
    edit(course.root / path, old, new)
    assert any(said in problem for problem in check(course))


def test_check_sees_missing_and_orphaned_files(course):
    shutil.copy(course.stored("02_tiny"), course.notebooks / "03_alone.ipynb")
    shutil.copy(course.lesson("02_tiny"), course.lessons / "nb03_alone.py")
    course.stored("02_tiny").unlink()
    problems = "\n".join(check(course))
    assert "notebooks/02_tiny.ipynb does not exist" in problems
    assert "notebooks/03_alone.ipynb has no text" in problems
    assert "course_utils/lessons/nb03_alone.py has no text" in problems


# ----------------------------------------------------------------------------------------- README and classes


def test_the_readme_lists_notebooks_with_two_times_and_is_stable(built):
    text = built.readme.read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| [02 Tiny](notebooks/02_tiny.ipynb)"))
    exercises = 4 * 10  # the rest of this small notebook takes less than five minutes
    assert f"| How a small notebook is made | 1 | {exercises} | [![Open In Colab]" in row
    assert "planned" not in text and "old" not in text and "between" in text
    assert readme_text(built) == text


def test_a_readme_without_markers_is_refused(course, capsys):
    course.readme.write_text("# No markers\n", "utf-8")
    assert main(["readme"], root=course.root) == 1
    assert "notebooks:begin" in capsys.readouterr().err


def test_the_student_version_has_no_solutions_and_is_graded(course):
    assert main(["student"], root=course.root) == 0
    nb = read_notebook(course.root / "build" / "student" / "02_tiny.ipynb")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert not any("solution" in tags(cell) or cell.outputs or cell.execution_count for cell in code)
    graded = [cell.metadata.nbgrader for cell in nb.cells if "nbgrader" in cell.metadata]
    assert len({entry.grade_id for entry in graded}) == len(graded) == 8
    assert all(entry.schema_version == 3 for entry in graded)
    assert [entry.points for entry in graded if entry.grade] == [1, 2, 3, 4]
    assert all(entry.locked == entry.grade != entry.solution for entry in graded)
    stub = cell_with(nb, "def add_1").source
    assert stub.endswith("    ### BEGIN SOLUTION\n    ...\n    ### END SOLUTION")
    assert "return x + 1" not in json.dumps(nb)


@pytest.mark.parametrize(
    ("stub", "marked"),
    [
        ("def f(x): ...", "def f(x):\n    ### BEGIN SOLUTION\n    ...\n    ### END SOLUTION"),
        (
            "def f(x):\n    return ...",
            "def f(x):\n    ### BEGIN SOLUTION\n    return ...\n    ### END SOLUTION",
        ),
        ("loss = ...  # yours", "### BEGIN SOLUTION\nloss = ...  # yours\n### END SOLUTION"),
        ("x = 1", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"),
    ],
)
def test_the_markers_surround_only_what_a_learner_replaces(stub, marked):
    assert mark_solution(stub) == marked


def test_a_second_check_after_the_solution_is_dropped():
    roles = ["exercise", "check", "solution", "check"]
    cells = [nbformat.v4.new_code_cell(f"{i} ...", metadata={"tags": [role]}) for i, role in enumerate(roles)]
    nb = student_version(nbformat.v4.new_notebook(cells=cells), "02_tiny")
    assert [cell.metadata.tags for cell in nb.cells] == [["exercise"], ["check"]]


def test_an_exported_solution_is_imported_in_the_student_version():
    solution = "# @title Solution\na, b = 1, 2\ndef f():\n    c = 3\n\nf()"
    cell = nbformat.v4.new_code_cell(solution, metadata={"tags": ["solution", "export"]})
    nb = student_version(nbformat.v4.new_notebook(cells=[cell]), "02_tiny")
    assert nb.cells[0].source == "from course_utils.lessons.nb02_tiny import f, a, b"


# ------------------------------------------------------------------------------------------- nbval and pytest


def test_nbval_honours_a_trailing_semicolon_and_sees_an_output_that_changed(course):
    for path in ("notebooks/conftest.py", "tests/nbval_sanitize.cfg"):
        (course.root / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, course.root / path)
    changed = course.notebooks / "03_changed.ipynb"
    shutil.copy(course.stored("02_tiny"), changed)
    edit(changed, "0.25\\n", "0.26\\n")
    files = ["notebooks/02_tiny.ipynb", "notebooks/03_changed.ipynb"]
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=course.root, capture_output=True, text=True, timeout=120)
    assert "1 failed, 37 passed" in done.stdout, done.stdout
    assert "FAILED notebooks/03_changed.ipynb::Cell 3" in done.stdout, done.stdout


def test_the_network_switch_lets_only_this_machine_through(monkeypatch):
    place = importlib.util.spec_from_file_location("course_conftest", ROOT / "tests" / "conftest.py")
    conftest = importlib.util.module_from_spec(place)
    place.loader.exec_module(conftest)
    conftest.block_network(monkeypatch)
    with pytest.raises(OSError, match="COURSE_BLOCK_NETWORK"):
        socket.getaddrinfo("example.org", 80)
    with socket.socket() as far, pytest.raises(OSError, match="COURSE_BLOCK_NETWORK"):
        far.connect(("192.0.2.1", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 5).close()
