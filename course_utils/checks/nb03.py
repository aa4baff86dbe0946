"""Checks for notebook 03, by invariance and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_utils import data

from . import close, exercise, expect, number, reject, tensor
from . import use as use


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _loss(value: object, what: str = "a loss") -> Tensor:
    """One number that autograd can follow, as a tensor without axes."""
    expect(
        isinstance(value, Tensor), f"{what} is a tensor, so that autograd can follow it, not {type(value).__name__}."
    )
    expect(value.numel() == 1, f"{what} is one number, a tensor without axes: take the mean over the batch.")
    return value.reshape(())


def _two(found: object, what: str) -> Sequence:
    expect(isinstance(found, Sequence) and len(found) == 2, f"return two values: {what}.")
    return found


@exercise("3.1")
def coverage(answer: Callable[[Tensor, Tensor, float], tuple[int, float]]) -> None:
    """`answer(points, centres, std)`: modes with a good point nearest to them, and the share of good points."""
    mixture = data.grid()
    centres, std = mixture.centres, mixture.std

    def count(points: Tensor) -> tuple[float, float]:
        modes, share = _two(answer(points.clone(), centres.clone(), std), "(modes, share)")
        return number(modes, "the count of modes"), number(share, "the share")

    modes, share = count(centres[[3, 3, 3, 17]])
    expect(modes == 2, f"four points on two centres cover 2 modes, and yours says {modes:g}.")
    expect(abs(share - 1) < 1e-6, f"points on the centres are all good: share 1, not {share:.2f}.")
    direction = torch.tensor([1.0, 0.0])  # along an axis, where all norms agree
    near, beyond = (centres[:10] + length * std * direction for length in (2.9, 3.1))
    modes, share = count(torch.cat([beyond, centres[:2]]))
    expect(
        modes == 2,
        f"10 of 12 points lie 3.1 sigma from their centres: only 2 modes hold a good point, and yours says {modes:g}."
        " A bad point covers nothing.",
    )
    expect(abs(share - 2 / 12) < 1e-6, f"2 of 12 points are good, a share of 0.17, not {share:.2f}.")
    modes, share = count(torch.cat([near, beyond]))
    expect(
        modes == 10 and abs(share - 0.5) < 1e-6,
        f"10 points lie 2.9 sigma from their centres and 10 lie 3.1 away: 10 modes, a share of 0.5, not {modes:g} and"
        f" {share:.2f}. Good is what lies within 3 sigma.",
    )
    modes, _ = count(centres[:5] + 2.5 * std)
    expect(
        modes == 0,
        "a point 2.5 sigma off in both coordinates is 3.5 sigma away: measure the Euclidean distance.",
    )
    modes, share = count(centres[:3] + 2.0 * std * torch.tensor([1.0, 1.0]))
    expect(
        modes == 3 and share == 1,
        "a point 2 sigma off in both coordinates is 2.8 sigma away, and good: measure the Euclidean distance, not the"
        " sum of the two.",
    )
    modes, share = count(torch.full((4, 2), 50.0))
    expect(
        modes == 0 and share == 0,
        f"points far from all centres cover 0 modes, with share 0, not {modes:g} and {share:.2f}.",
    )


@exercise("3.2")
def minibatch_discrimination(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(features, T)`: (N, A) and (A, B, C) to the statistic (N, B) of Salimans et al. 2016, section 3.2."""
    g = _draw()
    n, a, b, c = 7, 5, 3, 4
    features, T = torch.randn(n, a, generator=g), torch.randn(a, b, c, generator=g) / 4
    what = f"for {n} samples and B = {b} the statistic"
    found = tensor(answer(features.clone(), T.clone()), what, (n, b))
    same = tensor(answer(features[:1].expand(n, a).clone(), T.clone()), what, (n, b))
    M = torch.einsum("na,abc->nbc", features, T).double()
    difference = M[:, None] - M[None]  # (N, N, B, C)
    each = difference.abs().sum(3)
    together = each.sum(2, keepdim=True).expand(n, n, b)
    reject(
        found,
        {
            "you left out the sample itself; the paper's sum runs over all of the batch (add 1).": (-each).exp().sum(1)
            - 1,
            "larger distances should count less: is the sign in the exponent negative?": each.exp().sum(1),
            "that is a squared Euclidean distance; the paper takes the L1 norm, absolute differences.": (
                (-difference.square().sum(3)).exp().sum(1)
            ),
            "that is a Euclidean distance; the paper takes the L1 norm, absolute differences.": (
                (-difference.square().sum(3).sqrt()).exp().sum(1)
            ),
            "you summed over B as well: each of the B rows of M has a distance of its own.": (-together).exp().sum(1),
            "take the sum over the batch, not the mean.": (-each).exp().mean(1),
            "exponentiate each distance, then sum: yours is exp of the summed distances.": (-each.sum(1)).exp(),
            "take the mean of absolute differences nowhere: the L1 norm is their sum over C.": (-each / c).exp().sum(1),
        },
        lambda x, y: close(x, y, 1e-4),
    )
    expect(
        close(same, torch.full((n, b), float(n)), 1e-4),
        f"{n} identical samples are at distance 0, so that every entry is {n} times exp(-0) = {n}.",
    )
    expect(
        close(found, (-each).exp().sum(1), 1e-4),
        "the values differ from the paper's: sum absolute differences over C, exponentiate, then sum over the batch.",
    )
    order = torch.randperm(n, generator=g)
    expect(
        close(tensor(answer(features[order], T.clone()), what, (n, b)), found[order], 1e-4),
        "another order of the batch should give the same statistics in that order.",
    )
    expect(
        _trains(answer, features, T),
        "no gradient reaches features or T, so that nothing is learnt: do not detach, nor compute under no_grad.",
    )


def _trains(answer: Callable, *inputs: Tensor) -> bool:
    """Whether a gradient reaches every input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = answer(*leaves)
    out = torch.stack([torch.as_tensor(part) for part in out]) if isinstance(out, (list, tuple)) else out
    if not isinstance(out, Tensor) or not out.requires_grad:
        return False
    slopes = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    return all(slope is not None and bool(slope.any()) for slope in slopes)


@exercise("3.3")
def wgan_losses(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """`answer(real_scores, fake_scores)`: the critic's loss and the generator's, both to be minimised."""
    g = _draw()
    for shift in (5.0, -1.0):  # real scores above the fake ones, and below
        real, fake = torch.randn(63, generator=g) + shift, torch.randn(40, generator=g) - shift
        if shift < 0:
            critic = _two(answer(real, fake), "(critic's loss, generator's loss)")[0]
            expect(
                not close(_loss(critic), real.mean() - fake.mean(), 1e-3),
                "where fake scores are above real ones the critic's loss is positive: no absolute value belongs there.",
            )
        _wgan_pair(answer, real, fake)
    _wgan_gradients(answer, real, fake)


def _wgan_pair(answer: Callable, real: Tensor, fake: Tensor) -> None:
    losses = _two(
        answer(real.clone().requires_grad_(), fake.clone().requires_grad_()), "(critic's loss, generator's loss)"
    )
    critic, generator = (_loss(loss).item() for loss in losses)
    gap = (real.mean() - fake.mean()).item()
    reject(
        critic,
        {
            "the critic's sign is wrong: minimised, this loss gives real pictures low scores. The critic *maximises*"
            " the difference, so its loss is minus that.": gap,
            "this is the hinge loss: it stops once real scores pass 1 and fake ones -1, and estimates no Wasserstein"
            " distance. A WGAN's critic has no margin.": torch.relu(1 - real).mean() + torch.relu(1 + fake).mean(),
            "a critic gives scores, not logits: no sigmoid and no logarithm.": (
                nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
            ),
            "the two losses have changed places: return the critic's first.": -fake.mean(),
        },
        lambda x, y: close(x, y, 1e-3),
    )
    expect(
        abs(critic + gap) < 1e-3,
        f"with a mean score of {real.mean():.2f} on real and {fake.mean():.2f} on fake the critic's loss is"
        f" {-gap:.2f}, not {critic:.2f}.",
    )
    expect(
        min(abs(generator - fake.mean().item()), abs(generator + gap)) > 1e-3,
        "the generator's sign is wrong: it wants *high* scores, so its loss is minus their mean.",
    )
    expect(  # the real scores do not depend on the generator: with them the loss has the same gradient
        min(abs(generator + fake.mean().item()), abs(generator - gap)) < 1e-3,
        f"the generator's loss is minus the mean fake score, {-fake.mean():.2f}, not {generator:.2f}.",
    )


def _wgan_gradients(answer: Callable, real: Tensor, fake: Tensor) -> None:
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    for index, name, inputs in ((0, "critic", (real, fake)), (1, "generator", (fake,))):
        loss = _loss(answer(real, fake)[index])
        slopes = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None]
        expect(
            all(slope is not None for slope in slopes),
            f"no gradient goes from the {name}'s loss to the scores: do not detach them, nor use .item().",
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
        self.seen.append(_unwrapped(x).detach())
        return x.flatten(1).square().sum(1) / 2


class Tent(nn.Module):
    """Its gradient has the length `steepness[i]` for sample i, told apart by the sample's first number."""

    def __init__(self, steepness: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.steepness = steepness
        self.register_buffer("direction", torch.full(shape, 1 / math.prod(shape) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        which = x.detach().flatten(1)[:, 0].round().long()
        return self.steepness[which] * (x * self.direction).flatten(1).sum(1)


@exercise("3.4")
def gradient_penalty(answer: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    """`answer(critic, real, fake)`: E (|grad D(x_hat)| - 1)^2 at random points of the segments, without lambda."""
    shape = (2, 3, 4)
    g = _draw()
    real, fake = torch.randn(5, *shape, generator=g), torch.randn(5, *shape, generator=g)
    flat = _loss(answer(Slope(0, shape), real, fake), "a penalty").item()
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
    half = answer(Slope(0.5, shape), real, fake).item()
    expect(
        abs(half - 0.25) < 1e-3,
        f"a slope of 0.5 costs (0.5 - 1)^2 = 0.25, not {half:.3f}: WGAN-GP's penalty is two-sided.",
    )
    _one_norm_a_sample(answer, shape)
    _trains_the_critic(steep, answer, shape, real, fake)
    _interpolates(answer, shape)
    double = answer(Slope(3, shape).double(), real.double(), fake.double())
    expect(abs(double.item() - 4) < 1e-6, f"in float64 a slope of 3 costs 4, not {double.item():.3f}.")


def _one_norm_a_sample(answer: Callable, shape: tuple[int, ...]) -> None:
    """Samples of other slopes: the square is taken before the mean."""
    steepness = torch.tensor([0.0, 1.0, 3.0, 0.5])
    same = torch.arange(4.0).reshape(4, *[1] * len(shape)).expand(4, *shape).clone()  # points do not move
    found = answer(Tent(steepness, shape), same, same.clone()).item()
    mean_first = (steepness.mean() - 1).square().item()
    expect(
        abs(found - mean_first) > 1e-4,
        "the mean of the norms is compared with 1: subtract 1 and square for each sample, then take the mean.",
    )
    wanted = (steepness - 1).square().mean().item()
    expect(
        abs(found - wanted) < 1e-3, f"for slopes of {steepness.tolist()} the penalty is {wanted:.4f}, not {found:.4f}."
    )


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
    points = _points(probe.seen, n, shape).flatten(1)  # (n, dim): epsilon of each sample, repeated
    share = points[:, 0]
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
        float((points - points[:, :1]).abs().max()) < 1e-5,
        "each coordinate has an epsilon of its own, so that the points leave the segment: one epsilon a sample.",
    )
    expect(
        float(share.std()) > 0.02,
        "all samples share one epsilon: draw one for each, of shape (N, 1, 1, 1) so that it spreads over the picture.",
    )
    expect(
        bool(((share > 0.02) & (share < 0.98)).float().mean() > 0.8),
        "epsilon is 0 or 1 only: the penalty looks at real and fake samples and never between. Take torch.rand.",
    )
    expect(
        abs(share.mean().item() - 0.5) < 0.1 and abs(share.std().item() - 12**-0.5) < 0.06,
        f"epsilon has mean {share.mean():.2f} and standard deviation {share.std():.2f}: uniform in [0, 1] it"
        " has 0.50 and 0.29.",
    )


def _points(seen: list[Tensor], n: int, shape: tuple[int, ...]) -> Tensor:
    """Where the critic was asked, also when it was asked for one sample at a time."""
    points = torch.cat([x.reshape(-1, *shape) for x in seen])
    expect(len(points) >= n, f"{n} pairs give {n} points on segments, not {len(points)}.")
    return points[-n:]


def _unwrapped(x: Tensor) -> Tensor:
    """The tensor behind those that vmap and grad hand to a function."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


@exercise("3.5")
def spectral_normalise(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """`answer(weight, u)`: one round of power iteration from u, as torch's spectral_norm does it."""
    g = _draw()
    weight, start = torch.randn(6, 4, generator=g), nn.functional.normalize(torch.randn(4, generator=g), dim=0)
    found = _two(answer(weight.clone(), start.clone()), "(normalised weight, new u)")
    for part, what in zip(found, ("the normalised weight", "the new u")):
        expect(isinstance(part, Tensor), f"{what} is a tensor, not {type(part).__name__}.")
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
        not close(normalised, weight / frobenius, 1e-4),
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
        close(found, u),
        "after one round u differs from the algorithm's: first v from u, then u from the new v.",
    )
    expect(
        close(normalised, weight / (v @ weight @ u)),
        "sigma is v W u with the new v and the new u.",
    )
    expect(normalised.requires_grad, "the result has no gradient: only u and v belong under torch.no_grad.")
    probe = torch.linspace(-1, 1, weight.numel()).view_as(weight)
    (gradient,) = torch.autograd.grad((normalised * probe).sum(), leaf)
    reference = weight.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((reference / (v @ reference @ u) * probe).sum(), reference)
    expect(
        close(gradient, wanted, 1e-4),
        "the gradient differs from torch's: sigma depends on W and must not be detached, u and v are constants.",
    )
