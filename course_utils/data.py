"""Pictures and toy distributions, always there: with the network or without it.

`images(name, split)` looks for the full data set in four places, in this order, and says in one line what it
found:

1. the course's own cache (`COURSE_CACHE`, else `~/.cache/gans-to-diffusion`),
2. the folder named in `COURSE_DATA_DIR`,
3. Debian's package `dataset-fashion-mnist`,
4. a download by torchvision (mirrors and checksums are torchvision's) into the cache,

and last takes the subset that is embedded in the package. `COURSE_DATA=embedded` forces the subset.
"""

from __future__ import annotations

import gzip
import lzma
import math
import os
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

import safetensors.torch
import torch
from torch import Tensor
from torchvision import datasets as tv_datasets

from . import folders
from .console import say

ASSETS = Path(__file__).parent / "assets"
SPLITS = ("train", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before it is read."""

    title: str
    classes: tuple[str, ...]
    torchvision: type
    debian: Path | None = None


DATASETS = {
    "fashion_mnist": DatasetInfo(
        "Fashion-MNIST",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        tv_datasets.FashionMNIST,
        Path("/usr/share/datasets/fashion-mnist"),
    ),
    "mnist": DatasetInfo("MNIST", tuple(str(digit) for digit in range(10)), tv_datasets.MNIST),
}


class DataError(RuntimeError):
    """A data set cannot be read; the message names the cause and the cure."""


@dataclass(frozen=True)
class Images:
    """Pictures in memory.

    Attributes:
        x: float32 tensor (N, 1, 28, 28) in [-1, 1].
        y: int64 tensor (N,), the class of each picture.
        classes: the names of the classes, in order.
        source: where the pictures came from, in words.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.x)


def info(name: str) -> DatasetInfo:
    """What is known about data set `name`; raises ValueError for an unknown one."""
    if name not in DATASETS:
        elsewhere = " (The emoji are at course_utils.emoji.emoji.)" if name == "emoji" else ""
        raise ValueError(f"There is no data set {name!r}: choose one of {', '.join(sorted(DATASETS))}.{elsewhere}")
    return DATASETS[name]


def images(name: str, split: str = "train", verbose: bool = True) -> Images:
    """All pictures of one split, in memory.

    Args:
        name: "fashion_mnist" or "mnist".
        split: "train" or "test".
        verbose: say in one line how many pictures there are and where they came from, and why a place that should
            hold the full set was passed over.

    Raises:
        ValueError: unknown name or split.
        DataError: a file in `COURSE_DATA_DIR` is damaged, or the embedded subset is.
    """
    about = info(name)
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of {about.title}: choose 'train' or 'test'.")
    tell = say if verbose else _nothing
    pixels, labels, source = _full(name, split, tell) or (*embedded(name, split), "the embedded subset")
    tell(f"{about.title}, {split}: {len(pixels):,} pictures from {source}")
    return Images(to_unit_range(pixels), labels.long(), about.classes, source)


def folder(
    path: str | Path, size: int = 32, channels: int = 3, *, fit: str = "crop", verbose: bool = True
) -> folders.Folder:
    """All pictures of any folder, its subfolders as classes: see `folders.read`. Nothing in it is ever changed.

    Reduced pictures are kept in the course's cache, until something in the folder changes.

    Raises:
        folders.FolderError: (a ValueError) no such folder, no picture in it, or an argument that makes no sense.
    """
    try:
        cache = cache_dir() / "folders"
    except DataError:
        cache = None
    return folders.read(path, size, channels, fit=fit, cache=cache, tell=say if verbose else _nothing)


def _nothing(_: str) -> None:
    """What `verbose=False` says."""


def to_unit_range(pixels: Tensor) -> Tensor:
    """Bytes in 0..255, (N, H, W) or (N, C, H, W), to float32 (N, C, H, W) in [-1, 1], the range of tanh."""
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels
    return pixels.float().div_(127.5).sub_(1.0)


def pixel_fault(x: Tensor, *, strict: bool = True) -> str:
    """What is wrong with pictures that should lie in [-1, 1], and the cure; "" if nothing is.

    Args:
        x: pixels, of any shape.
        strict: many clean pictures. Else noise may take them out of the range, or it is one picture of any kind.

    A poor generator may make nothing darker than grey, so a range within [-1, 1] is no fault by itself. But the
    darkest value of many pixels is a background, and that of pictures in [-1, 1] is near -1.
    """
    if not isinstance(x, Tensor):
        return f"not a {type(x).__name__}: make a tensor of it, as with torch.from_numpy"
    if not x.is_floating_point():
        return "not whole numbers: rescale bytes with x.float() / 127.5 - 1"
    if x.numel() == 0:
        return ""
    x = x.detach()
    if not bool(torch.isfinite(x).all()):
        return "not NaN or infinity: the model that made them diverged, or a picture is spoilt"
    low, high = x.min().item(), x.max().item()
    span, spread = f"not in [{low:.2f}, {high:.2f}]", high - low
    background = (x == low).float().mean().item() > 0.05
    if low >= 0 and high > 20:
        return f"{span}: rescale with x / 127.5 - 1"
    full = low < 0.05 and (strict or high > 0.9)  # a young generator may fill less of it
    if low >= 0 and 0.5 < high <= 1.5 and spread > 0.3 and (full or background):
        return f"{span}: rescale with 2 * x - 1"
    if max(-low, high) > 20 or (strict and max(-low, high) > 1.5):
        return f"{span}: undo what they were normalised with, or clip what is outside with x.clamp(-1, 1)"
    if strict and background and low > -0.7 and spread > 0.5:
        return f"{span} with a background of {low:.2f}: rescale them so that the darkest value is -1"
    return ""


def check_pixels(x: Tensor, who: str, *, strict: bool = True) -> None:
    """Raise ValueError, one sentence with cause and cure, for what `pixel_fault` sees in pictures `x`."""
    if fault := pixel_fault(x, strict=strict):
        raise ValueError(f"{who} in [-1, 1] are wanted, {fault}.")


def weights(name: str) -> dict[str, Tensor]:
    """The state dict of a model that ships with the course, such as "fashion_mnist_ddpm", in float32.

    Raises:
        ValueError: there is no such model.
        DataError: its file is damaged.
    """
    files = {stem: file for file in ASSETS.glob("*.safetensors*") if (stem := file.name.split(".")[0]) not in DATASETS}
    if name not in files:
        raise ValueError(f"The course ships no model {name!r}: choose one of {', '.join(sorted(files))}.")
    path = files[name]
    try:
        state = unpacked(path) if path.suffix == ".xz" else safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"The weights {path.name} cannot be read ({error}): install the course again.") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


# --- the embedded subset ------------------------------------------------------------------------------------


def unpacked(path: Path) -> dict[str, Tensor]:
    """The tensors of a file `.safetensors.xz` that ships with the course. DataError if it is damaged or missing."""
    try:
        return safetensors.torch.load(lzma.decompress(path.read_bytes()))
    except (OSError, lzma.LZMAError, EOFError, safetensors.SafetensorError) as error:
        raise DataError(f"The course's file {path.name} cannot be read ({error}): install the course again.") from error


@lru_cache(maxsize=2)
def _embedded_file(name: str) -> dict[str, Tensor]:
    return unpacked(ASSETS / f"{name}.safetensors.xz")


def embedded(name: str, split: str) -> tuple[Tensor, Tensor]:
    """The pictures that ship with the course: uint8 (N, 28, 28) and uint8 labels (N,), stratified by class.

    They come in one fixed mixed order, as in the full sets, so that the first n hold every class; the file is
    sorted by class, since it packs better so.
    """
    tensors = _embedded_file(name)
    labels = tensors[f"{split}_labels"]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return tensors[f"{split}_images"][order], labels[order]


def samples(name: str) -> dict[str, Tensor]:
    """Stored samples of models that take minutes: pictures (N, 1, 28, 28) in [-1, 1] by the model's name.

    Raises:
        DataError: the file is damaged.
    """
    return {model: to_unit_range(pixels) for model, pixels in _embedded_file(name).items()}


# --- the full set -------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """The folder that holds downloads: `COURSE_CACHE`, else `gans-to-diffusion` in the user's cache.

    Raises:
        DataError: this user has no home folder, or the one that `COURSE_CACHE` names does not exist.
    """
    named = os.environ.get("COURSE_CACHE")
    try:
        if named:
            return Path(named).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gans-to-diffusion"
    except RuntimeError as error:
        what = f"COURSE_CACHE is {named!r}, whose home folder" if named else "this user's home folder"
        raise DataError(f"{what} cannot be found: set COURSE_CACHE to a folder that you may write to") from error


def _full(name: str, split: str, tell: Callable[[str], None]) -> tuple[Tensor, Tensor, str] | None:
    """The full split from the first place that has it undamaged, or None; `tell` hears why a place has it not."""
    choice = os.environ.get("COURSE_DATA", "full")
    if choice not in ("full", "embedded"):
        raise ValueError(f"COURSE_DATA is {choice!r}: set it to 'full' or 'embedded', or unset it.")
    if choice == "embedded":
        return None
    cached = None
    try:
        cached = cache_dir() / name
        if _split_files(cached, split):
            return (*_read_split(cached, split), "the cache")
    except (DataError, OSError) as error:
        tell(f"the cache is passed over: {error}")
        cached = None if isinstance(error, OSError) else cached
    if (own := _own_folder(name, split, tell)) is not None:
        return (*_read_split(own, split), "COURSE_DATA_DIR")  # the reader chose these files: never replace them
    debian = DATASETS[name].debian
    try:
        if debian is not None and _split_files(debian, split):
            return (*_read_split(debian, split), "Debian's package")
    except (DataError, OSError) as error:
        tell(f"Debian's package is passed over: {error}")
    if cached is not None and _download(name, cached, tell):
        return (*_read_split(cached, split), "torchvision's download, now in the cache")
    return None


def _own_folder(name: str, split: str, tell: Callable[[str], None]) -> Path | None:
    """The folder of `name` in `COURSE_DATA_DIR`: a subfolder named as we, Debian or torchvision name it."""
    named = os.environ.get("COURSE_DATA_DIR")
    if not named:
        return None
    about = DATASETS[name]
    tv_name = about.torchvision.__name__
    found: list[Path] = []
    try:
        root = Path(named).expanduser()
        problem = None if root.is_dir() else "is no folder"
        folders = (root / name, root / name.replace("_", "-"), root / tv_name / "raw", root / tv_name)
        found = [folder for folder in folders if folder.is_dir()]
        for folder in found:
            if _split_files(folder, split):
                return folder
    except (OSError, RuntimeError) as error:
        problem = f"cannot be read ({error})"
    if problem:
        raise DataError(f"COURSE_DATA_DIR is {named!r}, which {problem}: correct it or unset it.")
    where = f"its folder {found[0].name} lacks files of it" if found else f"it has no folder {name} or {tv_name}"
    tell(f"COURSE_DATA_DIR is passed over for {about.title}, {split}: {where}.")
    return None


def _split_files(folder: Path, split: str) -> list[Path]:
    """The picture file and the label file of a split, packed or not; empty when one is missing."""
    stem = "train" if split == "train" else "t10k"
    names = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
    options = [[folder / f"{name}{ending}" for ending in (".gz", "")] for name in names]
    found = [path for paths in options if (path := next((p for p in paths if p.is_file()), None))]
    return found if len(found) == len(names) else []


def _read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    picture_file, label_file = _split_files(folder, split)
    pixels, labels = _read_idx(picture_file), _read_idx(label_file)
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"{picture_file.name} and {label_file.name} in {folder} do not belong together: shapes"
            f" {tuple(pixels.shape)} and {tuple(labels.shape)}; delete both or fetch them again."
        )
    return pixels, labels


def _read_idx(path: Path) -> Tensor:
    """One file in LeCun's IDX format: two zero bytes, type 8 (unsigned byte), rank, sizes, then the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it or fetch it again.") from error
    start = 4 + 4 * rank
    if (zero, kind) != (0, 8) or len(raw) - start != math.prod(shape):
        raise DataError(f"{path} is no complete IDX file of bytes: delete it or fetch it again.")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=start).reshape(shape)


def _download(name: str, target: Path, tell: Callable[[str], None]) -> bool:
    """Fetch the full set into `target`: all of it or nothing. Says why when it cannot be had."""
    about = DATASETS[name]
    if not any(_answers(mirror) for mirror in about.torchvision.mirrors):
        tell(f"{about.title}: no network, so the embedded subset is used.")
        return False
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        about.torchvision(str(scratch), download=True)
        if target.exists():  # a damaged cache, passed over above
            shutil.rmtree(target)
        raw = scratch / about.torchvision.__name__ / "raw"
        for unpacked in raw.glob("*-ubyte"):  # the packed files carry checksums and are a tenth of the size
            unpacked.unlink()
        raw.rename(target)
    except (OSError, RuntimeError, HTTPException) as error:
        tell(f"{about.title} could not be downloaded ({error}), so the embedded subset is used.")
        return False
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


def _answers(url: str, seconds: float = 3.0) -> bool:
    """Whether the host of `url`, or the proxy before it, takes a connection: a download may hang for minutes."""
    parts = urlparse(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlparse(proxy if "//" in proxy else f"http://{proxy}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except (OSError, ValueError):  # ValueError: a proxy whose port is no number
        return False
    return True


# --- toy distributions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GaussianMixture:
    """Equal isotropic Gaussians: `centres` (M, D), one standard deviation `std` in the units of the centres."""

    centres: Tensor
    std: float

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent points, float32 (n, D), where the centres are; the generator is the CPU's."""
        mode = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, self.centres.shape[1], generator=generator, dtype=torch.float32)
        return self.centres[mode.to(self.centres.device)] + self.std * noise.to(self.centres.device)


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.01) -> GaussianMixture:
    """`modes` Gaussians on a circle (Lin et al. 2018, PacGAN, section 4.1: 8 modes, variance 1e-4)."""
    angle = torch.arange(modes, dtype=torch.float32) * (2 * math.pi / modes)
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> GaussianMixture:
    """`side` x `side` Gaussians on a square lattice around 0 (PacGAN, section 4.1: 5 x 5, 2 apart)."""
    ticks = (torch.arange(side, dtype=torch.float32) - (side - 1) / 2) * spacing
    return GaussianMixture(torch.cartesian_prod(ticks, ticks), std)
