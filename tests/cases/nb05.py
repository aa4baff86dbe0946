"""Answers to the exercises of notebook 05."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case
from course_utils.checks import nb05 as checks
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05

# --- 5.1 ---


def published(t, dim):  # ERRATA 17
    return nb05.timestep_embedding(t / 1000, dim)


def by_logarithms(t, dim):
    omega = torch.exp(-math.log(10_000) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = torch.outer(t.double(), omega)
    return torch.hstack([torch.sin(angle), torch.cos(angle)])


def by_loops(t, dim):
    half = dim // 2
    omega = [10_000 ** (-i / half) for i in range(half)]
    rows = []
    for time in t.tolist():
        angles = [time * w for w in omega]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return rows


def by_numpy(t, dim):
    angle = t.numpy()[:, None] * 10_000.0 ** (-np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def one_time(time, dim):
    angle = time * 10_000 ** (-torch.arange(dim // 2) / (dim // 2))
    return torch.cat([angle.sin(), angle.cos()])


class Clocks(nn.Module):
    def forward(self, t, dim):
        return nb05.timestep_embedding(t, dim=dim)


def clocks(exponent: Callable, times: Callable = lambda t: t) -> Callable:
    """The embedding with other frequencies or other times."""

    def answer(t, dim):
        omega = 10_000.0 ** exponent(torch.arange(dim // 2, dtype=torch.float64), dim)
        angle = times(t).double()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return answer


def in_turn(t, dim):
    found = nb05.timestep_embedding(t, dim)
    return torch.stack([found[:, : dim // 2], found[:, dim // 2 :]], dim=2).flatten(1)


def in_place_embedding(t, dim):
    found = nb05.timestep_embedding(t, dim)
    t += 1
    return found


EMBEDDING = Case(
    checks.timestep_embedding,
    right=[
        nb05.timestep_embedding,
        by_logarithms,
        by_loops,
        by_numpy,
        Clocks(),
        lambda t, dim: torch.vmap(partial(one_time, dim=dim))(t),
        lambda t, dim: torch.stack([one_time(time, dim) for time in t]),
    ],
    wrong=[
        (published, "divides t by 1000"),
        (lambda t, dim: nb05.timestep_embedding(t, dim).roll(dim // 2, 1), "sines come first"),
        (in_turn, "not in turn"),
        (clocks(lambda i, dim: -i / (dim // 2), lambda t: t + 1), "do not add 1"),
        (clocks(lambda i, dim: i / (dim // 2)), "minus in the exponent"),
        (clocks(lambda i, dim: -i / dim), "yours is -i / dim"),
        (clocks(lambda i, dim: -i / max(dim // 2 - 1, 1)), r"dim / 2 - 1\)"),
        (clocks(lambda i, dim: -(i + 1) / (dim // 2)), "i counts from 0"),
        (clocks(lambda i, dim: -1.01 * i / (dim // 2)), "component .* is .*, and yours"),
        (lambda t, dim: nb05.timestep_embedding(t, 2 * dim), "has the shape"),
        (
            lambda t, dim: nb05.timestep_embedding(t, 2 * dim)[:, :dim],
            "yours is -i / dim|component",
        ),
        (lambda t, dim: nb05.timestep_embedding(t, dim)[:, : dim // 2].repeat(1, 2), "sines alone"),
        (lambda t, dim: nb05.timestep_embedding(t, dim).T, "has the shape"),
        (in_place_embedding, "changes a tensor"),
    ],
)

# --- 5.2 ---


def by_halves(h, numbers):
    channels = h.shape[1]
    return h * (1 + numbers[:, :channels, None, None]) + numbers[:, channels:, None, None]


def by_each_channel(h, numbers):
    found = torch.empty_like(h)
    for i, row in enumerate(numbers):
        for c in range(h.shape[1]):
            found[i, c] = h[i, c] + row[c] * h[i, c] + row[c + h.shape[1]]
    return found


def by_einsum(h, numbers):
    scale, shift = numbers.chunk(2, dim=1)
    return torch.einsum("nchw,nc->nchw", h, 1 + scale) + shift.unflatten(1, (-1, 1, 1))


def by_numpy_scales(h, numbers):
    scale, shift = np.split(numbers.numpy()[:, :, None, None], 2, axis=1)
    return h.numpy() * (1 + scale) + shift


def in_place_scale(h, numbers):
    scale, shift = numbers[:, :, None, None].chunk(2, dim=1)
    return h.mul_(1 + scale).add_(shift)


def scaled(formula: Callable) -> Callable:
    """Another formula of h, scale and shift."""

    def answer(h, numbers):
        return formula(h, *numbers[:, :, None, None].chunk(2, dim=1))

    return answer


SCALED = Case(
    checks.scale_and_shift,
    right=[
        nb05.scale_and_shift,
        by_halves,
        by_each_channel,
        by_einsum,
        by_numpy_scales,
        scaled(lambda h, scale, shift: h + h * scale + shift),
        lambda h, numbers: [by_halves(a[None], b[None])[0] for a, b in zip(h, numbers)],
    ],
    wrong=[
        (scaled(lambda h, scale, shift: h * scale + shift), "by 1 [+] scale"),
        (scaled(lambda h, scale, shift: h * (1 + scale)), "shift is missing"),
        (scaled(lambda h, scale, shift: h + shift), "scale is missing"),
        (scaled(lambda h, scale, shift: h * (1 + shift) + scale), "yours are swapped"),
        (scaled(lambda h, scale, shift: (h + shift) * (1 + scale)), "scale first"),
        (scaled(lambda h, scale, shift: h * (1 + scale) - shift), "subtracted"),
        (scaled(lambda h, scale, shift: h * (1 + scale[:1]) + shift[:1]), "of picture"),
        (scaled(lambda h, scale, shift: h * (1 + scale.mean(dim=1, keepdim=True)) + shift), "channel"),
        (scaled(lambda h, scale, shift: (h * (1 + scale) + shift).mean()), "has the shape"),
        (
            lambda h, numbers: h * (1 + numbers[:, ::2, None, None]) + numbers[:, 1::2, None, None],
            "not in turn",
        ),
        (in_place_scale, "changes a tensor"),
    ],
)

# --- 5.3 ---


def stratified(n, T):
    """One of n equal parts of the range for each picture, in random order."""
    return ((torch.randperm(n) + torch.rand(n)) / n * T).long().clamp(max=T - 1)


TIMESTEPS = Case(
    checks.timesteps,
    right=[
        nb05.uniform_timesteps,
        lambda n, T: torch.randint(low=0, high=T, size=(n,), dtype=torch.int32),
        lambda n, T: (torch.rand(n, dtype=torch.float64) * T).long(),
        lambda n, T: np.random.default_rng().integers(0, T, n),
        lambda n, T: random.choices(range(T), k=n),
        lambda n, T: torch.multinomial(torch.ones(T), n, replacement=True),
        stratified,
    ],
    wrong=[
        (lambda n, T: torch.randint(0, T - 1, (n,)), "T - 1 is never drawn"),  # ERRATA 12
        (lambda n, T: torch.randint(1, T, (n,)), "t = 0 is never drawn"),
        (lambda n, T: torch.randint(0, T + 1, (n,)), "does not exist: the last"),
        (lambda n, T: torch.randint(-1, T, (n,)), "does not exist: they begin at 0"),
        (lambda n, T: torch.rand(n), "whole numbers"),
        (lambda n, T: (torch.rand(n) ** 2 * T).long(), "not equally often"),
        (lambda n, T: torch.arange(n) % T, "the same each time"),
        (lambda n, T: torch.randint(T, (1,)).repeat(n), "one and the same|the same each time"),
        (lambda n, T: (torch.rand(n) * (T - 1)).round().long(), "half as often"),
        (lambda n, T: torch.randint(T, (n,)).sort().values, "in batches of 3 place"),
        (lambda n, T: torch.randint(T, (n,)) // 2 * 2, r"sampling starts there\.$"),
        (
            lambda n, T: torch.randint(T, (n,)) if n > T else torch.zeros(n, dtype=torch.long),
            "in batches of 3 place",
        ),
        (lambda n, T: torch.randint(T, (n, 1)), "a tensor of n timesteps"),
        (lambda n, T: torch.randint(T, ()), "a tensor of n timesteps"),
        (lambda n, T: torch.randint(min(T, 999), (n,)) * (T > 1) % 39, "T - 1 is never drawn"),
    ],
)


def loss_with(
    noisy: Callable = lambda x0, noise, alpha, sigma: alpha * x0 + sigma * noise,
    target: Callable = lambda kind, *args: nb04.output_from(kind, *args),
    reduce: Callable = lambda error: error.square().mean(),
    ask: Callable = lambda net, x, t, y: net(x, t, y),
) -> Callable:
    """The loss with one of its parts in another way."""

    def answer(net, x0, y, t, noise, schedule, kind):
        level = schedule.level(t)
        alpha, sigma = (nb04.like(part, x0) for part in level)
        out = ask(net, noisy(x0, noise, alpha, sigma), t, y)
        return reduce(out - target(kind, x0, noise, level))

    return answer


def by_hand(net, x0, y, t, noise, schedule, kind):
    bar = schedule.alphas_bar[t].view(-1, 1, 1, 1)
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    target = {"epsilon": noise, "x0": x0, "v": bar.sqrt() * noise - (1 - bar).sqrt() * x0}[kind]
    return F.mse_loss(net(x_t, t, y).double(), target.double())


def picture_by_picture(net, x0, y, t, noise, schedule, kind):
    losses = []
    for i in range(len(x0)):
        part = slice(i, i + 1)
        level = schedule.level(t[part])
        out = net(nb04.add_noise(x0[part], noise[part], level), t[part], y[part])
        wanted = nb04.output_from(kind, x0[part], noise[part], level)
        losses.append((out - wanted).pow(2).mean())
    return torch.stack(losses).mean()


class Loss(nn.Module):
    def forward(self, net, x0, y, t, noise, schedule, kind):
        return loss_with()(net, x0, y, t, noise, schedule, kind)


def redraws(net, x0, y, t, noise, schedule, kind):  # ERRATA 2
    t = torch.randint(0, schedule.T - 1, (len(x0),))
    return nb05.diffusion_loss(net, x0, y, t, noise, schedule, kind)


def steps_itself(net, x0, y, t, noise, schedule, kind):  # ERRATA 11
    loss = nb05.diffusion_loss(net, x0, y, t, noise, schedule, kind)
    loss.backward(loss, retain_graph=True)
    return loss


def in_place_loss(net, x0, y, t, noise, schedule, kind):
    loss = nb05.diffusion_loss(net, x0, y, t, noise, schedule, kind)
    x0 += noise
    return loss


@torch.no_grad()
def without_gradient(*args):
    return nb05.diffusion_loss(*args)


def half_detached(net, x0, y, t, noise, schedule, kind):
    return loss_with(ask=lambda net, x, t, y: (net(x, t, y) + net.gain.detach() * x) / 2)(
        net, x0, y, t, noise, schedule, kind
    )


LOSS = Case(
    checks.diffusion_loss,
    right=[
        nb05.diffusion_loss,
        by_hand,
        picture_by_picture,
        Loss(),
        loss_with(reduce=lambda error: error.pow(2).flatten(1).mean(1).mean()),
        loss_with(reduce=lambda error: (error**2).sum().reshape(1) / error.numel()),
        loss_with(ask=lambda net, x, t, y: net(x, t=t, y=y)),
        loss_with(reduce=lambda error: error.double().square().mean()),
    ],
    wrong=[
        (redraws, "do not draw t again"),
        (
            lambda net, x0, y, t, *rest: by_hand(net, x0, y, torch.randint(990, 999, (len(x0),)), *rest),
            "beyond the schedule's 50 .* do not draw t again",
        ),
        (steps_itself, "leave backward"),
        (loss_with(noisy=lambda x0, e, a, s: a * x0 + s**2 * e), "not alpha x0"),  # ERRATA 10
        (loss_with(noisy=lambda x0, e, a, s: a**2 * x0 + s * e), "signal times alpha_bar"),
        (loss_with(noisy=lambda x0, e, a, s: x0), "x0 without noise"),
        (
            loss_with(target=lambda kind, x0, noise, level: noise),
            "for kind 'x0' your target is the",
        ),
        (
            loss_with(target=lambda kind, x0, noise, level: x0),
            "for kind 'epsilon' your target is x0",
        ),
        (loss_with(reduce=lambda error: error.square().sum()), "sum over all pixels"),
        (
            loss_with(reduce=lambda error: error.square().sum() / len(error)),
            "sum over the pixels of a picture|sum over all",
        ),
        (loss_with(reduce=lambda error: error.square().mean().sqrt()), "root of the mean"),
        (loss_with(reduce=lambda error: error.abs().mean()), "absolute error"),
        (loss_with(reduce=lambda error: error.square().mean() / 2), "half of the mean"),
        (loss_with(reduce=lambda error: error.square()), "one number"),
        (loss_with(reduce=lambda error: error.square().mean().item()), "no item"),
        (loss_with(ask=lambda net, x, t, y: net(x, t, nb05.NULL)), "not given the classes"),
        (loss_with(ask=lambda net, x, t, y: net(x, t, None)), "not given the classes"),
        (loss_with(ask=lambda net, x, t, y: net(x, t, y * 0 + 10)), "not given the classes"),
        (loss_with(ask=lambda net, x, t, y: net(x, t / 1000, y)), "other timesteps"),
        (loss_with(ask=lambda net, x, t, y: x), "ask the network"),
        (
            loss_with(
                target=lambda kind, x0, e, level: (
                    -nb04.output_from("v", x0, e, level) if kind == "v" else nb04.output_from(kind, x0, e, level)
                )
            ),
            "sign of v",
        ),
        (without_gradient, "no gradient"),
        (half_detached, "no gradient, or not the loss's own"),
        (in_place_loss, "changes a tensor"),
        (loss_with(reduce=lambda error: error[:-1].square().mean()), "the loss is .* and yours"),
    ],
)

# --- 5.4 ---


def by_the_prediction(x_t, noise_pred, beta, sigma, z, last):
    """Through x0 and the posterior's mean."""
    bar = 1 - sigma**2
    before = bar / (1 - beta)
    x0 = (x_t - sigma * noise_pred) / bar**0.5
    mean = (before**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - before) * x_t) / sigma**2
    return mean if last else mean + beta**0.5 * z


def by_a_factor(x_t, noise_pred, beta, sigma, z, last):
    return (1 - beta) ** -0.5 * (x_t - beta * noise_pred / sigma) + (not last) * math.sqrt(beta) * z


def by_lists(x_t, noise_pred, beta, sigma, z, last):
    return [by_a_factor(a, b, beta, sigma, c, last) for a, b, c in zip(x_t, noise_pred, z)]


def by_numpy_step(x_t, noise_pred, beta, sigma, z, last):
    return by_a_factor(x_t.numpy(), noise_pred.numpy(), beta, sigma, z.numpy(), last)


def stepped(root=lambda b: (1 - b) ** 0.5, gain=lambda b, s: b / s, grain=lambda b, s: b**0.5, always=False):
    """The step with another root, share of the predicted noise or of the fresh noise."""

    def answer(x_t, noise_pred, beta, sigma, z, last):
        mean = (x_t - gain(beta, sigma) * noise_pred) / root(beta)
        return mean if last and not always else mean + grain(beta, sigma) * z

    return answer


def in_place_step(x_t, noise_pred, beta, sigma, z, last):
    x_t -= beta / sigma * noise_pred
    return x_t / (1 - beta) ** 0.5 + (not last) * beta**0.5 * z


STEP = Case(
    checks.ddpm_step,
    right=[
        nb05.ddpm_step,
        by_the_prediction,
        by_a_factor,
        by_lists,
        by_numpy_step,
        stepped(),
        lambda x_t, noise_pred, beta, sigma, z, last: by_a_factor(x_t, noise_pred, beta, sigma, z=z, last=last),
    ],
    wrong=[
        (stepped(always=True), "the picture keeps it"),
        (stepped(grain=lambda b, s: 0.0), "no fresh noise"),
        (stepped(grain=lambda b, s: b), "by beta, its variance"),
        (stepped(grain=lambda b, s: s), "multiplied by sigma"),
        (stepped(grain=lambda b, s: 1.0), "all of the fresh noise"),
        (stepped(root=lambda b: 1.0), "not divided|for beta"),
        (
            lambda x, e, b, s, z, last: (x - b / s * e + (0 if last else b**0.5 * z)) / (1 - b) ** 0.5,
            "divided, too",
        ),
        (stepped(root=lambda b: 1 - b), "take its root"),
        (stepped(root=lambda b: (1 - b) ** -0.5), "divide by it"),
        (stepped(gain=lambda b, s: 1.0), "taken off whole"),
        (stepped(gain=lambda b, s: s), "times sigma"),
        (stepped(gain=lambda b, s: b), "times beta:"),
        (stepped(gain=lambda b, s: b / s**2), "the root already"),
        (stepped(gain=lambda b, s: -b / s), "is added: subtract"),
        (stepped(gain=lambda b, s: 1.1 * b / s), "the step is"),
        (lambda x, noise_pred, beta, sigma, z, last: stepped()(x, noise_pred, beta, sigma, z, last).mean(), "shape"),
        (
            lambda x, noise_pred, beta, sigma, z, last: stepped()(
                x, noise_pred, beta, sigma, torch.randn_like(z), last
            ),
            "draw none|.",
        ),
        (in_place_step, "changes a tensor"),
    ],
)

# --- 5.5 ---


def walk(a, b, w):
    return b + w * (a - b)


def in_place_guided(a, b, w):
    a -= b
    return b + w * a


class Guided(nn.Module):
    def forward(self, with_class, without, w):
        return torch.lerp(without, with_class, torch.tensor(w, dtype=without.dtype))


GUIDED = Case(
    checks.guided,
    right=[
        nb05.guided,
        walk,
        Guided(),
        lambda a, b, w: a + (w - 1) * (a - b),
        lambda a, b, w: w * a + (1 - w) * b,
        torch.vmap(walk, in_dims=(0, 0, None)),
        lambda a, b, w: [walk(x, y, w=w) for x, y in zip(a, b)],
        lambda a, b, w: walk(a.double().numpy(), b.double().numpy(), w),
    ],
    wrong=[
        (lambda a, b, w: a + w * (b - a), "swapped"),
        (lambda a, b, w: b - w * (a - b), "sign"),  # ERRATA 18
        (lambda a, b, w: b + (1 + w) * (a - b), "its w is ours minus 1"),
        (lambda a, b, w: (1 + w) * a - w * b, "its w is ours minus 1"),
        (lambda a, b, w: walk(a, b, min(w, 1.0)), "do not clamp w"),
        (lambda a, b, w: a, "without the class has no say"),
        (lambda a, b, w: b, "with the class has no say"),
        (lambda a, b, w: w * (a - b), "difference alone"),
        (lambda a, b, w: b + w * a, "w multiplies"),
        (lambda a, b, w: walk(a, b, max(w, 1.0)), "for w = 0 it is"),
        (lambda a, b, w: walk(a, b, min(w, 5.0)), "for w = 7.5 it is"),
        (lambda a, b, w: walk(a, b, w).mean(), "has the shape"),
        (lambda a, b, w: walk(a[:1], b[:1], w).expand_as(a), "for w = 1.75 it is"),
        (in_place_guided, "changes a tensor"),
    ],
)


def masked(y, p, null):
    found = y.clone()
    found[torch.bernoulli(torch.full(y.shape, p)).bool()] = null
    return found


def in_place_labels(y, p, null):
    y[torch.rand(len(y)) < p] = null
    return y


def same_places(y, p, null):
    found = y.clone()
    found[: round(p * len(y))] = null
    return found


def exact_count(y, p, null):
    found = y.clone()
    found[torch.randperm(len(y))[: int(p * len(y))]] = null
    return found


def coin_for_each_class(y, p, null):
    return torch.where((torch.rand(10) < p)[y], null, y)


def repeated_coins(y, p, null):
    coins = torch.rand(10) < p
    return torch.where(coins.repeat(len(y) // 10 + 1)[: len(y)], null, y)


LABELS = Case(
    checks.drop_labels,
    right=[
        nb05.drop_labels,
        masked,
        lambda y, p, null: y.masked_fill(torch.rand_like(y, dtype=torch.float64) < p, null),
        lambda y, p, null: [null if random.random() < p else label for label in y.tolist()],
        lambda y, p, null: np.where(np.random.default_rng().random(len(y)) < p, null, y.numpy()),
        lambda y, p, null: torch.stack([label if torch.rand(()) >= p else torch.tensor(null) for label in y]),
        lambda y, p, null: y + (null - y) * (torch.rand(len(y)) < p),
    ],
    wrong=[
        (lambda y, p, null: torch.full_like(y, null) if torch.rand(()) < p else y.clone(), "one coin"),
        (lambda y, p, null: torch.where(torch.rand(len(y)) < p, 0, y), "stay as they are"),
        (lambda y, p, null: torch.where(torch.rand(len(y)) < p, null + 1, y), "stay as they are"),
        (lambda y, p, null: torch.where(torch.rand(len(y)) < 1 - p, null, y), "your p is the share that keeps"),
        (in_place_labels, "passed in were changed"),
        (same_places, "some places"),
        (exact_count, "exactly as many"),
        (coin_for_each_class, "lost together"),
        (repeated_coins, "lost together"),
        (lambda y, p, null: y, "a share of 0.00"),
        (lambda y, p, null: torch.where(torch.rand(len(y)) < 0.3, null, y), "with p = 0.1 a share of"),
        (lambda y, p, null: y[torch.rand(len(y)) >= p], "a tensor of n labels"),
        (lambda y, p, null: torch.where(torch.rand(len(y)) < p, null + 0.5, y), "whole numbers"),
        (
            lambda y, p, null: torch.where(torch.rand(len(y)) < min(max(p, 0.02), 1), null, y),
            "with p = 0 no label",
        ),
        (
            lambda y, p, null: torch.where(torch.rand(len(y)) < min(p, 0.9), null, y),
            "with p = 1 every label",
        ),
        (lambda y, p, null: masked(y, p, null) if len(y) > 1 else y.clone(), "alone in its batch"),
        (lambda y, p, null: masked(y, p, 10), "use the null that you get"),
    ],
)

# --- 5.6 ---


def pairs(stops: list[int]) -> list[tuple[int, int]]:
    return list(zip(stops, stops[1:]))


def right_visits(T, steps):
    return pairs([*nb04.respaced(T, steps), -1])


def one_by_one(T, steps):
    for i in range(steps):
        yield T - 1 - i * T // steps, T - 1 - (i + 1) * T // steps


def jumps_sorted(T, steps):
    stops = [T - 1]
    for i in range(steps):
        stops.append(stops[-1] - T // steps - (i < T % steps))
    return pairs(stops)


VISITS = Case(
    checks.visits,
    right=[
        right_visits,
        one_by_one,
        lambda T, steps: torch.tensor(right_visits(T, steps)),
        lambda T, steps: [list(pair) for pair in right_visits(T, steps)],
        lambda T, steps: zip(nb04.respaced(T, steps), [*nb04.respaced(T, steps)[1:], -1]),
        lambda T, n: np.lib.stride_tricks.sliding_window_view(np.linspace(T - 1, -1, n + 1).round().astype(int), 2),
    ],
    wrong=[
        (lambda T, steps: pairs([*reversed(range(steps)), -1]), "start at timestep"),  # ERRATA 3
        (
            lambda T, steps: pairs([*reversed(range(0, T, T // steps)), -1]),  # ERRATA 15
            "start at timestep 980",
        ),
        (lambda T, steps: pairs([*range(T - 1, -1, -(T // steps)), -1]), "300 steps you take 334"),
        (lambda T, steps: pairs([*nb04.respaced(T, steps), 0])[:steps], "end at timestep 0"),
        (
            lambda T, n: [(t, t - 1) for t in nb04.respaced(T, n)][:-1] + [(0, -1)],
            "where the last one ended",
        ),
        (
            lambda T, n: pairs([*torch.linspace(T - 1, 0, n).long().tolist(), -1]),
            "spent on almost nothing",
        ),
        (lambda T, n: nb04.respaced(T, n), "in each pair"),
        (lambda T, n: right_visits(T, n)[:-1], "you take 49 steps|list is empty"),
        (lambda T, n: [(b, a) for a, b in right_visits(T, n)], "start at timestep"),
        (lambda T, n: [(a, b, b) for a, b in right_visits(T, n)], "in each pair"),
        (jumps_sorted, "round each place"),
        (lambda T, n: [(a + 0.5, b) for a, b in right_visits(T, n)], "whole numbers"),
        (lambda T, n: pairs([T - 1, *range(n - 2, -2, -1)]), "not evenly spread"),
        (lambda T, n: T - 1, "list of pairs"),
        (lambda T, n: [], "list is empty"),
    ],
)

# --- 5.7 ---


def from_the_levels(x, then, now, noise):
    (alpha_then, sigma_then), (alpha_now, sigma_now) = then, now
    shrink = alpha_now / alpha_then
    return shrink * x + math.sqrt(sigma_now**2 - shrink**2 * sigma_then**2) * noise


def from_alpha_bars(x, then, now, noise):
    kept = torch.tensor(now.alpha**2 / then.alpha**2)
    return kept.sqrt() * x + (1 - kept).sqrt() * noise


def jump_with(
    shrink: Callable = lambda then, now: now.alpha / then.alpha,
    grain: Callable = lambda then, now: math.sqrt(1 - (now.alpha / then.alpha) ** 2),
) -> Callable:
    def answer(x, then, now, noise):
        return shrink(then, now) * x + grain(then, now) * noise

    return answer


def in_place_jump(x, then, now, noise):
    return x.mul_(now.alpha / then.alpha) + (1 - (now.alpha / then.alpha) ** 2) ** 0.5 * noise


class Jump:
    def __call__(self, x: Tensor, then, now, noise: Tensor) -> Tensor:
        return from_the_levels(x, then=then, now=now, noise=noise)


JUMP = Case(
    checks.jump_back,
    right=[
        nb05.jump_back,
        from_the_levels,
        from_alpha_bars,
        jump_with(),
        Jump(),
        lambda x, then, now, noise: [from_the_levels(a, then, now, b) for a, b in zip(x, noise)],
        lambda x, then, now, noise: from_the_levels(x.double().numpy(), then, now, noise.numpy()),
    ],
    wrong=[
        (
            jump_with(lambda then, now: 1.0, lambda then, now: (now.sigma**2 - then.sigma**2) ** 0.5),
            "as strong as before",
        ),
        (
            jump_with(grain=lambda then, now: 1 - (now.alpha / then.alpha) ** 2),
            "yours is the variance itself",
        ),
        (jump_with(grain=lambda then, now: now.sigma), "not all of sigma_now"),
        (
            jump_with(grain=lambda then, now: (now.sigma**2 - then.sigma**2) ** 0.5),
            "forgets that the old noise shrinks",
        ),
        (jump_with(grain=lambda then, now: now.sigma - then.sigma), "variances that add up"),
        (jump_with(shrink=lambda then, now: then.alpha / now.alpha), "upside down"),
        (jump_with(shrink=lambda then, now: now.alpha), "too far"),
        (jump_with(shrink=lambda then, now: (now.alpha / then.alpha) ** 2), "not by its square"),
        (jump_with(grain=lambda then, now: 0.0), "no noise is added"),
        (
            lambda x, then, now, noise: (
                then.alpha / now.alpha * x + torch.tensor(1 - (then.alpha / now.alpha) ** 2).sqrt() * noise
            ),
            "not finite",
        ),
        (lambda x, then, now, noise: jump_with()(x, then, now, torch.randn_like(x)), "draw none"),
        (
            lambda x, then, now, noise: jump_with()(x, then, now, noise).flip(0),
            "x shrinks by alpha_now",
        ),
        (
            jump_with(grain=lambda then, now: 1.03 * (1 - (now.alpha / then.alpha) ** 2) ** 0.5),
            "yours is",
        ),
        (jump_with(shrink=lambda then, now: 0.99 * now.alpha / then.alpha), "x shrinks by"),
        (lambda x, then, now, noise: jump_with()(x, then, now, noise).mean(), "has the shape"),
        (in_place_jump, "changes a tensor"),
    ],
)

CASES = [EMBEDDING, SCALED, TIMESTEPS, LOSS, STEP, GUIDED, LABELS, VISITS, JUMP]
