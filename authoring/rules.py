"""What every stored notebook must be, without running it (nbval runs it).

Each rule is a function from a notebook to the list of its problems; tests/test_rules.py breaks a
notebook for every rule and looks whether the rule sees it.
"""

from __future__ import annotations

import ast
import base64
import re
from pathlib import Path

from .cells import FOLDED, claims, defined_names, tags
from .course import BADGE_IMAGE

HEADINGS = (
    "## What you will be able to do",
    "## What was measured",
    "## What went wrong, and what helped",
    "## Further reading",
    "## Next",
)
MAX_NOTEBOOK_BYTES, MAX_PICTURE_BYTES = 1_500_000, 120_000
PICTURE_LINE = re.compile(r"(?m)^\[picture\] .*$|<img\b[^>]*>")  # nbval compares no picture and no alt text
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|work|tmp|root|Users)/[\w.-]+|(?<!\w)[C-Z]:\\[A-Za-z]{2}")


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tagged(nb, tag):
    return [cell for cell in nb.cells if tag in tags(cell)]


def as_text(value) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def printed(cell) -> str:
    """All that a reader of the outputs can read: streams, text and HTML, errors."""
    parts = []
    for out in cell.get("outputs", []):
        parts += [out.get("text", ""), out.get("evalue", ""), *out.get("traceback", [])]
        parts += [as_text(value) for mime, value in out.get("data", {}).items() if not mime.startswith("image/")]
    return "\n".join(parts)


def first_line(cell) -> str:
    return next((line for line in cell.source.splitlines() if line.strip()), "(empty)")[:60]


# ------------------------------------------------------------------------------- a fresh, whole, portable run


def execution_problems(nb) -> list[str]:
    """nbval never compares a cell whose count is null, so counts must be those of one fresh run."""
    filled = [cell for cell in code_cells(nb) if cell.source.strip()]
    run = [cell for cell in filled if "nbval-skip" not in tags(cell)]
    counts = [cell.execution_count for cell in run]
    if counts != list(range(1, len(run) + 1)):
        return [f"execution counts are {counts}, not 1 to {len(run)}"]
    return []


def error_problems(nb) -> list[str]:
    return [
        f"an error is stored: {out.ename} in {first_line(cell)!r}"
        for cell in code_cells(nb)
        for out in cell.outputs
        if out.output_type == "error" and "raises-exception" not in tags(cell)
    ]


def metadata_problems(nb) -> list[str]:
    problems = []
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernelspec is not python3")
    if "widgets" in nb.metadata:
        problems.append("widget state is stored; GitHub may refuse to render it")
    return problems


def size_problems(nb, path: Path) -> list[str]:
    size = path.stat().st_size
    return [f"{size:,} bytes, more than {MAX_NOTEBOOK_BYTES:,}"] if size > MAX_NOTEBOOK_BYTES else []


def picture_problems(nb) -> list[str]:
    problems = []
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            for mime, value in out.get("data", {}).items():
                problems += [f"{problem} in {first_line(cell)!r}" for problem in _picture(out, mime, as_text(value))]
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            problems.append(f"a picture in the text has no alt text: {first_line(cell)!r}")
    return problems


def _picture(out, mime: str, value: str) -> list[str]:
    if not mime.startswith("image/") and mime != "text/html":
        return []
    if mime == "text/html":
        pictures = [base64.b64decode(found) for found in re.findall(r"base64,([A-Za-z0-9+/=\s]+)", value)]
        described = all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img\b[^>]*>", value))
    else:
        pictures = [value.encode() if mime == "image/svg+xml" else base64.b64decode(value)]
        described = bool(out.metadata.get(mime, {}).get("alt", "").strip())
    large = [size for size in map(len, pictures) if size > MAX_PICTURE_BYTES]
    problems = [f"{mime} of {size:,} bytes, more than {MAX_PICTURE_BYTES:,}" for size in large]
    return problems if described else [*problems, f"{mime} without alt text"]


def path_problems(nb) -> list[str]:
    return [
        f"an absolute path, {found[0]!r}, in {first_line(cell)!r}"
        for cell in nb.cells
        if (found := ABSOLUTE_PATH.search(cell.source + "\n" + printed(cell)))
    ]


def length_problems(nb) -> list[str]:
    """A cell is one idea: so many statements (imports are free), however many lines each of them takes."""
    problems = []
    for cell in code_cells(nb):
        limit = 40 if {"long", "setup", "solution"} & set(tags(cell)) else 25
        plain = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source)
        nodes = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.stmt)]
        statements = sum(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)
        if statements > limit:
            problems.append(f"{statements} statements, more than {limit}, in {first_line(cell)!r}")
    return problems


MAX_COLUMNS, MAX_PICTURE_WIDTH = (
    100,
    830,
)  # in pixels of the page: with JupyterLab's file list open at 1280


def width_problems(nb) -> list[str]:
    """Code does not wrap, and a figure that is too wide is shrunk: both must fit a page."""
    problems = [
        f"{len(line)} columns, more than {MAX_COLUMNS}: {line.strip()[:60]!r}"
        for cell in code_cells(nb)
        for line in cell.source.splitlines()
        if len(line) > MAX_COLUMNS
    ]
    widths = [int(width) for cell in code_cells(nb) for width in re.findall(r'<img\b[^>]*width="(\d+)"', printed(cell))]
    wide = [width for width in widths if width > MAX_PICTURE_WIDTH]
    return problems + [f"a picture of {width} pixels, more than {MAX_PICTURE_WIDTH}" for width in wide]


# ----------------------------------------------------------------------------------------- the required parts


def structure_problems(nb) -> list[str]:
    facts, opening = nb.metadata.course, nb.cells[0].source
    problems = [] if opening.startswith("# ") else ["the first cell has no title"]
    if BADGE_IMAGE not in opening:
        problems.append("the first cell has no Colab badge")
    if len(re.findall(r"(?i)!\[open\s+in\s+colab\]", opening)) > 1:
        problems.append("the first cell has more than one Colab badge")
    time_line = next((line for line in opening.splitlines() if re.match(r"\**Time\b", line)), "")
    stated = re.findall(r"\d+(?:\.\d+)?", time_line)
    for key in ("minutes_cpu", "minutes_gpu"):
        if facts[key] is not None and str(facts[key]) not in stated:
            problems.append(f"the Time line of the first cell does not state {key} ({facts[key]})")
    if not time_line:
        problems.append("the first cell has no line that begins with **Time**")
    lines = {line.strip() for cell in nb.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()}
    return problems + [f"the heading {heading!r} is missing" for heading in HEADINGS if heading not in lines]


def setup_problems(nb, setup: str) -> list[str]:
    found = tagged(nb, "setup")
    if len(found) != 1:
        return [f"{len(found)} cells are tagged setup, not one"]
    return [] if found[0].source == setup else ["the set-up cell is not the stamped one"]


def folding_problems(nb) -> list[str]:
    """Set-up, solutions, widgets and plotting that is not the lesson: folded in JupyterLab and on Colab."""
    return [
        f"code that is to be folded is not: {first_line(cell)!r}"
        for cell in code_cells(nb)
        if FOLDED & set(tags(cell))
        and not (cell.metadata.get("jupyter", {}).get("source_hidden") and cell.metadata.get("cellView") == "form")
    ]


def time_problems(nb) -> list[str]:
    facts = nb.metadata.course
    if "build_seconds" not in facts:
        return ["course.build_seconds is missing"]
    if facts.minutes_cpu < facts.build_seconds / 60:
        return [f"{facts.minutes_cpu} minutes are promised, the build took {facts.build_seconds / 60:.1f}"]
    return []


def claim_problems(nb) -> list[str]:
    found = claims(nb)
    problems = [] if len(found) >= 5 else [f"{len(found)} claims, fewer than 5"]
    return problems + [f"a float tail in the claim {line!r}" for line in found if re.search(r"\d\.\d{5,}", line)]


def widget_problems(nb) -> list[str]:
    """Without a front end (GitHub, HTML) a reader must still see something where the widget is."""
    widgets = tagged(nb, "widget")
    problems = [] if widgets else ["no cell is tagged widget"]
    for cell in widgets:
        mimes = {mime for out in cell.outputs for mime in out.get("data", {})}
        if not any(mime.startswith("image/") or mime == "text/html" for mime in mimes):
            problems.append(f"a widget leaves no static picture: {first_line(cell)!r}")
    return problems


def exercise_problems(nb) -> list[str]:
    exercises = [index for index, cell in enumerate(nb.cells) if "exercise" in tags(cell)]
    problems = [] if len(exercises) >= 4 else [f"{len(exercises)} exercises, fewer than 4"]
    instructions = [nb.cells[index - 1] for index in exercises]
    if not any("find the bug" in cell.source.lower() for cell in instructions):
        problems.append("no exercise says 'find the bug'")
    for index, text in zip(exercises, instructions, strict=True):
        problems += [f"{problem}: {first_line(nb.cells[index])!r}" for problem in _exercise(nb, index, text)]
    return problems


def _exercise(nb, index: int, text) -> list[str]:
    problems = []
    if text.cell_type != "markdown" or not re.search(r"difficulty \d/5", text.source):
        problems.append("the text before the exercise gives no 'difficulty n/5'")
    if text.cell_type != "markdown" or not re.search(r"\d+ minutes", text.source):
        problems.append("the text before the exercise gives no minutes")
    if "..." not in nb.cells[index].source:
        problems.append("the exercise is not a stub with `...`")
    following = [cell for cell in nb.cells[index + 1 :] if cell.cell_type == "code"][:3]
    roles = [set(tags(cell)) for cell in following] + [set()] * 3
    if "check" not in roles[0]:
        return [*problems, "no check follows the exercise"]
    if "not attempted" not in printed(following[0]):
        problems.append("the check of the untouched stub does not say 'not attempted'")
    if "solution" not in roles[1]:
        return [*problems, "no solution follows the check"]
    solution = following[1]
    if not solution.source.startswith("# @title Solution"):
        problems.append("the solution does not begin with '# @title Solution'")
    checked = following[1:3] if "check" in roles[2] else [solution]
    if checked == [solution] and "check" not in solution.source:
        problems.append("the solution is not checked")
    elif "not attempted" in "".join(map(printed, checked)):
        problems.append("the check of the solution says 'not attempted'")
    return problems


def class_problems(nb) -> list[str]:
    """A class gets no solutions, so that what later cells need of them must come from the lesson."""
    problems, withheld = [], set()
    for before, cell in zip([None, *code_cells(nb)], code_cells(nb), strict=False):
        roles = set(tags(cell))
        if "solution" in roles:
            withheld |= set() if "export" in roles else set(defined_names(cell.source))
        elif not ("check" in roles and before and "solution" in tags(before)):
            plain = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source)
            used = {node.id for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Name)}
            missing = sorted(used & withheld)
            problems += [f"{name} is used after its solution, which is not tagged export" for name in missing]
    return problems


# ------------------------------------------------------------------------------------- the same on any machine

DECIMAL = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?|\d+(?:\.\d+)? ?%")
DIGEST = re.compile(r"\b[0-9a-f]{32,}\b")


def compared_problems(nb) -> list[str]:
    """What nbval compares holds no hash of what changes, and no measured decimals.

    Measurements move with the data found, threads and processor.

    Free are numbers that stand in the cell itself, numbers of exercises, and cells tagged `exact`: whose decimals
    come from the text and the shipped files alone, by formulas or quadrature in float64.
    """
    problems = []
    for cell in code_cells(nb):
        if {"nbval-ignore-output", "nbval-skip", "exact"} & set(tags(cell)):
            continue
        said = NUMBERED.sub(" ", PICTURE_LINE.sub("", printed(cell)))
        found = dict.fromkeys(number for number in DECIMAL.findall(said) if number.lstrip("-") not in cell.source)
        found |= dict.fromkeys(digest for digest in DIGEST.findall(said) if digest not in cell.source)
        problems += [f"{value} is compared and is not exact, in {first_line(cell)!r}" for value in found]
    return problems


# ----------------------------------------------------------------------------------------------- honest prose


NOT_PROSE = re.compile(r"(?s)```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|\]\([^)]*\)|https?://\S+")
NUMBERED = re.compile(r"(?i)\b(?:exercise|section|equation|eq\.|figure|table|version|python|arxiv:?) *\(?[\d.]+")
QUOTED = re.compile(r"(?<![\w.])(\d+\.\d+(?: ?%)?|\d+ ?%)(?![\w.]*\d)")


def prose_problems(nb) -> list[str]:
    """A decimal or percentage in the text was printed, is in the code, or stands beside its paper's year.

    Formulas, code and links are left out, and whole numbers, which are mostly sizes and names.
    """
    sources = "\n".join(cell.source + "\n" + printed(cell) for cell in code_cells(nb))
    known = set(map(_plain, re.findall(r"\d+(?:\.\d+)?(?: ?%)?", sources.replace(",", ""))))
    problems = []
    for cell in nb.cells[1:]:
        if cell.cell_type != "markdown":
            continue
        for line in NOT_PROSE.sub(" ", cell.source).splitlines():
            if re.search(r"\b(?:19|20)\d\d\b", line):
                continue
            quoted = QUOTED.findall(NUMBERED.sub(" ", line).replace(",", ""))
            unknown = [number for number in quoted if _plain(number) not in known]
            problems += [f"the text says {number}, which no cell printed" for number in unknown]
    return problems


def _plain(number: str) -> str:
    return number.replace(" ", "")


RULES = (
    execution_problems,
    error_problems,
    metadata_problems,
    picture_problems,
    path_problems,
    length_problems,
    width_problems,
    structure_problems,
    folding_problems,
    time_problems,
    claim_problems,
    widget_problems,
    exercise_problems,
    class_problems,
    compared_problems,
    prose_problems,
)
