"""Answers to the exercises of notebook 07."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from torch import nn
from torch.nn import functional as F

from cases import Case
from course_utils.checks import nb07 as checks
from course_utils.lessons import nb07_super_resolution as nb07

# --- 7.1 ---


def by_interpolate(x, factor):
    return F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True).clip(0, 1)


def by_torchvision(x, factor):
    size = [x.shape[-2] // factor, x.shape[-1] // factor]
    resized = transforms.resize(x, size, transforms.InterpolationMode.BICUBIC, antialias=True)
    return torch.clamp(resized, min=0, max=1)


def cubic(t):
    """Keys' kernel with a = -0.5."""
    t = t.abs()
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def matrix(size, factor):
    centres = (torch.arange(size // factor, dtype=torch.float64) + 0.5) * factor - 0.5
    weights = cubic((torch.arange(size, dtype=torch.float64) - centres[:, None]) / factor)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def by_matrices(x, factor):
    down, across = matrix(x.shape[-2], factor), matrix(x.shape[-1], factor)
    return (down @ x @ across.T).clamp(0, 1)


def by_numpy(x, factor):
    return by_matrices(x, factor=factor).numpy()


def unclipped(x, factor):
    return F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)


def published(x, factor):
    return F.interpolate(x, scale_factor=1 / factor, mode="bicubic")


DOWN = Case(
    checks.downscale,
    right=[nb07.downscale, by_interpolate, by_torchvision, by_matrices, by_numpy],
    wrong=[
        (published, "without antialias=True"),
        (lambda x, factor: published(x, factor).clamp(0, 1), "anti-aliasing is missing"),
        (unclipped, r"leaves \[0, 1\]"),
        (lambda x, factor: F.interpolate(x, scale_factor=1 / factor, mode="bilinear", antialias=True), "bilinear"),
        (lambda x, factor: F.avg_pool2d(x, factor), "mean over squares"),
        (lambda x, factor: x[..., ::factor, ::factor], "single pixels"),
        (lambda x, factor: F.interpolate(x, size=(x.shape[-2] // factor, x.shape[-1] // factor), mode="bicubic",
                                         align_corners=True).clamp(0, 1), "align_corners"),
        (lambda x, factor: by_interpolate(x, 2), "has the shape|off by"),
        (lambda x, factor: by_interpolate(0.9 * x, factor), "is off by"),
    ],
)  # fmt: skip

# --- 7.2 ---


def by_slices(x, y, border):
    h, w = y.shape[-2:]
    error = (torch.clip(x, 0, 1) - y)[:, :, border : h - border, border : w - border]
    return 10 * torch.log10(1 / error.pow(2).flatten(1).mean(1))


def by_rows(x, y, border):
    found = []
    for a, b in zip(x.clamp(0, 1).numpy(), y.numpy()):
        if border:
            a, b = a[:, border:-border, border:-border], b[:, border:-border, border:-border]
        found.append(float(-10 * np.log10(np.square(a.astype(float) - b).mean())))
    return found


def by_root(x, y, border):
    h, w = y.shape[-2:]
    error = (x.clamp(0, 1) - y)[..., border : h - border, border : w - border].double()
    return -20 * error.square().mean(dim=(1, 2, 3)).sqrt().log10()


def psnr_of(mean=None, clip=True, cut=True):
    def answer(x, y, border):
        h, w = y.shape[-2:]
        error = (x.clamp(0, 1) if clip else x) - y
        error = error[..., border : h - border, border : w - border] if cut else error
        return mean(error) if mean else -10 * error.square().mean(dim=(1, 2, 3)).log10()

    return answer


AXES = (1, 2, 3)


def never_zero(x, y, border):
    error = (x.clamp(0, 1) - y)[..., border:-border, border:-border]
    return -10 * error.square().mean(AXES).log10()


def by_slices_of(x, y, border):
    """As by_slices, for outputs that are clipped already, or not at all."""
    h, w = y.shape[-2:]
    return -10 * (x - y)[..., border : h - border, border : w - border].square().mean(AXES).log10()


def twice_the_range(x, y, border):
    return by_slices_of(2 * x.clamp(0, 1) - 1, 2 * y - 1, border)


def one_way(rows):
    def answer(x, y, border):
        h, w = y.shape[-2:]
        error = x.clamp(0, 1) - y
        error = error[..., border : h - border, :] if rows else error[..., border : w - border]
        return -10 * error.square().mean(AXES).log10()

    return answer


def blackened(x, y, border):
    h, w = y.shape[-2:]
    error = (x.clamp(0, 1) - y)[..., border : h - border, border : w - border]
    return -10 * F.pad(error, [border] * 4).square().mean(AXES).log10()


def clipped_difference(low):
    return lambda x, y, border: by_slices_of((x - y).clamp(low, 1), torch.zeros_like(y), border)


PSNR = Case(
    checks.psnr,
    right=[nb07.psnr, by_slices, by_rows, by_root],
    wrong=[
        (psnr_of(cut=False), "border still counts"),
        (psnr_of(clip=False), "not clipped"),
        (psnr_of(lambda e: -10 * e.square().mean().log10()), "one PSNR a picture"),
        (psnr_of(lambda e: 20 * np.log10(255) - 10 * e.square().mean(AXES).log10()), "not 255"),
        (psnr_of(lambda e: -20 * e.square().mean(AXES).log10()), "20 log10"),
        (psnr_of(lambda e: -10 * e.abs().mean(AXES).log10()), "square first"),
        (psnr_of(lambda e: -10 * e.square().mean(AXES).log()), "natural"),
        (psnr_of(lambda e: 10 * e.square().mean(AXES).log10()), "sign"),
        (psnr_of(lambda e: e.square().mean(AXES)), "logarithm is missing"),
        (lambda x, y, border: by_slices(x[..., border:, border:], y[..., border:, border:], 0), "two sides only"),
        (twice_the_range, "twice the range"),
        (lambda x, y, border: by_slices(x, y, border) - 20 * np.log10(255), "multiplied by 255"),
        (psnr_of(lambda e: 20 * np.log10(2) - 10 * e.square().mean(AXES).log10()), r"not in \[-1, 1\]"),
        (psnr_of(clip=False, cut=False), "not clipped to .* and the border still counts"),
        (psnr_of(lambda e: -10 * e.square().mean(AXES).sqrt().log10()), "half of the dB"),
        (psnr_of(lambda e: -10 * e.square().sum(AXES).log10()), "sum: a mean"),
        (psnr_of(lambda e: (-10 * e.square().mean((2, 3)).log10()).mean(1)), "channels' PSNRs"),
        (psnr_of(lambda e: (-10 * (e.square() + 1e-12).log10()).mean(AXES)), "before the logarithm"),
        (psnr_of(lambda e: -10 * e.square().mean(AXES).log2()), "base 2"),
        (one_way(rows=True), "not left and right"),
        (one_way(rows=False), "not above and below"),
        (blackened, "still counts in the mean"),
        (clipped_difference(0), "the difference is clipped: clip the outputs"),
        (clipped_difference(-1), "the difference is clipped, and the outputs are to be"),
        (lambda x, y, border: by_slices_of(x.clamp(-1, 1), y, border), r"clipped to \[-1, 1\]"),
        (lambda x, y, border: by_slices(x, y, border) + 1, r"the same \+1.00 dB for every picture"),
        (lambda x, y, border: 3 * by_slices(x, y, border), "3.00 times for every picture"),
        (lambda x, y, border: by_slices(x, y, border // 2), "which pixels count"),
        (never_zero, "not finite"),
    ],
)  # fmt: skip

# --- 7.3 ---


def step_by_step(x, convs, scale):
    c1, c2, c3, c4, c5 = convs
    act = nn.LeakyReLU(0.2)
    x1 = act(c1(x))
    x2 = act(c2(torch.cat((x, x1), 1)))
    x3 = act(c3(torch.cat((x, x1, x2), 1)))
    x4 = act(c4(torch.cat((x, x1, x2, x3), 1)))
    return c5(torch.cat((x, x1, x2, x3, x4), 1)) * scale + x


def growing(x, convs, scale):
    h = x
    for layer in convs[:4]:
        out = layer(h)
        h = torch.cat([h, torch.maximum(out, 0.2 * out)], dim=1)
    return torch.add(x, convs[4](h), alpha=scale)


def without_grad(x, convs, scale):
    with torch.no_grad():
        return growing(x, convs, scale).numpy()


def dense(slope=0.2, last=False, backwards=False, ending=lambda x, out, scale: x + scale * out):
    def answer(x, convs, scale):
        features = [x]
        for layer in convs:
            out = layer(torch.cat(features[::-1] if backwards else features, dim=1))
            features.append(F.leaky_relu(out, slope))
        return ending(x, features[-1] if last else out, scale)

    return answer


def chain(x, convs, scale):
    h = x
    for layer in convs[:4]:
        h = F.leaky_relu(layer(h), 0.2)
    return x + scale * convs[4](h)


DENSE = Case(
    checks.dense_forward,
    right=[nb07.dense_forward, step_by_step, growing, without_grad],
    wrong=[
        (dense(ending=lambda x, out, scale: x + out), "unscaled"),
        (dense(ending=lambda x, out, scale: scale * out), "x is missing"),
        (dense(ending=lambda x, out, scale: x + 0.2 * out), "not always 0.2"),
        (dense(ending=lambda x, out, scale: scale * x + out), "x is scaled"),
        (dense(ending=lambda x, out, scale: scale * (x + out)), "the sum is scaled"),
        (dense(last=True), "no activation"),
        (dense(slope=0.01), "0.01"),
        (dense(slope=0.0), "zeros below 0"),
        (dense(slope=1.0), "there is no activation"),
        (dense(backwards=True), "wrong order|number of channels"),
        (chain, "number of channels"),
        (dense(ending=lambda x, out, scale: x - scale * out), "is off by"),
    ],
)

# --- 7.4 ---

bce = F.binary_cross_entropy_with_logits


def by_labels(real, fake):
    ones, zeros = torch.ones_like(fake), torch.zeros_like(real)
    return 0.5 * (bce(fake - real.mean(), ones) + bce(real - fake.mean(), zeros))


def by_softplus(real, fake, **axes):
    return (F.softplus(real.mean(**axes) - fake).mean() + F.softplus(real - fake.mean(**axes)).mean()) / 2


def by_probabilities(real, fake):
    first = -torch.sigmoid(fake - real.mean()).log().mean()
    second = -(1 - torch.sigmoid(real - fake.mean())).log().mean()
    return float((first + second) / 2)


def without_mean(real, fake):
    return (F.softplus(real.mean() - fake)[0] + F.softplus(real - fake.mean())[:2]) / 2


def critics(real, fake):
    return by_labels(fake, real)


def relative(one, other, label, reduction="mean"):
    return bce(one - other.mean(), torch.full_like(one, label), reduction=reduction)


def over_all_logits(real, fake):
    return torch.cat([F.softplus(real.mean() - fake).flatten(), F.softplus(real - fake.mean()).flatten()]).mean()


def sigmoid_first(real, fake):
    up, down = torch.sigmoid(fake - real.mean()), torch.sigmoid(real - fake.mean())
    return (bce(up, torch.ones_like(up)) + bce(down, torch.zeros_like(down))) / 2


GAN = Case(
    checks.relativistic_g_loss,
    right=[nb07.relativistic_g_loss, by_labels, by_softplus, by_probabilities],
    wrong=[
        (critics, "critic's loss"),
        (lambda real, fake: 2 * by_softplus(real, fake), "the sum"),
        (lambda real, fake: F.softplus(real.mean() - fake).mean(), "only the enlarged"),
        (lambda real, fake: F.softplus(real - fake.mean()).mean(), "only the real"),
        (lambda real, fake: F.softplus(real.mean() - fake).mean() / 2, "only half"),
        (lambda real, fake: F.softplus(-fake).mean(), "usual GAN"),
        (lambda real, fake: F.softplus(real - fake).mean(), "means are missing|partner"),
        (without_mean, "a mean or a sum|one number"),
        (lambda real, fake: -by_softplus(real, fake), "sign is turned round"),
        (lambda real, fake: -critics(real, fake), "critic's loss with a minus"),
        (lambda real, fake: 2 * critics(real, fake), "twice of it"),
        (lambda real, fake: (relative(fake, real, 1) + relative(real, fake, 1)) / 2, "the same label"),
        (lambda real, fake: (relative(fake, real, 0) + relative(real, fake, 0)) / 2, "the same label"),
        (lambda real, fake: (relative(fake, fake, 1) + relative(real, real, 0)) / 2, "its own mean"),
        (lambda real, fake: (relative(fake, real, 1, "sum") + relative(real, fake, 0, "sum")) / 2, "yours is a sum"),
        (over_all_logits, "the mean over all logits"),
        (lambda real, fake: by_softplus(real, fake, dim=0), "along the batch only"),
        (lambda real, fake: F.softplus(real.flatten()[:, None] - fake.flatten()).mean(), "every one of the other"),
        (lambda real, fake: F.softplus(real.mean() - fake.mean()), "the means alone"),
        (sigmoid_first, "taken twice"),
        (lambda real, fake: (F.softplus(-fake).mean() + F.softplus(real).mean()) / 2, "usual GAN's two terms: "),
        (lambda real, fake: F.softplus(-fake).mean() + F.softplus(real).mean(), "usual GAN's two terms, summed"),
        (lambda real, fake: relative(real, fake, 0) / 2, "only half of the real"),
        (lambda real, fake: real.mean() - fake.mean(), "differences of scores"),
        (lambda real, fake: -fake.mean(), "Wasserstein critic's score"),
        (lambda real, fake: 3 * by_softplus(real, fake), "the loss is .* which mean"),
    ],
)  # fmt: skip

CASES = [DOWN, PSNR, DENSE, GAN]
