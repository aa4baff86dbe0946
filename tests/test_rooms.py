"""Which part of the course may import which: arrows run down only, and no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"authoring": 2, "course_utils.lessons": 1, "course_utils": 0}  # a floor may import lower ones


def modules() -> dict[str, Path]:
    """Name and file of every module of the two packages."""
    files = [file for room in ("authoring", "course_utils") for file in (ROOT / room).rglob("*.py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files)}


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of the course that a module imports, wherever in it."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *(node.module.split(".") if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return (found & set(MODULES)) - {name, package}


def floor(name: str) -> int:
    return next(height for room, height in FLOORS.items() if name.startswith(room))


def test_no_circle_of_imports() -> None:
    tuple(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_arrows_run_down(name) -> None:
    up = [other for other in imports(name) if floor(other) > floor(name)]
    assert not up, f"{name} imports {', '.join(up)}"


@pytest.mark.parametrize("name", [name for name in MODULES if ".lessons.nb" in name])
def test_a_lesson_imports_earlier_lessons_only(name) -> None:
    others = [other for other in imports(name) if ".lessons.nb" in other]
    assert all(other < name for other in others)


@pytest.mark.parametrize("name", [name for name in MODULES if ".checks" in name])
def test_a_check_imports_no_lesson(name) -> None:
    assert not [other for other in imports(name) if ".lessons" in other]


def test_assets_are_data_only() -> None:
    assert not list((ROOT / "course_utils" / "assets").rglob("*.py"))


def test_the_finder_sees_relative_and_absolute_imports() -> None:
    assert "course_utils.files" in imports("course_utils.training")
    assert "authoring.cells" in imports("authoring.build")
    assert "course_utils.lessons.nb04_diffusion_math" in imports("authoring.assets")
