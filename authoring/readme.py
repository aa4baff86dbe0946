"""The README's tables and its picture."""

from __future__ import annotations

import base64
import html
import re

import nbformat

from course_utils.files import write
from course_utils.plots import Picture

from .cells import claims, read_notebook, read_source, tags
from .course import PLANNED, Course, CourseError
from .pages import describe_images

PICTURE = ".github/picture.png"
IMAGE = re.compile(r'<img (?=[^>]*alt="(?P<alt>[^"]*)")[^>]*src="data:image/\w+;base64,(?P<image>[^"]+)"')


def _minutes(value: float | None) -> str:
    return "not measured" if value is None else str(value)


def notebook_table(course: Course) -> str:
    rows = [
        "| notebook | what it teaches | minutes, CPU | minutes, GPU | Colab |",
        "|---|---|---|---|---|",
    ]
    names = {name[:2]: name for name in course.names()}
    for number in sorted(PLANNED | names):
        if number not in names:
            rows.append(f"| {number} {PLANNED[number]} | planned | | | |")
            continue
        name, facts = names[number], read_source(course, names[number]).metadata.course
        link = f"[{number} {facts.title}](notebooks/{name}.ipynb)"
        times = f"{_minutes(facts.minutes_cpu)} | {_minutes(facts.minutes_gpu)}"
        rows.append(f"| {link} | {facts.summary} | {times} | {course.badge(name)} |")
    return "\n".join(rows)


def claims_list(course: Course) -> str:
    parts = []
    for name in course.names():
        if course.stored(name).exists() and (found := claims(nb := read_notebook(course.stored(name)))):
            escaped = [re.sub(r"([*_`\[\]|])", r"\\\1", line).replace("<", "&lt;") for line in found]
            heading = f"**[{name[:2]} {nb.metadata.course.title}](notebooks/{name}.ipynb)**"
            parts.append("\n".join([heading, "", *(f"- ✓ {line}" for line in escaped)]))
    return "\n\n".join(parts) or "No claims yet."


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
    parts = {"notebooks": notebook_table, "claims": claims_list, "picture": picture_line}
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
