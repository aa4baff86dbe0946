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
#     title: Evaluation and responsible release
#     summary: >-
#       Which metric sees which failure, measured on failures made on purpose; a watermark taken
#       apart and attacked; provenance, a release gate and a model card that hold
#     minutes_cpu: 4
#     minutes_gpu: null
# ---

# %% [markdown]
# # 09 · Evaluation and responsible release
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/gans-to-diffusion/blob/main/notebooks/09_evaluation_and_release.ipynb)
#
# A model is finished. Two questions are left: how good is it, and may it leave the house? The first
# has a dozen answers with names, which disagree. This notebook breaks pictures on purpose, in
# thirteen ways, and asks each metric whether it notices. The second question needs marks that
# survive, records that cannot be changed unseen, and a gate that does not open by accident.
#
# ## What you will be able to do
#
# - choose a metric by the failure that you fear, from a table that was measured;
# - say when a difference between two models means something, and remove the bias of a small sample;
# - find five ways to fool yourself: sample size, resizing, JPEG, features, unequal reference sets;
# - build a watermark with a threshold that comes from unmarked pictures, and break it;
# - sign a picture's origin, and read what a verifier does and does not promise;
# - write a release gate, a log and a model card from measured numbers.
#
# **Time** about 4 minutes on a 2-core laptop CPU.
#
# **Before you start** you need notebooks 02 and 05 (the models that are judged here) and the last
# section of 06 (the marks). Everything is loaded; nothing is trained.

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
import hashlib
import io
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from torch import Tensor
from torch.nn import functional as F

from course_utils import (
    data,
    imagenet,
    metrics,
    photographs,
    pictures,
    plots,
    prompts,
    provenance,
    runtime,
    widgets,
)
from course_utils.checks import nb09 as checks
from course_utils.claims import claim
from course_utils.lessons import nb02_dcgan_training as nb02
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb12_two_minutes as nb12

plots.use_style()
warnings.filterwarnings("ignore", message=".*samples: below 2048")

# %% tags=["nbval-ignore-output"]
run = runtime.start()
DATASET = "fashion_mnist"
N = run.budget.pick(quick=1000, full=2000)  # pictures of a set that is judged

# %% [markdown]
# ## Failures made on purpose
#
# The usual way to learn what a metric does is to read what its paper says. The safer way is to break
# real pictures and look. The pictures come from three sets that share none:
#
# - the *training set*, 4,000 pictures, which a broken generator may copy;
# - the *held-out set*, 4,000 pictures: what every metric compares with;
# - the *pool* of the remaining 16,000 pictures, from which failures are made.
#
# So a set taken from the pool as it is stands for a perfect model: it is real, and it copies
# nothing. No metric may complain about it.

# %%
pixels, labels = data.embedded(DATASET, "train")
every = data.to_unit_range(pixels)
order = torch.randperm(len(every), generator=runtime.rng(1))
train_x, train_y = every[order[:4000]], labels[order[:4000]].long()
pool_x, pool_y = every[order[4000:]], labels[order[4000:]].long()
held_out = data.to_unit_range(data.embedded(DATASET, "test")[0])
held_out = held_out[torch.randperm(len(held_out), generator=runtime.rng(2))]
print(f"training {len(train_x):,}, held out {len(held_out):,}, pool {len(pool_x):,}")


# %% [markdown]
# Each failure is a function that takes a generator of random numbers and gives `N` pictures. The
# strengths are mild: a metric that needs a caricature to notice is of no use.


# %% tags=["export", "long"]
def blurred(x: Tensor, sigma: float = 0.6) -> Tensor:
    """x (N, C, H, W) under a Gaussian filter of `sigma` pixels."""
    ticks = torch.arange(-3, 4, dtype=x.dtype)
    row = torch.softmax(-(ticks**2) / (2 * sigma**2), dim=0)
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 7, 7)
    return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel, groups=x.shape[1])


@dataclass(frozen=True)
class Sets:
    """The pictures that failures are made of."""

    train_x: Tensor
    train_y: Tensor
    pool_x: Tensor
    pool_y: Tensor

    def real(self, n: int, rng: torch.Generator, keep: Tensor | None = None) -> Tensor:
        """n different pictures of the pool, of those that `keep` marks."""
        where = torch.arange(len(self.pool_x)) if keep is None else keep.nonzero().flatten()
        return self.pool_x[where[torch.randperm(len(where), generator=rng)[:n]]]

    def mean_of_five(self, n: int, rng: torch.Generator) -> Tensor:
        """Each picture the mean of five random ones of one class."""
        found = []
        for c in range(10):
            members = (self.pool_y == c).nonzero().flatten()
            pick = members[torch.randint(len(members), (n // 10, 5), generator=rng)]
            found.append(self.pool_x[pick].mean(dim=1))
        return torch.cat(found)

    def one_a_class(self, n: int, rng: torch.Generator) -> Tensor:
        """A perfect picture of each class, n / 10 times over."""
        first = [self.real(1, rng, self.pool_y == c) for c in range(10)]
        return torch.cat(first).repeat(n // 10, 1, 1, 1)

    def unequal(self, n: int, rng: torch.Generator) -> Tensor:
        """Half of the pictures of classes 0 to 4 are gone, and those of 5 to 9 fill the gap."""
        few, many = self.pool_y < 5, self.pool_y >= 5
        return torch.cat([self.real(n // 4, rng, few), self.real(n - n // 4, rng, many)])

    def copies(self, n: int, rng: torch.Generator) -> Tensor:
        return self.train_x[torch.randperm(len(self.train_x), generator=rng)[:n]]


def untrained(n: int, rng: torch.Generator) -> Tensor:
    """Pictures (n, 1, 28, 28) of notebook 02's generator before its first step."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
        net = nb02.Generator().apply(nb02.init_weights)
        return metrics.in_batches(net, torch.randn(n, 64, 1, 1))


# %%
sets = Sets(train_x, train_y, pool_x, pool_y)
FAILURES = {
    "blur": lambda n, rng: blurred(sets.real(n, rng)),
    "noise": lambda n, rng: (
        sets.real(n, rng) + 0.1 * torch.randn(n, 1, 28, 28, generator=rng)
    ).clamp(-1, 1),
    "darker by a tenth": lambda n, rng: 0.9 * (sets.real(n, rng) + 1) - 1,
    "bags missing": lambda n, rng: sets.real(n, rng, sets.pool_y != 8),
    "classes unequal": sets.unequal,
    "mean of five": sets.mean_of_five,
    "training set copied": sets.copies,
    "copies moved a pixel": lambda n, rng: sets.copies(n, rng).roll(1, dims=3),
    "one picture a class": sets.one_a_class,
    "untrained generator": untrained,
    "uniform noise": lambda n, rng: 2 * torch.rand(n, 1, 28, 28, generator=rng) - 1,
    "real, but only 100": lambda n, rng: sets.real(100, rng),
}

# %% tags=["figure"]
# @title One row for each failure
shown = torch.cat([make(100, runtime.rng(3))[::10] for make in FAILURES.values()])
figure, axis = plt.subplots(figsize=(6.2, 5.4))
axis.imshow(plots.tile(shown, 10), cmap="gray", aspect="auto", interpolation="nearest")
axis.set_yticks([14 + 29 * i for i in range(len(FAILURES))], list(FAILURES))
axis.set_xticks([])
axis.tick_params(length=0)
axis.grid(False)
axis.set_title("Most failures cannot be seen in a row of ten pictures")
plots.show(
    figure,
    (
        "Twelve rows of ten small pictures of clothes. Blur, noise, the mean of five, the "
        "repeated picture, the untrained generator and uniform noise can be seen; missing bags, "
        "unequal classes and copies of the training set look like real pictures."
    ),
)

# %% [markdown]
# ## A test for copies
#
# Copies of the training set are the failure that hurts most outside of a paper: they leak pictures,
# and they look perfect. The idea of the test (Meehan, Chaudhuri and Dasgupta 2020): a model that
# generalises lies as near to the training set as to pictures that it has never seen. A copier lies
# nearer to the training set. So count the samples whose nearest training picture is nearer than
# their nearest held-out one. Half of them should be.
#
# **Exercise 9.1** · find the bug · difficulty 2/5 · 8 minutes
#
# These lines are in many evaluation scripts, with a training set of 50,000 and a test set of 10,000:
#
# ```python
# d_train = torch.cdist(fake, train).min(dim=1).values
# d_test = torch.cdist(fake, held_out).min(dim=1).values
# copied = (d_train < d_test).float().mean()
# ```
#
# With real pictures instead of `fake` they say 83 %. Write the share so that it is a half for real
# pictures. The sets are in random order, so a part of a set stands for the set. Arguments are
# features (N, D); return a number.


# %% tags=["exercise"]
def my_copy_share(fake, train, held_out):
    return ...


# %% tags=["check"]
checks.copy_share(my_copy_share)


# %% tags=["solution", "export"]
# @title Solution 9.1
def copy_share(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    """The share of `fake` (N, D) that is nearer to `train` than to as many rows of `held_out`."""
    n = min(len(train), len(held_out))  # the larger of two sets has the nearer neighbour
    to_train, to_others = (torch.cdist(fake, x[:n]).amin(dim=1) for x in (train, held_out))
    return (to_train < to_others).double().mean().item()


checks.copy_share(copy_share, solution=True)

# %%
copy_share = checks.use(my_copy_share, copy_share)  # yours from here on, once it passes

# %%
train_features = metrics.features(train_x, DATASET).double()
reference = metrics.features(held_out, DATASET).double()
pool_features = metrics.features(pool_x, DATASET).double()
fair = copy_share(pool_features[:2000], train_features, reference)
unfair = [
    (
        torch.cdist(pool_features[:2000], part).amin(dim=1)
        < torch.cdist(pool_features[:2000], reference[:800]).amin(dim=1)
    )
    .double()
    .mean()
    .item()
    for part in (train_features,)
][0]
claim("Real pictures lie as near to the training set as to the held-out set", fair, between=(0.45, 0.55))
claim(
    "With five times as many training pictures the same real pictures look copied",
    unfair,
    at_least=0.7,
)

# %% [markdown]
# ## Nine metrics
#
# Most were built in earlier notebooks; each is one line of `course_utils.metrics`, tested against
# independent implementations there.
#
# | metric | asks | best |
# |---|---|---|
# | inception score, IS | are single pictures clear, and all classes there? | high |
# | Fréchet distance, FD | do mean and covariance of the features agree? | low |
# | kernel distance, KID | do all moments up to the third agree? | low |
# | precision | share of samples inside the real ones' neighbourhoods | high |
# | recall | share of real pictures inside the samples' neighbourhoods | high |
# | density | in how many real neighbourhoods is a sample, against a real one? | 1 |
# | coverage | share of real neighbourhoods with a sample | high |
# | sliced Wasserstein, SWD | do small patches look alike, at several sizes? No network. | low |
# | copy share | is the training set nearer than other real pictures? | a half |
#
# The sliced Wasserstein distance (Karras et al. 2018, section 5) is new here. A Laplacian pyramid
# takes each picture apart by fineness. From each level come random patches of 7 x 7 pixels. Two
# clouds of patches are compared along random directions, where the Wasserstein distance is easy:
# sort both, and take the mean difference.


# %% tags=["export"]
METRICS = ("IS", "FD", "KID", "precision", "recall", "density", "coverage", "SWD", "copy share")
GOOD = (1, -1, -1, 1, 1, 1, 1, -1, -1)  # whether more is better; a copy share below a half is none


def all_metrics(x: Tensor, train: Tensor, held_out: Tensor, dataset: str) -> list[float]:
    """All METRICS of pictures x (N, 1, 28, 28) in [-1, 1]; both others are real pictures, too."""
    real, fake = metrics.features(held_out, dataset), metrics.features(x, dataset)
    few = real[: len(x)]
    return [
        metrics.inception_score(metrics.class_probabilities(x, dataset)),
        metrics.frechet_distance(real, fake),
        metrics.kernel_distance(real, fake),
        *metrics.precision_recall(few, fake),
        *metrics.density_coverage(few, fake),
        metrics.sliced_wasserstein(held_out[:1000], x[:1000], patches=16, projections=64),
        copy_share(fake.double(), metrics.features(train, dataset).double(), real.double()),
    ]


# %% [markdown]
# One number is none. Each failure is made three times from other pictures, and the real pool gives
# eight sets. The eight say how far a metric wanders when nothing is wrong. A metric *sees* a failure
# when all three values are worse than the mean of the real sets by at least four of their standard
# deviations. It *praises* a failure when all three are better by as much. Else it is *blind*.

# %% tags=["nbval-ignore-output"]
start = time.perf_counter()
real_rows, broken = [], {}
for i in range(8):
    real_rows.append(all_metrics(sets.real(N, runtime.rng(10 + i)), train_x, held_out, DATASET))
for name, make in FAILURES.items():
    broken[name] = torch.tensor(
        [all_metrics(make(N, runtime.rng(30 + i)), train_x, held_out, DATASET) for i in range(3)]
    )
real_rows = torch.tensor(real_rows)  # (8, 9)
print(f"{8 + 3 * len(FAILURES)} sets in {time.perf_counter() - start:.0f} s")


# %% tags=["export"]
def verdicts(values: Tensor, real: Tensor, good: Sequence[int], least: float = 4.0) -> list[str]:
    """"sees", "praises" or "blind" for each metric, from values (3, M) and real ones (8, M)."""
    worse = (real.mean(dim=0) - values) / real.std(dim=0) * torch.tensor(good)  # in deviations
    low, high = worse.amin(dim=0), worse.amax(dim=0)
    return [
        "sees" if a > least else "praises" if b < -least else "blind"
        for a, b in zip(low.tolist(), high.tolist())
    ]


# %%
seen = {name: dict(zip(METRICS, verdicts(v, real_rows, GOOD))) for name, v in broken.items()}

# %% tags=["figure"]
# @title The table
COLOUR = {"sees": "#9ecae1", "praises": "#fdae6b", "blind": "#f0f0f0"}


def as_written(values):
    middle, half = values.mean().item(), (values.max() - values.min()).item() / 2
    digits = max(0, min(3, 2 - math.floor(math.log10(abs(middle) + 1e-9))))
    return f"{middle:.{digits}f}\n±{half:.{digits}f}"


figure, axis = plt.subplots(figsize=(8.3, 6.6))
names = ["real pictures", *broken]
for row, name in enumerate(names):
    values = real_rows if row == 0 else broken[name]
    for column, metric in enumerate(METRICS):
        face = "white" if row == 0 else COLOUR[seen[name][metric]]
        axis.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white"))
        axis.text(column + 0.5, row + 0.52, as_written(values[:, column]), ha="center", va="center",
                  fontsize=7.5)  # fmt: skip
axis.set_xlim(0, len(METRICS))
axis.set_ylim(len(names), 0)
axis.set_xticks(np.arange(len(METRICS)) + 0.5, METRICS)
axis.set_yticks(np.arange(len(names)) + 0.5, names)
axis.xaxis.tick_top()
axis.tick_params(length=0)
axis.grid(False)
for side in axis.spines.values():
    side.set_visible(False)
figure.legend(
    [plt.Rectangle((0, 0), 1, 1, facecolor=c) for c in COLOUR.values()],
    ["sees the failure", "praises it", "blind"],
    loc="lower center", ncols=3, frameon=False,
)  # fmt: skip
figure.subplots_adjust(bottom=0.07)
plots.show(
    figure,
    (
        "A table of thirteen rows and nine columns: mean and half of the range of each metric for "
        "real pictures and twelve failures, with the colour of what the metric says. Only the "
        "copy share sees copies of the training set. No metric sees all failures."
    ),
)

# %%
counts = {m: sum(seen[name][m] == "sees" for name in broken) for m in METRICS}
print({m: f"{count} of {len(broken)}" for m, count in counts.items()})
