"""The page of claims says what was measured, on which seed, how near the bound, what is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from authoring import seeds

ROOT = Path(__file__).resolve().parents[1]

ABOUT = {
    "torch": "2.9.0",
    "threads": 2,
    "budget": "quick",
    "date": "2026-11-26",
    "data": "embedded",
}
TITLES = {"04": "Diffusion mathematics"}


def line(sentence: str, value, margin, bound: str = "at most 4", holds: bool = True, **more) -> dict:
    found = {"sentence": sentence, "bound": bound, "value": value, "holds": holds, "margin": margin}
    return found | more


ORIGIN = {"date": "2026-11-24", "seeds": 1, "spread": None}
ON_SEED_0 = [
    line("Zebras: |x| is small", 1.0, 0.75),
    line("Apes agree", True, None, ""),
    line("The table says so", 3.0, 0.25, stored=ORIGIN),
    line("Mice lead", 0.5, None, "at least 0"),
    line("Said twice", 2.0, 0.5),
    line("Said twice", 3.0, 0.25),
]
ON_SEED_2 = [
    line("Zebras: |x| is small", 3.12345, 0.21914),
    line("Apes agree", False, None, "", holds=False),
    line("The table says so", 3.0, 0.25, stored=ORIGIN),
    line("Mice lead", 0.25, None, "at least 0"),
    line("Said twice", 5.0, -0.25, holds=False),
    line("Said twice", 3.0, 0.25),
    line("Only on seed 2", 0.0, 1.0),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, lines in (("04-0", ON_SEED_0), ("04-2", ON_SEED_2)):
        text = "\n".join(json.dumps(entry) for entry in [ABOUT, *lines])
        (tmp_path / f"{name}.jsonl").write_text(text + "\n", "utf-8")
    return tmp_path


def rows(page: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row.replace(r"\|", "¦").strip("|").split("|")]
        for row in page.splitlines()
        if row.startswith("|")
    ]


def test_claims_come_in_the_notebooks_order_with_value_and_smallest_margin(folder) -> None:
    heads, _, *claims = rows(seeds.page(folder, TITLES))[:8]
    assert heads == ["claim", "bound", "seed 0", "seed 1", "seed 2", "smallest margin"]
    assert claims == [
        ["Zebras: ¦x¦ is small", "at most 4", "1", "", "3.12", "22%"],
        ["Apes agree", "true", "true", "", "✗ false", "✗"],
        ["Mice lead", "at least 0", "0.5", "", "0.25", "–"],
        ["Said twice", "at most 4", "2", "", "✗ 5", "✗ -25%"],
        ["Said twice", "at most 4", "3", "", "3", "25%"],
        ["Only on seed 2", "at most 4", "", "", "0", "100%"],
    ]


def test_stored_numbers_have_a_table_of_their_own(folder) -> None:
    heads, _, *stored = rows(seeds.page(folder, TITLES))[8:]
    assert heads == ["stored number", "bound", "value", "margin", "date", "seeds", "spread"]
    assert stored == [["The table says so", "at most 4", "3", "25%", "2026-11-24", "1", "unknown"]]


def test_missing_seeds_are_named_on_the_first_line(folder) -> None:
    title, first, *_ = seeds.page(folder, TITLES | {"05": "DDPM"}).split("\n\n")
    assert title == "# Claims on seeds 0, 1, 2"
    assert first == "Not measured yet: notebook 04 on seed 1; 05 on seed 0, 1, 2."
    (folder / "04-1.jsonl").write_bytes((folder / "04-0.jsonl").read_bytes())
    assert "Not measured" not in seeds.page(folder, TITLES)


def test_the_page_says_what_it_was_measured_with(folder) -> None:
    said = "torch 2.9.0, 2 threads, the quick budget and the embedded data, 2026-11-26"
    assert f"Measured with {said}." in seeds.page(folder, TITLES)


def test_a_notebook_that_was_not_measured_again_keeps_its_section(folder, tmp_path) -> None:
    both = TITLES | {"05": "DDPM"}
    (folder / "05-1.jsonl").write_bytes((folder / "04-0.jsonl").read_bytes())
    before = seeds.page(folder, both)
    (folder / "05-1.jsonl").unlink()
    after = seeds.page(folder, both, before)
    assert after.split("## 05")[1] == before.split("## 05")[1]
    assert after.split("## 04")[1].split("##")[0] == before.split("## 04")[1].split("##")[0]
    assert "## 05" not in seeds.page(folder, TITLES, before)


def test_failed_claims_are_listed_with_notebook_and_seed(folder) -> None:
    assert seeds.failed_claims(folder) == ["04, seed 2: Apes agree", "04, seed 2: Said twice"]


def test_without_any_measurement_the_page_names_all(tmp_path) -> None:
    page = seeds.page(tmp_path, TITLES)
    assert "Not measured yet: notebook 04 on seed 0, 1, 2." in page
    assert rows(page) == []


SOURCE = """\
# ---
# jupyter:
#   course:
#     title: Tiny
#     summary: Nothing
#     minutes_cpu: 1
#     minutes_gpu: 1
# ---

# %% [markdown]
# # Tiny

# %%
from course_utils.claims import claim
from course_utils.runtime import course_seed

claim("The seed is at most 1", course_seed(), at_most=1)
"""


def test_a_notebook_is_measured_on_the_seed_and_a_failed_claim_does_not_stop_it(tmp_path, monkeypatch) -> None:
    source = tmp_path / "notebooks" / "src" / "01_tiny.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    usual = dict(os.environ)
    for seed in (1, 2):
        seeds.measure(seeds.Course(tmp_path), "01_tiny", seed)
    assert dict(os.environ) == usual
    folder = tmp_path / seeds.MEASURED
    assert sorted(path.name for path in folder.iterdir()) == ["01-1.jsonl", "01-2.jsonl"]
    row = rows(seeds.page(folder, {"01": "Tiny"}))[2]
    assert row == ["The seed is at most 1", "at most 1", "", "1", "✗ 2", "✗ -100%"]


def test_an_unknown_notebook_is_named() -> None:
    command = [sys.executable, "-m", "authoring.seeds", "99"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "No notebook begins with '99'" in run.stderr
