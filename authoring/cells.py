"""Notebooks and their cells: read, cleaned, combined with stored outputs, written."""

from __future__ import annotations

import ast
from pathlib import Path

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbformat import NotebookNode

from course_utils.files import write
from course_utils.saving import VIEW as WIDGET_VIEW

from .course import COURSE_KEYS, Course, CourseError

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# What JupyterLab would add when it opens the notebook, which then counts as changed, and what nbconvert needs for a
# script's ending. Without the version, which would make every rebuild on another Python a difference.
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
FOLDED = {"setup", "solution", "figure", "widget"}  # code that is not the lesson, or not to be seen yet
CELL_METADATA = {"tags", "jupyter", "cellView", "slideshow"}


def write_notebook(path: Path, nb: NotebookNode) -> None:
    nbformat.validate(nb)
    write(path, nbformat.writes(nb).rstrip("\n") + "\n")


def read_notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def read_source(course: Course, name: str) -> NotebookNode:
    """The notebook that a text describes, without outputs but with the metadata that its tags ask for."""
    nb = jupytext.reads(course.source(name).read_text("utf-8"), fmt="py:percent")
    facts = nb.metadata.get("course", {})
    if missing := [key for key in COURSE_KEYS if key not in facts]:
        raise CourseError(f"notebooks/src/{name}.py: the header's `course:` lacks {', '.join(missing)}.")
    nb.nbformat, nb.nbformat_minor = 4, 5
    return clean_metadata(nb)


def stored_or_source(course: Course, name: str) -> NotebookNode:
    return read_notebook(course.stored(name)) if course.stored(name).exists() else read_source(course, name)


def with_outputs(text: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """The text's notebook with the outputs and the ids of stored cells of the same content."""
    metadata = text.metadata
    nb = combine_inputs_with_outputs(text, stored, fmt="py:percent")
    nb.metadata = metadata
    for cell, wanted in zip(nb.cells, text.cells):
        cell.metadata = wanted.metadata  # a tag that was taken off stays off
    return nb


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def signature(cell: NotebookNode) -> tuple:
    return cell.cell_type, cell.source, tuple(tags(cell))


def claims(nb: NotebookNode) -> list[str]:
    """The sentences that the stored outputs print with a tick, in order, each once."""
    streams = (output.get("text", "") for cell in nb.cells for output in cell.get("outputs", []))
    lines = (line for text in streams for line in text.splitlines())
    return list(dict.fromkeys(line.removeprefix("✓ ").strip() for line in lines if line.startswith("✓ ")))


def defined_names(source: str) -> list[str]:
    """Functions, classes and variables that a cell makes."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    assigned = [target for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets]
    variables = [node.id for target in assigned for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds)] + variables


def clean_metadata(nb: NotebookNode) -> NotebookNode:
    """Only the metadata that readers or tools need: no timestamps, widget state, Colab ids or versions."""
    facts = nb.metadata.get("course", NotebookNode())
    nb.metadata = NotebookNode(kernelspec=KERNELSPEC, language_info=LANGUAGE_INFO, course=facts)
    for cell in nb.cells:
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in CELL_METADATA & set(cell.metadata)})
        if FOLDED & set(tags(cell)):
            cell.metadata["jupyter"] = NotebookNode(source_hidden=True)
            cell.metadata["cellView"] = "form"
    return nb


def clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs that any viewer can show: widgets as their static picture only, streams in one piece."""
    kept: list[NotebookNode] = []
    for output in outputs:
        before = kept[-1] if kept else None
        if output.output_type == "stream" and before and before.get("name") == output.name:
            before.text += output.text
            continue
        if WIDGET_VIEW in output.get("data", {}):
            del output.data[WIDGET_VIEW]
            output.metadata.pop(WIDGET_VIEW, None)
            if set(output.data) <= {"text/plain"}:  # the widget's repr, which no reader can use
                continue
        kept.append(output)
    return kept


def strip(nb: NotebookNode) -> NotebookNode:
    clean_metadata(nb)
    lost = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            shows = any(WIDGET_VIEW in out.get("data", {}) for out in cell.outputs)
            if shows and not {"widget", "nbval-ignore-output"} & set(tags(cell)):
                lost.append(repr(next(iter(cell.source.splitlines()), "")))
            cell.outputs = clean_outputs(cell.outputs)
    if lost:
        raise CourseError(
            "Cells show a widget or a progress bar, which is not stored, so nbval would miss it: switch it off "
            "(diffusers.utils.logging.disable_progress_bar, transformers' own) or tag the cell nbval-ignore-output. "
            f"They begin with {', '.join(lost)}."
        )
    return nb
