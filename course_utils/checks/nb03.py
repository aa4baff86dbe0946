"""Checks for notebook 03, by invariance and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils import data

from . import exercise, expect
from . import use as use


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scalar(value: object, what: str = "a loss") -> float:
    expect(
        isinstance(value, Tensor) and value.ndim == 0,
        f"{what} is one number, a tensor without axes: take the mean over the batch.",
    )
    return value.item()


@exercise("3.1")
def coverage(answer: Callable[[Tensor, Tensor, float], tuple[int, float]]) -> None:
    """`answer(points, centres, std)`: modes with a good point nearest to them, and the share of good points."""
    mixture = data.grid()
    on_two = mixture.centres[[3, 3, 3, 17]]
    found = answer(on_two, mixture.centres, mixture.std)
    expect(isinstance(found, tuple) and len(found) == 2, "return two values: (modes, share).")
    expect(int(found[0]) == 2, f"four points on two centres cover 2 modes, and yours says {found[0]}.")
    expect(abs(float(found[1]) - 1) < 1e-6, f"points on the centres are all good: share 1, not {float(found[1]):.2f}.")
    far = mixture.centres[:10] + torch.tensor([3.5 * mixture.std, 0.0])
    modes, share = answer(torch.cat([far, mixture.centres[:2]]), mixture.centres, mixture.std)
    expect(
        int(modes) == 2,
        f"10 of 12 points lie 3.5 sigma from their centres: only 2 modes hold a good point, and yours says {modes}."
        " A bad point covers nothing.",
    )
    expect(abs(float(share) - 2 / 12) < 1e-6, f"2 of 12 points are good, a share of 0.17, not {float(share):.2f}.")
    diagonal = mixture.centres[:5] + 2.5 * mixture.std
    modes, _ = answer(diagonal, mixture.centres, mixture.std)
    expect(
        int(modes) == 0,
        "a point 2.5 sigma off in both coordinates is 3.5 sigma away: measure the Euclidean distance.",
    )


@exercise("3.2")
def minibatch_discrimination(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(features, T)`: (N, A) and (A, B, C) to the statistic (N, B) of Salimans et al. 2016, section 3.2."""
    g = _draw()
    n, a, b, c = 7, 5, 3, 4
    features, T = torch.randn(n, a, generator=g), torch.randn(a, b, c, generator=g) / 4
    found = answer(features, T)
    expect(
        isinstance(found, Tensor) and found.shape == (n, b),
        f"for {n} samples and B = {b} the statistic is ({n}, {b}), not {tuple(getattr(found, 'shape', ()))}.",
    )
    same = answer(features[:1].expand(n, a), T)
    expect(
        not torch.allclose(same, torch.full((n, b), n - 1.0), atol=1e-4),
        "you left out the sample itself; the paper's sum runs over all of the batch (add 1).",
    )
    expect(
        torch.allclose(same, torch.full((n, b), float(n)), atol=1e-4),
        f"{n} identical samples are at distance 0, so that every entry is {n} times exp(-0) = {n}.",
    )
    expect(
        bool((found < n).all()),
        "identical samples should give the largest statistic: is the sign in the exponent negative?",
    )
    order = torch.randperm(n, generator=g)
    expect(
        torch.allclose(answer(features[order], T), found[order], atol=1e-4),
        "another order of the batch should give the same statistics in that order.",
    )
    M = torch.einsum("na,abc->nbc", features, T)
    difference = M[:, None] - M[None]  # (N, N, B, C)
    if torch.allclose(found, (-difference.square().sum(3)).exp().sum(1), atol=1e-4):
        expect(False, "that is a squared Euclidean distance; the paper takes the L1 norm, absolute differences.")
    if torch.allclose(
        found, (-difference.abs().sum((2, 3), keepdim=True)[..., 0]).exp().sum(1).expand(n, b), atol=1e-4
    ):
        expect(False, "you summed over B as well: each of the B rows of M has a distance of its own.")
    expect(
        torch.allclose(found, (-difference.abs().sum(3)).exp().sum(1), atol=1e-4),
        "the values differ from the paper's: sum absolute differences over C, exponentiate, then sum over the batch.",
    )


@exercise("3.3")
def wgan_losses(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """`answer(real_scores, fake_scores)`: the critic's loss and the generator's, both to be minimised."""
    g = _draw()
    real, fake = torch.randn(64, generator=g) + 5, torch.randn(64, generator=g) - 5
    losses = answer(real, fake)
    expect(isinstance(losses, tuple) and len(losses) == 2, "return two losses: (critic, generator).")
    critic, generator = (_scalar(loss) for loss in losses)
    gap = (real.mean() - fake.mean()).item()
    expect(
        abs(critic - gap) > 1e-3,
        "the critic's sign is wrong: minimised, this loss gives real pictures low scores. The critic *maximises* the"
        " difference, so its loss is minus that.",
    )
    hinge = (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()).item()
    expect(
        abs(critic - hinge) > 1e-3,
        "this is the hinge loss: it stops once real scores pass 1 and fake ones -1, and estimates no Wasserstein"
        " distance. A WGAN's critic has no margin.",
    )
    bce = (nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()).item()
    expect(abs(critic - bce) > 1e-3, "a critic gives scores, not logits: no sigmoid and no logarithm.")
    expect(
        abs(critic + gap) < 1e-3,
        f"with a mean score of {real.mean():.2f} on real and {fake.mean():.2f} on fake the critic's loss is"
        f" {-gap:.2f}, not {critic:.2f}.",
    )
    expect(
        abs(generator - fake.mean().item()) > 1e-3,
        "the generator's sign is wrong: it wants *high* scores, so its loss is minus their mean.",
    )
    expect(
        abs(generator + fake.mean().item()) < 1e-3,
        f"the generator's loss is minus the mean fake score, {-fake.mean():.2f}, not {generator:.2f}.",
    )


class Slope(nn.Module):
    """A critic whose gradient is the same everywhere: `scale` times a unit vector over all of (C, H, W)."""

    def __init__(self, scale: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.register_buffer("direction", torch.full(shape, 1 / math.prod(shape) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x * self.direction).flatten(1).sum(1)


class Bowl(nn.Module):
    """D(x) = |x|^2 / 2, whose gradient is x itself: the penalty shows at which points it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return x.flatten(1).square().sum(1) / 2


@exercise("3.4")
def gradient_penalty(answer: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    """`answer(critic, real, fake)`: E (|grad D(x_hat)| - 1)^2 at random points of the segments, without lambda."""
    shape = (2, 3, 4)
    g = _draw()
    real, fake = torch.randn(6, *shape, generator=g), torch.randn(6, *shape, generator=g)
    flat = _scalar(answer(Slope(0, shape), real, fake), "a penalty")
    expect(abs(flat - 1) < 1e-4, f"a constant critic has gradient 0 and penalty (0 - 1)^2 = 1, not {flat:.3f}.")
    found = answer(Slope(1, shape), real, fake)
    norm_of_one_axis = abs(found.item() - (1 / math.prod(shape[1:]) ** 0.5 - 1) ** 2) < 1e-4
    expect(
        not norm_of_one_axis,
        "the norm is taken over one axis (dim=1, the colours) only. A picture's gradient is one vector: flatten all"
        " axes but the first, then take the norm.",
    )
    expect(
        abs(found.item()) < 1e-4,
        f"a critic of slope 1 everywhere has penalty 0, not {found.item():.3f}: one norm a sample, over all its axes.",
    )
    steep = answer(Slope(3, shape), real, fake)
    expect(abs(steep.item() - 4) < 1e-3, f"a slope of 3 costs (3 - 1)^2 = 4, not {steep.item():.3f}.")
    _trains_the_critic(steep, answer, shape, real, fake)
    _interpolates(answer, shape)


def _trains_the_critic(steep: Tensor, answer: Callable, shape: tuple[int, ...], real: Tensor, fake: Tensor) -> None:
    expect(
        steep.requires_grad,
        "the penalty has no path back to the critic's weights: pass create_graph=True to autograd.grad, and do not"
        " detach the result.",
    )
    critic = Slope(3, shape)
    (slope,) = torch.autograd.grad(answer(critic, real, fake), critic.scale, allow_unused=True)
    expect(
        slope is not None and abs(slope.item() - 4) < 1e-3,
        "the penalty's gradient with respect to the critic's weights is wrong: is create_graph=True there?",
    )


def _interpolates(answer: Callable, shape: tuple[int, ...]) -> None:
    """Real at one corner, fake at another: the points where the penalty looks must lie spread over the segment."""
    n = 256
    real, fake = torch.zeros(n, *shape), torch.ones(n, *shape)
    probe = Bowl()
    answer(probe, real, fake)
    expect(bool(probe.seen), "the critic was never called.")
    points = probe.seen[-1].flatten(1)  # (n, dim): epsilon of each sample, repeated
    expect(len(points) == n, f"{n} pairs give {n} points on segments, not {len(points)}.")
    expect(
        float(points.abs().max()) > 1e-6,
        "epsilon is always 1: the penalty looks at real samples only. Draw it from the uniform distribution.",
    )
    expect(
        float((points - 1).abs().max()) > 1e-6,
        "epsilon is always 0: the penalty looks at fake samples only. Draw it from the uniform distribution.",
    )
    expect(
        float(points.min()) >= -1e-6 and float(points.max()) <= 1 + 1e-6,
        "some points lie beyond the ends: epsilon is uniform in [0, 1] (torch.rand, not torch.randn).",
    )
    expect(
        float((points - points[:, :1]).abs().max()) < 1e-6,
        "each coordinate has an epsilon of its own, so that the points leave the segment: one epsilon a sample.",
    )
    expect(
        float(points[:, 0].std()) > 0.2,
        "all samples share one epsilon: draw one for each, of shape (N, 1, 1, 1) so that it spreads over the picture.",
    )


@exercise("3.5")
def spectral_normalise(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """`answer(weight, u)`: one round of power iteration from u, as torch's spectral_norm does it."""
    g = _draw()
    weight, start = torch.randn(6, 4, generator=g), nn.functional.normalize(torch.randn(4, generator=g), dim=0)
    found = answer(weight, start)
    expect(isinstance(found, tuple) and len(found) == 2, "return two tensors: (normalised weight, new u).")
    expect(
        found[0].shape == weight.shape and found[1].shape == start.shape,
        f"the shapes are those of weight and u, {tuple(weight.shape)} and {tuple(start.shape)}, not"
        f" {tuple(found[0].shape)} and {tuple(found[1].shape)}.",
    )
    expect(abs(found[1].norm().item() - 1) < 1e-4, "the new u has length 1: normalise it.")
    u = start
    for _ in range(200):
        normalised, u = answer(weight, u)
    largest = torch.linalg.matrix_norm(normalised, 2).item()
    frobenius = torch.linalg.norm(weight).item()
    expect(
        not torch.allclose(normalised, weight / frobenius, atol=1e-4),
        "that is the Frobenius norm, the root of the sum of squares; the spectral norm is the largest singular value.",
    )
    expect(
        abs(largest - 1) < 1e-3,
        f"after many rounds the largest singular value of the result is {largest:.3f}, and should be 1.",
    )
    _one_round(answer, weight, start)


def _one_round(answer: Callable, weight: Tensor, start: Tensor) -> None:
    v = nn.functional.normalize(weight @ start, dim=0)
    u = nn.functional.normalize(weight.T @ v, dim=0)
    leaf = weight.clone().requires_grad_()
    normalised, found = answer(leaf, start)
    expect(
        torch.allclose(found.detach(), u, atol=1e-5),
        "after one round u differs from the algorithm's: first v from u, then u from the new v.",
    )
    expect(
        torch.allclose(normalised.detach(), weight / (v @ weight @ u), atol=1e-5),
        "sigma is v W u with the new v and the new u.",
    )
    expect(normalised.requires_grad, "the result has no gradient: only u and v belong under torch.no_grad.")
    probe = torch.linspace(-1, 1, weight.numel()).view_as(weight)
    (gradient,) = torch.autograd.grad((normalised * probe).sum(), leaf)
    reference = weight.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((reference / (v @ reference @ u) * probe).sum(), reference)
    expect(
        torch.allclose(gradient, wanted, atol=1e-4),
        "the gradient differs from torch's: sigma depends on W and must not be detached, u and v are constants.",
    )
