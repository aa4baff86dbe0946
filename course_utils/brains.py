"""Three brains in one grid of 3 mm, and slices of them: the MNI152 average, one person (Colin27) and a macaque.

Places are millimetres in MNI's coordinates: x to the person's right, y to the front, z up. The macaque's brain has
coordinates of its own; its grid has 1.3 mm a voxel, so that it fills the picture as the others do.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from . import data

SIDE, STEP = 64, 3.0  # voxels a side; millimetres a voxel
CENTRE = (0.0, -17.0, 6.0)  # of the grid, in mm
# orientation: the axis it is cut along, and the ends of the positions at which a slice shows enough of a brain
ORIENTATIONS = {"axial": (2, -42.0, 66.0), "coronal": (1, -87.0, 54.0), "sagittal": (0, -57.0, 57.0)}
AXES = torch.tensor([axis for axis, _, _ in ORIENTATIONS.values()])
LOW = torch.tensor([low for _, low, _ in ORIENTATIONS.values()])
HIGH = torch.tensor([high for _, _, high in ORIENTATIONS.values()])
SLAB, PERIOD = 9.0, 36.0  # mm: so much of every so much is held out


@lru_cache
def volume(name: str) -> Tensor:
    """A brain's brightness (64, 64, 64), by x, y and z, or a share of tissue in it; in [0, 1].

    `name` is "mni152", "grey" or "white" (its maps of tissue), "colin27" or "macaque".

    Raises:
        ValueError: there is no such volume.
        DataError: the file is damaged.
    """
    volumes = data.unpacked(data.ASSETS / "brains.safetensors.xz")
    if name not in volumes:
        raise ValueError(f"There is no brain {name!r}: choose one of {', '.join(sorted(volumes))}.")
    return volumes[name].float() / 255


def ticks(axis: int) -> Tensor:
    """The places (64,) of the voxels' centres along an axis, in mm."""
    return (torch.arange(SIDE) - (SIDE - 1) / 2) * STEP + CENTRE[axis]


def slices(name: str, requests: Tensor) -> Tensor:
    """Slices (N, 1, 64, 64) in [0, 1] of a volume; a request is an orientation, 0 to 2, and a position in mm.

    Between two planes of voxels both are mixed. Axial slices are seen from above, coronal ones from behind, sagittal
    ones from the right: x or y grows to the right of the picture, z or y upwards.
    """
    brain, found = volume(name), []
    for orientation, position in requests.tolist():
        axis = int(AXES[int(orientation)])
        at = (position - CENTRE[axis]) / STEP + (SIDE - 1) / 2
        below = min(max(int(at), 0), SIDE - 2)
        pair = brain.narrow(axis, below, 2).movedim(axis, 0)  # (2, 64, 64)
        found.append(pair[0].lerp(pair[1], at - below).T.flip(0))
    return torch.stack(found)[:, None]


def places(requests: Tensor) -> Tensor:
    """Where each pixel of a slice lies: x, y and z in mm, (N, 3, 64, 64)."""
    found = torch.zeros(len(requests), 3, SIDE, SIDE)
    for row, (orientation, position) in enumerate(requests.tolist()):
        axis = int(AXES[int(orientation)])
        across, up = (other for other in range(3) if other != axis)
        found[row, axis] = position
        found[row, across] = ticks(across)
        found[row, up] = ticks(up).flip(0)[:, None]
    return found


def held_out(requests: Tensor) -> Tensor:
    """Which requests (N,) lie in the slabs that no training sees: 9 mm of every 36 mm."""
    return (requests[:, 1] - 9.0).remainder(PERIOD) < SLAB


def draw_requests(n: int, rng: torch.Generator, *, unseen: bool = False) -> Tensor:
    """`n` requests (n, 2), evenly over orientations and positions: of the slabs held out, or of all others."""
    found = torch.empty(0, 2)
    while len(found) < n:
        orientation = torch.randint(3, (4 * n,), generator=rng)
        low, high = LOW[orientation], HIGH[orientation]
        more = torch.stack([orientation, low + (high - low) * torch.rand(4 * n, generator=rng)], dim=1)
        found = torch.cat([found, more[held_out(more) == unseen]])
    return found[:n]
