"""Answers to the exercises of notebook 01."""

import cmath
import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from cases import Case
from course_utils.checks import nb01

LOG_2 = math.log(2)


def value(real, fake):
    return F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean()


def value_by_loop(real, fake):
    of_real = sum(-math.log1p(math.exp(-u)) if u > 0 else u - math.log1p(math.exp(u)) for u in real.tolist())
    of_fake = sum(-u - math.log1p(math.exp(-u)) if u > 0 else -math.log1p(math.exp(u)) for u in fake.tolist())
    return of_real / len(real) + of_fake / len(fake)


class Value:
    def __call__(self, real_logits, fake_logits):
        on_real = F.binary_cross_entropy_with_logits(real_logits, torch.ones(len(real_logits)))
        on_fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
        return -on_real - on_fake


class ValueModule(nn.Module):
    def forward(self, real, fake):
        return value(real, fake)


def kl(p, q):
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def as_probabilities(p, q):
    return p / p.sum(), q / q.sum()


def halves(p, q):
    p, q = as_probabilities(p.double(), q.double())
    return kl(p, (p + q) / 2), kl(q, (p + q) / 2)


def jsd(p, q):
    return sum(halves(p, q)) / 2


def jsd_float32(p, q):
    p, q = as_probabilities(p.float(), q.float())
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def jsd_by_loop(p, q):
    total = 0.0
    for a, b in zip((p / p.sum()).tolist(), (q / q.sum()).tolist()):
        middle = (a + b) / 2
        total += sum(c * math.log(c / middle) for c in (a, b) if c > 0) / 2
    return total


def jsd_by_entropies(p, q):
    p, q = as_probabilities(p, q)
    entropy = lambda a: -torch.xlogy(a, a).sum()  # noqa: E731
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def jsd_with_plain_logarithms(p, q):
    p, q = as_probabilities(p, q)
    middle = (p + q) / 2
    return (p * (p / middle).log() + q * (q / middle).log()).sum() / 2


def jsd_of_bins_that_p_fills(p, q):
    """NaN only where both histograms are empty: xlogy of 0 and 0 / 0."""
    p, q = as_probabilities(p, q)
    middle = (p + q) / 2
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum() / 2


def smoothed(p, q):
    return jsd(p + 1e-2 * p.sum(), q + 1e-2 * q.sum())


TRUE_SENTENCE = {
    "loss": lambda d: math.log(1 - d),
    "slope": lambda d: -d,
    "starves at": lambda d: 0,
    "who": lambda d: "generator",
}


def says(**changes):
    rules = TRUE_SENTENCE | {key.replace("_", " "): rule for key, rule in changes.items()}
    return lambda d: {key: rule(d) for key, rule in rules.items()}


def textbook(d):
    return {"loss": math.log(d), "slope": -(1 - d), "starves at": 1, "who": "discriminator"}


def sentence_by_autograd(d):
    u = torch.tensor(math.log(d / (1 - d)), requires_grad=True)
    loss = F.logsigmoid(-u)
    loss.backward()
    return {"who": "Generator", "starves at": torch.tensor(0.0), "slope": u.grad, "loss": loss}


def sorted_moves(x, y):
    return (x.sort().values - y.sort().values).abs()


def w1_of_quantiles(x, y):
    """The integral of the distance between the distribution functions."""
    points = torch.cat([x, y]).sort().values
    below = lambda sample: (sample[None] <= points[:-1, None]).double().mean(1)  # noqa: E731
    return ((below(x) - below(y)).abs() * points.diff()).sum()


def root(gamma, slope_part):
    r = complex(gamma**2 / 4 - slope_part) ** 0.5
    return -gamma / 2 + r, -gamma / 2 - r


def matrix(gamma, a):
    return [[0.0, a], [-a, -gamma]]


def r1(norm=lambda g: g.square().flatten(1).sum(1), create_graph=True, mean=False):
    def answer(discriminator, x, gamma):
        x = x.detach().requires_grad_()
        out = discriminator(x).mean() if mean else discriminator(x).sum()
        (g,) = torch.autograd.grad(out, x, create_graph=create_graph)
        return gamma / 2 * norm(g).mean()

    return answer


def r1_by_loop(discriminator, x_real, gamma):
    total = 0
    for i in range(len(x_real)):
        x = x_real[i : i + 1].clone().requires_grad_()
        (g,) = torch.autograd.grad(discriminator(x).squeeze(), x, create_graph=True)
        total = total + (g**2).sum()
    return gamma * total / (2 * len(x_real))


def r1_by_vmap(discriminator, x_real, gamma):
    slope = torch.func.grad(lambda x: discriminator(x[None]).squeeze())
    return gamma / 2 * torch.func.vmap(slope)(x_real).flatten(1).pow(2).sum(1).mean()


class R1(nn.Module):
    def forward(self, discriminator, x_real, gamma):
        x_real.requires_grad_(True)
        logits = discriminator(x_real)
        g = torch.autograd.grad(logits, x_real, torch.ones_like(logits), create_graph=True)[0]
        return (gamma / 2) * torch.stack([row.norm() ** 2 for row in g]).mean()


def r1_with_backward(discriminator, x_real, gamma):
    x_real = x_real.requires_grad_()
    discriminator(x_real).sum().backward(create_graph=True)
    return gamma / 2 * x_real.grad.flatten(1).square().sum(1).mean()


CASES = [
    Case(
        nb01.value,
        [
            value,
            lambda r, f: -F.softplus(-r).mean() - F.softplus(f).mean(),
            lambda r, f: value(r.double(), f.double()).item(),
            lambda r, f: np.float64(value(r, f)),
            lambda r, f: torch.stack([F.logsigmoid(u) for u in r]).mean() + F.logsigmoid(-f).mean(),
            lambda r, f: (r - torch.logaddexp(r, 0 * r)).mean() - torch.logaddexp(f, 0 * f).mean(),
            value_by_loop,
            Value(),
            ValueModule(),
        ],
        [
            (lambda r, f: r.sigmoid().log().mean() + (1 - f.sigmoid()).log().mean(), "overflows"),
            (
                lambda r, f: (r.sigmoid() + 1e-8).log().mean() + (1 - f.sigmoid() + 1e-8).log().mean(),
                "-400, yours -36.8",
            ),
            (lambda r, f: F.logsigmoid(r).mean() + F.logsigmoid(f).mean(), "yours is log D"),
            (lambda r, f: -value(r, f), "sign"),
            (lambda r, f: value(f, r), "changed places"),
            (lambda r, f: F.logsigmoid(r).sum() + F.logsigmoid(-f).sum(), "not the sum"),
            (lambda r, f: F.logsigmoid(torch.cat([r, -f])).mean(), "mean over both"),
            (lambda r, f: value(r, f) / 2, "yours is half of it"),
            (lambda r, f: value(r.mean(), f.mean()), "value of the mean logit"),
            (lambda r, f: value(r, f) / LOG_2, "base 2"),
            (lambda r, f: F.logsigmoid(r).max() + F.logsigmoid(-f).mean(), r"V is -1\.2569, yours -1\.1246"),
            (lambda r, f: value(r.clamp(-50, 50), f.clamp(-50, 50)), "V is -400, yours -100"),
            (lambda r, f: value(r, f[:1]), "yours -"),
            (lambda r, f: F.logsigmoid(r), "one number, and you return 2"),
        ],
    ),
    Case(
        nb01.optimal_discriminator,
        [
            lambda p, q: torch.sigmoid(p - q),
            lambda p, q: torch.sigmoid(p.float() - q.float()),
            lambda p, q: 1 / (1 + (q - p).exp()),
            lambda log_p, log_q: (log_p - torch.logaddexp(log_p, log_q)).exp(),
            lambda p, q: torch.stack([p, q]).softmax(dim=0)[0],
            lambda p, q: [1 / (1 + math.exp(min(b - a, 700))) for a, b in zip(p.tolist(), q.tolist())],
            lambda p, q: torch.stack([torch.sigmoid(a - b) for a, b in zip(p, q)]),
            lambda p, q: np.exp(-np.logaddexp(0, (q - p).numpy())),
            torch.func.vmap(lambda p, q: torch.sigmoid(p - q)),
        ],
        [
            (lambda p, q: p.exp() / (p.exp() + q.exp()), "underflows"),
            (lambda p, q: (p - q).exp() / (1 + (p - q).exp()), "difference overflows"),
            (lambda p, q: torch.sigmoid(q - p), r"q / \(p \+ q\)"),
            (lambda p, q: (p - q).exp(), "upper limit"),
            (lambda p, q: p / (p + q), "logarithms"),
            (lambda p, q: p - q, "sigmoid is missing"),
            (lambda p, q: F.logsigmoid(p - q), "this is the logarithm"),
            (lambda p, q: torch.sigmoid(p / q), "compare with p"),
            (lambda p, q: torch.sigmoid(p - q).mean(), "has the shape"),
            (lambda p, q: (p.exp() + 1e-9) / (p.exp() + q.exp() + 2e-9), "yours 0.5"),
            (lambda p, q: torch.sigmoid(p - q).round(), "compare with p"),
        ],
    ),
    Case(
        nb01.jensen_shannon,
        [
            jsd,
            jsd_float32,
            jsd_by_loop,
            jsd_by_entropies,
            lambda p, q: jensenshannon(p, q) ** 2,
            lambda p, q: np.float32(jsd(p, q)),
            lambda p, q: jsd(p, q)[None],
            lambda p, q: jsd_with_plain_logarithms(p + 1e-12, q + 1e-12),
            functools.partial(lambda p, q, half: half * sum(halves(p, q)), half=0.5),
        ],
        [
            (lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2, "divided by their total"),
            (lambda p, q: (kl(*as_probabilities(p, q)) + kl(*as_probabilities(q, p))) / 2, "upper bound"),
            (lambda p, q: kl(*as_probabilities(p, q)), r"KL\(p \|\| q\)"),
            (lambda p, q: sum(halves(p, q)), "twice too large"),
            (lambda p, q: halves(p, q)[0], "that of one"),
            (lambda p, q: halves(p, q)[1], "that of one"),
            (lambda p, q: jsd(p, q) / LOG_2, "natural logarithms"),
            (lambda p, q: jsd(p, q) ** 0.5, "square root"),
            (jsd_with_plain_logarithms, "yours nan: an empty bin.*xlogy"),
            (jsd_of_bins_that_p_fills, "empty in .both. histograms"),
            (smoothed, r"is 0.\d+, yours 0.\d+"),
            (lambda p, q: jsd(p / (p.sum() + q.sum()), p), "divergence is .*yours 0"),
            (lambda p, q: jsd_float32(p, q) * p.sum(), "divided by their total"),
            (lambda p, q: -jsd(p, q), "sign"),
        ],
    ),
    Case(
        nb01.backwards_sentence,
        [
            says(),
            sentence_by_autograd,
            says(loss=lambda d: np.log1p(-d), slope=np.float32(1).__rmul__ and (lambda d: np.float32(-d))),
            says(loss=lambda d: torch.tensor(1 - d).log(), starves_at=lambda d: 0.0, who=lambda d: "G"),
            lambda d: dict(says()(d), note="as autograd says"),
        ],
        [
            (textbook, "near 0 where"),
            (says(slope=lambda d: -(1 - d)), "non-saturating"),
            (says(slope=lambda d: -1 / (1 - d)), "autograd.*chain rule"),
            (says(slope=lambda d: d), "sign is wrong"),
            (says(slope=lambda d: -d * d), "let autograd say"),
            (says(loss=lambda d: -math.log(d)), "non-saturating"),
            (says(loss=lambda d: -math.log(1 - d)), "which is D's"),
            (says(loss=lambda d: 1 - d), r"log\(1 - D\(G\(z\)\)\) is"),
            (says(starves_at=lambda d: 1), "where your slope vanishes"),
            (says(starves_at=lambda d: round(d)), "where your slope vanishes"),
            (says(who=lambda d: "discriminator"), "whose weights"),
            (says(who=lambda d: "both"), "generator. or"),
            (lambda d: {"loss": math.log(1 - d), "slope": -d}, "dictionary with the keys"),
            (lambda d: (math.log(1 - d), -d, 0, "generator"), "dictionary with the keys"),
        ],
    ),
    Case(
        nb01.wasserstein_1,
        [
            lambda x, y: sorted_moves(x, y).mean(),
            lambda x, y: stats.wasserstein_distance(x, y),
            lambda x, y: sum(abs(a - b) for a, b in zip(sorted(x.tolist()), sorted(y.tolist()))) / len(x),
            lambda x, y: F.l1_loss(torch.sort(x)[0], torch.sort(y)[0]),
            lambda x, y: np.abs(np.sort(x) - np.sort(y)).mean(),
            lambda x, y: torch.dist(x.float().sort().values, y.float().sort().values, p=1) / len(y),
            w1_of_quantiles,
        ],
        [
            (lambda x, y: (x - y).abs().mean(), "sort both"),
            (lambda x, y: (x.mean() - y.mean()).abs(), "means only"),
            (lambda x, y: (x.sort().values - y.sort().values).mean(), "absolute value"),
            (lambda x, y: sorted_moves(x, y).square().mean().sqrt(), "W2"),
            (lambda x, y: sorted_moves(x, y).square().mean(), "W2"),
            (lambda x, y: sorted_moves(x, y).sum(), "not the sum"),
            (lambda x, y: sorted_moves(x, y).max(), "not the largest"),
            (lambda x, y: sorted_moves(x, y).median(), "not the median"),
            (lambda x, y: sorted_moves(x, y), "one number, and you return 101"),
            (lambda x, y: (x.sort().values - y).abs().mean(), "leaves the second"),
            (lambda x, y: (x.sort().values - y.sort(descending=True).values).abs().mean(), "largest goes"),
            (lambda x, y: sorted_moves(x, y)[1:-1].mean(), "distance is .* yours"),
        ],
    ),
    Case(
        nb01.r1_eigenvalues,
        [
            lambda gamma, slope: root(gamma, slope**2),
            lambda gamma, slope: list(root(gamma, slope**2)[::-1]),
            lambda gamma, a: torch.linalg.eigvals(torch.tensor(matrix(gamma, a))),
            lambda gamma, a: np.linalg.eigvals(matrix(gamma, a)),
            lambda gamma, a: np.roots([1, gamma, a * a]),
            lambda gamma, a: [torch.tensor(v) for v in root(gamma, a**2)],
            lambda gamma, a: [torch.tensor([v]) for v in root(gamma, a**2)],
            lambda gamma, slope: tuple((-gamma + s * cmath.sqrt(gamma**2 - 4 * slope**2)) / 2 for s in (1, -1)),
        ],
        [
            (lambda gamma, slope: root(gamma, slope), "printed formula"),
            (lambda gamma, slope: root(2 * gamma, slope**2), "trace"),
            (lambda gamma, slope: [-v for v in root(gamma, slope**2)], "signs are turned"),
            (lambda gamma, slope: [v.real for v in root(gamma, slope**2)], "real parts only"),
            (lambda gamma, slope: [root(gamma, slope**2)[0]] * 2, "one eigenvalue twice"),
            (lambda gamma, slope: root(gamma, slope**2)[0], "return both eigenvalues"),
            (lambda gamma, slope: torch.tensor(1j), "return both eigenvalues"),
            (lambda gamma, slope: [torch.ones(2), torch.ones(2)], "return both eigenvalues"),
            (lambda gamma, slope: torch.tensor(matrix(gamma, slope)), "no single number"),
            (lambda gamma, slope: ["a", "b"], "no single number"),
            (lambda gamma, slope: (-gamma / 2 + math.sqrt(gamma**2 / 4 - slope**2),) * 2, "raises ValueError"),
            (
                lambda gamma, slope: [-gamma / 2 + s * cmath.sqrt(gamma**2 - 4 * slope**2) for s in (1, -1)],
                "root is twice too large",
            ),
        ],
    ),
    Case(
        nb01.r1_penalty,
        [
            r1(),
            r1_by_loop,
            r1_by_vmap,
            R1(),
            r1(lambda g: g.flatten(1).norm(dim=1) ** 2),
            r1(lambda g: torch.einsum("ni,ni->n", g.flatten(1), g.flatten(1))),
            r1(lambda g: g.square().sum() / len(g)),
        ],
        [
            (r1(create_graph=False), "create_graph"),
            (lambda *a: r1()(*a).item(), "create_graph"),
            (r1(mean=True), "differentiate the sum"),
            (r1(lambda g: g.flatten(1).norm(dim=1)), "not squared"),
            (r1(lambda g: (g.flatten(1).norm(dim=1) - 1) ** 2), "WGAN-GP"),
            (r1(lambda g: 2 * g.square().flatten(1).sum(1)), "gamma / 2"),
            (lambda d, x, gamma: r1()(d, x, 1.0), "not 1 / 2"),
            (r1(lambda g: g.square().sum()), "not the sum"),
            (r1(lambda g: g.square().flatten(1).mean(1)), "all coordinates"),
            (r1(lambda g: g.mean(0).square().sum()), "square of the mean gradient"),
            (r1(lambda g: g.flatten(1).norm(dim=1).mean() ** 2), "square of the mean norm"),
            (r1(lambda g: g.square().sum(1)), "all axes"),
            (r1(lambda g: g[:1].square().flatten(1).sum(1)), "not the first"),
            (r1(lambda g: g.flatten(1).abs().sum(1).square()), "Euclidean"),
            (r1_with_backward, "must not leave anything in .grad"),
        ],
    ),
]
