"""Run the notebooks on several seeds and write how far each claim holds into notebooks/CLAIMS.md.

    python -m authoring.seeds                   every notebook on seeds 0, 1, 2
    python -m authoring.seeds 04 --seeds 1 2    one notebook, or one seed, again
    python -m authoring.seeds --seeds           the page alone, from what was measured before

Each run is a kernel of its own, with the embedded data. What it measures is kept in build/claims,
one file for a notebook and a seed. The page is made from whatever is there; a notebook of which
nothing is there keeps the section that the page has of it.
"""

from __future__ import annotations

import argparse
import datetime
import html
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from course_utils.files import write

from .cells import read_source
from .course import ROOT, Course, CourseError
from .execute import execute

SEEDS = (0, 1, 2)
MEASURED, PAGE = Path("build", "claims"), Path("notebooks", "CLAIMS.md")
ABOUT = """\
import json, torch
from course_utils.runtime import budget
about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "budget": budget().size}
print(json.dumps(about))
"""


# --------------------------------------------------------------------------------------- measuring


def measure(course: Course, name: str, seed: int) -> None:
    """Execute one notebook on one seed; its file is replaced only after the last cell succeeded."""
    kept = course.root / MEASURED / f"{name[:2]}-{seed}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    growing = kept.with_suffix(".tmp")
    growing.write_text("", "utf-8")
    nb = read_source(course, name)
    nb.cells.append(nbformat.v4.new_code_cell(ABOUT))
    usual = dict(os.environ)
    os.environ |= {"COURSE_SEED": str(seed), "COURSE_CLAIMS": str(growing)}
    os.environ |= {"COURSE_DATA": "embedded"}
    try:
        execute(nb, course, f"{name}, seed {seed}")
        about = json.loads(nb.cells[-1].outputs[0].text)
        about |= {"date": datetime.date.today().isoformat(), "data": "embedded"}
        write(kept, json.dumps(about) + "\n" + growing.read_text("utf-8"))
    finally:
        os.environ.clear()
        os.environ |= usual
        growing.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Run:
    """What one notebook measured on one seed: claims by sentence and count of the sentence."""

    about: dict[str, Any]
    claims: dict[tuple[str, int], dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Run:
        about, *lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        seen: Counter[str] = Counter()
        claims = {}
        for line in lines:
            seen[line["sentence"]] += 1
            claims[line["sentence"], seen[line["sentence"]]] = line
        return cls(about, claims)


def page(folder: Path, notebooks: dict[str, str], before: str = "") -> str:
    """The page of what lies in `folder`, for `notebooks` (number to title).

    A notebook of which nothing lies there keeps its section of the page `before`.
    """
    runs = {
        (path.stem[:2], int(path.stem[3:])): Run.read(path)
        for path in sorted(folder.glob("[0-9][0-9]-*.jsonl"))
        if path.stem[:2] in notebooks
    }
    kept = _sections(before)
    seeds = sorted({*SEEDS, *(seed for _, seed in runs)})
    sections, missing = [], {}
    for number, title in notebooks.items():
        of_seed = {seed: runs[number, seed] for seed in seeds if (number, seed) in runs}
        if of_seed:
            origin = f"Measured with {_origins(of_seed.values())}."
            sections += ["\n\n".join([f"## {number} {_plain(title)}", origin, *_tables(of_seed, seeds)])]
        elif number in kept:
            sections += [kept[number]]
        missing[number] = [] if not of_seed and number in kept else [s for s in seeds if s not in of_seed]
    parts = [f"# Claims on seeds {_listed(seeds)}", _missing(missing)]
    parts += [
        "Made by `make seeds`. A margin is the distance from the value to its bound as a share of "
        "the bound's size, or of half its width; – is a bound without a size, such as 0. "
        "✗ marks what does not hold. Of several values the worst is shown."
    ]
    return "\n\n".join(part for part in [*parts, *sections] if part) + "\n"


def _sections(page: str) -> dict[str, str]:
    """The sections of a page by the number of their notebook."""
    found = re.split(r"^(?=## \d\d )", page, flags=re.MULTILINE)[1:]
    return {section[3:5]: section.strip() for section in found}


def _missing(missing: dict[str, list[int]]) -> str:
    found = [f"{number} on seed {_listed(seeds)}" for number, seeds in missing.items() if seeds]
    return f"Not measured yet: notebook {'; '.join(found)}." if found else ""


def _origins(runs: Iterable[Run]) -> str:
    """Dates, torch, threads, budget and data, each of them once."""
    about = [run.about for run in runs]
    facts = {key: _listed(sorted({entry[key] for entry in about})) for key in about[0]}
    threads = "1 thread" if facts["threads"] == "1" else f"{facts['threads']} threads"
    return (
        f"torch {facts['torch']}, {threads}, the {facts['budget']} budget and the {facts['data']} data, {facts['date']}"
    )


def _tables(of_seed: dict[int, Run], seeds: list[int]) -> list[str]:
    """The table of one notebook's claims, and that of its stored numbers if there are any."""
    keys = list(dict.fromkeys(key for run in of_seed.values() for key in run.claims))
    rows, stored = [], []
    for key in keys:
        found = {seed: run.claims[key] for seed, run in of_seed.items() if key in run.claims}
        first = next(iter(found.values()))
        start = [_plain(first["sentence"]), first["bound"] or "true"]
        if origin := first.get("stored"):
            spread = "unknown" if origin["spread"] is None else _value(origin["spread"])
            worst = [_cell(first), _margin([first])]
            stored.append([*start, *worst, origin["date"], str(origin["seeds"]), spread])
        else:
            values = [_cell(found[seed]) if seed in found else "" for seed in seeds]
            rows.append([*start, *values, _margin(found.values())])
    heads = ["claim", "bound", *(f"seed {seed}" for seed in seeds), "smallest margin"]
    tables = [_table(heads, rows)] if rows else []
    if stored:
        heads = ["stored number", "bound", "value", "margin", "date", "seeds", "spread"]
        tables.append(_table(heads, stored))
    return tables


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rules = ["---", "---", *["---:"] * (len(heads) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rules, *rows))


def _cell(line: dict[str, Any]) -> str:
    return ("" if line["holds"] else "✗ ") + _value(line["value"])


def _value(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, (bool, int)) else f"{value:.3g}"


def _margin(lines: Iterable[dict[str, Any]]) -> str:
    """The smallest margin; ✗ before it, or alone, where a claim failed."""
    lines = list(lines)
    margins = [line["margin"] for line in lines if line["margin"] is not None]
    failed = [] if all(line["holds"] for line in lines) else ["✗"]
    return " ".join([*failed, *([f"{min(margins):.0%}"] if margins else [])]) or "–"


def _plain(sentence: str) -> str:
    """A sentence that Markdown shows as it is, in a table, too."""
    return re.sub(r"([\\`*_|\[\]$~])", r"\\\1", html.escape(sentence, quote=False))


def _listed(things: Iterable[Any]) -> str:
    return ", ".join(map(str, things))


def failed_claims(folder: Path) -> list[str]:
    """Notebook, seed and sentence of every claim that was measured and does not hold."""
    return [
        f"{path.stem[:2]}, seed {path.stem[3:]}: {line['sentence']}"
        for path in sorted(folder.glob("[0-9][0-9]-*.jsonl"))
        for line in Run.read(path).claims.values()
        if not line["holds"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", default="", help="a prefix such as 04; all when left out")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, help="0 1 2 when left out")
    options = parser.parse_args()
    course, problems = Course(ROOT), []
    try:
        names = course.names(options.notebook)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    for name in names:
        for seed in options.seeds:
            try:
                measure(course, name, seed)
            except CourseError as error:
                problems.append(str(error))
    titles = {name[:2]: read_source(course, name).metadata.course.title for name in course.names()}
    before = (ROOT / PAGE).read_text("utf-8") if (ROOT / PAGE).exists() else ""
    write(ROOT / PAGE, page(ROOT / MEASURED, titles, before))
    problems += failed_claims(ROOT / MEASURED)
    print(PAGE.as_posix())
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
