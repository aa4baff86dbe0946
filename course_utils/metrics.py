"""Distances between sets of pictures, on the features of the course's own small classifier.

The numbers compare models inside this course. They are not FID: that word belongs to Inception's features. One
unit of our Fréchet distance is what 2,048 real training pictures score against the reference, so a reader can
see at a glance how many "floors" away a model is. The reference is always the embedded test pictures, so that
figures agree between a machine with the full data and one without.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from . import data
from .plots import table

MIN_SAMPLES = 2048
SLICE = 1000  # rows of a table of all pairs that are held at once: 50,000 samples take 0.4 GB and not 20


# --- the feature network ------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A small convolutional classifier for 28 x 28 grey pictures; its last hidden layer gives the features.

    `forward` gives logits (N, 10); `features` gives float32 (N, 128), scaled once so that 2,048 real training
    pictures have a Fréchet distance of about 1 to the reference.
    """

    feature_dim = 128
    feature_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 32, 64, 64]
        blocks: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):  # 28 -> 14 -> 7
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.MaxPool2d(2)] if len(blocks) < 8 else []
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 7 * 7, self.feature_dim), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(self.feature_dim, 10))
        self.register_buffer("feature_scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x) * self.feature_scale


@lru_cache(maxsize=4)
def classifier(name: str) -> Classifier:
    """The trained classifier of data set `name`, in eval mode on the CPU, without gradients."""
    data.info(name)
    with torch.inference_mode(False):  # it is kept, and may be asked for gradients later
        net = Classifier().float()  # whatever the default type is
        net.load_state_dict(data.weights(f"{name}_classifier"))
        return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # three times as fast on a CPU


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, batch_size: int = 100) -> Tensor:
    """`function` over `x` in slices, results on the CPU: memory stays bounded for any number of pictures."""
    return torch.cat([function(part).cpu() for part in x.split(batch_size)])


def _check_pictures(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise ValueError(f"Metrics want pictures in [-1, 1], {data.pixel_fault(x)}.")
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"Metrics want pictures of shape (N, 1, 28, 28), not {tuple(x.shape)}.")
    if len(x) == 0:
        raise ValueError("Metrics want at least one picture, not none.")
    if fault := data.pixel_fault(x):
        raise ValueError(f"Metrics want pictures in [-1, 1], {fault}.")
    return x.detach().float().cpu().clamp(-1, 1)


def features(x: Tensor, name: str) -> Tensor:
    """Features (N, 128) of pictures (N, 1, 28, 28) in [-1, 1] under data set `name`'s classifier."""
    with torch.autocast("cpu", enabled=False):  # the same numbers whatever the caller has switched on
        return in_batches(classifier(name).features, _check_pictures(x))


def class_probabilities(x: Tensor, name: str) -> Tensor:
    """The classifier's softmax (N, 10) for pictures (N, 1, 28, 28) in [-1, 1]."""
    with torch.autocast("cpu", enabled=False):
        return in_batches(lambda part: classifier(name)(part).softmax(dim=1), _check_pictures(x))


# --- distances between two sets of features -----------------------------------------------------------------


def _check_pair(a: Tensor, b: Tensor, at_least: int = 2) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"Two sets of features (N, D) are wanted, not {tuple(a.shape)} and {tuple(b.shape)}.")
    if min(len(a), len(b)) < at_least:
        raise ValueError(f"At least {at_least} samples a set are needed, not {len(a)} and {len(b)}.")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("The features hold NaN or infinity: the model that made the pictures diverged.")
    return a.detach().cpu().double(), b.detach().cpu().double()  # in this order: Apple's chips have no float64


def frechet_from_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared 2-Wasserstein distance between two Gaussians (Dowson and Landau 1982, equation 4).

    ||mean_a - mean_b||^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)). The trace of the root is the sum of the
    singular values of cov_b^(1/2) cov_a^(1/2), which needs only symmetric eigenproblems and cannot turn complex.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semi-definite.
    """

    size = len(mean_a)
    shapes = [tuple(x.shape) for x in (mean_a, cov_a, mean_b, cov_b)]
    if shapes != [(size,), (size, size)] * 2:
        raise ValueError(f"Means (D,) and covariances (D, D) of one D are wanted, not {shapes}.")
    if not all(bool(torch.isfinite(x).all()) for x in (mean_a, cov_a, mean_b, cov_b)):
        raise ValueError("The means or covariances hold NaN or infinity: the model that made the pictures diverged.")

    mean_a, cov_a, mean_b, cov_b = (x.cpu() for x in (mean_a, cov_a, mean_b, cov_b))

    def root(cov: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(cov)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T

    trace_of_root = torch.linalg.svdvals(root(cov_b) @ root(cov_a)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between features (N, D) and (M, D) (Heusel et al. 2017, equation 6). 0 is best.

    Warns below 2,048 samples in `fake`: the estimate is biased upwards, the more so the fewer there are.
    """
    real, fake = _check_pair(real, fake)
    if len(fake) < MIN_SAMPLES:
        warnings.warn(
            f"{len(fake)} samples: below {MIN_SAMPLES} the Fréchet distance is biased upwards, so compare it only"
            " with distances from as many samples.",
            stacklevel=2,
        )
    return frechet_from_moments(real.mean(0), real.T.cov(), fake.mean(0), fake.T.cov())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID: unbiased squared MMD with the cubic kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 4).

    0 is best, and being unbiased it can fall slightly below 0. All samples are used, no random subsets.
    """
    a, b = _check_pair(a, b)

    def total(x: Tensor, y: Tensor) -> float:
        """The sum of the kernel over all pairs."""
        return sum(((part @ y.T / x.shape[1] + 1) ** 3).sum().item() for part in x.split(SLICE))

    def mean_off_diagonal(x: Tensor) -> float:
        diagonal = ((x.square().sum(dim=1) / x.shape[1] + 1) ** 3).sum().item()
        return (total(x, x) - diagonal) / (len(x) * (len(x) - 1))

    return mean_off_diagonal(a) + mean_off_diagonal(b) - 2 * total(a, b) / (len(a) * len(b))


def _neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Distance (N,) from each point to its k-th nearest other point."""
    # the nearest of all is the point itself
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(SLICE)])


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), each in 0..1.

    Precision: share of `fake` (M, D) inside a k-neighbour ball of `real` (N, D). Recall: the other way round.
    """
    real, fake = _check_pair(real, fake, at_least=k + 1)

    def share_inside(points: Tensor, balls: Tensor) -> float:
        radii = _neighbour_radii(balls, k)
        inside = [(torch.cdist(part, balls) <= radii).any(dim=1) for part in points.split(SLICE)]
        return torch.cat(inside).double().mean().item()

    return share_inside(fake, real), share_inside(real, fake)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 2 and 3).

    Density: how many real k-neighbour balls hold a fake point, over k; about 1 for a perfect model, and it can
    exceed 1. Coverage: share of real balls that hold at least one fake point, in 0..1.
    """
    real, fake = _check_pair(real, fake, at_least=k + 1)
    held = []  # how many fake points each real ball holds
    for part, radii in zip(real.split(SLICE), _neighbour_radii(real, k).split(SLICE)):
        held.append((torch.cdist(part, fake) < radii[:, None]).sum(dim=1))
    counts = torch.cat(held).double()  # (N,)
    return counts.sum().item() / (k * len(fake)), (counts > 0).double().mean().item()


def inception_score(probabilities: Tensor) -> float:
    """exp E[KL(p(y|x) || p(y))] (Salimans et al. 2016, section 4), between 1 and the number of classes.

    With the course's classifier in Inception's place. `probabilities`: (N, classes), rows sum to 1.
    """
    p = probabilities.detach().cpu().double()
    if p.ndim != 2 or len(p) == 0 or not torch.allclose(p.sum(dim=1), torch.ones(len(p), dtype=p.dtype), atol=1e-4):
        raise ValueError("The inception score wants probabilities (N, classes) whose rows sum to 1.")
    entropy_of_mean = -torch.xlogy(p.mean(0), p.mean(0)).sum()
    mean_entropy = -torch.xlogy(p, p).sum(dim=1).mean()
    return (entropy_of_mean - mean_entropy).exp().item()


def class_histogram(probabilities: Tensor) -> Tensor:
    """Share (classes,) of samples whose most likely class is each one; sums to 1."""
    if probabilities.ndim != 2 or len(probabilities) == 0 or not bool(torch.isfinite(probabilities).all()):
        raise ValueError("A histogram wants finite probabilities (N, classes) of at least one sample.")
    counts = probabilities.argmax(dim=1).cpu().bincount(minlength=probabilities.shape[1])
    return counts.double() / len(probabilities)


@dataclass(frozen=True)
class Coverage:
    """Modes of a mixture that samples reached, and the share of samples within 3 sigma of a centre."""

    modes: int
    of: int
    high_quality: float


def modes_covered(points: Tensor, mixture: data.GaussianMixture, sigmas: float = 3.0) -> Coverage:
    """A mode counts as covered when a high-quality sample is nearest to it (Srivastava et al. 2017, section 5.1).

    Args:
        points: (N, D).
        mixture: centres (M, D) and standard deviation.
        sigmas: radius, in standard deviations, within which a sample is of high quality.
    """
    if points.ndim != 2 or len(points) == 0 or points.shape[1] != mixture.centres.shape[1]:
        size = mixture.centres.shape[1]
        raise ValueError(f"Points (N, {size}), at least one, are wanted, not {tuple(points.shape)}.")
    points, centres = (x.detach().cpu().double() for x in (points, mixture.centres))
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    good = distance <= sigmas * mixture.std
    return Coverage(nearest[good].unique().numel(), len(mixture.centres), good.double().mean().item())


# --- a distance without any network -------------------------------------------------------------------------

BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)  # Burt and Adelson 1983, with a = 3/8


def _smooth(x: Tensor) -> Tensor:
    """x (N, C, H, W) filtered by the 5 x 5 binomial kernel, mirrored at the borders."""
    row = torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device) / 16
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
    return nn.functional.conv2d(nn.functional.pad(x, (2, 2, 2, 2), "reflect"), kernel, groups=x.shape[1])


def laplacian_pyramid(x: Tensor, min_side: int = 14) -> list[Tensor]:
    """The bands of pictures (N, C, H, W), finest first; the last one is what is left (Burt and Adelson 1983).

    Each level has half the side of the one before, rounded up, and none is shorter than `min_side`. The pictures come
    back by adding from the end: `x = band + enlarged(rest)`.
    """
    bands = []
    while min((side + 1) // 2 for side in x.shape[-2:]) >= max(min_side, 3):
        rest = _smooth(x)[..., ::2, ::2]
        bands.append(x - _enlarged(rest, x.shape[-2:]))
        x = rest
    return [*bands, x]


def _enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x at twice the side: zeros between the pixels, then the same filter."""
    wide = x.new_zeros(*x.shape[:2], *size)
    wide[..., ::2, ::2] = x
    return 4 * _smooth(wide)


def wasserstein_1d(a: Tensor, b: Tensor) -> Tensor:
    """First Wasserstein distance (P,) between the samples (N, P) and (M, P), column by column.

    The area between the two quantile functions, exact for unequal N and M too (Peyré and Cuturi 2019, remark 2.30).
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"Samples (N, P) and (M, P) are wanted, not {tuple(a.shape)} and {tuple(b.shape)}.")
    a, b = a.sort(dim=0).values, b.sort(dim=0).values
    if len(a) == len(b):
        return (a - b).abs().mean(dim=0)
    steps = [torch.arange(1, len(x) + 1, dtype=torch.float64) / len(x) for x in (a, b)]
    ends = torch.cat(steps).sort().values
    widths = ends.diff(prepend=ends.new_zeros(1))
    middles = ends - widths / 2
    from_a, from_b = ((middles * len(x)).long().clamp(max=len(x) - 1) for x in (a, b))
    return (widths.to(a)[:, None] * (a[from_a] - b[from_b]).abs()).sum(dim=0)


def _check_sets(a: Tensor, b: Tensor, side: int) -> tuple[Tensor, Tensor]:
    for x in (a, b):
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) == 0:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"Two sets of pictures (N, C, H, W) are wanted, at least one a set, not {shape}.")
        if not torch.isfinite(x).all():
            raise ValueError("The pictures hold NaN or infinity: the model that made them diverged.")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"The sets differ in channels or size, {tuple(a.shape[1:])} and {tuple(b.shape[1:])}: resize one."
        )
    if min(a.shape[-2:]) < side:
        raise ValueError(
            f"Pictures of {a.shape[-2]} x {a.shape[-1]} pixels hold no patch of {side} x {side}: choose a smaller side."
        )
    return a.detach().float().cpu(), b.detach().float().cpu()


def _patches(x: Tensor, corners: Tensor, side: int) -> Tensor:
    """Patches (N, P, C, side, side) of pictures (N, C, H, W) at corners (N, P, 2) in [0, 1)."""
    room = torch.tensor(x.shape[-2:]) - side + 1
    top, left = (corners * room).long().unbind(dim=-1)  # (N, P)
    step = torch.arange(side)
    rows = (top[..., None] + step)[..., :, None]  # (N, P, side, 1)
    columns = (left[..., None] + step)[..., None, :]
    which = torch.arange(len(x))[:, None, None, None]
    return x.movedim(1, -1)[which, rows, columns].movedim(-1, 2)


def sliced_wasserstein_levels(
    real: Tensor,
    fake: Tensor,
    *,
    patches: int = 32,
    projections: int = 128,
    side: int = 7,
    min_side: int = 14,
    standardise: str = "by real",
    rng: torch.Generator | None = None,
) -> dict[int, float]:
    """Sliced Wasserstein distance of local patches at each level of a Laplacian pyramid, by the level's height.

    Karras et al. 2018, section 5: from each picture of each level random patches of `side` x `side` pixels, with the
    mean and deviation of each channel taken out; between the two sets of patches the mean of the first Wasserstein
    distance along random directions. Karras et al. print it times 1,000.

    Args:
        real, fake: (N, C, H, W) and (M, C, H, W), of any size and number of channels.
        patches: patches of one picture and level. The i-th pictures of both sets give theirs at the same places.
        standardise: by whose mean and deviation a channel is scaled: "by real" scales both sets alike, so that a
            shift in brightness or contrast counts; "each" scales each set by its own, as the authors' code does.
        rng: draws places and directions; without one, a generator with seed 0, so that two calls agree.
    """
    real, fake = _check_sets(real, fake, side)
    if standardise not in ("by real", "each"):
        raise ValueError(f"Standardise 'by real' or 'each', not {standardise!r}.")
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    found = {}
    for band_a, band_b in zip(laplacian_pyramid(real, min_side), laplacian_pyramid(fake, min_side)):
        cut = min(side, *band_a.shape[-2:])
        corners = torch.rand(max(len(real), len(fake)), patches, 2, generator=rng)
        a, b = (_patches(x, corners[: len(x)], cut).flatten(end_dim=1) for x in (band_a, band_b))
        mean, std = a.mean(dim=(0, 2, 3), keepdim=True), a.std(dim=(0, 2, 3), keepdim=True)
        a = (a - mean) / std.clamp(min=1e-6)
        if standardise == "each":
            mean, std = b.mean(dim=(0, 2, 3), keepdim=True), b.std(dim=(0, 2, 3), keepdim=True)
        b = (b - mean) / std.clamp(min=1e-6)
        directions = torch.randn(a[0].numel(), projections, generator=rng)
        directions /= directions.norm(dim=0)
        parts = [wasserstein_1d(a.flatten(1) @ d, b.flatten(1) @ d) for d in directions.split(32, dim=1)]
        found[band_a.shape[-2]] = torch.cat(parts).double().mean().item()
    return found


def sliced_wasserstein(real: Tensor, fake: Tensor, **settings: Any) -> float:
    """The mean of `sliced_wasserstein_levels` over the levels, for the same arguments. 0 is best.

    It needs no network and no classes. Compare only sets of the same sizes: like the Fréchet distance it does not
    fall to 0 between two finite sets of real pictures.
    """
    levels = sliced_wasserstein_levels(real, fake, **settings)
    return sum(levels.values()) / len(levels)


# --- one report ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What the course measures on a set of pictures. Lower is better for `fd` and `kid`."""

    n: int
    fd: float
    kid: float
    precision: float
    recall: float
    density: float
    coverage: float
    inception_score: float
    histogram: tuple[float, ...]

    def row(self) -> list[str]:
        """The measures, rounded, in the order of COLUMNS."""
        shares = (self.precision, self.recall, self.density, self.coverage)
        return [f"{self.fd:.1f}", f"{self.kid:.3f}", *(f"{v:.2f}" for v in shares), f"{self.inception_score:.1f}"]


COLUMNS = ("FD", "KID", "precision", "recall", "density", "coverage", "IS")


def show_reports(reports: Mapping[str, Report], **more: Mapping[str, object]) -> None:
    """Show a table with a row for each report.

    Args:
        reports: by label.
        more: further columns, by name (a `_` stands for a space): what to write for each label.
    """
    head = ["", *COLUMNS, *(name.replace("_", " ") for name in more)]
    table(head, [[label, *report.row(), *(m[label] for m in more.values())] for label, report in reports.items()])


@lru_cache(maxsize=2)
def reference_features(name: str) -> Tensor:
    """Features of the embedded test pictures of data set `name`: what every model is compared with."""
    return features(data.to_unit_range(data.embedded(name, "test")[0]), name)


def evaluate(x: Tensor, name: str) -> Report:
    """All measures of pictures `x` (N, 1, 28, 28) in [-1, 1] against the reference of data set `name`.

    For the real-versus-real floor pass as many real training pictures. Precision, recall, density and coverage
    use as many reference pictures as there are samples, since they depend on the size of both sets.
    """
    fake, real = features(x, name), reference_features(name)
    probabilities = class_probabilities(x, name)
    few = real[: len(fake)]  # of every class, since the embedded pictures are in mixed order
    precision, recall = precision_recall(few, fake)
    density, coverage = density_coverage(few, fake)
    return Report(
        len(fake),
        frechet_distance(real, fake),
        kernel_distance(real, fake),
        precision,
        recall,
        density,
        coverage,
        inception_score(probabilities),
        tuple(class_histogram(probabilities).tolist()),
    )
