"""A notebook that carries the package runs from an empty folder, without the repository and without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import warm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from authoring import standalone  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def carried(request) -> tuple[Path, nbformat.NotebookNode]:
    """A notebook and what carries the course in its place."""
    return request.param, standalone.standalone(request.param)


def setup_cell(nb: nbformat.NotebookNode) -> str:
    return next(cell.source for cell in nb.cells if "setup" in cell.metadata.get("tags", []))


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    """In an empty folder, by a Python that knows neither this checkout nor a network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"COURSE_DATA": "embedded", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    block = "import socket\ndef refuse(*a, **k): raise OSError('no network here')\nsocket.create_connection = refuse\n"
    (folder / "run.py").write_text(block + code, "utf-8")
    return warm.run([sys.executable, str(folder / "run.py")], folder, cwd=folder, env=environment)


USES = {
    "01": "from course_utils import runtime; runtime.start()",
    "02": "from course_utils import data, metrics; metrics.features(data.images('fashion_mnist', 'test').x[:9], "
    "'fashion_mnist')",
    "03": "from course_utils import data, metrics; metrics.features(data.images('mnist').x[:9], 'mnist')",
    "04": "from course_utils.lessons.nb04_diffusion_math import Schedule; Schedule.named('cosine', 9)",
    "05": "from course_utils import data; [data.weights('fashion_mnist_' + n) for n in ('ddpm', 'dcgan', 'wgan_gp')]\n"
    "files = [data.ASSETS / f'fashion_mnist_{n}' for n in ('race.json', 'ddpm_changes.json', "
    "'ddpm_changes.safetensors')]\nassert all(file.stat().st_size for file in files)",
    "06": "from course_utils import data, hub\n"
    "from diffusers import DDPMPipeline, StableDiffusionPipeline\n"
    "hub.start({'a/b': data.ASSETS / 'ddpm_pipeline', 'c/d': data.ASSETS / 'latent_pipeline'})\n"
    "DDPMPipeline.from_pretrained('a/b'), StableDiffusionPipeline.from_pretrained('c/d')\n"
    "assert (data.ASSETS / 'latent_controlnet').is_dir() and (data.ASSETS / 'latent_lora_mosaic').is_dir()",
    "07": "from course_utils import data, photographs, realesrgan; photographs.photographs('test')\n"
    "photographs.looking_net(), realesrgan.weights(), data.images('fashion_mnist', 'test')\n"
    "[data.weights('esrgan_small_' + n) for n in ('l1', 'gan')], data.weights('clothes_upscaler')\n"
    "assert (data.ASSETS / 'super_resolution.json').stat().st_size",
    "08": "from course_utils import brains, data, phantoms; phantoms.projector(), brains.volume('mni152')\n"
    "[data.weights('medical_' + n) for n in ('gan', 'diffusion', 'control', 'brain')]\n"
    "assert all((data.ASSETS / f'medical_{n}.json').stat().st_size for n in ('use', 'ablation'))",
    "09": "from course_utils import data, imagenet, photographs; photographs.photographs('test'); imagenet.network()\n"
    "data.samples('fashion_mnist_samples')\n"
    "[data.weights('fashion_mnist_' + n) for n in ('ddpm', 'dcgan', 'wgan_gp')]",
    "11": "from course_utils import data, emoji, imagenet, photographs; emoji.emoji('test'); imagenet.network()\n"
    "photographs.photographs('test'), data.weights('emoji_ddpm')",
    "12": "from course_utils import data; data.weights('fashion_mnist_ddpm')\n"
    "assert (data.ASSETS / 'fashion_mnist_ddpm_fd.json').stat().st_size",
    "13": "from course_utils import data; data.weights('fashion_mnist_ddpm')\n"
    "assert (data.ASSETS / 'fashion_mnist_schedulers.json').stat().st_size",
}


def test_the_carried_package_is_imported_from_an_empty_folder_and_has_what_is_opened(carried, tmp_path) -> None:
    path, nb = carried
    code = setup_cell(nb)
    twice = f"{code}\nfirst = sys.course_folder\n{code}\nassert sys.course_folder == first\n"
    uses = "\n".join([USES[path.name[:2]], "import course_utils", "print(course_utils.__file__)"])
    done = run(twice + uses, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    place = done.stdout.splitlines()[-1]
    assert "course-" in place and not place.startswith(str(ROOT)) and not Path(place).exists()  # cleaned up
    assert {file.name for file in tmp_path.iterdir()} == {"run.py"}


def test_a_damaged_copy_is_said_in_a_sentence(tmp_path) -> None:
    code = setup_cell(standalone.standalone(NOTEBOOKS[0]))
    line = re.search(r'CARRIED = """\n(\S+)', code)[1]
    done = run(code.replace(line, "é" + line[1:], 1), tmp_path)
    assert done.stderr.strip().splitlines()[-1] == "ImportError: This copy of the notebook is damaged: get it again."


def test_a_standalone_notebook_differs_in_its_set_up_only(carried) -> None:
    path, after = carried
    before = nbformat.read(path, as_version=4)
    nbformat.validate(after)
    changed = [cell for cell, other in zip(after.cells, before.cells) if cell.source != other.source]
    assert [cell.metadata["tags"] for cell in changed] == [["setup"]]
    assert changed[0].metadata["jupyter"] == {"source_hidden": True}
    assert max(map(len, changed[0].source.splitlines())) <= 120
