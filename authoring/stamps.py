"""Badge and set-up cell, made from one template."""

from __future__ import annotations

import re

from course_utils.files import write

from .cells import read_notebook, tags, write_notebook
from .course import Course, CourseError
from .readme import update_readme

BADGE = re.compile(r"(?i)\[!\[open\s+in\s+colab\]\([^)]*\)\]\([^)]*\)")  # its lines may have been folded


def with_badge(markdown: str, badge: str) -> str:
    """Markdown whose title is followed by the badge, whatever badge was there before."""
    title, *rest = BADGE.sub("", markdown).splitlines()
    if not title.startswith("# "):
        raise CourseError(f"The first cell must begin with the title (`# …`), not {title!r}.")
    return "\n".join([title, "", badge, "", *"\n".join(rest).strip("\n").splitlines()])


def stamp_text(text: str, course: Course, name: str) -> str:
    """The text with badge and set-up cell made from the one template; the author's lines stay as they are."""
    header, *cells = re.split(r"(?m)^(?=# %%)", text)
    if not cells or not cells[0].startswith("# %% [markdown]"):
        raise CourseError(f"notebooks/src/{name}.py: the first cell must be `# %% [markdown]`.")
    setups = [i for i, cell in enumerate(cells) if re.match(r'# %%.*tags=\[[^\]]*"setup"', cell)]
    if len(setups) != 1:
        one = 'exactly one cell must be `# %% tags=["setup"]`'
        raise CourseError(f"notebooks/src/{name}.py: {one}, there are {len(setups)}.")
    marker, *lines = cells[0].strip("\n").splitlines()
    markdown = with_badge("\n".join(re.sub(r"^# ?", "", line) for line in lines), course.badge(name))
    cells[0] = "\n".join([marker, *(f"# {line}".rstrip() for line in markdown.splitlines())]) + "\n\n"
    marker = cells[setups[0]].splitlines()[0]
    cells[setups[0]] = f"{marker}\n{course.setup_cell()}\n\n"
    return header + "".join(cells)


def stamp(course: Course, name: str) -> None:
    path = course.source(name)
    write(path, stamp_text(path.read_text("utf-8"), course, name))


def restamp_stored(course: Course, name: str) -> None:
    """Badge and set-up cell of a stored notebook, outputs untouched: a fork need not execute anything."""
    nb = read_notebook(course.stored(name))
    nb.cells[0].source = with_badge(nb.cells[0].source, course.badge(name))
    for cell in nb.cells:
        if "setup" in tags(cell):
            cell.source = course.setup_cell()
    write_notebook(course.stored(name), nb)


def change_address(course: Course, slug: str) -> None:
    """Point badges, set-up cells, README and CITATION.cff at owner/name."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[\w.-]{1,100}", slug, re.ASCII):
        raise CourseError(f"A repository is written owner/name, not {slug!r}.")
    old = course.slug
    address = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])")
    for path in (course.root / "pyproject.toml", course.readme, course.root / "CITATION.cff"):
        if path.exists():
            write(path, address.sub(slug, path.read_text("utf-8")))
    for name in course.names():
        stamp(course, name)
        if course.stored(name).exists():
            restamp_stored(course, name)
    if course.readme.exists():
        update_readme(course)
