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
#       From a folder of pictures to a model that others can load: look at the data, train a GAN or
#       a diffusion model in colour that can be stopped and resumed, see what is copied, export it
#     minutes_cpu: 9
#     minutes_gpu: null
# ---

# %% [markdown]
# # 11 · Your own pictures
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/gans-to-diffusion/blob/main/notebooks/11_your_own_pictures.ipynb)
#
# So far the pictures were grey, small and chosen for you. This notebook trains on a folder: the
# emoji that come with the course, a thousand things in four artists' hands, or your own pictures if
# you change one line. It goes all the way, from the first look at the files to a model that
# somebody else loads with one call.
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
# **Time** about 9 minutes on a 2-core laptop CPU with other work beside it, 6 of them alone; a GPU
# trains a larger model for longer, not yet timed. Reading, code and exercises take you about two
# and a half hours.
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
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# %% tags=["export"]
import diffusers
import matplotlib.pyplot as plt
import safetensors.torch
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

# %% tags=["export"]
from course_utils import data, emoji, imagenet, metrics, photographs, pictures, plots, runtime
from course_utils import standin, training, widgets
from course_utils.checks import nb11 as checks
from course_utils.claims import claim
from course_utils.lessons import nb02_dcgan_training as nb02
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb08_medical_synthesis as nb08
from course_utils.lessons import nb09_evaluation_and_release as nb09
from course_utils.processes import start_processes

plots.use_style()
diffusers.utils.logging.disable_progress_bar()  # of loading; warnings stay

# %% tags=["nbval-ignore-output"]
run = runtime.start()
cfg = run.budget.pick(
    quick={"widths": (32, 64), "num_steps": 900, "gan_steps": 750, "batch_size": 16},
    full={"widths": (64, 128), "num_steps": 20_000, "gan_steps": 15_000, "batch_size": 64},
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
# thousand things: Google (Noto), Microsoft (Fluent), Twitter (Twemoji) and Emoji One.

# %%
drawn = {split: emoji.emoji(split) for split in ("train", "test")}

# %% [markdown]
# Each picture has a name, one of eight groups, and a hand. A class is a group in a hand, so there
# are 32 classes. The last column counts the pictures held out, of all hands together.

# %% tags=["exact"]
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


SHOWN = ("dog-face", "rocket", "strawberry", "guitar", "crying-face", "snail", "hamburger", "key")
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

# %% [markdown]
# ### Duplicates
#
# A duplicate counts twice in training, and it spoils the test when one copy is trained and the
# other held out. Exact copies are found by comparing bytes. Copies that were saved again, shrunk or
# brightened are not.
#
# A *difference hash* finds most of these: reduce the picture to 9 x 8 grey fields, and write down
# for each pair of neighbours in a row whether the right one is clearly brighter. Such a list of 64
# bits hardly changes when a picture is saved again.


# %% tags=["export"]
def difference_hash(x: Tensor, side: int = 8, margin: float = 0.1) -> Tensor:
    """Bits (N, side * side) of pictures x (N, C, H, W) in [-1, 1]: is the right one of two
    neighbouring fields brighter, by more than `margin`?
    """
    grey = x.mean(dim=1, keepdim=True)  # (N, 1, H, W)
    fields = F.interpolate(grey, size=(side, side + 1), mode="area")[:, 0]  # (N, side, side + 1)
    return (fields[:, :, 1:] - fields[:, :, :-1] > margin).flatten(1)


# %% [markdown]
# Two pictures are compared by the number of bits that differ. A bit differs where `a` has a 1 and
# `b` a 0, or the other way round. Each of the two counts is a product of matrices, for all pairs at
# once.


# %% tags=["export"]
def bits_apart(a: Tensor, b: Tensor) -> Tensor:
    """How many bits differ between each of a (N, K) and each of b (M, K): (N, M), whole numbers."""
    a, b = a.float(), b.float()
    return (a @ (1 - b).T + (1 - a) @ b.T).round().long()


# %% [markdown]
# Does the hash find copies? To see it, we plant some. The next cells damage 400 emoji in six ways,
# from JPEG to a mirror.


# %%
def through_jpeg(x, quality):
    return 2 * nb09.through_jpeg((x + 1) / 2, quality) - 1


def smaller(x, side):
    small = F.interpolate(x, size=side, mode="bicubic", antialias=True)
    return F.interpolate(small, size=x.shape[-1], mode="bicubic", antialias=True).clamp(-1, 1)


# %%
DAMAGE = {
    "saved as JPEG 75": lambda x: through_jpeg(x, 75),
    "shrunk to 20 pixels": lambda x: smaller(x, 20),
    "a tenth darker": lambda x: 0.9 * (x + 1) - 1,
    "in grey": lambda x: x.mean(dim=1, keepdim=True).expand_as(x),
    "moved by 2 pixels": lambda x: x.roll(2, dims=-1),
    "mirrored": lambda x: x.flip(-1),
}

# %% [markdown]
# Then we count how many of the damaged copies are still within 2 bits of their original.

# %%
pick = torch.randperm(len(drawn["train"]), generator=runtime.rng(1))[:400]
some = drawn["train"].x[pick]  # (400, 3, 32, 32)
hashes = difference_hash(some)  # (400, 64)
found_share = {
    name: ((difference_hash(harm(some)) != hashes).sum(dim=1) <= 2).double().mean().item()
    for name, harm in DAMAGE.items()
}

# %% [markdown]
# The other error is a false alarm: a pair of *different* things by the same hand that is within 2
# bits. Each held-out emoji is compared with each training one, by bits and by pixels.

# %%
of_train, of_test = difference_hash(drawn["train"].x), difference_hash(drawn["test"].x)
same_hand = drawn["test"].hand[:, None] == drawn["train"].hand
near = (bits_apart(of_test, of_train) <= 2) & same_hand  # (424, 3792)
apart = torch.cdist(drawn["test"].x.flatten(1), drawn["train"].x.flatten(1)) / 3072**0.5  # RMS

# %% [markdown]
# The table counts the planted copies that were found. The line below it counts near pairs that
# nobody planted.

# %% tags=["nbval-ignore-output"]
plots.table(
    ["what was done to a copy", "found within 2 bits"],
    [[name, f"{share:.0%}"] for name, share in found_share.items()],
)

# %% tags=["nbval-ignore-output"]
print(
    f"pairs of a held-out and a training emoji of one hand: {int(same_hand.sum()):,}; within 2 "
    f"bits: {int(near.sum())}; of these within a tenth of the range in pixels: "
    f"{int((near & (apart < 0.2)).sum())}; pairs that are so near without the hash seeing it: "
    f"{int((~near & same_hand & (apart < 0.2)).sum())}"
)

# %%
claim(
    "The hash finds at least 85 of 100 copies that were saved as JPEG, shrunk or darkened",
    [found_share[name] for name in list(DAMAGE)[:3]],
    at_least=0.85,
)
claim(
    "The hash misses at least nine of ten copies that were moved by 2 pixels",
    found_share["moved by 2 pixels"],
    at_most=0.1,
)

# %% [markdown]
# Pictures that are near in bits need not be near in pixels. A tenth of the range is a large
# difference for a copy.

# %%
claim(
    "At least half of the pairs that the hash reports among emoji differ by more than a tenth of "
    "the range in pixels: a hash is a list of suspects",
    ((near & (apart >= 0.2)).sum() / near.sum()).item(),
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

# %% [markdown]
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
# The emoji are split by *thing*: if the rocket is held out, it is held out in all four hands. So a
# picture must keep its name and its class. A `Part` holds the three together, and says of each
# picture whether it may be mirrored.


# %% tags=["export"]
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


# %% tags=["export"]
def take(part: Part, index: Tensor) -> Part:
    """Some pictures of a part, by their numbers (M,)."""
    return Part(part.x[index], part.y[index], tuple(part.names[i] for i in index.tolist()),
                part.flips[index])  # fmt: skip


# %% [markdown]
# A training gets two parts: one to train on, and one that is held out.


# %% tags=["export"]
@dataclass(frozen=True)
class Material:
    """What a model learns from: pictures to train on, pictures held out, names of the classes."""

    train: Part
    held: Part
    classes: tuple[str, ...]
    source: str


# %% [markdown]
# A folder is split by groups of suspects, class by class. The hash cannot know all that belongs
# together: ten photographs of one garden on one afternoon are one thing, and so are the frames of a
# film. Give each its own subfolder and hold out whole subfolders, if you want to know what the
# model does elsewhere.


# %% tags=["export"]
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


# %% [markdown]
# `material` takes the emoji with the split that they came with. A folder is read, searched for
# suspects with `duplicate_groups`, and split by `hold_out`.


# %% tags=["export"]
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
    group = torch.as_tensor(duplicate_groups(difference_hash(found.x), 2))
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
print(
    f"{mine.source}: {len(train):,} to train on, {len(held)} held out, {len(mine.classes)} classes"
)

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
# Do the same steps work on files? The next function writes a folder as people have them: 240 crops
# of the course's twelve photographs, as JPEG and PNG, a subfolder for each photograph. Crops that
# overlap would be near-duplicates that the hash misses, so the crops are taken from a grid.


# %% tags=["export"]
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


# %% [markdown]
# The next cell writes the folder and hands it to `material`, as you would hand over yours.

# %% tags=["nbval-ignore-output"]
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # Windows keeps open files
garden = Path(scratch.name) / "photographs"
written = write_crops(garden)
photos = material(garden, 32, flips=True)
print(f"{written} files; {len(photos.train)} to train on, {len(photos.held)} held out")

# %% tags=["figure"]
# @title Crops of photographs, read from files
plots.film_strip(
    [photos.train.x[photos.train.y == c][:12] for c in (0, 2, 5, 9)],
    [photos.classes[c] for c in (0, 2, 5, 9)],
    title="A folder of crops of photographs, read and reduced to 32 pixels",
    alt=(
        "Four rows of small square crops of photographs, each row from one photograph with its "
        "own colours and textures."
    ),
)

# %% [markdown]
# No file may be lost on the way, and within a class no pair of suspects may lie on both sides of
# the split.

# %%
claim("The folder of photographs holds at least 200 files", written, at_least=200)
claim(
    "Every file was read, and each is either trained or held out",
    len(photos.train) + len(photos.held) - written,
    equal=0,
)

# %%
claim(
    "No two crops on different sides of the split are within 2 bits of each other in one class",
    int(
        (
            (bits_apart(difference_hash(photos.held.x), difference_hash(photos.train.x)) <= 2)
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

# %% [markdown]
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
astronaut = next(p.x for p in photographs.photographs("test") if p.name == "astronaut")
third = astronaut.shape[-1] // 4
tall = astronaut[:, :, third : 3 * third]  # twice as high as wide
views = [torch.as_tensor(square(tall, along)) for along in (0.0, 0.5, 1.0)] + [tall]
views = [F.interpolate(v[None], size=(128, 128), mode="bicubic", antialias=True) for v in views]
plots.image_grid(
    2 * torch.cat(views).clamp(0, 1) - 1,
    title="along = 0, a half, 1, and squeezed: a crop is a choice of what the model may see",
    alt=(
        "Four square views of an astronaut's portrait: the upper end with her whole head, the "
        "middle with her chin and suit, the lower end with the suit alone, and all of it squeezed."
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

# %% [markdown]
# The emoji of the first figure are normalised as in the script. Then they are turned back in three
# ways: by the published line, by the right inverse, and by the right inverse after a cap to [-1,
# 1].

# %%
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
plain = (by_name(drawn["train"], shown)[0] + 1) / 2  # (8, 3, 32, 32) in [0, 1]
normalised = (plain - MEAN[:, None, None]) / STD[:, None, None]
published = ((normalised + 1) / 2).clamp(0, 1)
undone = torch.as_tensor(to_pixels(normalised, MEAN, STD))
capped = torch.as_tensor(to_pixels(normalised.clamp(-1, 1), MEAN, STD))

# %% tags=["figure"]
# @title Three ways back from the normalised values
plots.film_strip(
    [2 * part - 1 for part in (plain, published, undone, capped)],
    ["the pictures", "as published", "undone rightly", "capped at 1"],
    title="The wrong inverse makes colours glaring; a cap at 1 greys what was white",
    alt=(
        "Four rows of emoji. In the second row colours are glaring and shadows are lost. The "
        "third row equals the first. In the fourth row the white ground is grey."
    ),
)

# %%
outside = (normalised.abs() > 1).double().mean().item()
claim("The right inverse gives every pixel back", (undone - plain).abs(), at_most=1e-5)
claim(
    "The published line is off by more than a twentieth of the range on average",
    (published - plain).abs().mean().item(),
    at_least=0.05,
)

# %% [markdown]
# The last row of the figure shows the second half of the mistake, which is noticed less often.
# Diffusion samplers cap their prediction of x0 at [-1, 1] (`clip=True` in notebook 05,
# `clip_sample` in diffusers). With ImageNet's normalisation white lies above 2.

# %%
claim(
    "More than half of all values lie outside [-1, 1] after ImageNet's normalisation, so a sampler "
    "that caps its prediction there cannot draw them",
    outside,
    at_least=0.5,
)

# %% [markdown]
# So in this course pictures are in [-1, 1], always, and the network takes the data's own mean and
# standard deviation inside (`Preconditioned`), where nobody can forget to undo them.

# %% [markdown]
# ### Classes of unequal size
#
# Folders are unequal: 900 pictures of the cat, 30 of the dog. A model trained as the pictures come
# sees a dog in every thirtieth. Sampling classes equally often shows each dog thirty times as
# often, and that is how dogs get copied. Between the two lies a power: each picture is drawn with a
# probability proportional to (pictures in its class) to the power of minus `power`.

# %% [markdown]
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
    y = y.cpu()
    count = y.bincount()[y].double()  # how many there are of each picture's own class
    weight = count**-power
    return weight / weight.sum()


checks.weights(class_weights, solution=True)

# %%
class_weights = checks.use(my_weights, class_weights)  # yours from here on, once it passes
POWER = 0.5  # half-way between the data's shares and equal ones

# %% [markdown]
# The table compares three powers. Its last column says how often one picture of the rarest class is
# drawn, on average, when as many pictures are drawn as there are.

# %% tags=["nbval-ignore-output"]
sizes = train.y.bincount(minlength=len(mine.classes))
plots.table(
    ["power", "rarest class drawn", "most frequent class", "times a picture of the rarest one"],
    [
        [power, f"{share.min():.1%}", f"{share.max():.1%}", f"{w.max() * len(train):.2f}"]
        for power in (0.0, 0.5, 1.0)
        for w in [torch.as_tensor(class_weights(train.y, power)).double()]
        for share in [torch.zeros(len(sizes)).double().index_add(0, train.y, w)]
    ],
)

# %% [markdown]
# ## Two models, one loop
#
# The loop below knows nothing of GANs or diffusion. It calls `job.step(number)`, keeps the losses,
# and saves. Three decisions make a training *resumable* to the last digit.
#
# First, **everything that has a state is in one dictionary**: networks, optimisers, averages. In a
# `Job` that is `parts`.


# %% tags=["export"]
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


# %% [markdown]
# Second, **random numbers depend on the number of the step.** Before each step the generator is
# seeded with that number and the seed of the run. So no state of a generator has to be saved. (The
# usual way saves the generators' states; one that is forgotten, in a data loader or on the graphics
# card, changes the run in silence.)


# %% tags=["export"]
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


# %% [markdown]
# Third, **the learning rate is a function of the step**, not an object with a memory of its own.


# %% tags=["export"]
def rate(number: int, num_steps: int, warm_up: int = 50) -> float:
    """The learning rate's factor at a step: up, level, and down to 0 over the second half."""
    return min(1, (number + 1) / warm_up, 2 * (1 - number / num_steps))


# %% [markdown]
# Each batch is drawn by the weights of Exercise 11.4, and some of its pictures are mirrored. The
# random numbers of both come from the seed of the step.


# %% tags=["export"]
def draw_batch(part: Part, weights: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n pictures and classes, each picture drawn with its weight, and mirrored half of the time
    where it may be.
    """
    index = torch.multinomial(weights, n, replacement=True)  # (n,)
    x, turned = part.x[index], part.flips[index] & (torch.rand(n) < 0.5)
    return torch.where(turned[:, None, None, None], x.flip(-1), x), part.y[index]


# %% [markdown]
# ### Diffusion: notebook 05's network
#
# Nothing is new but three channels. The U-Net takes `channels`, `classes` and `size`. The wrapper
# `Preconditioned` takes mean and standard deviation of *these* pictures.


# %% tags=["export"]
def diffusion_net(part: Part, classes: int, widths: tuple[int, int]) -> nb05.Preconditioned:
    """Notebook 05's U-Net for pictures of this shape, told their mean and standard deviation."""
    channels, size = part.x.shape[1:3]
    unet = nb05.UNet(widths, channels=channels, classes=classes, size=size)
    schedule = nb04.Schedule.named("cosine", nb05.T)
    return nb05.Preconditioned(unet, schedule, part.x.mean().item(), part.x.std().item())


# %% [markdown]
# One step is notebook 05's: noise is added at random timesteps, and the loss is taken in v. A tenth
# of the labels is dropped, so that guidance works later. `share` and `wrap` are for several
# processes, at the end of the notebook.


# %% tags=["export"]
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
    ema_decay: float = 0.99,
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
        x0, y = draw_batch(part, weights, batch_size)  # (N, 3, size, size), (N,)
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


# %% [markdown]
# The sampler is a function of its own, since the shipped model further down uses it, too. A job
# hands it the network with the running average of the weights.


# %% tags=["export"]
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
# One thing is new here. A discriminator that sees the same 3,800 pictures again and again learns
# them by heart, and then judges by memory. *DiffAugment* (Zhao et al. 2020, section 3) changes
# colour and place and cuts out a square, at random, from every picture that the discriminator sees.
#
# Colour comes first: brightness, saturation and contrast.


# %% tags=["export"]
def random_colour(x: Tensor) -> Tensor:
    """Brightness moved by up to a half, saturation times 0 to 2, contrast times a half to 1.5, for
    each picture (N, 3, H, W) by itself (Zhao et al. 2020, and the authors' code).
    """
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return mean + (contrast + 0.5) * (x - mean)


# %% [markdown]
# Place comes second. The picture is padded with zeros, which are grey, and a window of the old size
# is read at a random place.


# %% tags=["export"]
def random_translation(x: Tensor, share: float = 0.125) -> Tensor:
    """Each picture (N, C, H, W) moved by up to a `share` of its side; zeros come in."""
    reach = round(share * x.shape[-1])
    down, right = torch.randint(-reach, reach + 1, (2, len(x), 1), device=x.device)
    padded, side = F.pad(x, (reach,) * 4), torch.arange(x.shape[-1], device=x.device)
    rows, columns = side + reach + down, side + reach + right  # (N, side)
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


# %% [markdown]
# The square comes last. Its centre may lie anywhere, so the square often reaches over the border.


# %% tags=["export"]
def random_cutout(x: Tensor, share: float = 0.5) -> Tensor:
    """A square of a `share` of the side set to 0 in each picture (N, C, H, W), anywhere."""
    side, half = x.shape[-1], round(share * x.shape[-1]) / 2
    at = torch.rand(2, len(x), 1, device=x.device) * side  # (2, N, 1)
    ticks = torch.arange(side, device=x.device) + 0.5
    rows, columns = ((ticks - place).abs() < half for place in at)  # (N, side)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


# %% [markdown]
# The discriminator sees *real and generated pictures alike* through all three changes. All three
# can be differentiated, so the generator learns through them. Because generated pictures are
# changed, too, the generator is not taught to draw cut-out squares. If only real ones were changed,
# squares and shifts would be part of what it should learn: augmentation leaks.


# %% tags=["export"]
def diff_augment(x: Tensor) -> Tensor:
    """Colour, translation and cutout, all differentiable in x (N, 3, H, W)."""
    return random_cutout(random_translation(random_colour(x)))


# %% [markdown]
# Two more things differ from notebook 02, and both are known from notebook 03. The discriminator
# loses its batch normalisation, which does not go together with a gradient penalty: the penalty
# speaks of the gradient at *each* picture, and BatchNorm mixes the pictures of a batch.


# %% tags=["export"]
def without_batch_norm(net: nn.Sequential) -> nn.Sequential:
    """The same layers, with the identity where a BatchNorm was; changed in place."""
    for i, layer in enumerate(net):
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            net[i] = nn.Identity()
    return net


# %% [markdown]
# The loss is R3GAN's: relativistic, with the penalties R1 and R2.

# %% tags=["export"]
critic_loss = nb03.penalised(nb03.relativistic_loss, r1=True, r2=True)

# %% [markdown]
# Notebook 02's generator and discriminator take channels, classes and a size, too. The label is
# one-hot: it stands beside the latent, and as constant planes beside the picture.


# %% tags=["export", "long"]
def gan_job(
    part: Part,
    classes: int,
    run: runtime.Runtime,
    *,
    num_steps: int,
    batch_size: int,
    weights: Tensor | None = None,
    width: int = 16,
    lr: float = 2e-3,
    augment: Callable[[Tensor], Tensor] = diff_augment,
    ema_decay: float = 0.99,
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
        with torch.no_grad():
            on_real = critic(real)
        loss_g = nb03.relativistic_loss(critic(fake), on_real)
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
    title="DiffAugment leaves the thing recognisable, whatever it does to the pixels",
    alt=(
        "Five rows of the same emoji: unchanged, with other colours, moved with a grey border, "
        "with a grey square cut out, and with all three changes."
    ),
)  # fmt: skip

# %% [markdown]
# ## How long will it take?
#
# Measure ten steps before you start, and multiply. Three more steps go first and are not counted:
# they allocate memory and choose algorithms.


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


# %% [markdown]
# Two clocks tell different things. The clock on the wall is what you wait. The seconds of the
# processor (`time.process_time`) are what the work costs, and hardly change when something else
# runs beside it; the comparison below uses these.


# %% tags=["export"]
def clocks() -> tuple[float, float]:
    """The clock on the wall and the processor's, in seconds."""
    return time.perf_counter(), time.process_time()


# %%
balanced = torch.as_tensor(class_weights(train.y, POWER))
shared = {"batch_size": cfg["batch_size"], "weights": balanced}
MAKERS = {
    "diffusion": lambda: diffusion_job(
        train, len(mine.classes), run, num_steps=cfg["num_steps"], widths=cfg["widths"], **shared
    ),
    "GAN": lambda: gan_job(train, len(mine.classes), run, num_steps=cfg["gan_steps"], **shared),
}

# %% [markdown]
# Each entry of `MAKERS` builds a fresh job. So the measurement below leaves the training untouched.

# %% tags=["nbval-ignore-output"]
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
# A training that cannot be stopped is a training that you lose. Here a training breaks off in the
# middle, between two checkpoints, as if the battery had died. The exception `PowerCut` stands for
# the battery.


# %%
class PowerCut(Exception):
    pass


def break_off_at(step):
    def watch(done, losses, job):
        if done == step:
            raise PowerCut

    return watch


# %% [markdown]
# The trainings of this test have small networks and 12 steps. Every call makes a *new* job, with
# fresh networks.

# %%
SHORT = 12


def short_job(name):
    if name == "diffusion":
        return diffusion_job(train, len(mine.classes), run, num_steps=SHORT, batch_size=8,
                             widths=(16, 32))  # fmt: skip
    return gan_job(train, len(mine.classes), run, num_steps=SHORT, batch_size=8, width=8)


# %% [markdown]
# Of each model one training runs to its end. Another is broken off, and a new job loads the last
# checkpoint and goes on. The steps since that checkpoint are done again. A third training has other
# random numbers.

# %% tags=["nbval-ignore-output"]
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

# %%
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
# Now both models are trained, for about the same seconds of the processor. Meanwhile the diffusion
# model's loss is watched on training pictures and on held-out ones, *with the same noise and
# timesteps every time*. The loss of a single batch jumps about so much that no overfitting could be
# seen in it.


# %% tags=["export"]
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
            noise = torch.randn(x0.shape, generator=rng)  # (N, 3, size, size)
            pair = (x0.flip(-1), noise.flip(-1)) if mirrored else (x0, noise)
            x0, noise = (each.to(device) for each in pair)
            level = schedule.level(torch.full((len(x0),), t, device=device))
            v = net(nb04.add_noise(x0, noise, level), torch.full_like(y, t).to(device),
                    y.to(device))  # fmt: skip
            wrong = (v - nb04.output_from("v", x0, noise, level)).square().mean(dim=(1, 2, 3))
            found[start : start + batch_size] += wrong.cpu() / len(timesteps)
    return found


# %% [markdown]
# At the given steps `Watcher` keeps these losses, and samples a few pictures. Afterwards it
# restores the state of the random numbers, so watching does not change the training.


# %% tags=["export"]
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


# %%
few = {
    name: take(part, torch.randperm(len(part), generator=runtime.rng(7))[:96])
    for name, part in (("trained", train), ("held out", held))
}
strip = torch.arange(8) * len(mine.classes) // 8  # one class of every group

# %% [markdown]
# The next cell trains both models, with a checkpoint every 200 steps.

# %% tags=["nbval-ignore-output"]
jobs, curves, took, watchers = {}, {}, {}, {}
for name, make in MAKERS.items():
    marks = sorted({max(1, num_steps[name] * i // 4) for i in range(1, 5)} | {1})
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

# %%
if run.budget.size == "quick":
    claim(
        "Both models had the same seconds of the processor, to within a factor of 2",
        took["GAN"][1] / took["diffusion"][1],
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
            f"Rows of eight pictures each from the {name} at five points of its training: from "
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
axis.set_ylim(bottom=0)
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
# held-out ones, it has begun to know them by heart. With 96 pictures of each kind, a difference
# smaller than about a third of the spread may be chance.


# %%
@torch.no_grad()
def scores(part):
    net = jobs["GAN"].parts["d"]
    return net(part.x.to(run.device), part.y.to(run.device)).float().cpu()


# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    fake_few = jobs["GAN"].sample(few["held out"].y, runtime.rng(8))
    on_fake = jobs["GAN"].parts["d"](fake_few.to(run.device), few["held out"].y.to(run.device))
judged = {name: scores(part) for name, part in few.items()} | {"generated": on_fake.float().cpu()}
plots.table(
    ["pictures", "mean score", "spread"],
    [[name, f"{s.mean():.2f}", f"{s.std():.2f}"] for name, s in judged.items()],
)

# %% [markdown]
# ## The same training, for an hour
#
# Minutes give colours, places and outlines. The course ships what a good hour of one core makes of
# the same method, with twice the width: `longer`. It saw each training emoji a good hundred times.
# Loss and noise schedule are the same; batch, learning rate and average were set for the longer
# training. Your own folder can give you as much overnight, with the same danger.


# %% tags=["export"]
def shipped() -> nb05.Preconditioned:
    """The course's emoji model, in eval mode, on the CPU."""
    part = material(None).train
    net = diffusion_net(part, 32, (64, 128))
    net.unet.load_state_dict(data.weights("emoji_ddpm"))
    return net.eval().requires_grad_(False)


# %% [markdown]
# All three models get the classes of the held-out pictures, so the sets can be compared later.

# %% tags=["nbval-ignore-output"]
longer = shipped().to(run.device)
its = mine if ON_EMOJI else material(None)  # what it was trained on
made = {
    "GAN": jobs["GAN"].sample(held.y, runtime.rng(10)),
    "diffusion": jobs["diffusion"].sample(held.y, runtime.rng(10)),
    "longer": sample_with(longer, run, its.held.y, runtime.rng(10)),
}
print(", ".join(f"{name}: {len(x)} pictures" for name, x in made.items()))

# %% tags=["figure"]
# @title Real emoji and three models
firsts = [(held.y == c).nonzero().flatten()[:1] for c in range(0, len(mine.classes), 4)]
columns = torch.cat(firsts)[:8]  # a picture of the first class of each group
plots.film_strip(
    [held.x[columns], made["GAN"][columns], made["diffusion"][columns], made["longer"][columns]],
    ["held out", "GAN, quick", "diffusion, quick", "diffusion, longer"],
    title="One class of each group: minutes give blots, an hour gives things",
    alt=(
        "Four rows of eight pictures. Real emoji; coloured blots from the quick GAN and from the "
        "quick diffusion model; and from the longer training pictures with outlines and parts."
    ),
)

# %% [markdown]
# Now come more pictures of the longer trained model, with twenty steps and a little more guidance.
# Each row is a group, and each hand has two columns. Which groups do you recognise without reading
# the label? Can you tell the hands apart?

# %%
asked = torch.arange(len(its.classes)).repeat_interleave(2)  # group by group, hand by hand
gallery = sample_with(longer, run, asked, runtime.rng(11), guidance=2.5, num_steps=20)

# %% tags=["figure"]
# @title Every group in every hand, after an hour
plots.film_strip(
    list(gallery.split(8)),
    [its.classes[c].rsplit(", ", 1)[0] for c in range(0, len(its.classes), 4)],
    title="An hour of training: faces, signs and clocks; the rest has parts and colours",
    alt=(
        "Eight rows of eight pictures, a group a row. Round yellow faces with eyes and mouths, "
        "blue signs with white strokes, clocks and vehicles; animals, food and objects have "
        "outlines and colours of their kind, but few can be named."
    ),
    zoom=2,
)

# %% [markdown]
# ## Is it a copy?
#
# Look at the nearest training picture beside each sample. But nearest by which distance? Pixels can
# be compared, and so can the features of an EfficientNet-Lite0 that was trained on ImageNet and
# came with notebook 09. The usual advice is features, since pixels see a shift as a difference.


# %% tags=["export"]
def eyes(x: Tensor) -> Tensor:
    """EfficientNet-Lite0's features (N, 1280) of pictures (N, 3, H, W) in [-1, 1], at 64 pixels."""
    return imagenet.image_features(x, side=64)


# %% [markdown]
# A small distance means nothing by itself, since some emoji are near others. The yardstick is the
# held-out emoji: they are real, and no copies. Take the distance from each of them to its nearest
# training picture. The threshold is the distance that a twentieth of them stay below. A model whose
# samples are below it clearly more often than a twentieth of the time is suspected of giving
# training pictures back.


# %% tags=["export"]
def copied(fake: Tensor, train: Tensor, held: Tensor, share: float = 0.05) -> float:
    """The share of `fake` (N, D) that is nearer to its nearest row of `train` than all but a
    `share` of the rows of `held` are.
    """
    threshold = torch.cdist(held, train).amin(dim=1).quantile(share)
    return (torch.cdist(fake, train).amin(dim=1) < threshold).float().mean().item()


# %% [markdown]
# Before you believe a test, give it what it must find. Here these are training pictures that were
# saved as JPEG, moved by a pixel, or mirrored.

# %%
some = train.x[torch.randperm(len(train), generator=runtime.rng(11))[:200]]
planted = {
    "copies, as JPEG 75": through_jpeg(some, 75),
    "copies, as JPEG 90": through_jpeg(some, 90),
    "copies, moved by 1 pixel": some.roll(1, dims=-1),
    "copies, mirrored": some.flip(-1),
}

# %%
SPACES = {"pixels": lambda x: x.flatten(1), "features": eyes}
seen = {
    space: {name: look(x) for name, x in (planted | made).items()}
    | {"train": look(train.x), "held out": look(held.x)}
    for space, look in SPACES.items()
}

# %% [markdown]
# The test is also given what it must seldom report: one half of the held-out emoji sets the
# threshold, and the other half is tested.

# %%
half = torch.arange(len(held)) % 2 == 0
suspects = {
    space: {n: copied(known[n], known["train"], known["held out"]) for n in (*planted, *made)}
    # the threshold from one half of the held-out pictures, the share of the other half
    | {"held out": copied(known["held out"][half], known["train"], known["held out"][~half])}
    for space, known in seen.items()
}

# %% tags=["nbval-ignore-output"]
plots.table(
    ["below the threshold of a twentieth", *SPACES],
    [[n, *(f"{suspects[space][n]:.1%}" for space in SPACES)] for n in suspects["pixels"]],
)

# %% tags=["figure"]
# @title The nearest training pictures
rows, words = [], []
for name in made:
    away, which = torch.cdist(seen["pixels"][name], seen["pixels"]["train"]).min(dim=1)
    closest = away.argsort()[:12]
    rows += [made[name][closest], train.x[which[closest]]]
    words += [name, "nearest in training"]
plots.film_strip(
    rows,
    words,
    title="The twelve samples of each model that are nearest to a training picture, in pixels",
    alt=(
        "Six rows of twelve pictures: for each model its samples and below them the nearest "
        "training emoji. The quick models' samples share colours and outline with them. The longer "
        "model's share the disc or the square and the colour, with other signs or faces inside; "
        "some clocks are almost the same."
    ),
)

# %%
claim(
    "In pixels the test finds at least 85 of 100 training pictures that were saved as JPEG",
    [suspects["pixels"][f"copies, as JPEG {quality}"] for quality in (75, 90)],
    at_least=0.85,
)

# %%
if ON_EMOJI:
    claim(
        "In the features of an ImageNet network the same test misses seven of ten of them",
        [suspects["features"][f"copies, as JPEG {quality}"] for quality in (75, 90)],
        at_most=0.3,
    )
    claim(
        "No model of this notebook, the longer one included, is below the threshold in pixels more "
        "often than a tenth of the time",
        [suspects["pixels"][name] for name in made],
        at_most=0.1,
    )

# %% [markdown]
# Three things to take along. *The features fail on what matters most*: to a network that was
# trained on photographs, the grain of JPEG on a small drawing is a larger change than another
# drawing. *Pixels fail on copies that were moved or mirrored.* So a clean result means "no copies
# of the kind that this test finds". And the longer model passes: it saw each emoji a good hundred
# times, but under new noise each time, and in five groups often mirrored. In the figure above it
# draws signs that mean nothing and faces that nobody drew. The clocks are the exception, since all
# clocks are alike.

# %% [markdown]
# Samples are not the only way out. A model can also know its training pictures without drawing
# them: then its loss is lower on these than on others, and whoever has a picture can ask whether it
# was in the set (notebook 08).

# %%
N_ASKED = 200
asked = {
    name: take(part, torch.randperm(len(part), generator=runtime.rng(13))[:N_ASKED])
    for name, part in (("trained", its.train), ("held out", its.held))
}

# %% [markdown]
# The AUC is the chance that of a training picture and a held-out one the training picture has the
# lower loss.

# %% tags=["nbval-ignore-output"]
knows = {}
for name, net in (("diffusion", jobs["diffusion"].parts["ema"]), ("longer", longer)):
    if name == "diffusion" and not ON_EMOJI:
        continue
    marks = {which: -losses_of(net, part) for which, part in asked.items()}
    knows[name] = nb08.auc(marks["trained"], marks["held out"])
    low, high = nb08.auc_interval(knows[name], *map(len, marks.values()))
    gap = marks["held out"].mean() / marks["trained"].mean()
    print(
        f"{name}: AUC {knows[name]:.2f} (95 %: {low:.2f} to {high:.2f}); the loss on held-out "
        f"emoji is {gap:.2f} times that on training emoji"
    )

# %%
claim(
    "By the loss hardly anybody can tell which emoji the longer model was trained on: the AUC is "
    "at most 0.62",
    knows["longer"],
    at_most=0.62,
)

# %% [markdown]
# ### What overfitting looks like
#
# Above no more copies were found than among held-out emoji: 3,800 pictures with flips kept the
# network busy for an hour. A folder of 24 pictures does not. The next cells go on from the longer
# model's weights with 24 emoji alone: *fine-tuning*, as people do it with large models and few
# pictures.

# %%
OVER_STEPS = 100
tiny = take(its.train, torch.randperm(len(its.train), generator=runtime.rng(21))[:24])
tiny_job = diffusion_job(
    tiny, len(its.classes), run, num_steps=OVER_STEPS, batch_size=16, widths=(64, 128), lr=1e-3,
    ema_decay=0.95,
)  # fmt: skip
for unet in (tiny_job.parts["net"].unet, tiny_job.parts["ema"].module.unet):
    unet.load_state_dict(data.weights("emoji_ddpm"))

# %% [markdown]
# Two losses are watched: on the 24 pictures, and on 60 held-out ones. They should part.

# %%
sixty = take(its.held, torch.randperm(len(its.held), generator=runtime.rng(22))[:60])
pair = {"the 24 pictures": tiny, "60 held-out ones": sixty}
over = Watcher([OVER_STEPS * i // 4 for i in range(1, 5)], tiny.y, pair)
over.losses[0] = {
    name: losses_of(tiny_job.parts["ema"], part).mean().item() for name, part in pair.items()
}

# %% tags=["nbval-ignore-output"]
fit(tiny_job, OVER_STEPS, seed=run.seed, watch=over)
learnt = {name: -losses_of(tiny_job.parts["ema"], part) for name, part in pair.items()}
print(f"AUC at the end: {nb08.auc(*learnt.values()):.2f}")

# %% tags=["figure"]
# @title The losses part
figure, axis = plt.subplots(figsize=(8.3, 2.8))
for name, colour, marker in zip(pair, (plots.BLUE, plots.VERMILION), "os"):
    axis.plot(list(over.losses), [row[name] for row in over.losses.values()], marker,
              linestyle="-", color=colour, label=name)  # fmt: skip
axis.set_xlabel("step of fine-tuning")
axis.set_ylabel("mean squared error of v")
axis.legend()
axis.set_title("Overfitting: the loss falls on trained pictures and rises on all others")
plots.show(
    figure,
    "Two lines that begin close together: the loss on the 24 pictures falls, that on others rises.",
)

# %% tags=["figure"]
# @title Samples of the fine-tuned model
drawn_again = list(over.frames.values())[-1]
away = torch.cdist(drawn_again.flatten(1), tiny.x.flatten(1)).amin(dim=1)
closest = away.argsort()[:12]
beside = torch.cdist(drawn_again[closest].flatten(1), tiny.x.flatten(1)).argmin(dim=1)
plots.film_strip(
    [drawn_again[closest], tiny.x[beside]],
    ["sampled", "nearest of the 24"],
    title="After a hundred steps on 24 pictures, samples come close to these",
    alt=(
        "Two rows of twelve pictures. Many samples in the upper row are a blurred version of the "
        "training emoji below, others mix several of them."
    ),
)

# %%
begin, end = over.losses[0], list(over.losses.values())[-1]
claim(
    "On 24 pictures the loss on these falls by a tenth or more in a hundred steps",
    end["the 24 pictures"] / begin["the 24 pictures"],
    at_most=0.9,
)
claim(
    "In the same steps the loss on held-out emoji rises by at least 5 in a hundred",
    end["60 held-out ones"] / begin["60 held-out ones"],
    at_least=1.05,
)

# %%
claim(
    "The fine-tuned model tells its 24 pictures from others far better than by chance: the AUC is "
    "at least 0.6",
    nb08.auc(*learnt.values()),
    at_least=0.6,
)

# %% [markdown]
# Against overfitting, collect more pictures, or stop where the loss on held-out pictures is lowest,
# and keep that checkpoint.

# %% [markdown]
# ### Did the flips leak?
#
# Augmentation *leaks* when a model draws what only the augmentation made. For flips that can be
# asked without drawing: turn a picture and its noise round together, and compare the losses. A
# network that takes mirrored pictures for equally likely has the same loss on both. A network that
# knows better has a higher loss on the mirrored ones. The longer model was trained with flips in
# five groups and without in three. It should have learnt both.

# %% tags=["nbval-ignore-output"]
turned_gap = losses_of(longer, its.held, mirrored=True) - losses_of(longer, its.held)  # (N,)
ratio = {}
for name, group in (("mirrored in training", its.held.flips), ("never mirrored", ~its.held.flips)):
    gap = turned_gap[group]
    ratio[name] = (gap.mean() / (gap.std() / len(gap) ** 0.5)).item()
    print(f"{name}: loss of the mirrored picture minus the other {gap.mean():+.4f}, "
          f"{ratio[name]:+.1f} standard errors, {len(gap)} held-out emoji")  # fmt: skip

# %%
claim(
    "Held-out emoji of the groups that were never mirrored in training lose more when mirrored, by "
    "at least 3 standard errors: the flips of the other groups did not leak",
    ratio["never mirrored"],
    at_least=3,
)

# %%
claim(
    "The difference is at least 2 standard errors larger there than in the groups that were "
    "mirrored",
    ratio["never mirrored"] - ratio["mirrored in training"],
    at_least=2,
)

# %% [markdown]
# ## A measure without a classifier
#
# Fashion-MNIST has a classifier whose features make FD. Your folder has none. Two ways out:
#
# - features of a network that was trained on *other* pictures, such as ImageNet's. FD and KID on
#   them see things and textures, as far as that network knows the like;
# - no network at all. The *sliced Wasserstein distance* (Karras et al. 2018, section 5; notebook
#   09) compares small patches at several sizes. It works for any picture and any colour, and it is
#   blind to everything larger than a patch.

# %% [markdown]
# All sets have as many pictures as are held out, and are compared with as many training pictures.
# Other training pictures and held-out ones are the floor. Uniform noise should be the ceiling.

# %%
known = seen["features"]
order = torch.randperm(len(known["train"]), generator=runtime.rng(14))
ours, others = order[: len(held)], order[len(held) : 2 * len(held)]
others = others if len(others) else ours

# %%
noise = torch.rand(held.x.shape, generator=runtime.rng(15)) * 2 - 1
sets = {
    "other training pictures": (train.x[others], known["train"][others]),
    "held out": (held.x, known["held out"]),
    **{name: (x, known[name]) for name, x in made.items()},
    "noise": (noise, eyes(noise)),
}

# %% [markdown]
# FD is taken along the 32 main directions of the features, since 424 pictures cannot fill 1,280
# axes.

# %%
to_main = nb09.main_directions(known["train"])

# %% [markdown]
# Each of the next three functions measures one set. SWD takes pictures, KID and FD take features.


# %%
def swd(x):
    return metrics.sliced_wasserstein(
        train.x[ours], x, patches=16, projections=64, rng=torch.Generator().manual_seed(0)
    )


# %% [markdown]
# KID (Bińkowski et al. 2018, section 4) takes the average of every product of up to three features
# in each of two sets, and is a squared distance between these averages. The estimate is unbiased:
# it is 0 on average when the sets come from one source, so it can be negative. The floor of KID
# stands in the row of other training pictures, which are real and are compared with real ones.
#
# KID has no scale of its own. Features twice as large make it up to 64 times as large. So a KID
# says something beside other KIDs of the same features, and nothing beside a paper's.


# %%
def kid(features):
    return metrics.kernel_distance(known["train"][ours], features)


# %%
def fd(features):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few samples: all sets have as many
        return metrics.frechet_distance(to_main(known["train"][ours]), to_main(features))


# %% tags=["nbval-ignore-output"]
measured = {name: {"SWD": swd(x), "FD": fd(f), "KID": kid(f)} for name, (x, f) in sets.items()}
plots.table(
    ["pictures", "SWD", "FD", "KID"],
    [[name, *(f"{v:.3g}" for v in row.values())] for name, row in measured.items()],
)

# %%
for measure in ("SWD", "FD"):
    claim(
        f"{measure} places every model between other training pictures and noise",
        [
            min(
                measured[name][measure] / measured["other training pictures"][measure],
                measured["noise"][measure] / measured[name][measure],
            )
            for name in made
        ],
        at_least=1.0,
    )

# %% [markdown]
# SWD and KID disagree on what an hour of training gains.

# %%
claim(
    "By KID the longer training is at least 4 times as near as the quick one of diffusion",
    measured["diffusion"]["KID"] / measured["longer"]["KID"],
    at_least=4,
)
claim(
    "By SWD the two are within a factor of 1.6: patches of blots are like patches of things",
    measured["diffusion"]["SWD"] / measured["longer"]["SWD"],
    between=(1 / 1.6, 1.6),
)

# %%
if run.budget.size == "quick":
    claim(
        "By KID both quick models are further away than uniform noise is",
        [measured[name]["KID"] / measured["noise"]["KID"] for name in ("GAN", "diffusion")],
        at_least=1.2,
    )

# %% [markdown]
# Read the table beside the pictures. SWD is right about noise and blind to the difference that eyes
# see first: between blots and things. KID sees that difference, and is wrong about noise: to a
# network that has never seen it, noise looks like nothing in particular, and the blots look like
# something quite wrong. A single number would have misled you either way.
#
# GAN and diffusion model had about the same seconds of the processor, one run each, and neither was
# tuned for long. One run of each is no verdict on the methods. What the pictures say is this: the
# GAN's blots are smooth, and hardly differ by class; the diffusion model's are grainy, and have the
# colours and the outline of their class.

# %% [markdown]
# ### Where two measures disagree
#
# Two more sets are made of real emoji. In the first, the four quarters of every picture come from
# four different emoji.


# %%
def quartered(x, rng):
    """Each quarter of each picture from another picture."""
    half, mixed = x.shape[-1] // 2, x.clone()
    for rows in (slice(0, half), slice(half, None)):
        for columns in (slice(0, half), slice(half, None)):
            donor = torch.randperm(len(x), generator=rng)
            mixed[:, :, rows, columns] = x[donor][:, :, rows, columns]
    return mixed


# %% [markdown]
# In the second, every picture is a tenth darker.

# %%
damaged = {
    "four quarters of four": quartered(train.x[others], runtime.rng(16)),
    "a tenth darker": 0.9 * (train.x[others] + 1) - 1,
}

# %% tags=["nbval-ignore-output"]
for name, x in damaged.items():
    f = eyes(x)
    measured[name] = {"SWD": swd(x), "FD": fd(f), "KID": kid(f)}
compared = ["other training pictures", *damaged, "longer"]
plots.table(
    ["pictures", "SWD", "FD", "KID"],
    [[name, *(f"{v:.3g}" for v in measured[name].values())] for name in compared],
)

# %% tags=["figure"]
# @title Quartered and darkened emoji
plots.film_strip(
    [train.x[others][:10], *(x[:10] for x in damaged.values())],
    ["as they are", *damaged],
    title="SWD calls the darker row worse, features the quartered one; eyes agree with features",
    alt=(
        "Three rows of ten emoji: as they are; each put together from quarters of four emoji, "
        "which shows nothing; and a little darker, with a grey ground."
    ),
)

# %%
quarter, dark = (measured[name] for name in damaged)
claim(
    "SWD calls the darker pictures worse than the quartered ones, by a tenth or more",
    dark["SWD"] / quarter["SWD"],
    at_least=1.1,
)

# %%
claim(
    "KID calls the quartered pictures worse than the darker ones, twice or more",
    quarter["KID"] / max(dark["KID"], 1e-6),
    at_least=2,
)

# %% [markdown]
# Whoever looks would rather have the darker set: all its things are things. SWD sees that every
# white patch has changed, and does not see that an eye sits on a wheel, since its patches are 7
# pixels wide. Report both kinds, and look.

# %% [markdown]
# ## Sample
#
# Class, seed and guidance are what you choose. The same seed gives the same picture; without
# guidance (1) samples are varied and often unclear, and with too much of it they turn garish.

# %% tags=["widget"]
# @title Class, seed and guidance
GROUPS, HANDS = list(drawn["train"].groups), list(emoji.HANDS.values())


def draw_one(group, hand, seed, guidance):
    y = torch.tensor([drawn["train"].label(group, hand)] * 8)
    rng = torch.Generator().manual_seed(seed)
    x = sample_with(longer, run, y, rng, guidance=guidance)
    figure, axis = plots.subplots(figsize=(8, 1.5), labels=False)
    axis.imshow(plots.tile(x, 8), interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(f"{group}, {hand}: seed {seed}, guidance {guidance:g}")
    return plots.render(figure, f"Eight sampled emoji of the group {group} in the hand {hand}.")


chooser = widgets.explore(
    draw_one,
    group=widgets.choice(GROUPS, "group", GROUPS[5]),
    hand=widgets.choice(HANDS, "hand"),
    seed=widgets.slider(0, 99, 0, "seed"),
    guidance=widgets.slider(1.0, 8.0, 2.0, "guidance", step=0.5),
)

# %% tags=["figure"]
# @title The same noise in two groups, at four guidances
guided = {
    g: sample_with(
        longer, run, torch.tensor([6] * 6 + [21] * 6), torch.Generator().manual_seed(3), guidance=g
    )
    for g in (1.0, 2.0, 4.0, 8.0)
}
plots.film_strip(
    list(guided.values()),
    [f"guidance {g:g}" for g in guided],
    title="More guidance: more of the class, stronger colours, fewer kinds",
    alt=(
        "Four rows of twelve emoji, six of animals and six of faces, from the same noise. From the "
        "upper to the lower row colours grow stronger and shapes simpler."
    ),
)


# %%
def saturation(x):
    return (x.amax(dim=1) - x.amin(dim=1)).mean().item()


# %%
claim(
    "Guidance 8 draws stronger colours than guidance 1 from the same noise",
    saturation(guided[8.0]) / saturation(guided[1.0]),
    at_least=1.1,
)

# %% [markdown]
# ### A walk between two emoji
#
# The sampler is deterministic: the noise $x_T$ decides everything. So a path between two noises is
# a path between two pictures. On the straight line the middle has too small a norm, noise that the
# network has never seen; notebook 02's `slerp` keeps the norm.


# %% tags=["export"]
def walk(
    net: nn.Module,
    run: runtime.Runtime,
    label: int,
    ends: Tensor,
    at: Sequence[float],
    *,
    path: Callable[[Tensor, Tensor, float], Tensor] = nb02.slerp,
    guidance: float = 2.0,
    num_steps: int = 10,
) -> Tensor:
    """Pictures (len(at), 3, size, size) along a path between two noises `ends` (2, 3, size, size),
    at places from 0 to 1.
    """
    a, b = ends.flatten(1)  # (3 * size * size,) each
    x_T = torch.stack([path(a, b, place) for place in at]).view(-1, *ends.shape[1:])
    schedule = nb04.Schedule.named("cosine", nb05.T)
    y = torch.full((len(x_T),), label, device=run.device)
    denoiser = nb05.Denoiser(net, schedule, y, guidance)
    with run.autocast():
        x = nb04.sample(denoiser, x_T.to(run.device), schedule.levels(num_steps))
    return x.cpu().float().clamp(-1, 1)


# %% [markdown]
# The widget shows both ends and one place between them. The slider moves the place along the arc.
# Group and hand change what is sampled; the two noises stay the same.

# %% tags=["widget"]
# @title Walk
ends = torch.randn(2, 3, 32, 32, generator=runtime.rng(17))
PLACES = 12


def draw_walk(group, hand, place):
    label = drawn["train"].label(group, hand)
    x = walk(longer, run, label, ends, [0.0, place / PLACES, 1.0])
    figure, axis = plots.subplots(figsize=(5, 1.9), labels=False)
    axis.imshow(plots.tile(x, 3, padding=2), interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(f"{group}, {hand}: start, place {place} of {PLACES}, end")
    return plots.render(figure, f"Two emoji of {group} and the one at place {place} between them.")


walker = widgets.explore(
    draw_walk,
    group=widgets.choice(GROUPS, "group", GROUPS[5]),
    hand=widgets.choice(HANDS, "hand"),
    place=widgets.slider(0, PLACES, PLACES // 2, "place"),
)

# %% tags=["figure"]
# @title The whole walk, on the arc and on the straight line
at = [i / PLACES for i in range(PLACES + 1)]
walks = {
    "slerp": walk(longer, run, 21, ends, at),
    "straight line": walk(longer, run, 21, ends, at, path=nb02.lerp),
}
plots.film_strip(
    list(walks.values()),
    list(walks),
    title="Every place on the arc is a picture; half-way on the line it is duller",
    alt=(
        "Two rows of thirteen pictures that lead from one emoji to another. Neighbours are alike. "
        "In the lower row the ones in the middle have fewer parts and flatter colours."
    ),
)

# %%
steps_between = (walks["slerp"][1:] - walks["slerp"][:-1]).square().mean(dim=(1, 2, 3)).sqrt()
between_ends = (walks["slerp"][-1] - walks["slerp"][0]).square().mean().sqrt()
claim(
    "No single step of the walk is as large as the whole way",
    (steps_between / between_ends).max().item(),
    at_most=0.95,
)

# %% [markdown]
# ### Pictures that say how they were made
#
# `pictures.save` (notebook 06) writes the settings into the PNG itself, and `pictures.regenerate`
# samples the picture again from them.

# %%
MODEL = "emoji, longer"


def remake(settings):
    label, rng = torch.tensor([settings["label"]]), torch.Generator().manual_seed(settings["seed"])
    return sample_with(longer, run, label, rng, guidance=settings["guidance"])[0]


# %% [markdown]
# A picture can only be sampled again with the same model. So the settings also hold a hash of the
# model's weights.

# %% tags=["nbval-ignore-output"]
settings = {"model": MODEL, "model_hash": pictures.model_hash(longer), "label": 21, "seed": 3,
            "guidance": 2.0, "steps": 10, "solver": "DPM-Solver++(2M)"}  # fmt: skip
png = pictures.save(remake(settings), Path(scratch.name) / "face.png", settings, kind="drawing")
print(pictures.regenerate(png, {MODEL: remake}, {MODEL: longer}).report)

# %%
claim(
    "The picture that is made again from the settings in its file is the same in every pixel",
    pictures.regenerate(png, {MODEL: remake}, {MODEL: longer}).identical,
)

# %% [markdown]
# ## A model that others can load
#
# A pipeline of diffusers is a folder (notebook 06): an index, and a subfolder for each part.
# Whoever loads it needs diffusers and nothing of this course. But our U-Net is none of the
# library's, so the folder brings its class along, as a file beside the weights. The class of that
# file wraps notebook 05's `UNet` and puts out v, which the library's schedulers understand.

# %% tags=["export"]
NETWORK_FILE = '''"""The U-Net of "From GANs to diffusion" as a model of diffusers."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


@lru_cache(maxsize=1)
def alphas_bar() -> Tensor:
    """Of the cosine schedule of 1,000 timesteps."""
    return DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod


PARTS_OF_NOTEBOOK_05


class FolderUNet(ModelMixin, ConfigMixin):
    """Noisy pictures (N, C, size, size), timesteps and labels (N,) to v; the label `classes` says
    that no class is given.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        widths: tuple[int, int] = (64, 128),
        class_names: tuple[str, ...] = (),
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        classes = len(class_names)
        self.net = UNet(tuple(widths), channels=in_channels, classes=classes, size=sample_size)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        t = torch.as_tensor(timestep, device=sample.device).long().flatten().expand(len(sample))
        bar = alphas_bar().to(sample)[t][:, None, None, None]
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        mean, std = self.config.mean, self.config.std
        variance = alpha**2 * std**2 + sigma**2
        centred = sample - alpha * mean
        out = self.net(centred / variance**0.5, t, class_labels)
        x0 = mean + alpha * std**2 / variance * centred + sigma * std / variance**0.5 * out
        v = (alpha * sample - x0) / sigma
        return UNet2DOutput(sample=v) if return_dict else (v,)
'''

# %% [markdown]
# A second file holds the loop that samples, by class and with guidance.

# %% tags=["export"]
PIPELINE_FILE = '''"""Pictures by class, with guidance, from the FolderUNet beside this file."""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class FolderPipeline(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, classes, num_inference_steps=20, guidance_scale=2.0, generator=None,
                 output_type="pil"):
        """Pictures of these classes, by name or number; the noise comes from `generator`."""
        names, config = list(self.unet.config.class_names), self.unet.config
        labels = [names.index(c) if isinstance(c, str) else int(c) for c in classes]
        y = torch.tensor(labels, device=self.device)
        none = torch.full_like(y, len(names))
        shape = (len(y), config.in_channels, config.sample_size, config.sample_size)
        x = randn_tensor(shape, generator=generator, device=self.device, dtype=self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            v, v_none = (self.unet(x, t, labels).sample for labels in (y, none))
            x = self.scheduler.step(v_none + guidance_scale * (v - v_none), t, x).prev_sample
        x = ((x.clamp(-1, 1) + 1) / 2).float().cpu().permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(x) if output_type == "pil" else x)
'''

# %% [markdown]
# The network's classes and functions are copied from notebook 05 as they are, by
# `inspect.getsource`. The tuple names them.

# %% tags=["export"]
# parts of notebook 05 that the network's file needs, in this order
PARTS_NEEDED = (
    nb05.one_each,
    nb05.timestep_embedding,
    nb05.scale_and_shift,
    nb05.ResBlock,
    nb05.Attention,
    nb05.check_labels,
    nb05.check_inputs,
    nb05.UNet,
)

# %% [markdown]
# The folder also names a scheduler of the library. The scheduler's settings repeat notebook 05's
# noise schedule, and say that the network predicts v.

# %% tags=["export"]
LEVELS = {
    "num_train_timesteps": nb05.T,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "thresholding": True,  # holds the predicted x0 in [-1, 1], as `clip` does in notebook 05
}

# %% [markdown]
# Who loads such a folder needs `trust_remote_code=True`: *the files are programs, and they run with
# all the rights of whoever loads them.* Say it only after you have read them; and keep yours short,
# so that others can.


# %% tags=["export"]
def export(net: nb05.Preconditioned, class_names: Sequence[str], folder: Path, card: str) -> None:
    """Write a folder that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads
    wherever diffusers is.
    """
    import diffusers

    unet = net.unet
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    sources = "\n\n".join(inspect.getsource(part) for part in PARTS_NEEDED)
    network = NETWORK_FILE.replace("PARTS_OF_NOTEBOOK_05", sources.rstrip())
    (folder / "unet" / "folder_unet.py").write_text(network, encoding="utf-8")
    (folder / "pipeline.py").write_text(PIPELINE_FILE, encoding="utf-8")
    state = {f"net.{name}": weight.cpu().contiguous() for name, weight in unet.state_dict().items()}
    # the library asks for the word "pt" in what is written here
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    config = {
        "_class_name": "FolderUNet",
        "_diffusers_version": diffusers.__version__,
        "sample_size": unet.shape[1],
        "in_channels": unet.shape[0],
        "widths": [unet.stem.out_channels, unet.down.out_channels],
        "class_names": list(class_names),
        "mean": net.mean,
        "std": net.std,
    }
    DPMSolverMultistepScheduler(**LEVELS).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": ["pipeline", "FolderPipeline"],
        "_diffusers_version": diffusers.__version__,
        "unet": ["folder_unet", "FolderUNet"],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    }
    for name, content in (("unet/config.json", config), ("model_index.json", index)):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


# %% [markdown]
# ### The card
#
# Without a card nobody knows what your model may be used for. Numbers that are typed go stale, so a
# function writes them. The card also says what the folder cannot: whose pictures these were, under
# which licence, and how many samples were close to a training picture.


# %% tags=["export"]
def card_of(
    name: str, source: str, rights: str, numbers: Mapping[str, float], facts: Sequence[str], n: int
) -> str:
    """A model card in the hub's format: metadata with results, then what people need to know."""
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type="folder",
            dataset_name=source,
            metric_type=key.lower().replace(" ", "-"),
            metric_name=f"{key} (n = {n})",
            metric_value=round(value, 4),
        )
        for key, value in numbers.items()
    ]
    about = ModelCardData(
        model_name=name,
        license="other",
        license_name="see-training-data",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        eval_results=results,
        tags=["diffusion", "class-conditional", "education"],
    )
    lines = "\n".join(f"| {key} | {value:.4g} |" for key, value in numbers.items())
    said = "\n".join(f"- {fact}" for fact in facts)
    return str(
        ModelCard(
            f"---\n{about.to_yaml()}\n---\n\n# {name}\n\n## Training data\n\n{source}. {rights}\n\n"
            f"## Measured\n\n| | |\n|---|---|\n{lines}\n\n## Limits\n\n{said}\n\n## Use\n\n"
            "```python\npipe = DiffusionPipeline.from_pretrained(..., trust_remote_code=True)\n"
            "pipe([0, 1, 2]).images\n```\n\nTwo files of this folder are programs: read them.\n"
        )
    )


# %%
RIGHTS = (
    "Noto Emoji (Google, Apache 2.0), Fluent Emoji (Microsoft, MIT), Twemoji (Twitter, CC BY 4.0), "
    "Emoji One 2.3 (CC BY 4.0): name them when you show samples."
)

# %% [markdown]
# The longer model's card takes its numbers from the cells above.

# %%
card = card_of(
    "emoji-32",
    "3,792 emoji in four hands, 32 x 32",
    RIGHTS,
    measured["longer"] | {"samples nearer than the threshold": suspects["pixels"]["longer"]},
    [
        f"{suspects['pixels']['longer']:.1%} of samples are nearer to a training emoji than 95 % "
        "of held-out emoji are.",
        f"Whoever asks whether an emoji was in training is right in "
        f"{knows['longer']:.0%} of pairs.",
        "One run, one seed. Pictures of 32 x 32 pixels; nothing in them has a meaning.",
    ],
    len(held),
)

# %% tags=["nbval-ignore-output"]
place = Path(scratch.name) / "emoji-32"
export(longer, its.classes, place, card)
print("\n".join(sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())))
print(card)

# %% [markdown]
# Does the folder work? Without `trust_remote_code=True` the library must refuse it. With it the
# library must load the pipeline, which takes classes by name or by number.

# %%
try:
    DiffusionPipeline.from_pretrained(place)
    refused = ""
except ValueError as error:
    refused = str(error)

# %%
pipe = DiffusionPipeline.from_pretrained(place, trust_remote_code=True).to(run.device)
pipe.set_progress_bar_config(disable=True)

# %%
asked_for = ["Smileys & Emotion, Noto", "Smileys & Emotion, Fluent", "Food & Drink, Fluent", 31]
arrays = pipe(
    asked_for, num_inference_steps=10, generator=torch.Generator().manual_seed(5), output_type="np"
).images

# %% [markdown]
# For comparison the same loop runs on the network in memory.


# %%
def same_loop(net, labels, seed, num_steps=10, guidance=2.0):
    """The pipeline's pictures from the network in memory, by the library's scheduler."""
    scheduler = DPMSolverMultistepScheduler(**LEVELS)
    scheduler.set_timesteps(num_steps)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(len(labels), 3, 32, 32, generator=rng).to(run.device)
    y = torch.tensor(labels, device=run.device)
    for t in scheduler.timesteps:
        with torch.no_grad():
            v, none = (net(x, t.to(x.device).expand(len(x)), each)
                       for each in (y, torch.full_like(y, 32)))  # fmt: skip
        x = scheduler.step(none + guidance * (v - none), t, x).prev_sample
    return x.clamp(-1, 1).cpu()


# %%
numbers = [c if isinstance(c, int) else its.classes.index(c) for c in asked_for]
in_memory = same_loop(longer, numbers, 5)
from_folder = 2 * torch.from_numpy(arrays).permute(0, 3, 1, 2) - 1

# %%
claim(
    "The folder's class is refused until trust_remote_code says so", "trust_remote_code" in refused
)
claim(
    "The pipeline that was loaded from the folder draws the pictures of the network in memory, to "
    "a hundredth of the range",
    (from_folder - in_memory).abs().max().item(),
    at_most=0.02,
)

# %%
parsed = ModelCard.load(place / "README.md").data
claim(
    "The hub's own parser reads the four measured numbers back from the card",
    len(parsed.eval_results),
    equal=4,
)

# %% tags=["figure"]
# @title Four pictures from the folder
plots.image_grid(
    from_folder,
    title="From the folder: two classes by name, a third, and one by its number",
    alt="Four small pictures in the manner of emoji, sampled by the pipeline from the folder.",
    columns=4,
)

# %% [markdown]
# ### The one call that publishes it
#
# With an account on the hub and `hf auth login` it is one call, and it is not undone by another:
# what was public for a minute may have been copied. Here a stand-in on this machine takes the
# upload, so nothing leaves it. Leave `endpoint` out, and the same two lines go to the hub.

# %% tags=["nbval-ignore-output"]
arrived = None
try:
    with standin.Hub() as hub:
        api = HfApi(endpoint=hub.endpoint, token="none")
        api.create_repo("you/emoji-32", private=True, exist_ok=True)
        api.upload_folder(repo_id="you/emoji-32", folder_path=place)
    arrived = hub.files["you/emoji-32"]
    print(f"{len(arrived)} files, {sum(map(len, arrived.values())) / 1e6:.1f} MB arrived")
except OSError as error:  # HF_HUB_OFFLINE, which also keeps us from our own machine
    print(f"Nothing was sent, and the next sentence is left out: {error}")

# %%
if arrived is not None:
    on_disk = {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()
    }
    claim(
        "Every file of the folder arrived at the stand-in, the same in every byte",
        {name: content for name, content in on_disk.items() if "__pycache__" not in name}
        == {name: content for name, content in arrived.items() if "__pycache__" not in name},
    )

# %% [markdown]
# ## Real photographs, the same way
#
# The folder of crops from above goes through `diffusion_job`, too. Two hundred crops of twelve
# photographs are far too few to learn from; the question is only whether everything works on
# files, and whether the network learns their colours.

# %%
PHOTO_STEPS = 120
photo_job = diffusion_job(
    photos.train, len(photos.classes), run, num_steps=PHOTO_STEPS, batch_size=16, widths=(32, 64),
    ema_decay=0.9,
)  # fmt: skip

# %% tags=["nbval-ignore-output"]
untrained = losses_of(photo_job.parts["ema"], photos.held).mean().item()
photo_curves = fit(photo_job, PHOTO_STEPS, seed=run.seed)
trained = losses_of(photo_job.parts["ema"], photos.held).mean().item()
print(f"loss on held-out crops: {untrained:.3f} before, {trained:.3f} after {PHOTO_STEPS} steps")

# %% tags=["figure"]
# @title Crops and samples
labels = torch.tensor([0, 2, 5, 9]).repeat_interleave(5)
plots.film_strip(
    [
        torch.cat([photos.train.x[photos.train.y == c][:5], sampled])
        for c, sampled in zip((0, 2, 5, 9), photo_job.sample(labels, runtime.rng(18)).split(5))
    ],
    [photos.classes[c] for c in (0, 2, 5, 9)],
    title="Five crops and five samples of each class: colours, nothing more",
    alt=(
        "Four rows with five crops of a photograph each, and beside them five samples of the same "
        "class, which are noisy patches in similar colours."
    ),
    zoom=2,
)

# %%
claim(
    "A hundred and twenty steps on a folder of photographs lower the loss on held-out crops by "
    "a tenth or more",
    trained / untrained,
    at_most=0.9,
)

# %% [markdown]
# ## Beyond this laptop
#
# ### Larger pictures
#
# Twice the side is four times the pixels, and so about four times the work, as long as convolutions
# do most of it. Attention grows with the *square* of the number of places.


# %%
def step_seconds(size, batch_size=16):
    part = Part(torch.rand(8, 3, size, size) * 2 - 1, torch.zeros(8).long(), ("",) * 8,
                torch.zeros(8).bool())  # fmt: skip
    return time_steps(
        lambda: diffusion_job(part, 1, run, num_steps=100, batch_size=batch_size, widths=(32, 64)),
        n=2,
        first=1,
    )[1]


# %% [markdown]
# The table measures training steps of 16 pictures. The last column multiplies the time of one
# picture by a million.

# %% tags=["nbval-ignore-output"]
cost = {size: step_seconds(size) for size in (32, 64, 128)}
plots.table(
    [
        "pixels a side",
        "ms of the processor a picture",
        "against 32",
        "hours for a million pictures",
    ],
    [
        [size, f"{62.5 * s:.0f}", f"{s / cost[32]:.1f}", f"{62.5 * s / 3.6:,.1f}"]
        for size, s in cost.items()
    ],
)

# %%
if run.device.type == "cpu":
    claim(
        "From 32 to 128 pixels, 16 times the pixels, a step costs at least 6 times as much",
        cost[128] / cost[32],
        at_least=6,
    )

# %% [markdown]
# ### A graphics card, or several
#
# One card needs no change: `runtime` finds it, and the full budget takes over. For several cards
# write a script, and start it once for each: `torchrun --nproc-per-node 4 train_folder.py --steps
# 20000`. `torchrun` tells each process its number. Each draws the whole batch from the same
# numbered seed and takes its share; `DistributedDataParallel` averages the gradients, so all have
# the same weights after every step.

# %% tags=["export"]
SCRIPT = """
import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from course_utils import runtime
from course_utils.lessons.nb11_your_own_pictures import diffusion_job, fit, material

parser = argparse.ArgumentParser()
parser.add_argument("--pictures")  # a folder; the emoji without it
parser.add_argument("--checkpoint", type=Path, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch", type=int, default=32)  # of all processes together
parser.add_argument("--widths", type=int, nargs=2, default=(64, 128))
parser.add_argument("--die-after", type=int)  # to see what a killed run does
options = parser.parse_args()
rank, world = (int(os.environ.get(name, default)) for name, default in
               (("RANK", 0), ("WORLD_SIZE", 1)))
if options.batch % world:
    raise SystemExit(f"{world} processes cannot share {options.batch} pictures evenly")
if torch.cuda.is_available():
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
if world > 1:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
run = replace(runtime.start(seed=0, verbose=rank == 0), precision=torch.float32)
mine = material(options.pictures)
job = diffusion_job(
    mine.train, len(mine.classes), run, num_steps=options.steps, batch_size=options.batch,
    widths=tuple(options.widths), share=slice(rank, None, world),
    wrap=DistributedDataParallel if world > 1 else lambda net: net,
)


def watch(step, losses, job):
    loss = torch.tensor(losses["loss"], device=run.device)
    if world > 1:
        dist.all_reduce(loss)
    if rank == 0:
        print(f"{world} processes, step {step}, loss {loss.item() / world:.6f}", flush=True)
    if options.die_after == step:
        os._exit(1)


fit(job, options.steps, file=options.checkpoint, every=2, writes=rank == 0, watch=watch)
if world > 1:
    dist.destroy_process_group()
"""

# %% [markdown]
# This can be tested: two processes with half a batch each must have the losses of one with the
# whole batch. The course's `start_processes` stands in for `torchrun`.


# %% tags=["export"]
def run_script(
    folder: Path, processes: int, steps: int, die_after: int | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """Run SCRIPT with small networks on the emoji; returns the losses that it printed and the
    average's weights in its last checkpoint.

    Raises:
        RuntimeError: it did not come to its end; the message holds its last line.
    """
    folder.mkdir(exist_ok=True, parents=True)
    script, file = folder / "train_folder.py", folder / "checkpoint.pt"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(script), "--checkpoint", str(file), "--steps", str(steps)]
    command += ["--batch", "8", "--widths", "16", "32"]
    command += ["--die-after", str(die_after)] if die_after else []
    lines = start_processes(command, processes, folder / "log.txt").splitlines()
    said = [line for line in lines if line.startswith(f"{processes} processes, step ")]
    losses = [float(line.rsplit(" ", 1)[1]) for line in said]
    if not said or f" step {die_after or steps}," not in said[-1]:
        last = next((line for line in reversed(lines) if line.strip()), "none")
        raise RuntimeError(f"{processes} processes did not come to their end: {last}")
    return losses, torch.load(file, weights_only=True)["ema"]


# %% [markdown]
# The next cell runs it three times: one process to its end, two processes that are killed after
# step 3, and two that go on from the checkpoint of step 2.

# %% tags=["nbval-ignore-output"]
several = False
try:
    there = Path(scratch.name)
    one_losses, weights_one = run_script(there / "one", 1, 5)
    killed, _ = run_script(there / "two", 2, 5, die_after=3)
    resumed_losses, weights_two = run_script(there / "two", 2, 5)
    several = True
    print(f"one process:  {one_losses}\ntwo, killed:  {killed}\ntwo, resumed: {resumed_losses}")
except (RuntimeError, OSError) as error:
    print(f"Several processes cannot be run here, so the next sentences are left out: {error}")

# %%
if several:
    pairs = list(zip(killed[:2] + resumed_losses, one_losses, strict=True))
    claim(
        "Two processes that were killed and resumed had the losses of one with the whole batch",
        max(abs(a - b) for a, b in pairs),
        at_most=1e-5,
    )
    claim(
        "They end with the weights of one process, to a ten-thousandth",
        max((weights_one[key] - weights_two[key]).abs().max().item() for key in weights_one),
        at_most=1e-4,
    )

# %% [markdown]
# ### Start from a model that knows pictures
#
# From nothing, a model learns what an edge is from your thousand pictures. It is far cheaper to
# begin with one that has seen hundreds of millions, and to teach it yours. The table holds orders
# of magnitude, from the papers named.
#
# | way | pictures | computing |
# |---|---|---|
# | from nothing, 32 pixels (this notebook) | thousands | hours of a laptop |
# | GAN, adaptive augmentation (Karras et al. 2020) | a few thousand | days of cards |
# | GAN, DiffAugment (Zhao et al. 2020) | a hundred of one kind | hours of a card |
# | latent diffusion from nothing (Rombach et al. 2022) | tens of thousands | many days of cards |
# | DreamBooth, one thing (Ruiz et al. 2023) | three to five | minutes of a card |
# | LoRA on a large model (Hu et al. 2022) | tens to hundreds, by custom | an hour of a card |

# %% [markdown]
# For the last row diffusers keeps a script of its own, `examples/text_to_image` in its repository.
# A folder with pictures and a `metadata.jsonl` (one line a file: `file_name` and `text`) is all the
# data that it wants:
#
# ```
# accelerate launch train_text_to_image_lora.py \
#   --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
#   --train_data_dir=my_folder --caption_column=text --resolution=512 --center_crop \
#   --train_batch_size=1 --gradient_accumulation_steps=4 --max_train_steps=1500 \
#   --learning_rate=1e-4 --lr_scheduler=cosine --lr_warmup_steps=0 --seed=0 \
#   --checkpointing_steps=500 --validation_prompt="a garden in the rain" \
#   --output_dir=my_lora
# ```
#
# This notebook has not run that command: it needs the hub and a graphics card. Add `--random_flip`
# only after the section on flips. `--resume_from_checkpoint=latest` goes on after a stop. Notebook
# 06 trains a small LoRA with the same parts.

# %% [markdown]
# ### Whose pictures
#
# - *Yours*: you took or drew them, and nobody can be recognised who did not agree. Then do as you
#   like. Recognisable people have rights of their own, whoever held the camera.
# - *Under an open licence*: read it. Of the four hands here, Noto is under Apache 2.0, Fluent under
#   MIT, Twemoji and Emoji One under CC BY 4.0. All allow use and change. Apache 2.0 and MIT ask you
#   to pass the licence on; CC BY 4.0 asks you to name the author and to say what you changed. A
#   licence with *SA* asks that what you build be under the same licence, and one with *NC* allows
#   no commercial use.
# - *Found on the web*: seeing is no permission. Whether training on such pictures is allowed
#   depends on the country, and courts have not finished; a model that gives pictures back makes
#   every such question worse.
# - *Names are no licence*: a trademark, such as a company's mascot, stays one in a sample.
#
# Keep a list: file, author, licence, where from. The course keeps its own in
# `course_utils/assets/MANIFEST.json`.

# %% [markdown]
# ## What was measured

# %% tags=["nbval-ignore-output"]
plots.table(
    ["model", "s of the processor", "SWD", "FD", "KID", "below the threshold"],
    [
        [name, f"{took[name][1]:.0f}" if name in took else "an hour", *(f"{v:.3g}" for v in row),
         f"{suspects['pixels'][name]:.1%}"]
        for name, row in ((name, measured[name].values()) for name in made)
    ],
)  # fmt: skip

# %% tags=["nbval-ignore-output"]
print("time estimated and taken: " + ", ".join(
    f"{name} {estimate[name][1]:.0f} and {took[name][1]:.0f} s" for name in took))  # fmt: skip
print(f"seed {run.seed}; AUC of the longer model {knows['longer']:.2f}")
print(run.report())
scratch.cleanup()

# %% [markdown]
# ## What went wrong, and what helped
#
# - *A hash of whole pictures* misses every copy that was moved or mirrored, and calls unlike things
#   alike when both are a dark blot on white. It is a list of suspects.
# - *The copy test in features* missed nearly every planted copy. It was in the first version of
#   this notebook, and said that nothing was copied. A test without a planted copy says nothing.
# - *KID against noise* looked like a mistake in the code. It is what the features say.
# - *Random numbers in a checkpoint* can be forgotten; random numbers that hang on the step cannot.
# - *bfloat16 and several processes*: sums of half a batch are rounded otherwise than those of a
#   whole one. The comparison of one process with two is made in float32.
# - *The quick models are poor.* Minutes do not make emoji, whatever the recipe; the hour does. That
#   is the honest answer to "can I train it on my laptop": start it in the evening.

# %% [markdown]
# ## Further reading
#
# - Zhao, Liu, Lin, Zhu, Han 2020, *Differentiable Augmentation for Data-Efficient GAN Training*:
#   section 3.
# - Karras et al. 2020, *Training Generative Adversarial Networks with Limited Data*: section 2
#   (augmentations that leak).
# - Karras et al. 2018, *Progressive Growing of GANs*: section 5 (sliced Wasserstein distance).
# - Bińkowski et al. 2018, *Demystifying MMD GANs*: section 4 (KID).
# - Huang et al. 2024, *The GAN is dead; long live the GAN!*: section 2 (R3GAN's loss).
# - Carlini et al. 2023, *Extracting Training Data from Diffusion Models*: section 4.
# - Somepalli et al. 2023, *Diffusion Art or Digital Forgery?*: section 4 (copies in small sets).
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*: section 4.
# - Ruiz et al. 2023, *DreamBooth*; Hu et al. 2022, *LoRA*.
#
# ## Next
#
# Notebook 12 asks how good two minutes of two cores can be.
