"""The course as files: where things are, and the one address from which badges and set-up cells are made."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COURSE_KEYS = ("title", "summary", "minutes_cpu", "minutes_gpu")
BADGE_IMAGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
SETUP = """\
# @title Setup: fetches the course's helper package where it is missing
import importlib.util
import subprocess
import sys

PACKAGE = "git+{address}@{ref}"
if importlib.util.find_spec("course_utils") is None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", PACKAGE]
    if "/OWNER/" in PACKAGE or subprocess.run(install).returncode:
        raise ImportError(
            f"course_utils cannot be fetched from {{PACKAGE}}: is that public, and is there a "
            "network? In the course's folder type `pip install -e .`; give your copy its address "
            "with `make badge REPO=owner/name`."
        )
    importlib.invalidate_caches()
"""


class CourseError(Exception):
    """Something the author can mend; the message is the one sentence that is shown."""


@dataclass(frozen=True)
class Course:
    """Where things are, and the one address from which every badge and set-up cell is made."""

    root: Path

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def lessons(self) -> Path:
        return self.root / "course_utils" / "lessons"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"

    @property
    def project(self) -> dict:
        return tomllib.loads((self.root / "pyproject.toml").read_text("utf-8"))

    @property
    def slug(self) -> str:
        """owner/name, from [project.urls] Repository in pyproject.toml."""
        address = self.project.get("project", {}).get("urls", {}).get("Repository", "")
        found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", address)
        if not found:
            form = "[project.urls] Repository must be https://github.com/owner/name"
            raise CourseError(f"pyproject.toml: {form}, not {address!r}.")
        return found[1]

    @property
    def ref(self) -> str:
        """The branch or tag that Colab reads; [tool.course] ref, so that a release can name its tag."""
        return self.project.get("tool", {}).get("course", {}).get("ref", "main")

    def setup_cell(self) -> str:
        return SETUP.format(address=f"https://github.com/{self.slug}", ref=self.ref).rstrip("\n")

    def badge(self, name: str) -> str:
        page = f"https://colab.research.google.com/github/{self.slug}/blob/{self.ref}/notebooks/{name}.ipynb"
        return f"{BADGE_IMAGE}({page})"

    def names(self, prefix: str = "") -> list[str]:
        """Notebooks (such as 02_dcgan_training) that have a text and begin with `prefix`."""
        prefix = prefix.zfill(2) if prefix.isdecimal() else prefix  # 1 is notebook 01
        every = sorted(path.stem for path in (self.notebooks / "src").glob("[0-9][0-9]_*.py"))
        chosen = [name for name in every if name.startswith(prefix)]
        if prefix and not chosen:
            raise CourseError(f"No notebook begins with {prefix!r}; there is {', '.join(every) or 'none yet'}.")
        return chosen

    def source(self, name: str) -> Path:
        return self.notebooks / "src" / f"{name}.py"

    def stored(self, name: str) -> Path:
        return self.notebooks / f"{name}.ipynb"

    def lesson(self, name: str) -> Path:
        return self.lessons / f"nb{name}.py"
