"""Figures with alt text: grids of pictures, film strips, animations.

Alt text is a required argument. It is stored in the output's metadata under `image/png` -> `alt`, where screen
readers' front ends, nbconvert and the course's tests find it. Figures are written with a palette of colours,
which keeps a notebook small without a visible change.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from IPython.display import publish_display_data
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.utils import make_grid

from .data import check_pixels

# Okabe and Ito (2008): distinguishable with every common colour-vision deficiency
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "legend.frameon": False,
    "image.cmap": "gray",
}


def use_style() -> None:
    """The course's look for matplotlib: Okabe-Ito colours, light grid, titles that start at the left."""
    plt.rcParams.update(STYLE)


@dataclass(frozen=True)
class Picture:
    """A finished PNG (or animated PNG) and the words that stand for it."""

    png: bytes
    alt: str

    def tag(self) -> str:
        """The picture and its alt text as one HTML tag."""
        encoded = base64.b64encode(self.png).decode()
        return f'<img alt="{html.escape(self.alt)}" style="max-width: 100%" src="data:image/png;base64,{encoded}">'

    def show(self) -> None:
        """Display it as an output whose metadata carries the alt text."""
        publish_display_data(*self.bundle())

    def bundle(self) -> tuple[dict, dict]:
        """The output's data and metadata."""
        encoded = base64.b64encode(self.png).decode()
        return {"image/png": encoded, "text/plain": "<picture>"}, {"image/png": {"alt": self.alt}}


def _described(alt: str) -> str:
    if not isinstance(alt, str) or len(alt.split()) < 4:
        raise ValueError("Alt text of at least four words is wanted: say what a reader who cannot see it should know.")
    return " ".join(alt.split())


def render(figure: Figure, alt: str, colours: int = 128) -> Picture:
    """A matplotlib figure as a small PNG; closes the figure."""
    alt = _described(alt)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    plt.close(figure)
    return Picture(_pack(Image.open(buffer).convert("RGB"), colours), alt)


def show(figure: Figure, alt: str) -> None:
    """Display a matplotlib figure with its alt text, and close it."""
    render(figure, alt).show()


def _pack(picture: Image.Image, colours: int) -> bytes:
    """A picture as a PNG with a palette."""
    buffer = io.BytesIO()
    packed = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    packed.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def to_unit_interval(x: Tensor) -> Tensor:
    """Pictures in [-1, 1], with noise or without, to [0, 1], clipped: what imshow wants and make_grid does not do.

    Bytes are taken as 0..255.

    Raises:
        ValueError: other ranges, NaN, or no tensor; the message names the cure.
    """
    if isinstance(x, Tensor) and x.dtype == torch.uint8:
        return x.detach().float().cpu() / 255
    check_pixels(x, "Pictures", strict=False)
    return ((x.detach().float().cpu() + 1) / 2).clamp(0, 1)


def tile(x: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    """Pictures (N, C, H, W) in [-1, 1] side by side: a float32 tensor (H', W') or (H', W', 3) in [0, 1]."""
    if not isinstance(x, Tensor) or x.ndim != 4:
        if not isinstance(x, Tensor):
            check_pixels(x, "Pictures")
        raise ValueError(f"Pictures of shape (N, C, H, W) are wanted, not {tuple(x.shape)}.")
    grid = make_grid(to_unit_interval(x), nrow=columns, padding=padding, pad_value=1.0)
    return grid[0] if x.shape[1] == 1 else grid.permute(1, 2, 0)


def image_grid(x: Tensor, alt: str, title: str = "", columns: int = 8, scale: float = 0.62) -> None:
    """Show pictures (N, C, H, W) in [-1, 1] in rows of `columns`, each `scale` inches wide."""
    rows = -(-len(x) // columns)
    figure, axes = plt.subplots(figsize=(scale * columns, scale * rows + (0.3 if title else 0)))
    _picture(axes, tile(x, columns), title)
    show(figure, alt)


def _picture(axes: plt.Axes, pixels: Tensor, title: str) -> None:
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def film_strip(rows: Sequence[Tensor], labels: Sequence[str], alt: str, title: str = "", scale: float = 0.72) -> None:
    """Show one row of pictures (N, C, H, W) in [-1, 1] for each label, the label at the left.

    `scale` is the width of a picture in inches.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows need as many labels, not {len(labels)}.")
    margin = 0.25 + 0.085 * max(len(label) for label in labels)
    width, height = scale * max(len(row) for row in rows) + margin, scale * len(rows) + 0.35
    figure, axes = plt.subplots(len(rows), 1, figsize=(max(width, 0.08 * len(title)), height), squeeze=False)
    for axis, row, label in zip(axes[:, 0], rows, labels):
        axis.imshow(tile(row, len(row)).numpy(), vmin=0, vmax=1, interpolation="nearest", cmap="gray")
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.set_anchor("W")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    show(figure, alt)


def animation(frames: Sequence[Tensor], alt: str, milliseconds: int = 300, columns: int = 8, zoom: int = 2) -> Picture:
    """An animated PNG of pictures: each frame (N, C, H, W) in [-1, 1]; the last one stays four times as long.

    Shows in every browser, on GitHub and in JupyterLab, without a widget or a player.
    """
    alt = _described(alt)
    if not frames:
        raise ValueError("An animation needs at least one frame.")
    pictures = []
    for frame in frames:
        picture = _frame(tile(frame, columns))
        pictures.append(picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST))
    size = tuple(max(sides) for sides in zip(*(picture.size for picture in pictures)))
    pictures = [ImageOps.expand(p, (0, 0, size[0] - p.width, size[1] - p.height), fill=_white(p)) for p in pictures]
    buffer = io.BytesIO()
    shown = [milliseconds] * (len(pictures) - 1) + [4 * milliseconds]
    pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=shown, loop=0, optimize=True)
    return Picture(buffer.getvalue(), alt)


def _white(picture: Image.Image) -> int | tuple[int, int, int]:
    """White as a picture's mode writes it: the last of ten grey levels, or a colour."""
    return 9 if picture.mode == "P" else (255, 255, 255)


def _frame(pixels: Tensor) -> Image.Image:
    """Pixels in [0, 1] as a picture; grey ones in 10 levels, 4 bits each, which makes an animation a third smaller."""
    if pixels.ndim == 3:
        return Image.fromarray(pixels.mul(255).round().to(torch.uint8).numpy())
    picture = Image.fromarray(pixels.mul(9).round().to(torch.uint8).numpy())
    picture.putpalette([round(level * 255 / 9) for level in range(10) for _ in "rgb"])
    return picture
