# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   course:
#     title: Your own pictures
#     summary: >-
#       From a folder of pictures to a model that others can load: look at the data, train a GAN or a
#       diffusion model in colour that can be stopped and resumed, see what is copied, export it
#     minutes_cpu: 8
#     minutes_gpu: null
# ---

# %% [markdown]
# # 11 · Your own pictures
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/gans-to-diffusion/blob/main/notebooks/11_your_own_pictures.ipynb)
#
# So far the pictures were grey, small and chosen for you. This notebook trains on a folder: the
# thousand emoji that come with the course, or your own pictures if you change one line. It goes all
# the way, from the first look at the files to a model that somebody else loads with one call.
#
# A folder is usually small: some hundreds or thousands of pictures. So one danger goes with us from
# the first cell to the last: a model of a small set may give its training pictures back. You will
# see it happen, and measure it.
#
# ## What you will be able to do
#
# - find duplicates in a folder, and split it so that the test means something;
# - choose size, crops and augmentation, and say which augmentation changes the meaning;
# - estimate the time of a training before you start it, stop it, and go on with the same curve;
# - train a GAN or a diffusion model in colour, by class, and tell learning from copying;
# - measure pictures of any size without a classifier, and know when two measures disagree;
# - save the model as a folder that diffusers loads, with a card written from its own numbers.
#
# **Time** about 8 minutes on a 2-core laptop CPU; a GPU trains a larger model for longer, not yet
# timed.
#
# **Before you start** you need notebook 02 (GANs) and notebook 05 (diffusion, with classes and
# guidance). Their networks are imported and used as they are, with three channels. Notebook 03's
# loss, 06's pipelines and 09's measures appear again.
#
# Run the cells from the top. After a restart of the kernel choose *Run*, *Run All Above Selected
# Cell* before you go on in the middle: each cell needs what the ones above it have made. The square
# stops a training early and keeps what was learnt until then.

# %% tags=["setup"]
# @title Setup: fetches the course's helper package where it is missing
import importlib.util
import subprocess
import sys

PACKAGE = "git+https://github.com/OWNER/gans-to-diffusion@main"
if importlib.util.find_spec("course_utils") is None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", PACKAGE]
    if "/OWNER/" in PACKAGE or subprocess.run(install).returncode:
        raise ImportError(
            f"course_utils cannot be fetched from {PACKAGE}: is that public, and is there a "
            "network? In the course's folder type `pip install -e .`; give your copy its address "
            "with `make badge REPO=owner/name`."
        )
    importlib.invalidate_caches()

# %% tags=["export"]
import inspect
import io
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import safetensors.torch
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from course_utils import data, emoji, imagenet, metrics, photographs, pictures, plots, runtime
from course_utils import standin, training, widgets
from course_utils.checks import nb11 as checks
from course_utils.claims import claim
from course_utils.lessons import nb02_dcgan_training as nb02
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb09_evaluation_and_release as nb09
from course_utils.processes import start_processes

plots.use_style()

# %% tags=["nbval-ignore-output"]
run = runtime.start()
cfg = run.budget.pick(
    quick={"widths": (32, 64), "num_steps": 600, "gan_steps": 1200, "batch_size": 32},
    full={"widths": (64, 128), "num_steps": 20_000, "gan_steps": 40_000, "batch_size": 64},
)

# %% [markdown]
# ## One line to change
#
# `FOLDER = None` takes the emoji. Put the path of your folder there, such as
# `FOLDER = "~/Pictures/garden"`, and run the notebook again. Subfolders are classes; a folder
# without subfolders is one class. Nothing in your folder is ever changed. Sentences with a tick are
# about the emoji, so with your folder most of them are left out.

# %%
FOLDER = None  # the emoji, or the path of a folder of pictures
SIZE = 32  # pixels a side that the pictures are reduced to, a multiple of 4
FLIPS = False  # whether pictures of your folder mean the same when they are mirrored

# %% [markdown]
# Emoji are a good first folder. Four groups of artists, here called *hands*, have drawn the same
# thousand things: Google (Noto), Microsoft (Fluent), Twitter (Twemoji) and Emoji One. Each picture
# has a name, one of eight groups, and a hand. A class is a group in a hand, so there are 32.

# %% tags=["exact"]
drawn = {split: emoji.emoji(split) for split in ("train", "test")}
plots.table(
    ["group", *emoji.HANDS.values(), "held out"],
    [
        [group]
        + [int(((drawn["train"].group == g) & (drawn["train"].hand == h)).sum()) for h in range(4)]
        + [int((drawn["test"].group == g).sum())]
        for g, group in enumerate(drawn["train"].groups)
    ],
)


# %% tags=["figure"]
# @title The same things in four hands
def by_name(part, names):
    return [part.x[[part.names.index(name) + h for name in names]] for h in range(4)]


SHOWN = ("dog-face", "rocket", "strawberry", "guitar", "crying-face", "snail", "pizza", "key")
shown = [name for name in SHOWN if name in drawn["train"].names]
plots.film_strip(
    by_name(drawn["train"], shown),
    list(emoji.HANDS.values()),
    title="Thirty-two pixels a side are enough to tell things and hands apart",
    alt=(
        "Four rows of emoji on white, among them a dog's face, a rocket and a strawberry, each row "
        "drawn by another company in its own style."
    ),
)

# %% [markdown]
# ## Look before you train
#
# Most time that a training wastes was lost before its first step: in duplicates, in files that are
# no pictures, in classes of three pictures. `data.folder` says what it found, what it skipped and
# which classes are small. The rest you must look for.
#
# ### Duplicates
#
# A duplicate counts twice in training, and it spoils the test when one copy is trained and the
# other held out. Exact copies are found by comparing bytes. Copies that were saved again, shrunk or
# brightened are not. A *difference hash* finds most of these: reduce the picture to 9 x 8 grey
# fields, and write down for each field whether its right neighbour is brighter. Such a list of 64
# bits hardly changes when a picture is saved again.


# %% tags=["export"]
def difference_hash(x: Tensor, side: int = 8, margin: float = 0.02) -> Tensor:
    """Bits (N, side * side) of pictures x (N, C, H, W) in [-1, 1]: is the right one of two
    neighbouring fields brighter, by more than `margin`?
    """
    grey = x.mean(dim=1, keepdim=True)  # (N, 1, H, W)
    fields = F.interpolate(grey, size=(side, side + 1), mode="area")[:, 0]  # (N, side, side + 1)
    return (fields[:, :, 1:] - fields[:, :, :-1] > margin).flatten(1)


def bits_apart(a: Tensor, b: Tensor) -> Tensor:
    """How many bits differ between each of a (N, K) and each of b (M, K): (N, M), whole numbers."""
    a, b = a.float(), b.float()
    return (a @ (1 - b).T + (1 - a) @ b.T).round().long()


# %% [markdown]
# Is it any good? Plant copies and look. The table damages 400 emoji in six ways and counts how many
# are still within 2 bits of their original. Then it counts false alarms: pairs of *different*
# things by the same hand that are within 2 bits.


# %%
def through_jpeg(x, quality):
    return 2 * nb09.through_jpeg((x + 1) / 2, quality) - 1


def smaller(x, side):
    small = F.interpolate(x, size=side, mode="bicubic", antialias=True)
    return F.interpolate(small, size=x.shape[-1], mode="bicubic", antialias=True).clamp(-1, 1)


DAMAGE = {
    "saved as JPEG 75": lambda x: through_jpeg(x, 75),
    "shrunk to 20 pixels": lambda x: smaller(x, 20),
    "a tenth darker": lambda x: 0.9 * (x + 1) - 1,
    "in grey": lambda x: x.mean(dim=1, keepdim=True).expand_as(x),
    "moved by 2 pixels": lambda x: x.roll(2, dims=-1),
    "mirrored": lambda x: x.flip(-1),
}
pick = torch.randperm(len(drawn["train"]), generator=runtime.rng(1))[:400]
some = drawn["train"].x[pick]
hashes = difference_hash(some)
found_share = {
    name: ((difference_hash(harm(some)) != hashes).sum(dim=1) <= 2).double().mean().item()
    for name, harm in DAMAGE.items()
}

# %% tags=["nbval-ignore-output"]
of_train, of_test = difference_hash(drawn["train"].x), difference_hash(drawn["test"].x)
same_hand = drawn["test"].hand[:, None] == drawn["train"].hand
near = (bits_apart(of_test, of_train) <= 2) & same_hand  # (424, 3792)
apart = torch.cdist(drawn["test"].x.flatten(1), drawn["train"].x.flatten(1)) / 3072**0.5  # RMS
plots.table(
    ["what was done to a copy", "found within 2 bits"],
    [[name, f"{share:.0%}"] for name, share in found_share.items()],
)
print(
    f"pairs of a held-out and a training emoji of one hand: {int(same_hand.sum()):,}; within 2 "
    f"bits: {int(near.sum())}; of these within a tenth in pixels: "
    f"{int((near & (apart < 0.1)).sum())}"
)

# %%
claim(
    "The hash finds at least nine of ten copies that were saved as JPEG, shrunk or darkened",
    [found_share[name] for name in list(DAMAGE)[:3]],
    at_least=0.9,
)
claim(
    "The hash misses at least three of four copies that were moved by 2 pixels or mirrored",
    [found_share["moved by 2 pixels"], found_share["mirrored"]],
    at_most=0.25,
)
claim(
    "At least half of the pairs that the hash reports among emoji are not alike within a tenth of "
    "the range in pixels: a hash is a list of suspects",
    ((near & (apart >= 0.1)).sum() / near.sum()).item(),
    at_least=0.5,
)

# %% tags=["figure"]
# @title What the hash reports
pairs_at = near.nonzero()
order = apart[near].argsort()
wanted = torch.cat([order[:8], order[-8:]])
reported = [drawn["test"].x[pairs_at[wanted, 0]], drawn["train"].x[pairs_at[wanted, 1]]]
plots.film_strip(
    [part[:8] for part in reported] + [part[8:] for part in reported],
    ["held out", "alike in training", "held out", "only the hash is alike"],
    title="Above the closest pairs that the hash reports, below the furthest ones",
    alt=(
        "Four rows of eight emoji. The two upper rows are pairs that differ in little, such as "
        "clocks and hearts. The two lower rows are pairs of unlike things with a similar outline "
        "of bright and dark."
    ),
)

# %% [markdown]
# So a hash names suspects, and pixels or eyes decide. For a *split*, suspects are enough: a false
# alarm costs nothing when both pictures go to one side. But the relation must be closed: if A is
# near B and B near C, all three belong together, also when A and C differ.
#
# **Exercise 11.1** · a duplicate finder · difficulty 3/5 · 12 minutes
#
# `bits` (N, K) are the hashes of N pictures. Two pictures are linked if at most `at_most` bits
# differ. Return for each picture the smallest index that can be reached from it over links: a
# tensor (N,) of whole numbers. A picture without links is its own group.


# %% tags=["exercise"]
def my_groups(bits, at_most):
    return ...


# %% tags=["check"]
checks.groups(my_groups)


# %% tags=["solution", "export"]
# @title Solution 11.1
def duplicate_groups(bits: Tensor, at_most: int = 2) -> Tensor:
    """The smallest index (N,) that each of N pictures is linked with, directly or over others, by
    hashes (N, K) of which at most `at_most` bits differ.
    """
    linked = bits_apart(bits, bits) <= at_most  # (N, N), each with itself
    group = torch.arange(len(bits))
    while True:  # each round hands the smallest index on to the neighbours
        smallest = torch.where(linked, group, len(bits)).amin(dim=1)
        if torch.equal(smallest, group):
            return group
        group = smallest


checks.groups(duplicate_groups, solution=True)

# %%
duplicate_groups = checks.use(my_groups, duplicate_groups)  # yours, once it passes

# %% [markdown]
# ### A split that keeps things together
#
# The emoji are split by *thing*: if the rocket is held out, it is so in all four hands. A folder is
# split by groups of suspects, class by class. What no hash can know is up to you: ten photographs
# of one garden on one afternoon are one thing, and so are the frames of a film. Give each its own
# subfolder and hold out whole subfolders, if you want to know what the model does elsewhere.


# %% tags=["export", "long"]
@dataclass(frozen=True)
class Part:
    """Pictures x (N, 3, size, size) in [-1, 1], their classes y (N,), names, and whether each may
    be mirrored without losing its meaning (N,).
    """

    x: Tensor
    y: Tensor
    names: tuple[str, ...]
    flips: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Material:
    """What a model learns from: pictures to train on, pictures held out, names of the classes."""

    train: Part
    held: Part
    classes: tuple[str, ...]
    source: str


def hold_out(group: Tensor, y: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Which of N pictures are held out (N,): whole groups, in random order, until a `share` of each
    class is reached; a class of one group is trained.
    """
    held = torch.zeros(len(group), dtype=torch.bool)
    for c in y.unique():
        own = group[y == c].unique()
        own = own[torch.randperm(len(own), generator=rng)]
        for g in own[:-1]:
            if held[y == c].sum() >= share * (y == c).sum():
                break
            held |= (group == g) & (y == c)
    return held


def material(folder: str | Path | None, size: int = 32, *, flips: bool = False) -> Material:
    """The emoji, or a folder's pictures, in a part to train on and a tenth that is held out."""
    if folder is None:
        found = {split: emoji.emoji(split) for split in ("train", "test")}
        parts = [
            Part(e.x, e.y, e.names, torch.tensor([g in emoji.MIRRORS for g in e.groups])[e.group])
            for e in found.values()
        ]
        return Material(*parts, found["train"].classes, "the course's emoji")
    found = data.folder(folder, size, 3)
    group = duplicate_groups(difference_hash(found.x))
    held = hold_out(group, found.y, 0.1, torch.Generator().manual_seed(0))
    parts = []
    for mask in (~held, held):
        names = tuple(name for name, kept in zip(found.names, mask.tolist()) if kept)
        may = torch.full((int(mask.sum()),), flips)
        parts.append(Part(found.x[mask], found.y[mask], names, may))
    return Material(*parts, found.classes, found.source)


# %% tags=["nbval-ignore-output"]
mine = material(FOLDER, SIZE, flips=FLIPS)
train, held = mine.train, mine.held
ON_EMOJI = FOLDER is None  # sentences with a tick below are about these
print(f"{mine.source}: {len(train):,} to train on, {len(held)} held out, {len(mine.classes)} classes")

# %%
if ON_EMOJI:
    claim(
        "No thing is in both parts of the emoji, in any hand",
        len(set(train.names) & set(held.names)),
        equal=0,
    )

# %% [markdown]
# ### A folder of photographs
#
# Do the same steps work on files? The next cell writes a folder as people have them: 240 crops of
# the course's twelve photographs, as JPEG and PNG, a subfolder for each photograph. Crops that
# overlap would be near-duplicates which no hash finds, so these are taken from a grid.


# %% tags=["export", "long"]
def write_crops(folder: Path, side: int = 64, each: int = 20) -> int:
    """Write `each` crops of every photograph of the course, not overlapping, as .jpg and .png files
    in a subfolder a photograph; returns how many files.
    """
    count = 0
    for split in photographs.PHOTOGRAPHS:
        for photograph in photographs.photographs(split):
            place = folder / photograph.name
            place.mkdir(parents=True, exist_ok=True)
            tiles = photograph.x.unfold(1, side, side).unfold(2, side, side)  # (3, a, b, s, s)
            tiles = tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)
            step = max(1, len(tiles) // each)
            for i, tile in enumerate(tiles[::step][:each]):
                name = f"{photograph.name}-{i:02d}." + ("jpg" if i % 2 else "png")
                to_pil_image(tile).save(place / name, quality=92)
                count += 1
    return count


# %% tags=["nbval-ignore-output"]
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # Windows keeps open files
garden = Path(scratch.name) / "photographs"
written = write_crops(garden)
photos = material(garden, 32, flips=True)
print(f"{written} files; {len(photos.train)} to train on, {len(photos.held)} held out")

# %%
plots.film_strip(
    [photos.train.x[photos.train.y == c][:12] for c in (0, 2, 5, 9)],
    [photos.classes[c] for c in (0, 2, 5, 9)],
    title="A folder of crops of photographs, read and reduced to 32 pixels",
    alt=(
        "Four rows of small square crops of photographs, each row from one photograph with its "
        "own colours and textures."
    ),
)
claim("The folder of photographs holds at least 200 files", written, at_least=200)
claim(
    "Every file was read, and each is either trained or held out",
    len(photos.train) + len(photos.held) - written,
    equal=0,
)
claim(
    "No two crops on different sides of the split are within 2 bits of each other in one class",
    int(
        (
            (
                bits_apart(difference_hash(photos.held.x), difference_hash(photos.train.x)) <= 2
            )
            & (photos.held.y[:, None] == photos.train.y)
        ).sum()
    ),
    equal=0,
)

# %% [markdown]
# ## Size, crop and augmentation
#
# The cost of a step grows with the number of pixels, and so does the number of pictures that you
# need. Start at 32 pixels, look at the data at that size, and go on only if *you* can recognise in
# it what the model should learn.
#
# A camera's picture is not square. `data.folder` takes the square in the middle. For portraits,
# which are tall and have the face above the middle, that is a bad choice, and squeezing the picture
# into a square is a worse one: the model learns squeezed faces.
#
# **Exercise 11.2** · your own crop · difficulty 2/5 · 8 minutes
#
# Write a crop for a picture x (C, H, W): the largest square that fits, at the share `along` of the
# room there is along the longer side. 0 is the left or upper end, 1 the other one, and a half the
# middle; round the place to a whole pixel. Nothing is resized.


# %% tags=["exercise"]
def my_crop(x, along):
    return ...


# %% tags=["check"]
checks.square(my_crop)


# %% tags=["solution", "export"]
# @title Solution 11.2
def square(x: Tensor, along: float = 0.5) -> Tensor:
    """The largest square (C, S, S) of a picture x (C, H, W), at a share `along` in [0, 1] of the
    room along its longer side.
    """
    height, width = x.shape[-2:]
    side = min(height, width)
    top, left = round(along * (height - side)), round(along * (width - side))
    return x[..., top : top + side, left : left + side]


checks.square(square, solution=True)

# %%
square = checks.use(my_crop, square)  # yours from here on, once it passes

# %% tags=["figure"]
# @title Three crops of one photograph, and the squeezed one
cat = next(p.x for p in photographs.photographs("test") if p.name == "cat")
tall = cat[:, :, : cat.shape[-1] * 2 // 3] if cat.shape[-1] >= cat.shape[-2] else cat
views = [square(tall, along) for along in (0.0, 0.5, 1.0)] + [tall]
views = [F.interpolate(v[None], size=(128, 128), mode="bicubic", antialias=True) for v in views]
plots.image_grid(
    2 * torch.cat(views).clamp(0, 1) - 1,
    title="along = 0, a half, 1, and squeezed: a crop is a choice of what the model may see",
    alt=(
        "Four square views of a cat's photograph: cropped at the upper end, in the middle, at the "
        "lower end, and squeezed, where the cat's head is too wide."
    ),
    columns=4,
    zoom=1,
)

# %% [markdown]
# ### Which flips keep the meaning
#
# Mirroring doubles a set for nothing, if the mirrored picture could be in the set. A mirrored dog
# is a dog. A mirrored letter is no letter, a mirrored clock shows another time, and a mirrored road
# sign sends you the wrong way. So `emoji.MIRRORS` lists five of eight groups, and the decision was
# made by looking. Further down the trained network tells whether it has learnt the difference.

# %% tags=["figure"]
# @title Mirrored: which ones still mean the same?
LETTERS = ("a-button-blood-type", "input-numbers", "up-right-arrow", "two-oclock", "left-arrow")
kinds = [name for name in (*SHOWN[:4], *LETTERS) if name in drawn["train"].names]
first = by_name(drawn["train"], kinds)[2]
plots.film_strip(
    [first, first.flip(-1)],
    ["as drawn", "mirrored"],
    title="A mirrored animal is an animal; a mirrored letter, arrow or clock means something else",
    alt=(
        "Two rows of emoji. In the mirrored row animals and food look natural, while letters are "
        "turned round and arrows point the other way."
    ),
)

# %% [markdown]
# ### Find the bug: colours
#
# **Exercise 11.3** · find the bug · difficulty 2/5 · 10 minutes
#
# Networks trained on ImageNet want its mean and standard deviation taken out of each channel, so
# this line is in countless scripts, and people copied it into generative models:
#
# ```python
# transform = T.Compose([T.ToTensor(), T.Normalize(mean=(0.485, 0.456, 0.406),
#                                                  std=(0.229, 0.224, 0.225))])
# ...
# save_image((sample + 1) / 2, "sample.png")
# ```
#
# Training works. The saved samples have wrong colours, since the last line undoes another
# normalisation than the first one did. Write the right inverse: `out` (N, 3, H, W) as the network
# gives it, `mean` and `std` (3,) as above, and the result in [0, 1], ready for a file.


# %% tags=["exercise"]
def my_pixels(out, mean, std):
    return ...


# %% tags=["check"]
checks.to_pixels(my_pixels)


# %% tags=["solution", "export"]
# @title Solution 11.3
def to_pixels(out: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] from normalised ones: out times std plus mean, by channel."""
    mean, std = (part.to(out)[:, None, None] for part in (mean, std))
    return (out * std + mean).clamp(0, 1)


checks.to_pixels(to_pixels, solution=True)

# %%
to_pixels = checks.use(my_pixels, to_pixels)  # yours from here on, once it passes
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
plain = (by_name(drawn["train"], shown)[0] + 1) / 2  # (8, 3, 32, 32) in [0, 1]
normalised = (plain - MEAN[:, None, None]) / STD[:, None, None]
published = ((normalised + 1) / 2).clamp(0, 1)
capped = to_pixels(normalised.clamp(-1, 1), MEAN, STD)

# %%
plots.film_strip(
    [2 * part - 1 for part in (plain, published, to_pixels(normalised, MEAN, STD), capped)],
    ["the pictures", "as published", "undone rightly", "capped at 1"],
    title="The wrong inverse bleaches; a sampler that caps at 1 greys what was white",
    alt=(
        "Four rows of emoji. In the second row colours are bleached and shadows are lost. The "
        "third row equals the first. In the fourth row the white ground is grey."
    ),
)
outside = (normalised.abs() > 1).double().mean().item()
claim("The right inverse gives every pixel back", (to_pixels(normalised, MEAN, STD) - plain).abs(),
      at_most=1e-5)  # fmt: skip
claim(
    "The published line is off by more than a tenth of the range on average",
    (published - plain).abs().mean().item(),
    at_least=0.1,
)
claim(
    "More than half of all values lie outside [-1, 1] after ImageNet's normalisation, so a sampler "
    "that caps its prediction there cannot draw them",
    outside,
    at_least=0.5,
)

# %% [markdown]
# The last row is the second half of the mistake, and it is seen less often. Diffusion samplers cap
# their prediction of x0 at [-1, 1] (`clip=True` in notebook 05, `clip_sample` in diffusers). With
# ImageNet's normalisation white lies above 2. So in this course pictures are in [-1, 1], always,
# and the network takes the data's own mean and standard deviation inside (`Preconditioned`), where
# nobody can forget to undo them.
#
# ### Classes of unequal size
#
# Folders are unequal: 900 pictures of the cat, 30 of the dog. A model trained as the pictures come
# sees a dog in every thirtieth. Sampling classes equally often shows each dog thirty times as
# often, and that is how dogs get copied. Between the two lies a power: each picture is drawn with a
# probability proportional to (pictures in its class) to the power of minus `power`.
#
# **Exercise 11.4** · class-balanced sampling · difficulty 2/5 · 8 minutes
#
# Return these probabilities (N,) for classes y (N,), with sum 1. `power` 0 draws every picture
# equally often, 1 every class that is there. Some class numbers may have no picture.


# %% tags=["exercise"]
def my_weights(y, power):
    return ...


# %% tags=["check"]
checks.weights(my_weights)


# %% tags=["solution", "export"]
# @title Solution 11.4
def class_weights(y: Tensor, power: float = 0.0) -> Tensor:
    """The probability (N,) of drawing each picture of classes y (N,): 0 as in the data, 1 every
    class equally often.
    """
    count = y.bincount()[y].double()  # how many there are of each picture's own class
    weight = count**-power
    return weight / weight.sum()


checks.weights(class_weights, solution=True)

# %%
class_weights = checks.use(my_weights, class_weights)  # yours from here on, once it passes
POWER = 0.5  # half-way between the data's shares and equal ones

# %% tags=["nbval-ignore-output"]
sizes = train.y.bincount(minlength=len(mine.classes))
plots.table(
    ["power", "rarest class drawn", "most frequent class", "times a picture of the rarest one"],
    [
        [power, f"{share.min():.1%}", f"{share.max():.1%}", f"{w.max() * len(train):.2f}"]
        for power in (0.0, 0.5, 1.0)
        for w in [class_weights(train.y, power)]
        for share in [torch.zeros(len(sizes)).double().index_add(0, train.y, w)]
    ],
)

# %% [markdown]
# ## Two models, one loop
#
# The loop below knows nothing of GANs or diffusion. It calls `job.step(number)`, keeps the losses,
# and saves. Three decisions make a training *resumable* to the last digit:
#
# - **Random numbers hang on the number of the step.** Before step n the generator is seeded with n,
#   so the whole state of chance is one integer. (The usual way saves the generators' states; one
#   that is forgotten, in a data loader or on the graphics card, changes the run in silence.)
# - **The learning rate is a function of the step**, not an object with a memory of its own.
# - **Everything that has a state is in one dictionary**: networks, optimisers, averages.


# %% tags=["export", "long"]
@dataclass(frozen=True)
class Job:
    """A training: what has a state, one step by its number, and how to sample from it.

    Attributes:
        parts: networks, optimisers and averages by name, for the checkpoint.
        step: from the number of a step, the first being 0, to named losses.
        sample: from labels (N,) and a CPU generator to pictures (N, 3, size, size) in [-1, 1].
    """

    parts: dict[str, Any]
    step: Callable[[int], dict[str, float]]
    sample: Callable[..., Tensor]


def fit(
    job: Job,
    num_steps: int,
    *,
    file: Path | None = None,
    every: int = 100,
    seed: int = 0,
    writes: bool = True,
    watch: Callable[[int, dict[str, float], Job], None] | None = None,
) -> dict[str, list[float]]:
    """Take the steps that are left of `num_steps`, and return all losses, those of the earlier
    runs from the checkpoint `file` among them.

    Args:
        every: steps from one checkpoint to the next.
        writes: False in all processes but one, where several train together.
        watch: called as watch(step, losses, job) after every step, the first being step 1.
    """
    curves: dict[str, list[float]] = {}
    done = 0
    if file is not None and file.exists():
        content = training.load_checkpoint(file, **job.parts)
        done, curves = content["step"], content["curves"]
    saved = done
    for _ in training.progress(max(num_steps - done, 0)):
        torch.manual_seed(seed * 1_000_003 + done)
        losses = job.step(done)
        done += 1
        for name, value in losses.items():
            curves.setdefault(name, []).append(value)
        training.note(**losses)
        if file is not None and writes and done % every == 0:
            training.save_checkpoint(file, done, curves=curves, **job.parts)
            saved = done
        if watch:
            watch(done, losses, job)
    if file is not None and writes and saved < done:
        training.save_checkpoint(file, done, curves=curves, **job.parts)
    return curves


def rate(number: int, num_steps: int, warm_up: int = 50) -> float:
    """The learning rate's factor at a step: up, level, and down to 0 over the second half."""
    return min(1, (number + 1) / warm_up, 2 * (1 - number / num_steps))


def draw_batch(part: Part, weights: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n pictures and classes, each picture drawn with its weight, and mirrored half of the time
    where it may be.
    """
    index = torch.multinomial(weights, n, replacement=True)
    x, turned = part.x[index], part.flips[index] & (torch.rand(n) < 0.5)
    return torch.where(turned[:, None, None, None], x.flip(-1), x), part.y[index]


# %% [markdown]
# ### Diffusion: notebook 05's network
#
# Nothing is new but three channels. The U-Net takes `channels`, `classes` and `size`, the wrapper
# `Preconditioned` takes mean and standard deviation of *these* pictures, and a tenth of the labels
# is dropped, so that guidance works later.


# %% tags=["export", "long"]
def diffusion_net(part: Part, classes: int, widths: tuple[int, int]) -> nb05.Preconditioned:
    """Notebook 05's U-Net for pictures of this shape, told their mean and standard deviation."""
    channels, size = part.x.shape[1:3]
    unet = nb05.UNet(widths, channels=channels, classes=classes, size=size)
    schedule = nb04.Schedule.named("cosine", nb05.T)
    return nb05.Preconditioned(unet, schedule, part.x.mean().item(), part.x.std().item())


def diffusion_job(
    part: Part,
    classes: int,
    run: runtime.Runtime,
    *,
    num_steps: int,
    batch_size: int,
    widths: tuple[int, int],
    weights: Tensor | None = None,
    lr: float = 2e-3,
    ema_decay: float = 0.995,
    share: slice = slice(None),
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
) -> Job:
    """Train a class-conditional diffusion model on one part of the pictures.

    Args:
        weights: how often to draw each picture (N,), see `class_weights`; equally without it.
        share: which pictures of each batch are this process's.
        wrap: around the network in the forward pass, such as DistributedDataParallel.
    """
    torch.manual_seed(run.seed)
    net = diffusion_net(part, classes, widths).to(run.device)
    forward, schedule, null = wrap(net), net.schedule, net.unet.null
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    ema, often = training.EMA(net, ema_decay), nb05.timestep_weights(net.schedule)
    weights = torch.ones(len(part)) if weights is None else weights

    def step(number: int) -> dict[str, float]:
        optimiser.param_groups[0]["lr"] = lr * rate(number, num_steps)
        x0, y = draw_batch(part, weights, batch_size)
        y, t = nb05.drop_labels(y, 0.1, null), nb05.sample_timesteps(often, batch_size)
        noise = torch.randn(x0.shape)
        x0, y, t, noise = (each[share].to(run.device) for each in (x0, y, t, noise))
        with run.autocast():
            loss = nb05.diffusion_loss(forward, x0, y, t, noise, schedule)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema.update_parameters(net)
        return {"loss": loss.item()}

    def sample(labels: Tensor, rng: torch.Generator, guidance: float = 2.0) -> Tensor:
        return sample_with(ema, run, labels, rng, guidance=guidance)

    return Job({"net": net, "optimiser": optimiser, "ema": ema}, step, sample)


def sample_with(
    net: nn.Module,
    run: runtime.Runtime,
    labels: Tensor,
    rng: torch.Generator,
    *,
    guidance: float = 2.0,
    num_steps: int = 10,
) -> Tensor:
    """Pictures (N, 3, size, size) in [-1, 1] on the CPU, one a label, by DPM-Solver++(2M)."""
    schedule = nb04.Schedule.named("cosine", nb05.T)
    with run.autocast():
        x = nb05.sample_images(net, schedule, labels, num_steps, guidance, rng=rng, batch_size=64)
    return x.float().clamp(-1, 1)


# %% [markdown]
# ### GAN: notebook 02's networks
#
# Notebook 02's generator and discriminator take channels, classes and a size as well. The label is
# one-hot: it is put beside the latent, and as constant planes beside the picture. Two things are
# changed, both known from notebook 03. The loss is R3GAN's: relativistic, with R1 and R2. And the
# discriminator loses its batch normalisation, which a gradient penalty cannot do with: the penalty
# speaks of the gradient at *each* picture, and BatchNorm mixes the pictures of a batch.
#
# One thing is new. A discriminator that sees the same 3,800 pictures again and again learns them by
# heart, and then judges by memory. *DiffAugment* (Zhao et al. 2020, section 3) changes colour and
# place and cuts out a square, at random, from every picture that the discriminator sees, *real and
# generated alike*. All three can be differentiated, so the generator learns through them. Because
# generated pictures are changed too, no cut-out square is taught to the generator. If only real
# ones were changed, squares and shifts would be part of what it should learn: augmentation leaks.


# %% tags=["export", "long"]
def random_colour(x: Tensor) -> Tensor:
    """Brightness moved by up to a half, saturation times 0 to 2, contrast times a half to 1.5, for
    each picture (N, 3, H, W) by itself (Zhao et al. 2020, and the authors' code).
    """
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def random_translation(x: Tensor, share: float = 0.125) -> Tensor:
    """Each picture (N, C, H, W) moved by up to a `share` of its side; zeros come in."""
    reach = round(share * x.shape[-1])
    down, right = torch.randint(-reach, reach + 1, (2, len(x), 1), device=x.device)
    padded, side = F.pad(x, (reach,) * 4), torch.arange(x.shape[-1], device=x.device)
    rows, columns = side + reach + down, side + reach + right  # (N, side)
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def random_cutout(x: Tensor, share: float = 0.5) -> Tensor:
    """A square of a `share` of the side set to 0 in each picture (N, C, H, W), anywhere."""
    side, half = x.shape[-1], round(share * x.shape[-1]) / 2
    at = torch.rand(2, len(x), 1, device=x.device) * side
    ticks = torch.arange(side, device=x.device) + 0.5
    rows, columns = ((ticks - place).abs() < half for place in at)  # (N, side)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def diff_augment(x: Tensor) -> Tensor:
    """Colour, translation and cutout, all differentiable in x (N, 3, H, W)."""
    return random_cutout(random_translation(random_colour(x)))


def without_batch_norm(net: nn.Sequential) -> nn.Sequential:
    """The same layers, with the identity where a BatchNorm was; changed in place."""
    for i, layer in enumerate(net):
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            net[i] = nn.Identity()
    return net


# %% tags=["export", "long"]
critic_loss = nb03.penalised(nb03.relativistic_loss, r1=True, r2=True)


def gan_job(
    part: Part,
    classes: int,
    run: runtime.Runtime,
    *,
    num_steps: int,
    batch_size: int,
    weights: Tensor | None = None,
    width: int = 32,
    lr: float = 1e-3,
    augment: Callable[[Tensor], Tensor] = diff_augment,
    ema_decay: float = 0.995,
) -> Job:
    """Train notebook 02's networks as a class-conditional R3GAN with DiffAugment."""
    torch.manual_seed(run.seed)
    shape = {"channels": part.x.shape[1], "classes": classes, "size": part.x.shape[-1]}
    generator = nb02.Generator(width=width, **shape).apply(nb02.init_weights).to(run.device)
    discriminator = nb02.Discriminator(**shape)
    without_batch_norm(discriminator.net)
    discriminator.to(run.device)
    players = {"g": generator, "d": discriminator}
    optimisers = {
        name: torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.99))
        for name, net in players.items()
    }
    ema = training.EMA(generator, ema_decay)
    weights = torch.ones(len(part)) if weights is None else weights

    def step(number: int) -> dict[str, float]:
        for optimiser in optimisers.values():
            optimiser.param_groups[0]["lr"] = lr * rate(number, num_steps)
        real, y = (each.to(run.device) for each in draw_batch(part, weights, batch_size))
        fake = generator(torch.randn(len(y), generator.latent_dim, 1, 1).to(run.device), y)

        def critic(x: Tensor) -> Tensor:
            return discriminator(augment(x), y)

        loss_d = critic_loss(critic, real, fake, number / num_steps)
        optimisers["d"].zero_grad()
        loss_d.backward()
        optimisers["d"].step()
        loss_g = nb03.relativistic_loss(critic(fake), critic(real))
        optimisers["g"].zero_grad()
        loss_g.backward(inputs=list(generator.parameters()))
        optimisers["g"].step()
        ema.update_parameters(generator)
        return {"loss_d": loss_d.item(), "loss_g": loss_g.item()}

    @torch.no_grad()
    def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
        z = torch.randn(len(labels), generator.latent_dim, 1, 1, generator=rng)
        net = ema.eval()
        pairs = zip(z.to(run.device).split(256), labels.to(run.device).split(256))
        return torch.cat([net(*pair).cpu() for pair in pairs]).float().clamp(-1, 1)

    parts = {"g": generator, "d": discriminator, "ema": ema}
    parts |= {f"optimiser_{name}": optimiser for name, optimiser in optimisers.items()}
    return Job(parts, step, sample)


# %% tags=["figure"]
# @title What the discriminator sees
torch.manual_seed(4)
eight = by_name(drawn["train"], shown)[1]
plots.film_strip(
    [eight, random_colour(eight), random_translation(eight), random_cutout(eight),
     diff_augment(eight)],
    ["as it is", "colour", "translation", "cutout", "all three"],
    title="DiffAugment leaves the thing recognisable and every pixel changed",
    alt=(
        "Five rows of the same emoji: unchanged, with other colours, moved with a grey border, with "
        "a grey square cut out, and with all three changes."
    ),
)  # fmt: skip

# %% [markdown]
# ## How long will it take?
#
# Measure ten steps before you start, and multiply. Three more steps go first and are not counted:
# they allocate memory and choose algorithms. Two clocks tell different things. The clock on the
# wall is what you wait. The seconds of the processor (`time.process_time`) are what the work costs,
# and hardly change when something else runs beside it; the comparison below uses these.


# %% tags=["export"]
def time_steps(make_job: Callable[[], Job], n: int = 10, first: int = 3) -> tuple[float, float]:
    """Seconds a step on the wall and of the processor, over n steps of a fresh job after `first`
    ones that are not counted.
    """
    job = make_job()
    for number in range(first):
        job.step(number)
    runtime.synchronize()
    before = time.perf_counter(), time.process_time()
    for number in range(first, first + n):
        job.step(number)
    runtime.synchronize()
    return tuple((now - then) / n for now, then in zip(clocks(), before))


def clocks() -> tuple[float, float]:
    """The clock on the wall and the processor's, in seconds."""
    return time.perf_counter(), time.process_time()


# %% tags=["nbval-ignore-output"]
balanced = class_weights(train.y, POWER)
shared = {"batch_size": cfg["batch_size"], "weights": balanced}
MAKERS = {
    "diffusion": lambda: diffusion_job(
        train, len(mine.classes), run, num_steps=cfg["num_steps"], widths=cfg["widths"], **shared
    ),
    "GAN": lambda: gan_job(train, len(mine.classes), run, num_steps=cfg["gan_steps"], **shared),
}
num_steps = {"diffusion": cfg["num_steps"], "GAN": cfg["gan_steps"]}
estimate = {}
for name, make in MAKERS.items():
    wall, processor = time_steps(make)
    estimate[name] = num_steps[name] * wall, num_steps[name] * processor
    print(
        f"{name}: {num_steps[name]:,} steps, {1000 * processor:.0f} ms of the processor each: "
        f"about {estimate[name][0]:.0f} s on the wall, {estimate[name][1]:.0f} s of the processor"
    )

# %% [markdown]
# ## Stop it, and go on
#
# A training that cannot be stopped is a training that you lose. The next cell runs a short one to
# the end. Then it begins again and breaks off in the middle, between two checkpoints, as if the
# battery had died. A *new* job, with fresh networks, loads the last checkpoint and goes on. The
# steps since that checkpoint are done again.


# %% tags=["nbval-ignore-output"]
class PowerCut(Exception):
    pass


def break_off_at(step):
    def watch(done, losses, job):
        if done == step:
            raise PowerCut

    return watch


SHORT = 12


def short_job(name):
    if name == "diffusion":
        return diffusion_job(train, len(mine.classes), run, num_steps=SHORT, batch_size=8,
                             widths=(16, 32))  # fmt: skip
    return gan_job(train, len(mine.classes), run, num_steps=SHORT, batch_size=8, width=8)


whole, resumed, lost = {}, {}, {}
for name in MAKERS:
    whole[name] = fit(short_job(name), SHORT)
    file = Path(scratch.name) / f"short {name}.pt"
    try:
        fit(short_job(name), SHORT, file=file, every=4, watch=break_off_at(7))
    except PowerCut:
        print(f"{name}: broken off after step 7, checkpoint of step 4 on the disk")
    resumed[name] = fit(short_job(name), SHORT, file=file, every=4)
    lost[name] = fit(short_job(name), SHORT, seed=1)  # the same, with other random numbers

# %%
differences = [
    abs(a - b)
    for name in MAKERS
    for curve in whole[name]
    for a, b in zip(whole[name][curve], resumed[name][curve], strict=True)
]
claim(
    "A GAN and a diffusion model that were broken off and resumed have the losses of the runs that "
    "were not, at every step, to a millionth",
    differences,
    at_most=1e-6,
)
claim(
    "The same steps with other random numbers have other losses, so the sentence above could fail",
    min(
        max(abs(a - b) for a, b in zip(whole[name][curve], lost[name][curve], strict=True))
        for name in MAKERS
        for curve in whole[name]
    ),
    at_least=1e-4,
)

# %% [markdown]
# ## The training
#
# Now both models, for about the same seconds of the processor. While they train, `Watcher` looks at
# three things: sample pictures; and, for the diffusion model, the loss on training pictures and on
# held-out ones, *with the same noise and timesteps every time*. The loss of a single batch jumps
# about so much that no overfitting could be seen in it.


# %% tags=["export", "long"]
@torch.no_grad()
def losses_of(
    net: nn.Module,
    part: Part,
    *,
    mirrored: bool = False,
    timesteps: Sequence[int] = (150, 350, 550, 750),
    batch_size: int = 64,
) -> Tensor:
    """The loss in v of each picture (N,), the mean over timesteps, always with the same noise; with
    `mirrored`, of pictures and noise turned round together.
    """
    schedule = nb04.Schedule.named("cosine", nb05.T)
    device, found = next(net.parameters()).device, torch.zeros(len(part))
    for t in timesteps:
        rng = torch.Generator().manual_seed(t)
        for start in range(0, len(part), batch_size):
            x0, y = (part_[start : start + batch_size] for part_ in (part.x, part.y))
            noise = torch.randn(x0.shape, generator=rng)
            pair = (x0.flip(-1), noise.flip(-1)) if mirrored else (x0, noise)
            x0, noise = (each.to(device) for each in pair)
            level = schedule.level(torch.full((len(x0),), t, device=device))
            v = net(nb04.add_noise(x0, noise, level), torch.full_like(y, t).to(device),
                    y.to(device))  # fmt: skip
            wrong = (v - nb04.output_from("v", x0, noise, level)).square().mean(dim=(1, 2, 3))
            found[start : start + batch_size] += wrong.cpu() / len(timesteps)
    return found


def take(part: Part, index: Tensor) -> Part:
    """Some pictures of a part, by their numbers (M,)."""
    return Part(part.x[index], part.y[index], tuple(part.names[i] for i in index.tolist()),
                part.flips[index])  # fmt: skip


class Watcher:
    """Keeps samples, and for diffusion the losses on both parts, at the given steps."""

    def __init__(self, steps: Sequence[int], labels: Tensor, parts: Mapping[str, Part]) -> None:
        self.steps, self.labels, self.parts = set(steps), labels, parts
        self.frames: dict[int, Tensor] = {}
        self.losses: dict[int, dict[str, float]] = {}

    def __call__(self, step: int, losses: dict[str, float], job: Job) -> None:
        if step not in self.steps:
            return
        state = torch.random.get_rng_state()
        self.frames[step] = job.sample(self.labels, torch.Generator().manual_seed(0))
        if "loss" in losses:  # a GAN's losses say nothing of the kind
            self.losses[step] = {
                name: losses_of(job.parts["ema"], part).mean().item()
                for name, part in self.parts.items()
            }
        torch.random.set_rng_state(state)


# %% tags=["nbval-ignore-output"]
few = {
    name: take(part, torch.randperm(len(part), generator=runtime.rng(7))[:96])
    for name, part in (("trained", train), ("held out", held))
}
strip = torch.arange(8) * len(mine.classes) // 8  # one class of every group
jobs, curves, took, watchers = {}, {}, {}, {}
for name, make in MAKERS.items():
    marks = sorted({max(1, num_steps[name] * i // 6) for i in range(1, 7)} | {1})
    watchers[name] = Watcher(marks, strip, few)
    jobs[name] = make()
    before = clocks()
    curves[name] = fit(
        jobs[name], num_steps[name], file=Path(scratch.name) / f"{name}.pt", every=200,
        seed=run.seed, watch=watchers[name],
    )  # fmt: skip
    took[name] = tuple(now - then for now, then in zip(clocks(), before))
    print(f"{name}: {took[name][0]:.0f} s on the wall, {took[name][1]:.0f} s of the processor")

# %%
ratios = [took[name][1] / estimate[name][1] for name in MAKERS]
claim(
    "The estimate from ten steps was right to within a factor of 2 in seconds of the processor "
    "(samples and held-out losses on the way come on top of it)",
    ratios,
    between=(0.5, 2),
)

# %% tags=["figure"]
# @title Samples on the way
for name, watcher in watchers.items():
    plots.film_strip(
        list(watcher.frames.values()),
        [f"step {step}" for step in watcher.frames],
        title=f"{name}: one class of each group, from the same noise, as training goes on",
        alt=(
            f"Rows of eight pictures each from the {name} at seven points of its training: from "
            "flat or noisy squares to coloured shapes on white that resemble emoji."
        ),
    )

# %% tags=["figure"]
# @title The diffusion model's losses
fixed = watchers["diffusion"].losses
figure, axis = plt.subplots(figsize=(8.3, 3))
loss = torch.tensor(curves["diffusion"]["loss"])
width = max(1, len(loss) // 60)
smooth = loss.unfold(0, width, width).mean(dim=1)
axis.plot(width * (torch.arange(len(smooth)) + 0.5), smooth, color=plots.BLACK, alpha=0.4,
          label="batches of training")  # fmt: skip
for name, colour, marker in (("trained", plots.BLUE, "o"), ("held out", plots.VERMILION, "s")):
    axis.plot(list(fixed), [row[name] for row in fixed.values()], marker, linestyle="-",
              color=colour, label=f"96 pictures {name}, the same noise")  # fmt: skip
axis.set_yscale("log")
axis.set_xlabel("step")
axis.set_ylabel("mean squared error of v")
axis.legend()
axis.set_title("In a short training, pictures that were never seen lose as little as trained ones")
plots.show(
    figure,
    (
        "Loss against step. The loss of batches jumps. Two smooth lines for fixed training and "
        "held-out pictures fall together and stay close to each other."
    ),
)

# %%
last = list(fixed.values())[-1]
if ON_EMOJI and run.budget.size == "quick":
    claim(
        "At the end of the quick training the loss on held-out emoji is within a quarter of that "
        "on training emoji",
        last["held out"] / last["trained"],
        between=(0.75, 1.25),
    )
    claim(
        "The loss on held-out emoji fell to less than a half in training",
        last["held out"] / list(fixed.values())[0]["held out"],
        at_most=0.5,
    )

# %% [markdown]
# A GAN has no such curve. Its losses measure the contest and not the pictures, and no held-out
# picture has a loss. What can be watched is the discriminator: if it scores training pictures above
# held-out ones, it has begun to know them by heart.


# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def scores(part):
    net = jobs["GAN"].parts["d"]
    return net(part.x.to(run.device), part.y.to(run.device)).float().cpu()


with torch.no_grad():
    fake_few = jobs["GAN"].sample(few["held out"].y, runtime.rng(8))
    on_fake = jobs["GAN"].parts["d"](fake_few.to(run.device), few["held out"].y.to(run.device))
judged = {name: scores(part) for name, part in few.items()} | {"generated": on_fake.float().cpu()}
plots.table(
    ["pictures", "mean score", "spread"],
    [[name, f"{s.mean():.2f}", f"{s.std():.2f}"] for name, s in judged.items()],
)
