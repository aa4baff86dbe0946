"""Answers to the exercises of notebook 03."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F

from course_utils.checks import nb03
from course_utils.lessons import nb03_mode_collapse_and_wgan as lesson

from . import Case

# --- 3.1 ------------------------------------------------------------------------------------------


def coverage(points, centres, std, radius=3.0, p=2.0):
    distance, nearest = torch.cdist(points, centres, p=p).min(dim=1)
    good = distance <= radius * std
    return nearest[good].unique().numel(), good.float().mean().item()


def coverage_by_a_loop(points, centres, std):
    covered, good = set(), 0
    for x, y in points.tolist():
        distances = [math.hypot(x - a, y - b) for a, b in centres.tolist()]
        nearest = min(range(len(distances)), key=distances.__getitem__)
        if distances[nearest] < 3 * std:
            covered.add(nearest)
            good += 1
    return [len(covered), good / len(points)]


def coverage_in_tensors(points, centres, std):
    near = torch.cdist(points.double(), centres.double()) <= 3 * std
    return near.any(dim=0).sum(), near.any(dim=1).double().mean()


def counts_bad_points(points, centres, std):
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    return nearest.unique().numel(), (distance <= 3 * std).float().mean().item()


# --- 3.2 ------------------------------------------------------------------------------------------


def discrimination(features, T, sign=-1, power=1, without_self=0):
    M = torch.einsum("na,abc->nbc", features, T)
    distance = (M[:, None] - M[None]).abs().pow(power).sum(3)
    return (sign * distance).exp().sum(1) - without_self


def discrimination_by_loops(features, T):
    n, b = len(features), T.shape[1]
    M = (features @ T.flatten(1)).view(n, b, -1)
    rows = []
    for i in range(n):
        rows.append([sum(torch.exp(-(M[i, k] - M[j, k]).abs().sum()) for j in range(n)) for k in range(b)])
    return torch.stack([torch.stack(row) for row in rows])


def over_b_as_well(features, T):
    M = torch.einsum("na,abc->nbc", features, T)
    distance = (M[:, None] - M[None]).abs().sum((2, 3))
    return (-distance).exp().sum(1, keepdim=True).expand(-1, T.shape[1])


# --- 3.4 ------------------------------------------------------------------------------------------


def penalty(critic, real, fake, *, epsilon=None, create_graph=True, norm=None):
    n = len(real)
    epsilon = torch.rand(n, *[1] * (real.ndim - 1)) if epsilon is None else epsilon
    x_hat = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    gradient = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=create_graph)[0]
    norms = gradient.flatten(1).norm(dim=1) if norm is None else norm(gradient)
    return (norms - 1).square().mean()


def penalty_by_a_loop(critic, real, fake):
    parts = []
    for a, b in zip(real, fake):
        x = torch.lerp(a, b, torch.rand(()).item())[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).squeeze(), x, create_graph=True)
        parts.append((gradient.norm() - 1) ** 2)
    return sum(parts) / len(parts)


def penalty_with_vmap(critic, real, fake):
    x = torch.lerp(fake, real, torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype))
    gradient = torch.func.vmap(torch.func.grad(lambda one: critic(one[None]).sum()))(x)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def mean_of_norms(critic, real, fake):
    n = len(real)
    epsilon = torch.rand(n, *[1] * (real.ndim - 1))
    x_hat = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    return (gradient.flatten(1).norm(dim=1).mean() - 1) ** 2


def one_sided(critic, real, fake):
    epsilon = torch.rand(len(real), *[1] * (real.ndim - 1))
    x_hat = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return torch.where(norms < 0.9, torch.where(norms < 0.1, 1.0, 0.0), (norms - 1).square()).mean()


def coin(critic, real, fake):
    return penalty(critic, real, fake, epsilon=torch.rand(len(real), 1, 1, 1).round())


# --- 3.5 ------------------------------------------------------------------------------------------


def normalise(weight, u):
    with torch.no_grad():
        v = F.normalize(weight @ u, dim=0)
        u = F.normalize(weight.T @ v, dim=0)
    return weight / (v @ weight @ u), u


def normalise_with_einsum(weight, u):
    v = (weight @ u / (weight @ u).norm()).detach()
    new = (weight.T @ v / (weight.T @ v).norm()).detach()
    return [weight / torch.einsum("i,ij,j->", v, weight, new), new]


def detached_sigma(weight, u):
    v = F.normalize(weight @ u, dim=0)
    u = F.normalize(weight.T @ v, dim=0)
    return weight / (v @ weight @ u).detach(), u.detach()


def through_the_vectors(weight, u):
    v = F.normalize(weight @ u, dim=0)  # not under no_grad
    sigma = (weight.T @ v).norm()
    return weight / sigma, F.normalize(weight.T @ v, dim=0)


def without_gradient(weight, u):
    with torch.no_grad():
        return normalise(weight, u)


def multiplied(weight, u):
    normalised, u = normalise(weight, u)
    return weight * (weight / normalised).mean(), u


CASES = [
    Case(
        nb03.coverage,
        right=[coverage, coverage_by_a_loop, coverage_in_tensors, lambda p, c, s: list(coverage(p, c, s))],
        wrong=[
            (counts_bad_points, "A bad point covers nothing"),
            (partial(coverage, p=math.inf), "Euclidean"),
            (partial(coverage, p=1.0), "not the sum of the two"),
            (lambda p, c, s: (len(c), 1.0), "cover 2 modes"),
            (partial(coverage, radius=3.4), r"only 2 modes hold a good point"),
            (partial(coverage, radius=1.0), "within 3 sigma"),
            (partial(coverage, radius=1e-6), "within 3 sigma"),
            (lambda p, c, s: coverage(p, c, s)[0], "return two values"),
            (lambda p, c, s: coverage(p, c, s)[::-1], "cover 2 modes"),
            (lambda p, c, s: (coverage(p, c, s)[0], 100 * coverage(p, c, s)[1]), "share 1, not 100.00"),
        ],
    ),
    Case(
        nb03.minibatch_discrimination,
        right=[
            lesson.minibatch_discrimination,
            discrimination,
            discrimination_by_loops,
            lambda f, T: discrimination(f.double(), T.double()),
        ],
        wrong=[
            (partial(discrimination, without_self=1), "left out the sample itself"),
            (partial(discrimination, sign=1), "sign in the exponent"),
            (partial(discrimination, power=2), "squared Euclidean"),
            (over_b_as_well, "summed over B as well"),
            (lambda f, T: discrimination(f, T) / len(f), "not the mean"),
            (lambda f, T: f, "the statistic has the shape"),
            (lambda f, T: discrimination(f, T).detach(), "no gradient reaches"),
            (lambda f, T: discrimination(f, T.flip(2)) + 1e-2, "identical samples|differ"),
        ],
    ),
    Case(
        nb03.wgan_losses,
        right=[
            lambda real, fake: (fake.mean() - real.mean(), -fake.mean()),
            lambda real, fake: [-(real.mean() - fake.mean()), fake.mean().neg()],
            lambda real, fake: (fake.mean() - real.mean(), real.mean() - fake.mean()),  # the same gradient for G
            lambda real, fake: (
                (fake.sum() / len(fake) - real.sum() / len(real)).reshape(1),
                -(fake.double().mean()),
            ),
            lambda real_scores, fake_scores: (
                lesson.wgan_critic_loss(real_scores, fake_scores),
                lesson.wgan_generator_loss(fake_scores),
            ),
        ],
        wrong=[
            # ERRATA 22: a hinge loss called WGAN
            (lambda r, f: (F.relu(1 - r).mean() + F.relu(1 + f).mean(), -f.mean()), "hinge"),
            (lambda r, f: (r.mean() - f.mean(), -f.mean()), "critic's sign"),
            (lambda r, f: (f.mean() - r.mean(), f.mean()), "generator's sign"),
            (lambda r, f: (f.mean() - r.mean(), f.mean() - r.mean()), "generator's sign"),
            (lambda r, f: (F.softplus(-r).mean() + F.softplus(f).mean(), -f.mean()), "no sigmoid"),
            (lambda r, f: (f - r[:40], -f), "one number"),
            (lambda r, f: (-(r.mean() - f.mean()).abs(), -f.mean()), "no absolute value"),
            (lambda r, f: (f.detach().mean() - r.detach().mean(), -f.mean()), "no gradient goes from the critic's"),
            (lambda r, f: (f.mean() - r.mean(), -f.detach().mean()), "no gradient goes from the generator's"),
            (lambda r, f: ((f.mean() - r.mean()).item(), -f.mean()), "autograd can follow"),
            (lambda r, f: (-f.mean(), f.mean() - r.mean()), "changed places"),
            (lambda r, f: f.mean() - r.mean(), "return two values"),
        ],
    ),
    Case(
        nb03.gradient_penalty,
        right=[
            lesson.gradient_penalty,
            penalty,
            penalty_by_a_loop,
            penalty_with_vmap,
            lambda c, r, f: penalty(c, f, r),
        ],
        wrong=[
            # ERRATA 22: epsilon = 1, the norm over one axis
            (lambda c, r, f: penalty(c, r, f, epsilon=1), "always 1"),
            (lambda c, r, f: penalty(c, r, f, epsilon=0), "always 0"),
            (lambda c, r, f: penalty(c, r, f, norm=lambda g: g.norm(2, dim=1)), "one axis"),
            (lambda c, r, f: penalty(c, r, f, norm=lambda g: g.norm()), "one norm a sample"),
            (lambda c, r, f: penalty(c, r, f, epsilon=torch.rand(1)), "share one epsilon"),
            (lambda c, r, f: penalty(c, r, f, epsilon=torch.rand_like(r)), "epsilon of its own"),
            (lambda c, r, f: penalty(c, r, f, epsilon=torch.randn(len(r), 1, 1, 1)), "beyond the ends"),
            (lambda c, r, f: penalty(c, r, f, create_graph=False), "create_graph"),
            (lambda c, r, f: 10 * penalty(c, r, f), r"penalty \(0 - 1\)\^2 = 1"),
            (mean_of_norms, "square for each sample"),
            (coin, "0 or 1 only"),
            (one_sided, "two-sided"),
            (lambda c, r, f: penalty(c, r, f, epsilon=torch.rand(len(r), 1, 1, 1) / 2), "has mean 0.7"),
            (lambda c, r, f: penalty(c, r, f).item(), "autograd can follow it, not float"),
        ],
    ),
    Case(
        nb03.spectral_normalise,
        right=[lesson.spectral_normalise, normalise, normalise_with_einsum],
        wrong=[
            (lambda W, u: (W / W.norm(), u), "Frobenius"),
            (detached_sigma, "must not be detached"),
            (through_the_vectors, "gradient differs"),
            (lambda W, u: (W / torch.linalg.matrix_norm(W, 2), u), "u differs"),
            (without_gradient, "has no gradient"),
            (multiplied, "largest singular value of the result"),
            (lambda W, u: normalise(W, u)[::-1], "the shapes are those"),
            (lambda W, u: normalise(W, u)[0], "return two values"),
            (lambda W, u: (normalise(W, u)[0], 2 * normalise(W, u)[1]), "length 1"),
        ],
    ),
]
