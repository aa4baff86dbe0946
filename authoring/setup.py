#!/usr/bin/env python3
"""Make the course's virtual environment, or bring it up to date; returns at once when there is nothing to do.

Runs on Python 3.6, so that an old Python gives a sentence and not a SyntaxError. COURSE_VENV names another
folder than .venv. Two marks tell its state: `.unfinished` while it is being made, then `.ready`, a hash of
all that it was made from.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (
    (3, 11),
    (3, 14),
)  # newest: the last one with builds of the PyTorch in requirements.lock
LINUX = sys.platform.startswith("linux")
SIZE_GB = 6 if LINUX else 2  # PyTorch for Linux brings CUDA
NEEDED_GB = 10 if LINUX else 3  # with pip's downloads
IMPORTS = "import torch, torchvision, jupyterlab, nbval, course_utils"
# For every Jupyter server of the environment: notebooks are saved without live views, which are errors the next day.
SERVER = {"ContentsManager": {"pre_save_hook": "course_utils.saving.leave_out_live_views"}}


class SetupError(Exception):
    """One sentence: the cause and the cure."""


def say(text):
    print(text, flush=True)


def shown(path):
    """The path as a reader would type it from the repository's root."""
    try:
        return str(Path(path).relative_to(ROOT))
    except ValueError:
        return str(path)


# Python


def probe(command, modules):
    """(major, minor), (major, minor, "lacks them") if modules are missing, None if it does not start."""
    command = [
        *command,
        "-c",
        "import sys; print(*sys.version_info[:2], flush=True); import " + modules,
    ]
    quiet = {"stderr": subprocess.DEVNULL, "universal_newlines": True, "timeout": 60}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, **quiet)
        version = tuple(int(number) for number in done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if len(version) != 2:
        return None
    return version if done.returncode == 0 else version + ("lacks them",)


def candidates():
    """The Python that runs this file comes first, then whatever else is installed."""
    yield [sys.executable]
    names = ["python3.{}".format(minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    for name in [*names, "python3", "python"]:
        found = shutil.which(name)
        if found:
            yield [found]
    if os.name == "nt":
        for name in names:
            yield ["py", name.replace("python", "-")]


def find_python():
    """Command and version of a Python that can make the environment; one above NEWEST is the last choice."""
    newer = without_venv = None
    for command in candidates():
        found = probe(command, "venv, ensurepip")
        if found is None or found[:2] < OLDEST:
            continue
        if len(found) > 2:
            without_venv = without_venv or found
        elif found > NEWEST:
            newer = newer or (command, found)
        else:
            return command, found
    if newer:
        return newer
    if without_venv:
        raise SetupError(
            "Python {0}.{1} is here without its venv module: install it (Debian and Ubuntu: sudo apt install "
            "python{0}.{1}-venv) and run the same command again.".format(*without_venv)
        )
    raise SetupError(
        "This course needs Python {}.{} or newer and none was found (this one is {}): install it from "
        "https://www.python.org/downloads/ or with your package manager and run the same command "
        "again.".format(*OLDEST, platform.python_version())
    )


# The environment's folder


def venv_folder():
    return Path(os.path.abspath(os.environ.get("COURSE_VENV") or str(ROOT / ".venv")))


def venv_python(venv):
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


WITHOUT_EFFECT = (
    "description",
    "license",
    "authors",
    "urls",
    "ruff",
    "pytest",
    "course",
)  # on an environment


def requirements(text):
    """The lines of a pyproject.toml that an environment depends on: no addresses, words and settings of tools."""
    kept, section, skipped = [], "", False
    for line in text.splitlines():
        line = line.split(" #")[0].strip()
        header = re.match(r"\[+([\w.-]+)\]+$", line)
        key = re.match(r"([\w-]+) *=", line)
        if header:
            section = header.group(1)
        elif key and section == "project":
            skipped = key.group(1) in WITHOUT_EFFECT
        if section != "project":
            skipped = bool(set(section.split(".")) & set(WITHOUT_EFFECT))
        if line and not line.startswith("#") and not skipped:
            kept.append(line)
    return "\n".join(kept)


def fingerprint(version):
    """Hash of what the environment is made from: requirements, Python, the editable package's place."""
    digest = hashlib.sha256("{} {}".format(version, ROOT).encode())
    digest.update(requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")).encode())
    digest.update((ROOT / "requirements.lock").read_bytes())
    digest.update(json.dumps(SERVER).encode())
    return digest.hexdigest()


def state_of(venv):
    """absent, unfinished, ready, outdated, broken (ours, does not work) or foreign (not ours to touch)."""
    if not venv.exists() or (venv.is_dir() and not any(venv.iterdir())):
        return "absent"
    if (venv / ".unfinished").exists():
        return "unfinished"
    stamp = venv / ".ready"
    version = probe([str(venv_python(venv))], "pip")
    if version is None or len(version) > 2 or version < OLDEST:
        return "broken" if stamp.exists() else "foreign"
    if stamp.exists() and stamp.read_text().strip() == fingerprint(version):
        return "ready"
    return "outdated"


def empty(venv):
    """Delete all but the mark that says it is unfinished, so that this can be interrupted too."""
    (venv / ".unfinished").touch()
    for child in venv.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(str(child))
        elif child.name != ".unfinished":
            child.unlink()


@contextlib.contextmanager
def only_one(venv):
    """Wait while another set-up, or the pip of a killed one, works there. Gives what pip must inherit."""
    try:
        import fcntl

        handle = os.open(str(venv.parent), os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield ()
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is at work in {}: waiting for it.".format(shown(venv)))
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield (handle,)
    finally:
        os.close(handle)


def check_disk(venv):
    free = shutil.disk_usage(str(venv.parent)).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            "Not enough disk: {:.1f} GB are free in {} and set-up needs {} GB while it works; make room or "
            "set COURSE_VENV to a folder on a larger disk and run again.".format(free, venv.parent, NEEDED_GB)
        )


# pip

NO_NETWORK = (
    "No network: pip cannot reach the package index; check the connection (or, behind a proxy, set "
    "HTTPS_PROXY) and run the same command again."
)
READ_ONLY = (
    "This folder may not be written to, and set-up writes into it: copy the course to a folder of your own, or "
    "let whoever owns it run the same command there."
)
FAILURES = {  # what pip prints: the sentence
    r"Read-only file system|Permission denied|Errno 13|Errno 30": READ_ONLY,
    r"No space left on device|Errno 28|not enough space on the disk": (
        "The disk is full: make room (PyTorch takes up to {size} GB, pip's cache and temporary folder half "
        "of that) and run the same command again."
    ),
    r"CERTIFICATE_VERIFY_FAILED": (
        "The package index shows a certificate that pip does not trust, as behind some company networks: set "
        "PIP_CERT to your network's certificate file and run the same command again."
    ),
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Read timed out|ProxyError|"
    r"name resolution|Name or service not known|getaddrinfo failed|nodename nor servname|"
    r"Network is unreachable|ConnectionResetError|Connection refused|Connection broken|RemoteDisconnected|"
    r"Max retries exceeded": NO_NETWORK,
    r"No matching distribution found for torch": (
        "PyTorch has no build for this machine ({machine}): use Python {oldest} to {newest} on 64-bit Linux, "
        "Windows or a Mac with Apple silicon, or open the course in Colab."
    ),
}


def explain(output, log):
    """The sentence for a failed pip, from the end of its output."""
    tail = "\n".join(output.splitlines()[-60:])
    for pattern, sentence in FAILURES.items():
        if re.search(pattern, tail):
            return sentence.format(
                size=SIZE_GB,
                machine="{}, Python {}".format(platform.platform(terse=True), platform.python_version()),
                oldest="{}.{}".format(*OLDEST),
                newest="{}.{}".format(*NEWEST),
            )
    errors = re.findall(r"^\s*error: *(\S.*)", output, re.M | re.I) or [last_line(output)]
    reason = errors[-1].strip().rstrip(".")
    return "pip failed: {} (everything it printed is in {}).".format(reason, shown(log))


def last_line(output):
    return (output.strip().splitlines() or ["it printed nothing"])[-1]


def phase(line):
    """What to show of a line of pip's output, mostly nothing."""
    large = re.match(r"\s*Downloading (?:\S*/)?([A-Za-z0-9_]+)-\S+ \((\d{3,}(?:\.\d+)? MB|[\d.]+ GB)\)", line)
    if large:
        return "  downloading {} ({})".format(*large.groups())
    if line.startswith("Installing collected packages:"):
        number = line.count(",") + 1
        return "  installing {} packages: a minute or more".format(number) if number > 20 else "  installing"
    return None


def run_pip(command, log, inherit=()):
    """Run with the output in the log, a line a phase on the screen and a sign of life every half minute."""
    start, lines, output = time.time(), queue.Queue(), []
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        pass_fds=inherit,
    )

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    next_sign = start + 30
    with log.open("a", encoding="utf-8") as file:
        while True:
            try:
                line = lines.get(timeout=max(0.1, next_sign - time.time()))
            except queue.Empty:
                line = ""
            if line is None:
                break
            file.write(line)
            file.flush()
            output.append(line)
            if phase(line):
                say(phase(line))
            if time.time() >= next_sign:
                say("  ... {:.0f} s".format(time.time() - start))
                next_sign += 30
    return process.wait(), "".join(output)


def install(venv, log, inherit=()):
    python = str(venv_python(venv))
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # One call for everything: torch and torchvision only fit together when they are resolved together.
    command = [python, "-m", "pip", "install", *options, "-c", "requirements.lock", "-e", ".[dev]"]
    status, output = run_pip(command, log, inherit)
    if status:
        raise SetupError(explain(output, log))
    say("  checking that it imports")
    status, output = run_pip([python, "-c", IMPORTS], log, inherit)
    if status:
        raise SetupError(
            "The packages are installed and do not import ({}): delete {} and run the same command again.".format(
                last_line(output), shown(venv)
            )
        )


def create(venv, log, inherit=()):
    command, version = find_python()
    check_disk(venv)
    say(
        "Setting up the course in {}, once: Python {}.{}, about {} GB of disk, 2 to 10 minutes "
        "by network speed.".format(shown(venv), *version, SIZE_GB)
    )
    venv.mkdir(exist_ok=True)
    empty(venv)
    say("  making the environment (pip's full output: {})".format(shown(log)))
    status, output = run_pip([*command, "-m", "venv", str(venv)], log, inherit)
    if status:
        raise SetupError("Python could not make {}: {}.".format(shown(venv), last_line(output)))
    say("  fetching PyTorch, JupyterLab and what they need")
    install(venv, log, inherit)
    return True


def upgrade(venv, log, inherit=()):
    say("Bringing {} up to date with pyproject.toml and requirements.lock.".format(shown(venv)))
    stamp, unfinished = venv / ".ready", venv / ".unfinished"
    unfinished.touch()
    if stamp.exists():
        stamp.unlink()
    try:
        install(venv, log, inherit)
    except SetupError as error:  # pip gave up by itself and left the environment whole: the next try goes on from here
        unfinished.unlink()
        works = str(error) == NO_NETWORK and run_pip([str(venv_python(venv)), "-c", IMPORTS], log, inherit)[0] == 0
        if not works:
            raise
        say("No network, so it stays as it is; everything that the course needs is there. The next call tries again.")
        return False
    return True


def set_up(venv):
    if state_of(venv) == "ready":
        return
    start = time.time()
    venv.parent.mkdir(parents=True, exist_ok=True)
    with only_one(venv) as inherit:
        state = state_of(venv)  # again: the set-up that we waited for may have done it
        if state == "ready":
            return
        if state == "foreign":
            raise SetupError(
                "{} is there and is no virtual environment with pip and Python {}.{} or newer: move it away, "
                "or set COURSE_VENV to another folder, and run again.".format(shown(venv), *OLDEST)
            )
        if state == "unfinished":
            say("An earlier set-up did not finish: removing {} and beginning again.".format(shown(venv)))
        if state == "broken":
            say("The Python behind {} is gone: making it anew.".format(shown(venv)))
        log = venv / "setup.log"
        if not (upgrade if state == "outdated" else create)(venv, log, inherit):
            return
        settings = venv / "etc" / "jupyter" / "jupyter_server_config.d" / "gans_to_diffusion.json"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(SERVER, indent=2) + "\n")
        new_stamp = venv / ".ready.tmp"
        new_stamp.write_text(fingerprint(probe([str(venv_python(venv))], "pip")) + "\n")
        (venv / ".unfinished").unlink()
        os.replace(str(new_stamp), str(venv / ".ready"))
    say("Ready after {:.0f} s. The next call skips this.".format(time.time() - start))


def main():
    try:
        set_up(venv_folder())
    except SetupError as error:
        print("Set-up failed. {}".format(error), file=sys.stderr)
        return 1
    except OSError as error:
        reason = "{}: {}.".format(error.filename or "System", error.strerror)
        if error.errno in (errno.EROFS, errno.EACCES):
            reason += " Set COURSE_VENV to a folder of your own, or copy the course to one."
        print("Set-up failed. " + reason, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up stopped. The same command begins again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
