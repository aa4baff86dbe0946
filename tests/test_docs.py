"""What the repository's papers say of themselves is so."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def tracked(*patterns: str) -> list[Path]:
    """The files that git knows, or would take, of these patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_every_erratum_that_is_cited_is_in_the_list() -> None:
    known = set(re.findall(r"(?m)^(\d+)\. ", text("ERRATA.md")))
    for path in tracked("*.py"):
        cited = set(re.findall(r"ERRATA,? (\d+)", path.read_text("utf-8")))
        assert cited <= known, f"{path.name} cites {sorted(cited - known)}"
    assert len(known) >= 35


def test_every_tag_of_a_cell_is_explained() -> None:
    explained = text("CONTRIBUTING.md")
    for path in tracked("notebooks/src/*.py"):
        for tags in re.findall(r"(?m)^# %%.*tags=\[([^\]]*)\]", path.read_text("utf-8")):
            for tag in re.findall(r'"([^"]+)"', tags):
                assert f"`{tag}`" in explained, f"{path.name} has the tag {tag}"


def test_every_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", text("Makefile")))
    for path in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert set(re.findall(r"`make ([a-z]+)", text(path))) <= targets, path


def test_the_form_for_a_failed_claim_asks_for_the_report() -> None:
    form = yaml.safe_load(text(".github/ISSUE_TEMPLATE/claim.yml"))
    assert {"name", "description", "body"} <= set(form)
    asked = {field["id"]: field for field in form["body"]}
    assert {"notebook", "sentence", "report", "data", "changed"} == set(asked)
    assert "run.report()" in asked["report"]["attributes"]["label"]
    assert all(asked[key]["validations"]["required"] for key in ("notebook", "sentence", "report"))
