"""Figures with alt text: grids of pictures, film strips, animations.

Alt text is a required argument. A picture is an output of HTML, `<img alt="...">`, since JupyterLab, Notebook and
nbconvert show an `image/png` without its words; the same words are the output's plain text. Figures are drawn at two
pixels a point and written without loss but for colours that are rare, which keeps a notebook small.
"""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import publish_display_data
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torchvision.utils import make_grid

from .data import check_pixels

# Okabe and Ito (2008): distinguishable with every common colour-vision deficiency
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

STYLE = {
    "figure.dpi": 100,
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
    "legend.fontsize": 8.5,
    "image.cmap": "gray",
}


def use_style() -> None:
    """The course's look for matplotlib: Okabe-Ito colours, light grid, titles that start at the left."""
    plt.rcParams.update(STYLE)


@dataclass(frozen=True)
class Picture:
    """A finished picture, the words that stand for it, and its width on the page.

    Attributes:
        image: a PNG, an animated PNG or a WebP file.
        alt: what a reader who cannot see it should know.
        width: in pixels of the page, of which a sharp screen has two to one; None for the picture's own.
    """

    image: bytes
    alt: str
    width: int | None = None

    @property
    def mime(self) -> str:
        """The type of `image`."""
        return "image/webp" if self.image[8:12] == b"WEBP" else "image/png"

    @property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        if self.mime == "image/png":
            return self.image
        buffer = io.BytesIO()
        Image.open(io.BytesIO(self.image)).save(buffer, "PNG")
        return buffer.getvalue()

    def tag(self) -> str:
        """The picture and its alt text as one HTML tag."""
        encoded = base64.b64encode(self.image).decode()
        width = f'width="{self.width}" ' if self.width else ""
        style = "max-width: 100%; height: auto"
        return f'<img alt="{html.escape(self.alt)}" {width}style="{style}" src="data:{self.mime};base64,{encoded}">'

    def show(self) -> None:
        """Display it as an output that holds its alt text."""
        publish_display_data(*self.bundle())

    def bundle(self) -> tuple[dict, dict]:
        """The output's data and metadata."""
        return {"text/html": self.tag(), "text/plain": f"[picture] {self.alt}"}, {}


def _described(alt: str) -> str:
    if not isinstance(alt, str) or len(alt.split()) < 4:
        raise ValueError("Alt text of at least four words is wanted: say what a reader who cannot see it should know.")
    return " ".join(alt.split())


MAX_BYTES = 115_000
PHOTOGRAPHIC = 20_000  # colours: what no drawing has, antialiased lines and text included
MAX_WIDTH = 830  # of a figure, in pixels of the page: what JupyterLab shows at 1280 with its file list open
# Set while a widget draws a frame: it has to come soon, and is not kept.
live: ContextVar[bool] = ContextVar("live", default=False)


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    figsize: tuple[float, float],
    labels: bool = True,
    **options: Any,
) -> tuple[Figure, Any]:
    """Like `plt.subplots`, for what a widget draws: the figure is unknown to pyplot, and its margins are fixed.

    A widget's callbacks run in a thread of their own, and pyplot would show their figure in whatever cell runs.
    Margins that are fitted to the labels cost more than everything else that a frame takes: here `labels` says whether
    there is something to write at the left and below.
    """
    figure = Figure(figsize=figsize, layout="none")
    width, height = figsize  # inches
    left, below, between = (0.62, 0.5, 0.75) if labels else (0.05, 0.05, 0.1)
    figure.subplots_adjust(left=left / width, right=1 - 0.15 / width, bottom=below / height, top=1 - 0.38 / height)
    figure.subplots_adjust(wspace=between * columns / width, hspace=between * rows / height)
    return figure, figure.subplots(rows, columns, **options)


def render(figure: Figure, alt: str) -> Picture:
    """A matplotlib figure as a small picture; closes the figure.

    Raises:
        ValueError: no alt text, or a figure wider than MAX_WIDTH pixels, which a page would shrink.
    """
    alt, buffer, width = _described(alt), io.BytesIO(), round(figure.get_figwidth() * figure.dpi)
    if width > MAX_WIDTH:
        inches = MAX_WIDTH / figure.dpi
        raise ValueError(
            f"A figure is at most {MAX_WIDTH} pixels wide, not {width}: figsize up to {inches:.1f} inches."
        )
    if live.get():
        figure.savefig(
            buffer,
            format="png",
            facecolor="white",
            dpi=1.5 * figure.dpi,
            pil_kwargs={"compress_level": 1},
        )
        return Picture(buffer.getvalue(), alt, width)
    for density, colours in (
        (2, 128),
        (2, 64),
        (1.5, 64),
        (1, 64),
    ):  # less where a picture is too full for its size
        buffer.seek(0), buffer.truncate()
        dpi = density * figure.dpi
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There are no gridspecs")  # of a strip, whose places are given
            figure.savefig(buffer, format="png", facecolor="white", dpi=dpi, pil_kwargs={"compress_level": 1})
        if len(packed := _pack(Image.open(buffer).convert("RGB"), colours)) < MAX_BYTES:
            break
    plt.close(figure)
    return Picture(packed, alt, width)


def show(figure: Figure, alt: str) -> None:
    """Display a matplotlib figure with its alt text, and close it."""
    render(figure, alt).show()


def _pack(picture: Image.Image, colours: int) -> bytes:
    """A picture as WebP, of so many colours: half are its most frequent ones, half stand for all others.

    What has more colours than lines and text ever have holds a photograph: a palette would show as bands in skin and
    sky, so it keeps its colours and loses a little sharpness.
    """
    channels = np.asarray(picture).astype(np.int32)
    every, inverse, counts = np.unique(channels @ [65536, 256, 1], return_inverse=True, return_counts=True)
    buffer = io.BytesIO()
    if len(every) > PHOTOGRAPHIC:
        picture.save(buffer, format="WEBP", method=4, quality=88 if colours > 64 else 75)
        return buffer.getvalue()
    if len(every) > colours:
        frequent = every[np.argsort(-counts)[: colours // 2]]
        others = picture.quantize(colours // 2, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
        palette = np.concatenate([_channels(frequent), np.reshape(others[: 3 * (colours // 2)], (-1, 3))])
        apart = np.square(_channels(every)[:, None] - palette).sum(axis=2)  # (colours of the picture, of the palette)
        picture = Image.fromarray(palette[apart.argmin(axis=1)][inverse.reshape(channels.shape[:2])].astype(np.uint8))
    picture.save(buffer, format="WEBP", lossless=True, method=4, quality=80)
    return buffer.getvalue()


def _channels(packed: np.ndarray) -> np.ndarray:
    """Colours as one number each (N,) to red, green and blue (N, 3)."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show a table: the first column is text, the others are numbers; on a narrow page it scrolls and never wraps.

    Args:
        head: the names of the columns.
        rows: as many cells each, written as `str` does; round numbers before.
    """
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    if any(len(row) != len(head) for row in cells):
        raise ValueError(f"Each row needs {len(head)} cells, as many as the head has.")
    widths = [max(map(len, column)) for column in zip(*cells)]
    aligned = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))] for row in cells]
    kinds = ["th", *["td"] * (len(cells) - 1)]
    lines = []
    for kind, row in zip(kinds, cells):
        sides = ["left", *["right"] * (len(row) - 1)]
        columns = zip(sides, row)
        lines.append("".join(f'<{kind} style="text-align: {s}">{html.escape(c)}</{kind}>' for s, c in columns))
    page = "".join(f"<tr>{line}</tr>" for line in lines)
    style = "overflow-x: auto; white-space: nowrap"
    data = {
        "text/html": f'<div style="{style}"><table>{page}</table></div>',
        "text/plain": "\n".join("  ".join(row).rstrip() for row in aligned),
    }
    publish_display_data(data, {})


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


def heading(figure: Figure, title: str) -> None:
    """One title for a figure of several plots, at the left, in the size of a plot's own title."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])


def image_grid(x: Tensor, alt: str, title: str = "", columns: int = 8, zoom: int | None = None) -> None:
    """Show pictures (N, C, H, W) in [-1, 1] in rows of `columns`, enlarged by a whole number.

    Args:
        zoom: pixels of the page for one of a picture; else as many as fit, see `film_strip`.
    """
    _strip([tile(x, columns)], [""], min(columns, len(x)), alt, title, zoom)


def film_strip(
    rows: Sequence[Tensor],
    labels: Sequence[str],
    alt: str,
    title: str = "",
    zoom: int | None = None,
) -> None:
    """Show one row of pictures (N, C, H, W) in [-1, 1] for each label, the label at the left.

    Args:
        zoom: pixels of the page for one of a picture, a whole number, so that all pixels are squares
            of one size; else the largest with which a picture is at most 90 pixels wide and the
            strip fits a page.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows need as many labels, not {len(labels)}.")
    columns = max(len(row) for row in rows)
    _strip([tile(row, len(row)) for row in rows], labels, columns, alt, title, zoom)


SIDE = 90  # of a small picture that is enlarged, in pixels of the page at most


def _strip(
    rows: Sequence[Tensor],
    labels: Sequence[str],
    columns: int,
    alt: str,
    title: str,
    zoom: int | None,
) -> None:
    """Show tiled rows (H, W) or (H, W, 3) in [0, 1] under each other, without margins but for labels and title."""
    dpi, gap = STYLE["figure.dpi"], 4  # pixels between rows
    beside = max(math.ceil(_length(label, size=9)) for label in labels) + 12 if any(labels) else 0
    width = max(row.shape[1] for row in rows)
    largest = min((MAX_WIDTH - beside) // width, max(1, SIDE // (width // columns)))
    zoom = zoom or largest or (MAX_WIDTH - beside) / width  # shrunk only where even one to one is too wide
    total = max(round(beside + zoom * width), 360 if title else 0)
    lines = _wrapped(title, total)
    above = 19 * len(lines) + 3
    height = above + sum(zoom * row.shape[0] + gap for row in rows) - gap
    figure = Figure(figsize=(total / dpi, height / dpi), dpi=dpi, layout="none")
    figure.text(0, 1, "\n".join(lines), ha="left", va="top", fontsize=STYLE["axes.titlesize"])
    top = height - above
    for row, label in zip(rows, labels):
        tall, wide = zoom * row.shape[0], zoom * row.shape[1]  # pixels of the page
        top -= tall
        place = (beside / total, top / height, wide / total, tall / height)
        axis = figure.add_axes(place)
        axis.imshow(row.numpy(), vmin=0, vmax=1, interpolation="nearest", cmap="gray", aspect="auto")
        axis.set_axis_off()
        middle = (top + tall / 2) / height
        figure.text((beside - 8) / total, middle, label, ha="right", va="center", fontsize=9)
        top -= gap
    show(figure, alt)


def _length(text: str, size: float) -> float:
    """How long a line is in pixels of the page, in points of `size`."""
    return TextPath((0, 0), text, size=size).get_extents().width * STYLE["figure.dpi"] / 72 if text else 0.0


def _wrapped(title: str, width: float) -> list[str]:
    """A title in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, STYLE["axes.titlesize"]) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def animation(
    frames: Sequence[Tensor],
    alt: str,
    milliseconds: int = 300,
    columns: int = 8,
    zoom: int = 2,
    labels: Sequence[str] | None = None,
) -> Picture:
    """An animated PNG of pictures: each frame (N, C, H, W) in [-1, 1]; the last one stays four times as long.

    Shows in every browser, on GitHub and in JupyterLab, without a widget or a player. Where nothing can move, on paper
    and in some viewers, the last frame stands.

    Args:
        labels: words over each frame, such as the step.
    """
    alt = _described(alt)
    if not frames:
        raise ValueError("An animation needs at least one frame.")
    if labels is not None and len(labels) != len(frames):
        raise ValueError(f"{len(frames)} frames need as many labels, not {len(labels)}.")
    pictures = []
    for frame in frames:
        picture = _frame(tile(frame, columns))
        pictures.append(picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST))
    size = tuple(max(sides) for sides in zip(*(picture.size for picture in pictures)))
    pictures = [ImageOps.expand(p, (0, 0, size[0] - p.width, size[1] - p.height), fill=_white(p)) for p in pictures]
    if labels is not None:
        pictures = [_labelled(picture, label) for picture, label in zip(pictures, labels)]
    buffer = io.BytesIO()
    if len(pictures) == 1:
        pictures[0].save(buffer, "PNG", optimize=True)
    else:
        pictures[-1].save(
            buffer,
            "PNG",
            save_all=True,
            default_image=True,  # what does not move shows this one
            append_images=pictures,
            duration=[milliseconds] * (len(pictures) - 1) + [4 * milliseconds],
            loop=0,
            optimize=True,
        )
    return Picture(buffer.getvalue(), alt, size[0])


def _labelled(picture: Image.Image, label: str) -> Image.Image:
    """A picture under a white line with words."""
    picture = ImageOps.expand(picture, (0, 18, 0, 0), fill=_white(picture))
    black = 0 if picture.mode == "P" else (0, 0, 0)
    ImageDraw.Draw(picture).text((2, 3), label, fill=black, font=ImageFont.load_default())
    return picture


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
