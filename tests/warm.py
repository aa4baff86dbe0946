"""New processes without the seconds that torch takes to import: forked from one that has imported it already.

Each has a `__main__`, an environment, a folder and a search path of its own, and ends as a Python ends. Nothing of the
course is imported before, and no library of the hub unless a test asks for it, since these read their settings when
they are imported. A system that cannot fork starts new Pythons.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

# Run by a Python without PYTHONPATH; each line that it reads is a request, and a forked process leaves the loop.
SERVER = """
import atexit, gc, json, os, random, sys, threading, traceback, types
import IPython, matplotlib.pyplot, numpy, scipy.stats, torch, torch._dynamo, torchvision.transforms.functional
if len(sys.argv) > 1:
    __import__(sys.argv[1])

def asked():
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        if "end" in wanted:
            pid, status = os.waitpid(wanted["end"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            return wanted
        print(json.dumps(answer), flush=True)
    os._exit(0)

wanted = asked()
os.chdir(wanted["folder"])
os.environ.clear()
os.environ.update(wanted["environment"])
for number, place in enumerate(wanted["streams"]):
    opened = os.open(place, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
    os.dup2(opened, number)
    os.close(opened)
sys.stdin = open(0, encoding="utf-8")
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="utf-8")
random.seed()  # else all would begin alike
numpy.random.seed()
path, code, sys.argv[:] = wanted["path"], wanted["code"], wanted["argv"]
own = path.split(os.pathsep) if path else []
sys.path[:] = [wanted["first"], *own, *sys.path[1:]]
sys.modules["__main__"] = main = types.ModuleType("__main__")
if sys.argv[0] != "-c":
    main.__file__ = sys.argv[0]
failed = 0
try:
    exec(compile(code, sys.argv[0], "exec"), vars(main))
except SystemExit as raised:
    failed = raised.code
    if failed is not None and not isinstance(failed, int):
        print(failed, file=sys.stderr)
        failed = 1
except BaseException:
    traceback.print_exc()
    failed = 1
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(failed or 0)  # taking torch apart would be seconds
"""
CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"  # there, libraries of the system do not bear it


class _Server:
    """Forks processes when asked; the one with `more` is itself forked from the one without, and then imports it."""

    def __init__(self, more: str = "") -> None:
        command = [sys.executable, "-c", SERVER, *filter(None, [more])]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # read by imports
        if more:
            self.folder = tempfile.TemporaryDirectory()  # of two named pipes
            pipes = [Path(self.folder.name) / name for name in ("asked", "said")]
            for pipe in pipes:
                os.mkfifo(pipe)
            process = _Forked(command, env=environment, stdin=str(pipes[0]), stdout=str(pipes[1]), stderr=os.devnull)
            self.asked, self.said = pipes[0].open("w", encoding="utf-8"), pipes[1].open(encoding="utf-8")
        else:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
            process = subprocess.Popen(command, env=environment, **pipes)
            self.asked, self.said = process.stdin, process.stdout
        atexit.register(self.close, process)

    def close(self, process) -> None:
        self.asked.close()  # its input ends, and so does it
        process.wait(60)
        self.said.close()

    def ask(self, **request):
        print(json.dumps(request), file=self.asked, flush=True)
        return json.loads(self.said.readline())


_server = lru_cache(_Server)


class _Forked:
    """As subprocess.Popen for a Python with a script or -c, whose words go into files.

    Named pipes stand for PIPE: the names are given as stdin and stdout. `more` names what is imported before, too.
    """

    def __init__(
        self, command: list[str], *, env=None, cwd=None, stdin=None, stdout=None, stderr=None, more=""
    ) -> None:
        assert command[0] == sys.executable
        script, *rest = command[1:]
        code, argv = (rest[0], ["-c", *rest[1:]]) if script == "-c" else (Path(script).read_text("utf-8"), command[1:])
        environment = dict(os.environ if env is None else env)
        out = getattr(stdout, "name", stdout)
        err = out if stderr == subprocess.STDOUT else getattr(stderr, "name", stderr)
        self.returncode = None
        self.server = _server(more)
        self.pid = self.server.ask(
            code=code, argv=argv, first="" if script == "-c" else str(Path(script).resolve().parent),
            path=environment.get("PYTHONPATH", ""), environment=environment, folder=str(cwd or os.getcwd()),
            streams=[stdin or os.devnull, out, err],
        )  # fmt: skip

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask(end=self.pid)
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a warm Python", timeout)
            time.sleep(0.02)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _new(command: list[str], *, more="", **options) -> subprocess.Popen:
    return subprocess.Popen(command, **options)


Popen = _Forked if CAN_FORK else _new


def run(command: list[str], folder: Path, *, env=None, cwd=None, more="") -> subprocess.CompletedProcess:
    """As subprocess.run with what is printed as text; it goes through two files in `folder`."""
    files = [folder / "warm.out", folder / "warm.err"]
    with files[0].open("w") as out, files[1].open("w") as err:
        returncode = Popen(command, env=env, cwd=cwd, stdout=out, stderr=err, more=more).wait()
    said = [file.read_text("utf-8") for file in files]
    for file in files:
        file.unlink()
    return subprocess.CompletedProcess(command, returncode, *said)
