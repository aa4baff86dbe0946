"""What every test shares: the small budget, the notebook tools, and a switch that cuts the network.

nbval's own settings are in notebooks/conftest.py, where pytest finds them when it is given a notebook only.
"""

import os
import shutil
import socket
import subprocess
from functools import partial
from types import SimpleNamespace

import pytest
import warm
from tiny_course import make_course

from authoring.__main__ import main
from authoring.cells import read_notebook
from authoring.course import Course

os.environ.setdefault("COURSE_BUDGET", "quick")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.pop("COURSE_TEST_UNTIL", None)  # is for notebooks; tests of nbval set their own


# Files with a quarter of a minute of work and more: first, so that several processes end together.
LONG = ("standalone", "nbval", "nb06", "nb05", "nb11", "nb09", "nb02", "nb04", "nb07", "metrics", "build", "hub")


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))  # the others keep their order


def is_loopback(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "", "localhost", "::1") or host.startswith("127.")


def block_network(patch: pytest.MonkeyPatch) -> None:
    """Refuse every look-up and connection that leaves this machine, with the errors of a missing network."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(address) -> None:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise ConnectionRefusedError(f"COURSE_BLOCK_NETWORK is set: no connection to {address[0]}")

    def guarded_connect(self, address):
        refuse(address)
        return connect(self, address)

    def guarded_connect_ex(self, address):
        refuse(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        if not is_loopback(host):
            raise socket.gaierror(socket.EAI_NONAME, f"COURSE_BLOCK_NETWORK is set: no look-up of {host}")
        return getaddrinfo(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


@pytest.fixture(scope="session", autouse=True)
def network():
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("COURSE_BLOCK_NETWORK") == "1":
            block_network(patch)
        yield


@pytest.fixture
def warm_processes(monkeypatch, request):
    """Several processes that train together are forked from one that has imported torch and a parameter's library."""
    from course_utils import processes

    start = partial(warm.Popen, more=getattr(request, "param", ""))
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=start, STDOUT=subprocess.STDOUT))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Course:
    """The small course after `build`; the one real execution of a module, so tests must not change it."""
    course = make_course(tmp_path_factory.mktemp("course"))
    assert main(["build", "02"], root=course.root) == 0
    return course


@pytest.fixture
def course(built, tmp_path) -> Course:
    """A copy that a test may change."""
    shutil.copytree(built.root, tmp_path / "course")
    return Course(tmp_path / "course")


@pytest.fixture
def nb(built):
    return read_notebook(built.stored("02_tiny"))
