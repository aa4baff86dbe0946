"""JupyterLab in a real browser: Debian's chromium, driven by playwright, on a notebook of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    " --disable-sync --disable-quic"
).split()
TOKEN = "course"
HOOK = "course_utils.saving.leave_out_live_views"  # as the set-up writes it into the environment


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address and folder of a JupyterLab with settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder / 'work'}"]
    command += [f"--ContentsManager.pre_save_hook={HOOK}"]
    (folder / "work").mkdir()
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, env=environment | places | {"PYTHONPATH": path, "COURSE_DATA": "embedded"}, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True, 60)
            yield f"http://127.0.0.1:{port}", folder / "work"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(condition, seconds: float):
    """The condition's first true value; what keeps it from being had is raised when the time is up."""
    until = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
            problem = None
        except OSError as error:
            problem = error
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds} s for {condition}") from problem
        time.sleep(0.1)


class Lab:
    """One notebook in JupyterLab, as a learner sees it."""

    def __init__(self, page, address: str, folder: Path) -> None:
        self.page, self.address, self.folder = page, address, folder

    def write(self, name: str, sources: list[str]) -> None:
        """A notebook of the course with these code cells, not run yet."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nb = nbformat.v4.new_notebook(cells=cells, metadata={"course": {"title": name}, "kernelspec": kernel})
        nbformat.write(nb, self.folder / name)

    def open(self, name: str) -> None:
        self.name = name
        self.page.goto(f"{self.address}/lab/tree/{name}?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=60_000)
        shown = self.page.locator(".jp-NotebookPanel .jp-CodeCell .jp-InputPrompt:visible")  # a folded cell has none
        wait_for(lambda: any(text.strip().startswith("[") for text in shown.all_inner_texts()), 60)
        self.idle()

    def idle(self) -> None:
        # a narrow toolbar hides it
        idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
        self.page.wait_for_selector(idle, state="attached", timeout=60_000)

    def cell(self, index: int):
        return self.page.locator(".jp-NotebookPanel .jp-CodeCell").nth(index)

    def run(self, index: int, wait: bool = True) -> None:
        """Run one cell; with `wait` until its number is there and the kernel is idle."""
        before = self.prompt(index)

        def started() -> bool:  # a key pressed while the page is built is lost
            self.cell(index).locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            self.page.wait_for_timeout(300)
            return self.prompt(index) != before

        wait_for(started, 60)
        if wait:
            wait_for(lambda: self.prompt(index) not in (before, "[*]:"), 120)
            self.idle()

    def prompt(self, index: int) -> str:
        return self.cell(index).locator(".jp-InputPrompt").inner_text().strip()

    def outputs(self, index: int):
        return self.cell(index).locator(".jp-OutputArea-output")

    def text(self, index: int) -> str:
        return self.cell(index).locator(".jp-OutputArea").inner_text()

    def save(self) -> nbformat.NotebookNode:
        """Save, and read the file once it is written whole: the server empties it first."""
        path = self.folder / self.name
        before = path.stat().st_mtime_ns
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s")

        def written() -> nbformat.NotebookNode | None:
            if path.stat().st_mtime_ns == before:
                return None
            try:
                return nbformat.read(path, as_version=4)
            except nbformat.reader.NotJSONError:
                return None

        return wait_for(written, 30)


@pytest.fixture
def lab(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield Lab(page, *server)
    page.close()
