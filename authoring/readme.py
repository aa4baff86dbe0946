"""The README's tables and its picture."""

from __future__ import annotations

import base64
import html
import re

import nbformat
from nbformat import NotebookNode

from course_utils.files import write
from course_utils.plots import Picture

from .cells import FOLDED, read_notebook, read_source, tags
from .course import Course, CourseError
from .pages import describe_images

PICTURE = ".github/picture.png"
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 15  # of text with formulas; of code that is read and run
IMAGE = re.compile(r'<img (?=[^>]*alt="(?P<alt>[^"]*)")[^>]*src="data:image/\w+;base64,(?P<image>[^"]+)"')


def human_minutes(nb: NotebookNode) -> int:
    """What a person needs for a notebook, to ten minutes: words, lines of code that are shown, and exercises."""
    words = sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown")
    shown = [cell for cell in nb.cells if cell.cell_type == "code" and not FOLDED & set(tags(cell))]
    lines = sum(len(cell.source.splitlines()) for cell in shown)
    said = "\n".join(cell.source for cell in nb.cells if "difficulty" in cell.source)
    exercises = sum(map(int, re.findall(r"difficulty \d/5 · (\d+) minutes", said)))
    return 10 * round((words / WORDS_A_MINUTE + lines / LINES_A_MINUTE + exercises) / 10)


def notebook_table(course: Course) -> str:
    rows = ["| notebook | what it teaches | computing | you | |", "|---|---|---|---|---|"]
    for name in course.names():
        nb = read_source(course, name)
        facts = nb.metadata.course
        link = f"[{name[:2]} {facts.title}](notebooks/{name}.ipynb)"
        times = f"{facts.minutes_cpu} | {human_minutes(nb)}"
        rows.append(f"| {link} | {facts.summary} | {times} | {course.badge(name)} |")
    return "\n".join(rows)


def readme_picture(course: Course) -> tuple[bytes, str] | None:
    """PNG and alt text of the first stored picture of a cell tagged `readme`."""
    for name in filter(lambda name: course.stored(name).exists(), course.names()):
        for cell in read_notebook(course.stored(name)).cells:
            for output in cell.get("outputs", []) if "readme" in tags(cell) else []:
                page = describe_images(nbformat.from_dict({"cells": [{"outputs": [output]}]})).cells[0].outputs[0].data
                found = re.search(IMAGE, page.get("text/html", ""))
                if found:
                    return Picture(base64.b64decode(found["image"]), "").png, html.unescape(found["alt"])
    return None


def picture_line(course: Course) -> str:
    found = readme_picture(course)
    return f"![{found[1]}]({PICTURE})" if found else ""


def readme_text(course: Course) -> str:
    text = course.readme.read_text("utf-8")
    parts = {"notebooks": notebook_table, "picture": picture_line}
    for part, content in ((part, content_of(course)) for part, content_of in parts.items()):
        begin, end = f"<!-- {part}:begin -->", f"<!-- {part}:end -->"
        if not re.search(f"{begin}.*{end}", text, re.DOTALL):
            raise CourseError(f"README.md: the markers `{begin}` and `{end}` are missing.")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"
    return text


def update_readme(course: Course) -> None:
    if not course.readme.exists():
        raise CourseError("There is no README.md to write the tables into.")
    write(course.readme, readme_text(course))
    if found := readme_picture(course):
        write(course.root / PICTURE, found[0])
