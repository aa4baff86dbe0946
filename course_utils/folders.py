"""Any folder of pictures as a data set: `data.folder(path)` is what notebooks call.

Nothing in the folder is ever changed and no link is followed. What is no picture, or a damaged one, is skipped,
counted and named. Colour profiles are not applied.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from . import files

FITS = ("crop", "pad")
# Formats that Pillow decodes by itself; EPS, for one, would start another program.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000")
MAX_PIXELS = 150_000_000  # of a picture; a file of some kB may unpack to gigabytes
MANY, FEW = 500, 10  # a progress line from so many files on; classes with fewer pictures are said
NAMED = 5  # so many skipped files are named in a message


class FolderError(ValueError):
    """A folder cannot be used as a data set; the message names the cause and the cure."""


@dataclass(frozen=True)
class Folder:
    """Pictures in memory.

    Attributes:
        x: float32 tensor (N, channels, size, size) in [-1, 1].
        y: int64 tensor (N,): the subfolder of each picture, 0 for all where there is none.
        classes: the names of the classes, in order.
        source: where the pictures came from, in words.
        names: the path of each picture within the folder, with "/".
        sizes: int64 tensor (N, 2), width and height before reduction, after turning.
        skipped: name and reason of each file that was left out.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    source: str
    names: tuple[str, ...]
    sizes: Tensor
    skipped: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.x)


def read(
    path: str | Path,
    size: int = 32,
    channels: int = 3,
    *,
    fit: str = "crop",
    cache: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Folder:
    """All pictures in a folder and its subfolders.

    Args:
        path: the folder; its subfolders are classes where they hold pictures.
        size: height and width that the pictures are reduced (or enlarged) to, with anti-aliasing.
        channels: 3 for colour, 1 for grey.
        fit: "crop" takes the square in the middle, "pad" shows all of it on white.
        cache: a folder for the reduced pictures, used again until a file's name, size or time changes.
        tell: hears in a line what was found, what was skipped and which classes are small.

    Raises:
        FolderError: no such folder, no picture in it, or an argument that makes no sense.
    """
    if size < 1 or channels not in (1, 3) or fit not in FITS:
        raise FolderError(
            f"A size of 1 or more, 1 or 3 channels and fit 'crop' or 'pad' are wanted, not {size=}, {channels=}, "
            f"{fit=}."
        )
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is a file and no folder" if root.exists() else "does not exist"
        raise FolderError(f"{root} {what}: give the path of a folder that holds pictures.")
    root = root.resolve()
    found, passed_over = listing(root)
    if not found and not passed_over:
        raise FolderError(f"{root} is empty: put pictures into it or give another folder.")
    if cache is not None and cache.resolve().is_relative_to(root):
        cache = None  # nothing is written into the reader's folder
    key = f"{os.fspath(root)!a} {size} {channels} {fit}"
    stored = cache and cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    state = hashlib.sha256(json.dumps([key, found]).encode()).hexdigest()
    known = _from_cache(stored, state) if stored else None
    pixels, sizes, names, faults = known or _decoded(root, found, size, channels, fit)
    skipped = tuple((name, why) for name, why in (*faults, *passed_over))
    if not names:
        raise FolderError(f"{root} holds no picture that can be read: {_few(skipped)}.")
    if stored and not known:
        _to_cache(stored, state, (pixels, sizes, names, faults), tell)
    y, classes = _classes(names, root.name)
    tell(f"{root.name}: {len(names):,} pictures{' from the cache' if known else ''}, classes: {len(classes)}")
    if skipped:
        tell(f"skipped {len(skipped):,}: {_few(skipped)}")
    counts = Counter(y.tolist())
    if len(classes) > 1 and (small := [f"{classes[c]} ({n})" for c, n in sorted(counts.items()) if n < FEW]):
        more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
        tell(f"classes with fewer than {FEW} pictures, too few to learn from: {', '.join(small[:NAMED])}{more}")
    x = pixels.float().div_(127.5).sub_(1.0)
    return Folder(x, y, classes, f"the folder {root.name}", tuple(names), sizes, skipped)


def _few(skipped: tuple[tuple[str, str], ...]) -> str:
    more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return "; ".join(f"{name} ({why})" for name, why in skipped[:NAMED]) + more


def listing(root: Path) -> tuple[list[list], list[tuple[str, str]]]:
    """[name, bytes, time] of every regular file, and what is passed over with its reason; hidden files are neither."""
    found, passed_over, folders = [], [], [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            passed_over.append((folder.relative_to(root).as_posix(), f"folder not readable: {error.strerror}"))
            continue
        for entry in entries:
            name = Path(entry.path).relative_to(root).as_posix()
            if entry.name.startswith(".") or entry.name in ("__MACOSX", "Thumbs.db", "desktop.ini"):
                continue
            if entry.is_symlink():
                passed_over.append((name, "a link, not followed"))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                about = entry.stat(follow_symlinks=False)
                found.append([name, about.st_size, about.st_mtime_ns])
            else:
                passed_over.append((name, "no regular file"))
    return sorted(found), passed_over


def _classes(names: list[str], own: str) -> tuple[Tensor, tuple[str, ...]]:
    """The class of each name: its first subfolder; pictures beside subfolders are of the class of the folder itself."""
    first = [name.split("/")[0] if "/" in name else "" for name in names]
    order = sorted(set(first))
    y = torch.tensor([order.index(folder) for folder in first])
    return y, tuple(folder or own or "all" for folder in order)


# --- one picture --------------------------------------------------------------------------------------------


def _decoded(root: Path, found: list[list], size: int, channels: int, fit: str) -> tuple:
    """uint8 (N, channels, size, size), sizes (N, 2), names, and [name, reason] of what is no picture."""
    pixels, sizes, names, faults = [], [], [], []
    silent = len(found) < MANY or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    for name, length, _ in tqdm(found, "reading", leave=False, mininterval=0.5, disable=silent):
        try:
            if not length:
                raise ValueError("an empty file")
            small, before = picture(root / name, size, channels, fit)
        except Exception as error:  # decoders raise errors of every kind on damaged files
            faults.append([name, _reason(error)])
            continue
        pixels.append(small)
        sizes.append(before)
        names.append(name)
    x = torch.from_numpy(np.stack(pixels)) if pixels else torch.zeros(0, channels, size, size, dtype=torch.uint8)
    return x, torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2), names, faults


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS / 1e6:.0f} million pixels"
    if isinstance(error, PermissionError):
        return "may not be read"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "cut short" if "truncated" in first or "Truncated" in first else first[:80]


def picture(path: Path, size: int, channels: int = 3, fit: str = "crop") -> tuple[np.ndarray, tuple[int, int]]:
    """One file as bytes (channels, size, size), and the width and height that it had.

    Turned as its EXIF says, the first frame of several, transparency over white.
    """
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow on large or odd files; what cannot be read raises
        with Image.open(path, formats=formats) as image:
            whole = image.size
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft(None, (2 * size, 2 * size))  # JPEG decodes to an eighth if that is enough
            image.load()
            try:
                turned = ImageOps.exif_transpose(image)
            except Exception:  # damaged EXIF: the picture itself is whole
                turned = image
            swapped = (turned.width > turned.height) != (image.width > image.height)
            small = _fitted(_in_colour(turned), size, fit)
    values = np.asarray(small.convert("L") if channels == 1 else small)
    values = values[None] if channels == 1 else values.transpose(2, 0, 1)
    return np.ascontiguousarray(values), whole[::-1] if swapped else whole


def _in_colour(image: Image.Image) -> Image.Image:
    """Any mode to RGB: more than 8 bits are scaled and not clipped, transparency is laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        values = np.nan_to_num(values, posinf=0, neginf=0)
        low, high = values.min(), values.max()
        if image.mode == "F" and 0 <= low and high <= 1:
            low, high = 0, 1
        elif 0 <= low and high <= 65535:
            low, high = 0, 255 if image.mode == "F" and high <= 255 else 65535
        scaled = (values - low) / max(high - low, 1e-9) * 255
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        white.alpha_composite(over)
        return white.convert("RGB")
    return image.convert("RGB")


def _fitted(image: Image.Image, size: int, fit: str) -> Image.Image:
    """A square of `size`: Pillow's bicubic, which widens its kernel when it reduces."""
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    share = size / max(width, height)
    inner = image.resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BICUBIC)
    page = Image.new("RGB", (size, size), "white")
    page.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return page


# --- cache --------------------------------------------------------------------------------------------------


def _from_cache(file: Path, state: str) -> tuple | None:
    """What was decoded when the folder was in this state; None if it has changed, or the file is damaged."""
    try:
        with safetensors.safe_open(file, "pt") as stored:
            about = json.loads(stored.metadata()["about"])
            if about["state"] == state:
                return stored.get_tensor("x"), stored.get_tensor("sizes"), about["names"], about["faults"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        pass
    return None


def _to_cache(file: Path, state: str, content: tuple, tell: Callable[[str], None]) -> None:
    pixels, sizes, names, faults = content
    about = json.dumps({"state": state, "names": names, "faults": faults})
    try:
        files.write(file, safetensors.torch.save({"x": pixels, "sizes": sizes}, {"about": about}))
    except OSError as error:
        tell(f"not cached ({error.strerror or error}): the pictures are read again next time")
