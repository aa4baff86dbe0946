"""A head of ellipses in a CT scanner: pictures of which everything is known, after Shepp and Logan (1974).

A request is a row of six numbers, PARAMETERS; the anatomy around it is drawn at random. The scanner is a linear map;
photons are counted (Poisson), and filtered back-projection makes a picture of the counts.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE, PIXEL = 48, 4.0  # pixels a side; millimetres a pixel
WATER = 0.019  # attenuation of water, 1/mm, near 70 keV
AIR_HU, SKULL_HU, CSF_HU = -1000.0, 900.0, 5.0
# name: unit, lowest, highest. The angle is anticlockwise from the picture's right; the dose is log10 of photons a ray.
PARAMETERS = {
    "radius": ("mm", 8.0, 16.0),
    "distance": ("mm", 28.0, 44.0),
    "angle": ("degrees", 0.0, 360.0),
    "contrast": ("HU", 20.0, 80.0),
    "dose": ("log10 photons", 4.5, 6.0),
    "head": ("mm", 58.0, 72.0),
}
NAMES = tuple(PARAMETERS)
LOW = torch.tensor([low for _, low, _ in PARAMETERS.values()])
HIGH = torch.tensor([high for _, _, high in PARAMETERS.values()])
SKULL_MM, MARGIN_MM = 7.0, 1.0  # the thickest skull; what stays between it and a lesion
SMALL_HEAD = 62.0  # mm of half width below which a head is in the rare group
RARE_SHARE = 0.04
WINDOW = (40.0, 240.0)  # centre and width in HU of the pictures that networks see


def place_of(parameters: Tensor) -> Tensor:
    """The lesion's centre (N, 2) in millimetres from the head's centre, x to the right and y up."""
    distance, angle = parameters[:, 1], parameters[:, 2] * math.pi / 180
    return torch.stack([distance * angle.cos(), distance * angle.sin()], dim=1)


def draw_parameters(n: int, rng: torch.Generator, rare_share: float = RARE_SHARE) -> Tensor:
    """`n` possible requests (n, 6), evenly over their ranges; a share `rare_share` of the heads is small."""
    found = LOW + (HIGH - LOW) * torch.rand(n, 6, generator=rng)
    rare = torch.rand(n, generator=rng) < rare_share
    u = torch.rand(n, generator=rng)
    found[:, 5] = torch.where(rare, LOW[5] + (SMALL_HEAD - LOW[5]) * u, SMALL_HEAD + (HIGH[5] - SMALL_HEAD) * u)
    furthest = (found[:, 5] - SKULL_MM - MARGIN_MM - found[:, 0]).clamp(max=HIGH[1])
    v = torch.rand(n, generator=rng)
    found[:, 1] = LOW[1] + (furthest - LOW[1]).clamp(min=0) * v
    return found


def draw_anatomy(n: int, rng: torch.Generator) -> Tensor:
    """What nobody asks for (n, 7): length over width, tilt, skull, two ventricles' sizes, their gap, brain's HU."""
    low = torch.tensor([1.16, -8.0, 5.0, 3.0, 3.0, 4.5, 32.0])
    high = torch.tensor([1.28, 8.0, SKULL_MM, 5.0, 5.0, 7.0, 40.0])
    return low + (high - low) * torch.rand(n, 7, generator=rng)


def grid(size: int = SIZE, pixel: float = PIXEL) -> tuple[Tensor, Tensor]:
    """The places x to the right and y up of the pixels' centres, in millimetres, each (size, size)."""
    ticks = (torch.arange(size) - (size - 1) / 2) * pixel
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    return x, y


def head(
    parameters: Tensor, anatomy: Tensor, lesion: bool | Tensor = True, fine: int = 3, thickness: float = 0.0
) -> Tensor:
    """Heads (N, 1, 48, 48) in HU before any scanner: each pixel is the mean of fine x fine points.

    `lesion`, one truth value or (N,), says which heads have the lesion. It is a ball, cut through its middle by a slice
    `thickness` mm thick, over which the picture is a mean (partial volume); all else goes straight through the slice.
    """
    x, y = (part.to(parameters.device) for part in grid(SIZE * fine, PIXEL / fine))
    columns = (*anatomy.unbind(1), parameters[:, 5], *place_of(parameters).unbind(1), parameters[:, 0])
    long, tilt, skull, left, right, gap, brain, wide, at_x, at_y, radius = (c[:, None, None] for c in columns)
    turn = tilt * math.pi / 180
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()

    def inside(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (u / a) ** 2 + (v / b) ** 2 <= 1

    found = torch.full_like(u, AIR_HU)
    found[inside(u, v, wide, wide * long)] = SKULL_HU
    brains = brain.expand_as(u)
    found = torch.where(inside(u, v, wide - skull, wide * long - skull), brains, found)
    for side, size in ((-1, left), (1, right)):
        found = torch.where(inside(u - side * gap, v, size, 2.6 * size), CSF_HU, found)
    there = torch.as_tensor(lesion).to(parameters.device).expand(len(parameters))[:, None, None]
    spot = inside(x - at_x, y - at_y, radius, radius) & there
    if thickness:  # the share of the slice that lies in the ball
        height = 2 * (radius**2 - (x - at_x) ** 2 - (y - at_y) ** 2).clamp(min=0).sqrt()
        spot = spot * (height / thickness).clamp(max=1)
        found = found + spot * (brains + parameters[:, 3][:, None, None] - found)
    else:
        found = torch.where(spot, brains + parameters[:, 3][:, None, None], found)
    return F.avg_pool2d(found[:, None], fine)


@lru_cache
def projector(size: int = SIZE, angles: int = 72) -> Tensor:
    """The scanner as a matrix (angles x bins, size x size): each pixel's share, in mm, of each ray.

    Rays are parallel, a bin is as wide as a pixel, and a pixel falls into the two bins nearest to it.
    """
    x, y = (part.flatten() / PIXEL for part in grid(size))
    bins = math.ceil(size * math.sqrt(2)) + 2
    theta = (torch.arange(angles) + 0.5) * math.pi / angles  # never 45 degrees, along which pixels line up
    t = x * theta.cos()[:, None] + y * theta.sin()[:, None] + (bins - 1) / 2  # (angles, pixels)
    below = t.floor().long()
    share = t - below
    found = torch.zeros(angles, bins, size * size)
    pixels = torch.arange(size * size).expand_as(below)
    rows = torch.arange(angles)[:, None].expand_as(below)
    found.index_put_((rows, below, pixels), (1 - share) * PIXEL, accumulate=True)
    found.index_put_((rows, below + 1, pixels), share * PIXEL, accumulate=True)
    return found.flatten(0, 1)


def filtered(sinograms: Tensor) -> Tensor:
    """Sinograms (N, angles, bins), each line filtered by the ramp with a Hann window (Kak and Slaney 1988, ch. 3)."""
    bins = sinograms.shape[-1]
    n = 2 ** math.ceil(math.log2(2 * bins))
    k = torch.arange(n)
    k = torch.minimum(k, n - k)
    ramp = torch.where(k % 2 == 1, -1 / (math.pi * k.clamp(min=1)) ** 2, torch.zeros(n))
    ramp[0] = 0.25
    window = 0.5 + 0.5 * torch.cos(2 * math.pi * torch.fft.rfftfreq(n))
    spectrum = (torch.fft.rfft(ramp).real * window).to(sinograms.device)
    return torch.fft.irfft(torch.fft.rfft(sinograms, n) * spectrum, n)[..., :bins]


def scan(hu: Tensor, dose: Tensor, rng: torch.Generator | None, angles: int = 72) -> Tensor:
    """Pictures (N, 1, 48, 48) in HU that a scanner makes of heads `hu` with 10**dose photons a ray, dose (N,).

    Line integrals, Poisson counts, logarithm, filtered back-projection. Without `rng`, which is the CPU's, no photon is
    lost.
    """
    matrix = projector(hu.shape[-1], angles).to(hu.device)
    attenuation = (WATER * (1 + hu / 1000)).clamp(min=0).flatten(1)
    integrals = attenuation @ matrix.T  # (N, angles x bins)
    if rng is not None:
        photons = (10 ** dose.cpu().double())[:, None]
        counts = torch.poisson(photons * torch.exp(-integrals.cpu().double()), generator=rng)
        integrals = (photons.log() - counts.clamp(min=1).log()).float().to(hu.device)
    lines = filtered(integrals.view(len(hu), angles, -1)) * (math.pi / angles / PIXEL**2)
    found = lines.flatten(1) @ matrix
    return (1000 * (found / WATER - 1)).view_as(hu)


def to_picture(hu: Tensor) -> Tensor:
    """HU to the range [-1, 1] of the networks; WINDOW says what -1 and 1 are."""
    centre, width = WINDOW
    return ((hu - centre) / (width / 2)).clamp(-1, 1)


def to_hu(x: Tensor) -> Tensor:
    """The inverse of `to_picture`; what was clipped stays at the window's ends."""
    centre, width = WINDOW
    return x.clamp(-1, 1) * (width / 2) + centre


def patients(
    n: int, rng: torch.Generator, parameters: Tensor | None = None, lesion: bool | Tensor = True
) -> tuple[Tensor, Tensor]:
    """`n` scanned heads (n, 1, 48, 48) in [-1, 1] and their requests (n, 6)."""
    parameters = draw_parameters(n, rng) if parameters is None else parameters
    anatomy, lesion = draw_anatomy(n, rng).to(parameters.device), torch.as_tensor(lesion).expand(n)
    found = []
    for part in range(0, n, 500):
        which = slice(part, part + 500)
        hu = head(parameters[which], anatomy[which], lesion[which])
        found.append(to_picture(scan(hu, parameters[which, 4], rng)))
    return torch.cat(found), parameters


COHORTS = {"train": (4000, 11), "validation": (1000, 12), "test": (1000, 13), "control": (64, 14)}  # people, seed


@lru_cache
def cohort(split: str) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 48, 48) in [-1, 1] and requests (N, 6) of people who are in no other cohort; the same every time.

    Raises:
        ValueError: unknown split.
    """
    if split not in COHORTS:
        raise ValueError(f"There is no cohort {split!r}: choose one of {', '.join(COHORTS)}.")
    n, seed = COHORTS[split]
    return patients(n, torch.Generator().manual_seed(seed))
