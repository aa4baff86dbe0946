"""Write a notebook that carries the course's package and data inside, for where there is no repository and no network.

    python -m authoring.standalone 05

build/standalone/05_....ipynb runs from any folder, sent by mail or dropped into Drive, wherever Python has the packages
that the course needs. Its set-up cell unpacks a zip archive into a temporary folder.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import sys
import zipfile
from functools import lru_cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "course_utils"
ASSETS = PACKAGE / "assets"
FASHION = ("fashion_mnist.safetensors.xz", "fashion_mnist_classifier.safetensors")
# What each notebook opens of the assets, listed by hand.
OPENED = {
    "01": (),
    "02": FASHION,
    "03": ("mnist.safetensors.xz", "mnist_classifier.safetensors"),
    "04": (),
    "05": (
        *FASHION,
        "fashion_mnist_ddpm_changes.json",
        "fashion_mnist_ddpm_changes.safetensors",
        "fashion_mnist_race.json",
        "fashion_mnist_ddpm.safetensors",
        "fashion_mnist_dcgan.safetensors",
        "fashion_mnist_wgan_gp.safetensors",
    ),
    "06": (
        *FASHION,
        "fashion_mnist_ddpm.safetensors",
        "fashion_mnist_schedulers.json",
        "ddpm_pipeline/",
        "latent_pipeline/",
        "latent_controlnet/",
        "latent_lora_mosaic/",
    ),
    "07": (
        *FASHION,
        "photographs/",
        "realesrgan_x4plus.safetensors.xz",
        "efficientnet_lite0_stages.safetensors",
        "esrgan_small_l1.safetensors.xz",
        "esrgan_small_gan.safetensors.xz",
        "clothes_upscaler.safetensors",
        "super_resolution.json",
    ),
    "08": (
        "medical_gan.safetensors.xz",
        "medical_diffusion.safetensors.xz",
        "medical_control.safetensors",
        "medical_brain.safetensors",
        "medical_use.json",
        "medical_ablation.json",
        "brains.safetensors.xz",
    ),
    "09": (
        *FASHION,
        "photographs/",
        "efficientnet_lite0_stages.safetensors",
        "efficientnet_lite0_rest.safetensors.xz",
        "fashion_mnist_samples.safetensors.xz",
        "fashion_mnist_ddpm.safetensors",
        "fashion_mnist_dcgan.safetensors",
        "fashion_mnist_wgan_gp.safetensors",
    ),
    "11": (
        "emoji/",
        "photographs/",
        "emoji_ddpm.safetensors.xz",
        "efficientnet_lite0_stages.safetensors",
        "efficientnet_lite0_rest.safetensors.xz",
    ),
    "12": (
        *FASHION,
        "fashion_mnist_ddpm.safetensors",
        "fashion_mnist_ddpm_fd.json",
    ),
    "13": (
        *FASHION,
        "fashion_mnist_ddpm.safetensors",
        "fashion_mnist_schedulers.json",
    ),
}
SETUP = '''\
# @title Setup: unpacks the course's helper package, which this notebook carries
import atexit
import base64
import hashlib
import importlib.util
import io
import os
import shutil
import sys
import tempfile
import zipfile

CARRIED = """
{lines}
"""
needed = ("torch", "torchvision", "matplotlib", "ipywidgets", "safetensors", "scipy", "accelerate", "diffusers", "peft")
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    raise ImportError(f"This notebook needs {{', '.join(missing)}}: type `pip install {{' '.join(missing)}}`.")
if not hasattr(sys, "course_folder"):
    text = "".join(CARRIED.split()).encode()
    if hashlib.sha256(text).hexdigest() != "{digest}":
        raise ImportError("This copy of the notebook is damaged: get it again.")
    if "course_utils" in sys.modules:
        raise ImportError("Another course_utils is loaded: restart the kernel and begin with this cell.")
    packed = base64.b85decode(text)
    folder = tempfile.mkdtemp(prefix="course-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    zipfile.ZipFile(io.BytesIO(packed)).extractall(folder)
    sys.course_folder = folder
    sys.path.insert(0, folder)  # this package comes before any that is installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
'''


def carried_files(number: str) -> list[Path]:
    """The package's code, then the licences and the assets that notebook `number` opens."""
    wanted = OPENED.get(number, ("",))  # all, for a notebook that is not listed
    assets = [path for path in ASSETS.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    licences = [ROOT / "LICENSE", *(ROOT / "LICENSES").glob("*.txt")]
    opened = [path for path in assets if path.relative_to(ASSETS).as_posix().startswith(tuple(wanted))]
    return [*code_files(), *sorted([*licences, *opened])]


def code_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def archive(paths: list[Path], kind: int, begun: bytes = b"") -> bytes:
    """A zip archive of these files, after those of the archive `begun`; the same files give the same bytes."""
    buffer = io.BytesIO(begun)
    with zipfile.ZipFile(buffer, "a" if begun else "w") as made:
        for path in paths:
            made.writestr(zipfile.ZipInfo(path.relative_to(ROOT).as_posix()), path.read_bytes(), kind)
    return buffer.getvalue()


@lru_cache
def packed_code() -> bytes:
    return archive(code_files(), zipfile.ZIP_LZMA)  # takes seconds, and all notebooks carry it


@lru_cache
def packed(number: str) -> bytes:
    """A zip archive of them. The assets are compressed or random already."""
    others = carried_files(number)[len(code_files()) :]
    return archive(others, zipfile.ZIP_STORED, packed_code())


def standalone(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` with a set-up cell that carries all."""
    nb, content = nbformat.read(path, as_version=4), packed(path.name[:2])
    text = base64.b85encode(content).decode()
    lines = "\n".join(text[i : i + 100] for i in range(0, len(text), 100))
    for cell in nb.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = SETUP.format(lines=lines, digest=hashlib.sha256(text.encode()).hexdigest()).rstrip("\n")
            cell.metadata["jupyter"] = {"source_hidden": True}
    return nb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", default="", help="a prefix such as 05; all when left out")
    prefix = parser.parse_args().notebook
    prefix = prefix.zfill(2) if prefix.isdecimal() else prefix
    paths = sorted((ROOT / "notebooks").glob(f"{prefix}*.ipynb"))
    if not paths:
        print(f"No notebook begins with {prefix!r}.", file=sys.stderr)
        return 1
    target = ROOT / "build" / "standalone"
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        written = target / path.name
        nbformat.write(standalone(path), written)
        print(f"build/standalone/{path.name}, {written.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
