"""Text to executed notebook, and what is out of step."""

from __future__ import annotations

from course_utils.files import write

from .cells import (
    read_notebook,
    read_source,
    signature,
    stored_or_source,
    strip,
    with_outputs,
    write_notebook,
)
from .course import Course, CourseError
from .execute import execute
from .lessons import lesson_problems, lesson_text, update_lesson
from .pages import web_page
from .readme import PICTURE, readme_picture, readme_text
from .stamps import stamp, stamp_text


def build(course: Course, name: str) -> None:
    """Everything for one notebook; the stored one is replaced only after the last cell succeeded."""
    stamp(course, name)
    update_lesson(course, name)
    nb = read_source(course, name)
    if course.stored(name).exists():
        nb = with_outputs(nb, read_notebook(course.stored(name)))  # for the ids of unchanged cells
    seconds = execute(nb, course, name)
    strip(nb).metadata.course["build_seconds"] = round(seconds)
    write_notebook(course.stored(name), nb)


def update_text(course: Course, name: str) -> None:
    """Take over changed prose and keep the stored outputs: only where no code cell differs."""
    stamp(course, name)
    text, stored = read_source(course, name), stored_or_source(course, name)
    old, new = ([cell for cell in nb.cells if cell.cell_type == "code"] for nb in (stored, text))
    if [signature(cell) for cell in old] != [signature(cell) for cell in new]:
        raise CourseError(f"{name}: code changed, so outputs must be made anew: type `make notebooks NB={name[:2]}`.")
    nb = with_outputs(text, stored)
    nb.metadata.course["build_seconds"] = stored.metadata.course.build_seconds
    write_notebook(course.stored(name), nb)


def run(course: Course, names: list[str]) -> None:
    """Execute for reading: HTML in build/, the stored notebooks stay as they are."""
    failures = []
    (course.root / "build").mkdir(exist_ok=True)  # before minutes are spent
    for name in names:
        nb = stored_or_source(course, name)
        try:
            execute(nb, course, name)
        except CourseError as error:
            failures.append(str(error))
            continue
        write(course.root / "build" / f"{name}.html", web_page(strip(nb), name))
        print(f"build/{name}.html")
    if failures:
        raise CourseError("\n".join(failures))


def notebook_problems(course: Course, name: str) -> list[str]:
    """How a stored notebook differs from its text."""
    remedy = f"type `make notebooks NB={name[:2]}`"
    if not course.stored(name).exists():
        return [f"notebooks/{name}.ipynb does not exist: {remedy}."]
    text, stored = read_source(course, name), read_notebook(course.stored(name))
    facts = dict(stored.metadata.get("course", {}))
    facts.pop("build_seconds", None)
    if facts != text.metadata.course:
        return [f"notebooks/{name}.ipynb: `course` metadata differs from the text's header: {remedy}."]
    pairs = [[(*signature(cell), cell.metadata) for cell in nb.cells] for nb in (text, stored)]
    for number, (wanted, found) in enumerate(zip(*pairs, strict=False), start=1):
        if wanted != found:
            begins = next(iter(found[1].splitlines()), "")
            return [f"notebooks/{name}.ipynb: cell {number} (`{begins}`) differs from the text: {remedy}."]
    if len(text.cells) != len(stored.cells):
        counts = f"{len(stored.cells)} cells, the text {len(text.cells)}"
        return [f"notebooks/{name}.ipynb has {counts}: {remedy}."]
    return []


def check(course: Course) -> list[str]:
    """Everything that is out of step with the texts; nothing is executed or written."""
    problems, names = [], course.names()
    for name in names:
        text = course.source(name).read_text("utf-8")
        if stamp_text(text, course, name) != text:
            remedy = "type `python -m authoring stamp`"
            problems.append(f"notebooks/src/{name}.py: badge or set-up cell is not the stamped one: {remedy}.")
        problems += notebook_problems(course, name)
        path = course.lesson(name)
        if lesson_text(course, name) != (path.read_text("utf-8") if path.exists() else ""):
            remedy = f"type `python -m authoring lessons {name[:2]}`"
            problems.append(f"course_utils/lessons/{path.name} differs from the exported cells: {remedy}.")
    made = {course.stored(name) for name in names} | {course.lesson(name) for name in names}
    present = [*course.notebooks.glob("*.ipynb"), *course.lessons.glob("nb*.py")]
    orphans = [path.relative_to(course.root).as_posix() for path in present if path not in made]
    problems += [f"{path} has no text in notebooks/src." for path in orphans]
    if course.readme.exists() and readme_text(course) != course.readme.read_text("utf-8"):
        problems.append("README.md: its tables are out of date: type `python -m authoring readme`.")
    if (found := readme_picture(course)) and course.readme.exists():
        if not (course.root / PICTURE).exists() or (course.root / PICTURE).read_bytes() != found[0]:
            problems.append(f"{PICTURE} is not the notebook's: type `python -m authoring readme`.")
    return problems + lesson_problems(course)
