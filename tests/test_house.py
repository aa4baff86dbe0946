"""The files around the course agree with each other, and set-up says what is wrong in one sentence."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def requirements(*extras: str) -> list[Requirement]:
    optional = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for extra in extras for line in optional[extra]]
    return [Requirement(line) for line in lines]


def lock() -> dict[str, Requirement]:
    lines = [line for line in text("requirements.lock").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


# ---------------------------------------------------------------------------------------------- requirements


def test_conda_and_pip_ask_for_the_same() -> None:
    *conda, pip = yaml.safe_load(text("environment.yml"))["dependencies"]
    lines = [re.sub("^python=", "python==", line) for line in conda]
    asked = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in map(Requirement, lines)}
    (python,) = asked.pop("python")  # Binder's tool understands `python=3.13` and takes an old one for `>=`
    assert python.operator in ("=", "==") and python.version in SpecifierSet(PROJECT["project"]["requires-python"])
    del asked["pip"]
    assert asked == {r.name: r.specifier for r in requirements()}
    assert pip == {"pip": ["-e ."]}, "two sources of torch break both"


def test_colab_can_keep_its_own_versions() -> None:
    for requirement in requirements():
        assert {part.operator for part in requirement.specifier} == {">="}, f"{requirement}: not a lower bound"


def test_the_lock_satisfies_every_requirement() -> None:
    pins = lock()
    for requirement in requirements(*PROJECT["project"]["optional-dependencies"]):
        pin = pins[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert exact.version in requirement.specifier, f"{pin} does not satisfy {requirement}"


def test_the_lock_serves_every_system() -> None:
    pins = lock()
    assert pins["colorama"].marker.evaluate({"sys_platform": "win32"})
    assert pins["appnope"].marker.evaluate({"sys_platform": "darwin"})
    assert pins["nvidia-cublas"].marker.evaluate({"sys_platform": "linux"})
    assert not pins["nvidia-cublas"].marker.evaluate({"sys_platform": "darwin"})
    assert pins["torch"].marker is None and pins["torchvision"].marker is None


def test_the_lock_is_a_plain_constraint_file() -> None:
    for line in text("requirements.lock").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[^\s;]+( ; .*)?", line), f"not a plain pin: {line}"
    assert "://" not in text("requirements.lock")


def test_make_full_runs_every_unit_test_that_reads_a_full_data_set() -> None:
    (named,) = re.findall(r"^READERS\s*:= \$\(addprefix tests/,(.*)\)$", text("Makefile"), re.M)
    reads = re.compile(r"data\.(images|DATASETS)\b|nb05\.run_script|notebooks/src/0\d_[^t]|\"src\" / \"0\d_[^t]")
    found = {path.name for path in (ROOT / "tests").glob("test_*.py") if reads.search(path.read_text("utf-8"))}
    apart = {"test_standalone.py", "test_house.py"}  # the first says that its data are the embedded ones
    assert found - apart == set(named.split())


def test_make_lock_keeps_the_torch_of_the_lock() -> None:
    (kept,) = re.findall(r"^TORCH\s*:= (.*)$", text("Makefile"), re.M)
    assert kept.split() == [str(lock()[name]) for name in ("torch", "torchvision")]


# -------------------------------------------------------------------------------------------------- package


def test_the_package_is_named_with_all_its_folders() -> None:
    folders = {path.parent.relative_to(ROOT).parts for path in (ROOT / "course_utils").rglob("*.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {".".join(parts) for parts in folders}


def test_the_package_in_use_is_this_one() -> None:
    command = [sys.executable, "-c", "import course_utils; print(course_utils.__file__)"]
    found = subprocess.run(command, cwd=Path.home(), capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()) == ROOT / "course_utils" / "__init__.py"


def test_citation_and_package_agree() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Repository"]


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:work|root|home|Users)[/\\]\.?(?!ann\b)\w")  # Ann is in examples


@pytest.mark.parametrize("path", [b"at /work/main/x", b'"/root/.cache"', b"/home/bob/x", b"/Users/bob/x"])
def test_a_machine_path_is_recognised(path: bytes) -> None:
    assert MACHINE_PATH.search(path)


def test_no_file_mentions_a_machine_path() -> None:
    binary = {".npz", ".png", ".jpg", ".gif", ".gz", ".xz", ".zip", ".safetensors"}
    found = []
    for path in repository_files():
        if path.suffix in binary or path == Path(__file__).resolve():
            continue
        hits = MACHINE_PATH.finditer(path.read_bytes())
        found += [f"{path.relative_to(ROOT)}: {hit[0].decode()}" for hit in hits]
    assert not found


def test_a_wheel_and_an_sdist_hold_what_they_should(tmp_path: Path) -> None:
    """Built from a copy: the package with assets and licences, no test that could not run there, no warning."""
    listed = [path for path in repository_files() if path.relative_to(ROOT).parts[0] != "notebooks"]
    for path in [*listed, ROOT / "notebooks" / "LICENSE"]:
        target = tmp_path / "copy" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    code = "import setuptools.build_meta as b; print(b.build_sdist('..'), b.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "copy", capture_output=True, text=True)
    if "No module named 'setuptools" in done.stderr:
        pytest.skip("setuptools is not installed")
    assert done.returncode == 0 and "would be ignored" not in done.stdout + done.stderr, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"course_utils/live.py", "course_utils/assets/latent_pipeline/unet/config.json"} <= names
    licences = {name.rsplit("/", 1)[-1] for name in names if ".dist-info/licenses" in name}
    assert licences == {"LICENSE", *(path.name for path in (ROOT / "LICENSES").iterdir())}
    assert not [name for name in names if name.startswith(("tests", "authoring", "notebooks"))]
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests/" in name or name.endswith("conftest.py")]


# ------------------------------------------------------------------------------------------------- commands

TARGETS = (
    "help setup lab test unit nbval browser grading devices full run notebooks text check badge readme student"
    " colab standalone assets seeds bench lock clean"
).split()
needs_make = pytest.mark.skipif(not shutil.which("make") or os.name == "nt", reason="needs make")


def dry_run(*arguments: str) -> str:
    outer = ("MAKE", "MFLAGS", "COURSE_VENV", "PYTHON", "NB", "REPO")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    command = ["make", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_make_knows(target: str) -> None:
    assert dry_run(target)
    assert target in re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.M)[1].split()


@needs_make
def test_every_target_is_explained_and_listed() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z]+) +\S", listed, re.M) == TARGETS
    assert dry_run() == dry_run("help")


@needs_make
def test_every_target_that_needs_the_environment_sets_it_up_first() -> None:
    set_up = dry_run("setup")
    assert set_up.endswith("\npython3 authoring/setup.py\n")
    for target in set(TARGETS) - {"help", "clean"}:
        assert dry_run(target).startswith(set_up), target


@needs_make
def test_make_without_any_python() -> None:
    done = subprocess.run(["make", "setup", "PYTHON=no-such-python"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Set-up failed. This course needs Python 3.11 or newer" in done.stderr.splitlines()[0]


@needs_make
@pytest.mark.parametrize(("target", "command"), [("run", "run"), ("notebooks", "build")])
def test_one_notebook_can_be_chosen(target: str, command: str) -> None:
    assert dry_run(target, "NB=02").endswith(f"-m authoring {command} 02\n")


@needs_make
def test_windows_runs_the_same_tests() -> None:
    here = re.findall(r'^"\.venv/bin/python" (-m pytest .*)$', dry_run("test"), re.M)
    windows = re.findall(r"\.venv\\Scripts\\python (-m pytest .*)$", text(".github/workflows/test.yml"), re.M)
    assert here == windows and len(here) == 2


@needs_make
def test_the_environment_may_lie_in_a_folder_with_a_space() -> None:
    said = dry_run("test", "COURSE_VENV=my course/ä/.venv")
    assert said.count('"my course/ä/.venv/bin/python" -m pytest') == 2
    assert '"my course/ä/.venv/bin/python" -m authoring run' in dry_run("run", "COURSE_VENV=my course/ä/.venv")


JUPYTEXT = {f"{dot}jupytext{ending}" for dot in ("", ".") for ending in ("", ".toml", ".yml", ".yaml", ".json", ".py")}


def test_nothing_pairs_notebooks_with_their_texts() -> None:
    """JupyterLab would read the text over a notebook, and a learner's saved answers would be gone."""
    names = {path.name for path in repository_files()}
    assert not names & JUPYTEXT
    assert "jupytext" not in PROJECT["tool"]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert "jupytext" not in json.loads(path.read_text("utf-8"))["metadata"]


@pytest.mark.parametrize("name", ["test.yml", "weekly.yml"])
def test_workflows_call_targets_that_exist(name: str) -> None:
    jobs = yaml.safe_load(text(f".github/workflows/{name}"))["jobs"]
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    called = re.findall(r"\bmake ([a-z]+)", "\n".join(commands))
    assert called and set(called) <= set(TARGETS)


# --------------------------------------------------------------------------------------------------- set-up


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The set-up script, pointed at an empty folder, with a pip that does nothing and succeeds."""
    spec = importlib.util.spec_from_file_location("course_setup", ROOT / "authoring" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("COURSE_VENV", str(tmp_path / "venv"))
    module.commands, module.real_probe, module.real_run_pip = [], module.probe, module.run_pip

    def run_pip(command: list[str], log: Path, inherit: tuple[int, ...] = ()) -> tuple[int, str]:
        module.commands.append(command)
        if "venv" in command:
            make_venv(Path(command[-1]))
        return 0, ""

    monkeypatch.setattr(module, "run_pip", run_pip)
    monkeypatch.setattr(module, "probe", lambda command, modules: (3, 11))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    return module


def make_venv(venv: Path) -> None:
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    (venv / "pyvenv.cfg").touch()


def pip_commands(module: ModuleType) -> list[list[str]]:
    return [command for command in module.commands if "install" in command]


def failure(module: ModuleType, capsys) -> str:
    """What set-up says when it fails: exit status 1 and one line."""
    capsys.readouterr()
    assert module.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("Set-up failed. ") and said.count("\n") == 1
    assert not (module.venv_folder() / ".ready").exists()
    return said


def pip_prints(module: ModuleType, monkeypatch, output: str) -> None:
    """Let pip fail with this output; making the environment still works."""
    succeed = module.run_pip

    def run_pip(command: list[str], log: Path, inherit: tuple[int, ...] = ()) -> tuple[int, str]:
        status, _ = succeed(command, log, inherit)
        return (1, output) if "install" in command else (status, "")

    monkeypatch.setattr(module, "run_pip", run_pip)


def test_setup_is_readable_for_an_old_python() -> None:
    ast.parse(text("authoring/setup.py"), feature_version=(3, 6))
    with pytest.raises(SyntaxError):
        ast.parse("(n := 1)", feature_version=(3, 6))


def test_a_first_setup_resolves_everything_in_one_go_and_leaves_its_mark(setup: ModuleType) -> None:
    assert setup.main() == 0
    (install,) = pip_commands(setup)
    assert install[-4:] == ["-c", "requirements.lock", "-e", ".[dev]"]
    assert setup.state_of(setup.venv_folder()) == "ready"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("https://github.com/OWNER/gans-to-diffusion", "https://github.com/someone/fork", True),
        ('version = "0.1.0"', 'version = "0.2.0"', False),
        ("line-length = 120", "line-length = 100", True),
        ('"torch>=2.7"', '"torch>=2.8"', False),
        ('requires-python = ">=3.11"', 'requires-python = ">=3.12"', False),
        ("# Lower bounds only", "# Only lower bounds", True),
    ],
)
def test_only_what_an_environment_is_made_from_makes_it_anew(setup: ModuleType, old: str, new: str, same: bool) -> None:
    before = text("pyproject.toml")
    assert old in before
    changed = before.replace(old, new)
    assert (setup.requirements(before) == setup.requirements(changed)) == same


def test_an_environment_that_works_is_used_without_a_network(setup: ModuleType, monkeypatch, capsys) -> None:
    setup.main()
    mark = setup.venv_folder() / ".ready"
    mark.write_text("made from something else\n")
    pip_prints(setup, monkeypatch, "NewConnectionError: failed to establish a new connection")
    capsys.readouterr()
    assert setup.main() == 0
    assert "everything that the course needs is there" in capsys.readouterr().out
    assert mark.exists() is False and setup.state_of(setup.venv_folder()) == "outdated"  # tried again next time


@pytest.mark.parametrize("output", ["error: [Errno 30] Read-only file system: 'x.egg-info'", "Permission denied: 'x'"])
def test_a_read_only_folder_is_named_with_the_cure(setup: ModuleType, monkeypatch, capsys, output) -> None:
    pip_prints(setup, monkeypatch, output)
    assert "copy the course to a folder of your own" in failure(setup, capsys)


def test_servers_of_the_environment_save_no_live_views(setup: ModuleType) -> None:
    setup.main()
    folder = setup.venv_folder() / "etc" / "jupyter" / "jupyter_server_config.d"
    settings = json.loads((folder / "gans_to_diffusion.json").read_text("utf-8"))
    module, function = settings["ContentsManager"]["pre_save_hook"].rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), function))


def test_a_second_setup_does_nothing_and_says_nothing(setup: ModuleType, capsys) -> None:
    setup.main()
    setup.commands.clear()
    capsys.readouterr()
    assert setup.main() == 0
    assert setup.commands == []
    assert capsys.readouterr() == ("", "")


def test_a_killed_setup_is_removed_and_begun_again(setup: ModuleType, monkeypatch, capsys) -> None:
    def killed(venv: Path, log: Path, inherit: tuple[int, ...] = ()) -> None:
        (venv / "half").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup, "install", killed)
        assert setup.main() == 130
    venv = setup.venv_folder()
    assert (venv / "half").exists() and not (venv / ".ready").exists()
    assert setup.main() == 0
    assert "An earlier set-up did not finish: removing" in capsys.readouterr().out
    assert not (venv / "half").exists()
    assert setup.state_of(venv) == "ready"


@pytest.mark.parametrize("change", ["requirements", "python", "checkout"])
def test_an_outdated_environment_is_upgraded_in_place(setup, monkeypatch, tmp_path, change) -> None:
    setup.main()
    (setup.venv_folder() / "kept").touch()
    setup.commands.clear()
    if change == "python":
        monkeypatch.setattr(setup, "probe", lambda command, modules: (3, 12))
    else:
        for name in ("pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, tmp_path)
        if change == "requirements":
            (tmp_path / "requirements.lock").write_text("torch==9.9\n")
        monkeypatch.setattr(setup, "ROOT", tmp_path)
    assert setup.state_of(setup.venv_folder()) == "outdated"
    assert setup.main() == 0
    assert len(pip_commands(setup)) == 1 and not any("venv" in command for command in setup.commands)
    assert (setup.venv_folder() / "kept").exists()
    assert setup.state_of(setup.venv_folder()) == "ready"


def test_a_failed_upgrade_does_not_cost_the_environment(setup: ModuleType, monkeypatch, capsys) -> None:
    setup.main()
    (setup.venv_folder() / ".ready").write_text("old")
    with monkeypatch.context() as patch:
        pip_prints(setup, patch, "ERROR: no such thing\n")
        failure(setup, capsys)
    assert setup.state_of(setup.venv_folder()) == "outdated"


def test_a_folder_that_is_no_environment_is_left_alone(setup: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(setup, "probe", lambda command, modules: None)
    venv = setup.venv_folder()
    venv.mkdir()
    (venv / "thesis.tex").touch()
    assert "move it away, or set COURSE_VENV" in failure(setup, capsys)
    assert [path.name for path in venv.iterdir()] == ["thesis.tex"]


def test_a_python_is_asked_for_its_version_and_modules(setup: ModuleType) -> None:
    assert setup.real_probe([sys.executable], "venv, ensurepip") == sys.version_info[:2]
    assert setup.real_probe([sys.executable], "no_such_module") == (*sys.version_info[:2], "lacks them")
    assert setup.real_probe(["no-such-python"], "venv") is None


@pytest.mark.parametrize("found", [None, (3, 10)])
def test_no_python(setup: ModuleType, monkeypatch, capsys, found) -> None:
    monkeypatch.setattr(setup, "probe", lambda command, modules: found)
    assert "needs Python 3.11 or newer and none was found" in failure(setup, capsys)


def test_no_venv_module(setup: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(setup, "probe", lambda command, modules: (3, 12, "lacks them"))
    assert "sudo apt install python3.12-venv" in failure(setup, capsys)


def test_a_python_without_builds_of_torch_is_the_last_choice(setup: ModuleType, monkeypatch) -> None:
    versions = {"new": (3, 99), "old": (3, 9), "bare": (3, 13, "lacks them"), "good": (3, 12), "broken": None}
    monkeypatch.setattr(setup, "probe", lambda command, modules: versions[command[0]])
    monkeypatch.setattr(setup, "candidates", lambda: [[name] for name in versions])
    assert setup.find_python() == (["good"], (3, 12))
    del versions["good"]
    assert setup.find_python() == (["new"], (3, 99))


def test_little_disk(setup: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**9))
    assert "Not enough disk: 1.0 GB are free" in failure(setup, capsys)
    assert not setup.venv_folder().exists()


NO_HOST = """\
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<HTTPSConnection>: \
Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'
ERROR: Could not find a version that satisfies the requirement setuptools>=77 (from versions: none)
ERROR: No matching distribution found for setuptools>=77
"""
STALLED = """\
Collecting torch
pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='files.example'): Read timed out.
"""
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
UNTRUSTED = "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] verify failed'))\n" + NO_HOST
NO_BUILD = """\
ERROR: Could not find a version that satisfies the requirement torch>=2.7 (from versions: 2.2.0, 2.2.1, 2.2.2)
ERROR: No matching distribution found for torch>=2.7
"""
OTHER = "Collecting torch\nERROR: Cannot install a and b because they conflict.\n"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (NO_HOST, "No network: pip cannot reach the package index"),
        (STALLED, "No network: pip cannot reach the package index"),
        (FULL, "The disk is full: make room"),
        (UNTRUSTED, "set PIP_CERT"),
        (NO_BUILD, "PyTorch has no build for this machine"),
        (OTHER, "pip failed: Cannot install a and b because they conflict (everything it printed is in "),
        ("Killed\n", "pip failed: Killed (everything"),
        ("", "pip failed: it printed nothing (everything"),
    ],
)
def test_pips_failures_become_a_sentence(setup: ModuleType, monkeypatch, capsys, output, sentence) -> None:
    pip_prints(setup, monkeypatch, output)
    assert sentence in failure(setup, capsys)


def test_an_installation_that_does_not_import(setup: ModuleType, monkeypatch, capsys) -> None:
    succeed = setup.run_pip

    def run_pip(command: list[str], log: Path, inherit: tuple[int, ...] = ()) -> tuple[int, str]:
        status, output = succeed(command, log, inherit)
        return (1, "Traceback\nImportError: no nms") if setup.IMPORTS in command else (status, output)

    monkeypatch.setattr(setup, "run_pip", run_pip)
    assert "do not import (ImportError: no nms): delete" in failure(setup, capsys)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.14.1-cp311-manylinux.whl (821.5 MB)", "  downloading torch (821.5 MB)"),
        ("  Downloading nvidia_cudnn_cu13-9.2-py3.whl (1.1 GB)", "  downloading nvidia_cudnn_cu13 (1.1 GB)"),
        ("Installing collected packages: a" + 29 * ", b", "  installing 30 packages: a minute or more"),
        ("Installing collected packages: a, b", "  installing"),
        ("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)", None),
        ("  Downloading scipy-1.17.1-cp311.whl (35.2 MB)", None),
        ("Collecting torch", None),
    ],
)
def test_of_pips_output_only_the_long_steps_are_shown(setup: ModuleType, line, shown) -> None:
    assert setup.phase(line + "\n") == shown


def test_pips_output_goes_to_the_log(setup: ModuleType, tmp_path: Path, capsys) -> None:
    code = "import os; print('Installing collected packages: a'); os.write(2, b'error: no\\n'); os._exit(3)"
    status, output = setup.real_run_pip([sys.executable, "-u", "-c", code], tmp_path / "log")
    assert (status, output) == (3, "Installing collected packages: a\nerror: no\n")
    assert (tmp_path / "log").read_text() == output
    assert capsys.readouterr().out == "  installing\n"


@pytest.mark.skipif(os.name == "nt", reason="without file locks")
def test_two_setups_take_turns(setup: ModuleType, tmp_path: Path) -> None:
    import fcntl

    with setup.only_one(tmp_path / "venv"):
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
    with setup.only_one(tmp_path / "venv") as inherit:  # and the lock is free again
        assert len(inherit) == 1


def test_the_readme_quotes_the_benchmark_as_it_was_measured() -> None:
    assert text("authoring/benchmarks/diffusion.txt").strip() in text("authoring/benchmarks/README.md")
