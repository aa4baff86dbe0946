"""Each rule that a notebook must keep, on what breaks it."""

import copy

import nbformat
import pytest
from tiny_course import GIF, PNG, cell_with

from authoring import rules
from authoring.course import CourseError
from authoring.lessons import silent


def _set(find: str, **changes):
    """A defect that sets fields of the first cell whose source contains `find`."""

    def apply(nb):
        cell_with(nb, find).update(changes)

    return apply


def _replace(old: str, new: str):
    def apply(nb):
        for cell in nb.cells:
            cell.source = cell.source.replace(old, new)

    return apply


def _tags(find: str, *names: str):
    def apply(nb):
        cell_with(nb, find).metadata["tags"] = list(names)

    return apply


def _output(find: str, *outputs):
    def apply(nb):
        cell_with(nb, find).outputs = [nbformat.from_dict(out) for out in outputs]

    return apply


def _course(**facts):
    return lambda nb: nb.metadata.course.update(facts)


def _printed(*lines):
    return {"output_type": "stream", "name": "stdout", "text": "\n".join(lines)}


def _shown(mime, value, alt=None):
    metadata = {mime: {"alt": alt}} if alt is not None else {}
    return {"output_type": "display_data", "data": {mime: value}, "metadata": metadata}


def _drop(find: str):
    def apply(nb):
        nb.cells.remove(cell_with(nb, find))

    return apply


def _in_check_1(text):
    return _output("check_1(add_1)", _printed(text))


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
DEFECTS = [
    ("execution", _set("41 + 1", execution_count=None), "not 1 to 19"),
    ("execution", _set("41 + 1", execution_count=40), "not 1 to 19"),
    ("error", _output("41 + 1", ERROR), "an error"),
    ("metadata", lambda nb: nb.metadata.kernelspec.update(name="venv"), "kernelspec"),
    ("metadata", lambda nb: nb.metadata.update(widgets={}), "widget state"),
    ("picture", _output("41 + 1", _shown("image/png", PNG)), "image/png without alt"),
    ("picture", _output("41 + 1", _shown("image/gif", GIF, " ")), "image/gif without alt"),
    ("picture", _output("41 + 1", _shown("image/png", "A" * 161_000, "big")), "more than 120,000"),
    ("picture", _output("41 + 1", _shown("text/html", "<img src='x'>")), "text/html without alt"),
    ("picture", _set("## Next", source="![](x.png)"), "no alt text"),
    ("path", _output("41 + 1", _printed("saved to /home/ann/x.pt")), "/home/ann"),
    ("path", _output("41 + 1", _shown("text/plain", "PosixPath('/tmp/x')")), "/tmp/x"),
    ("path", _set("41 + 1", source="open('/Users/ann/x')"), "/Users/ann"),
    ("path", _set("41 + 1", source=r"open(r'C:\Users\ann')"), "C:"),
    ("length", _set("41 + 1", source="x = 1\n" * 26), "26 statements, more than 25"),
    ("length", _set("@title Solution 1", source="x = 1\n" * 41), "41 statements, more than 40"),
    ("width", _set("41 + 1", source="x = 1  #" + " " * 93), "101 columns, more than 100"),
    ("width", _output("41 + 1", _shown("text/html", "<img alt='a' width=\"831\">")), "a picture of 831 pixels"),
    ("structure", _replace("# 02 · Tiny", "02 · Tiny"), "no title"),
    ("structure", _replace("[![Open In Colab]", "[![Open]"), "no Colab badge"),
    ("structure", _replace("# 02 · Tiny", "# 02 · Tiny\n\n[![Open In\nColab](a)](b)"), "more than one Colab badge"),
    ("structure", _replace("**Time:**", "**When:**"), "no line that begins with **Time**"),
    ("structure", _course(minutes_cpu=7), "does not state minutes_cpu"),
    *[("structure", _replace(heading, heading + "!"), repr(heading)) for heading in rules.HEADINGS],
    ("time", _course(build_seconds=61), "1 minutes are promised"),
    ("time", lambda nb: nb.metadata.course.pop("build_seconds"), "is missing"),
    ("claim", _output("print(scaled(1))"), "4 claims, fewer than 5"),
    ("claim", _output("print(scaled(1))", _printed("✓ a share of 0.30000000004")), "float tail"),
    ("widget", _tags("IntSlider"), "no cell is tagged widget"),
    ("widget", _output("IntSlider", _printed("IntSlider()")), "no static picture"),
    ("exercise", _tags("def add_1"), "3 exercises, fewer than 4"),
    ("exercise", _replace("Find the bug", "Find it"), "find the bug"),
    ("exercise", _replace("difficulty 1/5", "easy"), "no 'difficulty n/5'"),
    ("exercise", _replace("1/5 · 10 minutes", "1/5"), "gives no minutes"),
    ("exercise", _replace("    ...", "    return 1"), "not a stub"),
    ("exercise", _tags("check_1(add_1)"), "no check follows"),
    ("exercise", _in_check_1("✓ all right"), "the untouched stub does not say"),
    ("exercise", _drop("# @title Solution 1"), "no solution follows"),
    ("exercise", _replace("# @title Solution 1", "# Solution 1"), "does not begin with"),
    ("folding", lambda nb: cell_with(nb, "# @title Solution 1").metadata.pop("jupyter"), "to be folded is not"),
    ("folding", lambda nb: cell_with(nb, "IntSlider").metadata.pop("cellView"), "to be folded is not"),
    ("exercise", _set("# @title Solution 1", source="# @title Solution 1\n1"), "the solution is not checked"),
    ("exercise", _output("# @title Solution 1", _printed("not attempted")), "check of the solution says"),
    ("class", _set("# @title Solution 4", source="add_1(2)", metadata={}), "add_1 is used after"),
    ("compared", _output("41 + 1", _printed("FD 8.27")), "8.27 is compared"),
    ("compared", _output("41 + 1", _printed("'" + "0f" * 32 + "'")), "0f0f is compared"),
    ("prose", _set("## Next", source="FD fell to 17.31."), "17.31"),
    ("prose", _set("## Next", source="It covers 93 % of them."), "93 %"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "defect", "said"), DEFECTS, ids=[f"{d[0]}-{i}" for i, d in enumerate(DEFECTS)])
def test_a_rule_sees_its_mistake(nb, rule, defect, said):
    check = getattr(rules, f"{rule}_problems")
    assert check in rules.RULES and check(nb) == []
    defect(nb)
    assert any(said in problem for problem in check(nb)), check(nb)


def test_every_rule_is_shown_to_see_a_mistake():
    assert {rule.__name__ for rule in rules.RULES} == {f"{defect[0]}_problems" for defect in DEFECTS}


def test_a_magic_in_a_cell_is_no_problem_but_cannot_be_exported(nb):
    cell_with(nb, "41 + 1").source = "%time 1\nif 1:\n    !ls"
    assert rules.class_problems(nb) == []
    with pytest.raises(CourseError, match="plain Python"):
        silent("%time 1")


def test_the_rules_for_size_and_setup_cell_see_their_mistakes(built, nb, tmp_path):
    large = tmp_path / "large.ipynb"
    large.write_bytes(b" " * 1_500_001)
    assert "more than 1,500,000" in rules.size_problems(nb, large)[0]
    setup = cell_with(nb, "@title Setup")
    setup.source += " "
    assert rules.setup_problems(nb, built.setup_cell()) == ["the set-up cell is not the stamped one"]
    nb.cells.append(copy.deepcopy(setup))
    assert rules.setup_problems(nb, built.setup_cell()) == ["2 cells are tagged setup, not one"]


def test_prose_may_quote_formulas_code_published_numbers_and_what_was_printed(nb):
    cell_with(
        nb, "## Next"
    ).source = "A factor of 0.25; $x = 0.1$; `0.2`; [link](a0.3); exercise 2.7.\nHeusel et al. (2017) found 12.5 %."
    assert rules.prose_problems(nb) == []


def test_a_measured_decimal_is_not_compared_and_an_exact_one_may_be(nb):
    cell = cell_with(nb, "41 + 1")
    text = "FD 8.27, 93 % of 0.25\nexercise 2.1: correct"
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    begins = "is compared and is not exact, in '41 + 1;'"
    assert rules.compared_problems(nb) == [f"8.27 {begins}", f"93 % {begins}", f"0.25 {begins}"]
    for tag in ("exact", "nbval-ignore-output"):
        cell.metadata = nbformat.NotebookNode(tags=[tag])
        assert rules.compared_problems(nb) == []


def test_what_a_picture_says_is_not_compared(nb):
    said = {
        "text/plain": "[picture] FD falls to 8.27.",
        "text/html": '<img alt="FD falls to 8.27." width="500">',
    }
    cell_with(nb, "41 + 1").outputs = [nbformat.NotebookNode(output_type="display_data", data=said, metadata={})]
    assert rules.compared_problems(nb) == []


def test_a_long_cell_may_have_forty_lines_and_comments_are_free(nb):
    cell_with(nb, "41 + 1").update(source="x = 1\n" * 40, metadata={"tags": ["long"]})
    cell_with(nb, "print(scaled(1))").update(source="x = 1\n# why\n\n" * 25)
    assert rules.length_problems(nb) == []
