"""The library's own call gives pictures or one sentence, whatever the hub does, and never a cache that stays broken.

Everything goes over HTTP to a stand-in server. The library reads its settings when it is imported, so the calls run in
two other processes, one online and one with HF_HUB_OFFLINE, that share a cache.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import warm
from hub_standin import FAULTS, HubStandin

ROOT = Path(__file__).resolve().parents[1]
DDPM, STABLE = "google/ddpm-cifar10-32", "stable-diffusion-v1-5/stable-diffusion-v1-5"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICTURES = {DDPM: "(1, 32, 32, 3)", STABLE: "(1, 16, 16, 3)"}
NO_ANSWER = "hub: no answer ({}), models come from your cache or else the course's own copies: {}"
hashes_kept = pytest.mark.skipif(os.name == "nt", reason="the cache keeps hashes where the system has symlinks")

WORKER = """
import contextlib, io, json, sys
import hub_standin
from diffusers import DDPMPipeline, DiffusionPipeline, StableDiffusionPipeline
from course_utils import hub

for line in sys.stdin:
    out, error = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            exec(line and json.loads(line), globals())
        except Exception as raised:
            error = [type(raised).__name__, str(raised)]
    print(json.dumps([out.getvalue(), error]), flush=True)
"""
# The call as in the notebook; what it gives is recognised by the sum of its weights.
LOAD = """
pipeline = {kind}.from_pretrained("{repo_id}")
pipeline.set_progress_bar_config(disable=True)
pictures = pipeline({prompt}num_inference_steps=2, output_type="np").images
print(pictures.shape, round(sum(p.abs().double().sum().item() for p in pipeline.unet.parameters()), 3))
"""


def call(repo_id: str, kind: str = "DDPMPipeline") -> str:
    return LOAD.format(kind=kind, repo_id=repo_id, prompt="'a shoe', " if kind.startswith("Stable") else "")


def named(copies: dict[str, Path]) -> str:
    return repr({repo_id: str(path) for repo_id, path in copies.items()})


@dataclass
class Said:
    lines: list[str]
    error: list[str] | None
    stderr: str


class Worker:
    """A Python that has imported everything and runs one piece of code after the other."""

    def __init__(self, hub: HubStandin, home: Path, log: Path, **environment: str) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.log = log.open("w+", encoding="utf-8", errors="replace")
        command, own = [sys.executable, "-c", WORKER], hub.environment(home, PYTHONPATH=path, **environment)
        if warm.CAN_FORK:
            pipes = [log.with_suffix(suffix) for suffix in (".in", ".out")]
            for pipe in pipes:
                os.mkfifo(pipe)
            self.process = warm.Popen(command, env=own, stdin=str(pipes[0]), stdout=str(pipes[1]), stderr=self.log)
            self.stdin, self.stdout = pipes[0].open("w", encoding="utf-8"), pipes[1].open(encoding="utf-8")
        else:
            self.process = subprocess.Popen(
                command, env=own | {"PYTHONIOENCODING": "utf-8"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self.log, encoding="utf-8",
            )  # fmt: skip
            self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def run(self, code: str) -> Said:
        self.log.read()
        print(json.dumps(code), file=self.stdin, flush=True)
        answer = self.stdout.readline()
        stderr = self.log.read()
        assert answer, f"the worker has ended: {stderr}"
        printed, error = json.loads(answer)
        return Said(printed.splitlines(), error, stderr)

    def load(self, repo_id: str, copies: dict[str, Path] | None = None, kind: str = "DDPMPipeline") -> Said:
        """A notebook's first cells, in what counts as a new process: start, then the unmodified call."""
        start = f"hub.silence.cache_clear(); hub.start({named(copies or {})})\n"
        return self.run(start + call(repo_id, kind))

    def close(self) -> None:
        self.stdin.close()
        self.process.wait(timeout=30)
        self.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[HubStandin]:
    with HubStandin(folder / "repositories") as server:
        yield server


@pytest.fixture
def hub(server: HubStandin) -> Iterator[HubStandin]:
    server.faults.clear()
    server.requests.clear()
    yield server
    server.faults.clear()


@pytest.fixture(scope="module")
def online(server: HubStandin, folder: Path) -> Iterator[Worker]:
    """Also makes the pipelines: two DDPMs that differ by seed, and a Stable Diffusion."""
    worker = Worker(server, folder / "home", folder / "online.log")
    made = worker.run(
        f"from pathlib import Path; folder = Path({str(folder)!r})\n"
        "hub_standin.tiny_ddpm(folder / 'model', seed=1)\n"
        "hub_standin.tiny_ddpm(folder / 'copy', seed=2)\n"
        "hub_standin.tiny_stable_diffusion(folder / 'stable')\n"
    )
    assert made.error is None
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def offline(server: HubStandin, folder: Path, online: Worker) -> Iterator[Worker]:
    worker = Worker(server, folder / "home", folder / "offline.log", HF_HUB_OFFLINE="1")
    yield worker
    worker.close()


@pytest.fixture
def repo_id(hub: HubStandin, online: Worker, folder: Path, request: pytest.FixtureRequest) -> str:
    """A repository that no test has loaded before, laid out like google/ddpm-cifar10-32."""
    number = len(list((hub.root / "org").iterdir())) if (hub.root / "org").is_dir() else 0
    name = f"org/{request.node.originalname[5:40]}-{number}"
    shutil.copytree(folder / "model", hub.folder(name), dirs_exist_ok=True)
    return name


@pytest.fixture(scope="module")
def model(folder: Path, online: Worker) -> str:
    """What LOAD prints for the model that the hub has."""
    return weights(online, folder / "model")


@pytest.fixture(scope="module")
def copy(folder: Path, online: Worker) -> str:
    """What LOAD prints for the course's copy."""
    return weights(online, folder / "copy")


def weights(online: Worker, path: Path) -> str:
    (line,) = online.run(call(path.as_posix())).lines
    return line


def cached(folder: Path) -> set[Path]:
    return {path for path in (folder / "home").rglob("*") if path.is_file()}


def assert_one_sentence(said: Said, *parts: str) -> None:
    kind, message = said.error
    assert kind == "HubError"
    assert "\n" not in message and message.endswith(".")
    for part in parts:
        assert part in message


# --- the hub answers ----------------------------------------------------------------------------------------


def test_the_two_pipelines_are_told_apart(model: str, copy: str) -> None:
    assert model.startswith(PICTURES[DDPM]) and copy.startswith(PICTURES[DDPM]) and model != copy


def test_a_cold_cache_is_filled_and_a_warm_one_downloads_no_weights(hub, online, folder, model, repo_id) -> None:
    first = online.load(repo_id, {repo_id: folder / "copy"})
    assert (first.lines, first.error) == (["hub: answers", model], None)
    assert hub.downloads(repo_id) == [WEIGHTS]  # and not the .bin beside it
    hub.requests.clear()
    assert online.load(repo_id).lines == ["hub: answers", model]
    assert hub.requests and hub.downloads(repo_id) == []


def test_the_library_alone_finds_components_at_the_root(hub, online, folder, model, repo_id) -> None:
    index = json.loads((hub.folder(repo_id) / "model_index.json").read_text("utf-8"))
    assert index["unet"] == ["diffusers", "UNet2DModel"] and index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert not any(path.is_dir() for path in hub.folder(repo_id).iterdir())
    assert online.run("hub._active.close()\n" + call(repo_id)).lines == [model]


def test_stable_diffusion_comes_from_the_stand_in_too(hub, online, folder) -> None:
    shutil.copytree(folder / "stable", hub.folder(STABLE), dirs_exist_ok=True)
    said = online.load(STABLE, kind="StableDiffusionPipeline")
    assert said.error is None and said.lines[1].startswith(PICTURES[STABLE])
    assert sorted(hub.downloads(STABLE)) == [WEIGHTS, WEIGHTS, "model.safetensors"]


# --- the hub answers, but not well --------------------------------------------------------------------------

REMOVED = "it arrived damaged and {} was removed; run the cell again"
BAD = [  # fault, file, what the sentence says
    pytest.param("missing", WEIGHTS, "a file is missing on the hub (Client error '404 Not Found' for url", id="404"),
    pytest.param("missing", "", "the hub has no such repository, or hides it; correct the name", id="no repository"),
    pytest.param("cut", WEIGHTS, "the download failed (peer closed connection without sending", id="cut"),
    pytest.param("short", WEIGHTS, "the download failed (Consistency check failed: file should be of", id="size"),
    pytest.param("wrong", WEIGHTS, REMOVED.format(WEIGHTS), id="weights", marks=hashes_kept),
    pytest.param("wrong", "model_index.json", REMOVED.format("model_index.json"), id="index", marks=hashes_kept),
    pytest.param("wrong", "config.json", REMOVED.format("config.json"), id="config", marks=hashes_kept),
]


@pytest.mark.parametrize("fault, file, sentence", BAD)
def test_a_failure_is_one_sentence_and_the_second_try_gives_pictures(
    hub, online, model, repo_id, fault: str, file: str, sentence: str
) -> None:
    hub.faults[f"{repo_id}/{file}".rstrip("/")] = fault
    assert_one_sentence(online.load(repo_id), f"{repo_id} cannot be loaded: ", sentence, "; ")
    hub.faults.clear()
    assert online.load(repo_id).lines == ["hub: answers", model]


def test_a_file_that_is_not_even_listed(hub, online, model, folder, repo_id) -> None:
    for weights_file in hub.folder(repo_id).glob("diffusion_pytorch_model.*"):
        weights_file.unlink()
    assert_one_sentence(online.load(repo_id), "a file is missing on the hub (Error no file named diffusion_pytorch")
    shutil.copytree(folder / "model", hub.folder(repo_id), dirs_exist_ok=True)
    assert online.load(repo_id).lines == ["hub: answers", model]


@pytest.mark.parametrize("fault, file, sentence", [BAD[1], BAD[3], BAD[4]])
def test_with_a_copy_there_are_pictures_all_the_same(
    hub, online, folder, model, copy, repo_id, fault: str, file: str, sentence: str
) -> None:
    hub.faults[f"{repo_id}/{file}".rstrip("/")] = fault
    said = online.load(repo_id, {repo_id: folder / "copy"})
    assert said.error is None
    assert said.lines[0] == "hub: answers" and said.lines[2:] == [copy]
    assert said.lines[1].startswith(f"{repo_id}: not the hub's model but the course's own small one")
    assert sentence in said.lines[1]
    hub.faults.clear()
    assert online.load(repo_id, {repo_id: folder / "copy"}).lines == ["hub: answers", model]


@hashes_kept
def test_the_library_alone_does_not_see_a_wrong_hash(hub, online, model, folder, repo_id) -> None:
    """The reason for remove_damaged: pictures come, from other weights, now and ever after."""
    alone = "hub._active.close()\n" + call(repo_id)
    hub.faults[f"{repo_id}/{WEIGHTS}"] = "wrong"
    (wrong,) = online.run(alone).lines
    hub.faults.clear()
    assert online.run(alone).lines == [wrong] != [model]
    assert online.run(f"print(hub.remove_damaged({repo_id!r}))").lines == [str([WEIGHTS])]
    assert online.run(alone).lines == [model]
    assert online.run(f"print(hub.remove_damaged({repo_id!r}))").lines == ["[]"]


@hashes_kept
def test_a_file_in_the_store_that_repositories_share_is_judged_by_its_own_hash(online, folder, model, repo_id) -> None:
    """huggingface_hub 2 keeps some files once, under another hash, with a link from each repository to there."""
    online.load(repo_id)
    (blob,) = (folder / "home" / "hub" / f"models--{repo_id.replace('/', '--')}").glob("blobs/" + "?" * 64)
    shared = folder / "home" / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert online.run(f"print(hub.remove_damaged({repo_id!r}))").lines == ["[]"]
    assert online.load(repo_id).lines == ["hub: answers", model]
    shared.write_bytes(shared.read_bytes()[:-1] + b"?")
    assert online.run(f"print(hub.remove_damaged({repo_id!r}))").lines == [str([WEIGHTS])]
    assert not shared.exists() and not blob.is_symlink()
    assert online.load(repo_id).lines == ["hub: answers", model]


def test_a_mistake_in_the_call_stays_the_librarys_error(online, folder) -> None:
    assert online.load("one/too/many", {"one/too/many": folder / "copy"}).error[0] in (
        "ValueError",
        "HFValidationError",
    )


# --- the hub does not answer --------------------------------------------------------------------------------

HANGING_LOOKUP = """
import socket, threading
plain = socket.getaddrinfo
socket.getaddrinfo = lambda *details, **more: threading.Event().wait(60)
from huggingface_hub.utils import close_session
close_session()
"""


@pytest.mark.parametrize(
    "fault, why",
    [
        ("hang", "nothing came for 3 s"),
        ("page", "something else answers in its place, such as a log-in page"),
        ("busy", "429 Too Many Requests"),
        ("look-up", "nothing came for 3 s"),
    ],
)
def test_no_answer_is_noticed_within_three_seconds(hub, online, folder, model, copy, repo_id, fault, why) -> None:
    if fault == "look-up":
        online.run(HANGING_LOOKUP)
    else:
        hub.faults[""] = fault
    asked = online.run("import time; hub.silence.cache_clear(); t = time.time(); print(hub.silence(), time.time() - t)")
    reason, seconds = asked.lines[0].rsplit(" ", 1)
    assert why in reason and float(seconds) < 3.5
    timed = f"t = time.time(); hub.start({named({repo_id: folder / 'copy'})}); print(time.time() - t < 0.1)\n"
    again = online.run(timed + call(repo_id))
    assert (
        again.lines[0]
        == f"hub: no answer ({reason}), models come from your cache or else the course's own copies: {repo_id}"
    )
    assert again.lines[1] == "True"  # asked once a process
    assert f"the hub does not answer ({reason})" in again.lines[2] and again.lines[3:] == [copy]
    if fault == "look-up":
        online.run("socket.getaddrinfo = plain")
    hub.faults.clear()
    assert online.load(repo_id).lines == ["hub: answers", model]


def test_no_answer_and_no_copy(hub, online, model, repo_id) -> None:
    hub.faults[""] = "page"
    assert_one_sentence(
        online.load(repo_id), "the hub does not answer (", "connect to the network and restart the kernel"
    )
    hub.faults.clear()
    assert online.load(repo_id).lines == ["hub: answers", model]


def test_without_an_answer_the_own_cache_comes_first(hub, online, folder, model, repo_id) -> None:
    online.load(repo_id)
    hub.faults[""] = "page"
    said = online.load(repo_id, {repo_id: folder / "copy"})
    assert said.lines[1:] == [model] and said.error is None


# --- HF_HUB_OFFLINE -----------------------------------------------------------------------------------------


def test_offline_with_a_cold_cache(hub, offline, folder, copy, repo_id) -> None:
    before = cached(folder)
    said = offline.load(repo_id, {repo_id: folder / "copy"})
    assert said.lines[0] == NO_ANSWER.format("HF_HUB_OFFLINE is set", repo_id)
    assert said.lines[1].startswith(f"{repo_id}: not the hub's model but the course's own small one, so expect other")
    assert said.lines[1].endswith("unset it and restart the kernel.") and said.lines[2:] == [copy]
    assert_one_sentence(
        offline.load(repo_id), "(HF_HUB_OFFLINE is set) and your cache does not hold all of it; unset it"
    )
    assert hub.requests == []
    assert cached(folder) == before


def test_offline_with_a_warm_cache(hub, online, offline, folder, model, repo_id) -> None:
    online.load(repo_id)
    hub.requests.clear()
    before = cached(folder)
    said = offline.load(repo_id, {repo_id: folder / "copy"})
    assert (said.lines[1:], said.error, said.stderr) == ([model], None, "")
    assert hub.requests == []
    assert cached(folder) == before


def test_offline_with_half_a_repository_in_the_cache(hub, online, offline, folder, copy, repo_id) -> None:
    hub.faults[f"{repo_id}/{WEIGHTS}"] = "missing"
    online.load(repo_id)
    said = offline.load(repo_id, {repo_id: folder / "copy"})
    assert said.error is None and "does not hold all of it" in said.lines[1] and said.lines[2:] == [copy]


def test_offline_stable_diffusion_comes_from_the_copy(offline, folder) -> None:
    said = offline.load("org/stable", {"org/stable": folder / "stable"}, kind="StableDiffusionPipeline")
    assert said.error is None and said.lines[2].startswith(PICTURES[STABLE])


@pytest.mark.parametrize(
    "given",
    [
        "DDPMPipeline.from_pretrained('org/there-is-none', variant='fp16')",
        "DDPMPipeline.from_pretrained('org/there-is-none', revision='fp16', use_safetensors=False)",
        "DDPMPipeline.from_pretrained(pretrained_model_name_or_path='org/there-is-none', local_files_only=True)",
        "DDPMPipeline.from_pretrained('Org/There-Is-None')",
        "DiffusionPipeline.from_pretrained('org/there-is-none')",
        "diffusers.AutoPipelineForText2Image.from_pretrained('org/stable', variant='fp16')",
        "diffusers.AutoPipelineForImage2Image.from_pretrained(pretrained_model_or_path='org/stable')",
        "diffusers.AutoPipelineForInpainting.from_pretrained('org/stable', safety_checker=None)",
    ],
)
def test_calls_as_the_librarys_pages_have_them_give_the_copy(offline, folder, given) -> None:
    copies = {"org/there-is-none": folder / "copy", "org/stable": folder / "stable"}
    said = offline.run(f"import diffusers; hub.start({named(copies)}); print(type({given}).__name__)")
    assert said.error is None
    assert "not the hub's model but the course's own small one" in said.lines[1] and said.lines[2].endswith("Pipeline")


@pytest.mark.parametrize("worker", ["online", "offline"])
def test_a_variant_that_neither_hub_nor_cache_has(hub, online, folder, repo_id, request, worker) -> None:
    assert online.load(repo_id).error is None, "now the cache has it, without the variant"
    given = f"DDPMPipeline.from_pretrained('{repo_id}', variant='fp16')"
    said = request.getfixturevalue(worker).run(f"hub.start({named({repo_id: folder / 'copy'})}); {given}")
    assert said.error is None and "not the hub's model but the course's own small one" in said.lines[1]
    assert_one_sentence(request.getfixturevalue(worker).run(f"hub.start({{}}); {given}"), "cannot be loaded: the hub ")


@pytest.mark.parametrize("worker", ["online", "offline"])
def test_a_part_that_the_copy_lacks_is_one_sentence(request, worker, folder) -> None:
    given = "DDPMPipeline.from_pretrained('org/gone', custom_pipeline='of_someone')"
    said = request.getfixturevalue(worker).run(f"hub.start({named({'org/gone': folder / 'copy'})}); {given}")
    assert_one_sentence(said, "org/gone cannot be loaded so: the hub ", "and the course's copy lacks a part of it (")


def test_a_path_of_windows_is_a_name(offline, folder) -> None:
    given = "DDPMPipeline.from_pretrained(PureWindowsPath('org/there-is-none'))"
    copies = named({"org/there-is-none": folder / "copy"})
    said = offline.run(f"from pathlib import PureWindowsPath; hub.start({copies}); {given}")
    assert said.error is None and said.lines[1].startswith("org/there-is-none: not the hub's model")


def test_every_automatic_pipeline_is_covered_until_the_end(offline) -> None:
    said = offline.run(
        "import diffusers\n"
        "def errors():\n"
        "    for kind in sorted(name for name in dir(diffusers) if name.startswith('AutoPipelineFor')):\n"
        "        try: getattr(diffusers, kind).from_pretrained('org/none')\n"
        "        except OSError as error: yield type(error) is hub.HubError\n"
        "with hub.start({}): print(set(errors()))\n"
        "print(set(errors()))"
    )
    assert said.error is None and said.lines[1:] == ["{True}", "{False}"]


def test_pipelines_loaded_in_threads_have_all_their_weights(offline, folder) -> None:
    copies = named({"org/gone": folder / "copy", "org/stable": folder / "stable"})
    said = offline.run(
        f"from concurrent.futures import ThreadPoolExecutor; hub.start({copies}); sys.setswitchinterval(1e-5)\n"
        "def empty(i):\n"
        "    name, kind = [('org/gone', DDPMPipeline), ('org/stable', StableDiffusionPipeline)][i % 2]\n"
        "    parts = [p for p in kind.from_pretrained(name).components.values() if hasattr(p, 'parameters')]\n"
        "    return sum(weight.is_meta for part in parts for weight in part.parameters())\n"
        "with ThreadPoolExecutor(8) as pool: found = sum(pool.map(empty, range(32)))\n"
        "sys.setswitchinterval(0.005); print(found)"
    )
    assert said.error is None and said.lines[-1] == "0"


def test_being_told_to_stay_offline_after_start_counts_too(hub, online, folder, copy, repo_id) -> None:
    said = online.run(
        f"hub.silence.cache_clear(); hub.start({named({repo_id: folder / 'copy'})})\n"
        f"import os; os.environ['HF_HUB_OFFLINE'] = '1'\n{call(repo_id)}\ndel os.environ['HF_HUB_OFFLINE']"
    )
    assert said.error is None and "(HF_HUB_OFFLINE is set)" in said.lines[1] and said.lines[2] == copy
    assert hub.downloads(repo_id) == []


def test_being_told_to_stay_offline_after_the_import_counts(online) -> None:
    said = online.run(
        "import os; hub.silence.cache_clear(); os.environ['HF_HUB_OFFLINE'] = '1'; hub.start({})\n"
        "del os.environ['HF_HUB_OFFLINE']; hub.silence.cache_clear(); hub.start({})"
    )
    assert said.lines[0].startswith("hub: no answer (HF_HUB_OFFLINE is set)") and said.lines[1] == "hub: answers"


# --- start --------------------------------------------------------------------------------------------------


def test_the_library_is_as_before_after_the_end(offline, folder) -> None:
    said = offline.run(
        "hub._active.close(); before = DiffusionPipeline.__dict__['from_pretrained']\n"
        f"hub.start({{}}); first = hub._active; second = hub.start({{'a/b': {str(folder / 'copy')!r}}})\n"
        "print(DiffusionPipeline.from_pretrained.__func__.__wrapped__ is before.__func__)\n"  # not twice around it
        "print(DDPMPipeline.from_pretrained.__doc__ == before.__doc__)\n"
        "with second: pass\n"
        "print(DiffusionPipeline.__dict__['from_pretrained'] is before)\n"
    )
    assert (said.error, [line for line in said.lines if "hub:" not in line]) == (None, ["True", "True", "True"])


def test_a_copy_that_is_not_there_is_noticed_at_the_start(offline, folder) -> None:
    said = offline.run(f"hub.start({{'a/b': {str(folder / 'nowhere')!r}}})")
    assert_one_sentence(said, "There is no saved pipeline in ", "nowhere: correct the path or install again")


def test_every_fault_of_the_stand_in_is_used() -> None:
    assert {fault.values[0] for fault in BAD} | {"hang", "page", "busy"} == set(FAULTS)
