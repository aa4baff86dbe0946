"""Checks for notebook 07, by independent references and by published mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import WrongAnswer, exercise, expect, number, reject, tensor
from . import use as use
from .nb04 import normal, same, untouched


def _pictures(*shape: int, seed: int = 4) -> Tensor:
    """Pictures in [0, 1] with hard edges, so that kernels overshoot."""
    return (0.5 + normal(*shape, seed=seed)).clamp(0, 1).float()


@exercise("7.1")
def downscale(answer: Callable[[Tensor, int], Tensor]) -> None:
    """`answer(x, factor)`: bicubic with anti-aliasing, clipped to [0, 1]."""
    for factor, shape in ((4, (2, 3, 32, 40)), (2, (1, 1, 14, 18)), (3, (1, 3, 27, 12))):
        x = _pictures(*shape)
        small = (shape[2] // factor, shape[3] // factor)
        found = tensor(untouched(answer, x, factor), "the small picture", (*shape[:2], *small))

        def by(mode: str, x: Tensor = x, size: tuple[int, int] = small, **options: bool) -> Tensor:
            return F.interpolate(x, size=size, mode=mode, **options)

        wanted = by("bicubic", antialias=True)
        if same(found, wanted.clamp(0, 1)):
            continue
        slips = {
            "the result leaves [0, 1]: clip it, as a file would.": wanted,
            "without antialias=True only the nearest large pixels count: fine patterns turn into false ones.": by(
                "bicubic"
            ),
            "the range is right, but anti-aliasing is missing: only the nearest large pixels count.": by(
                "bicubic"
            ).clamp(0, 1),
            "with align_corners=True the small grid is not that of the large picture's pixels.": by(
                "bicubic", align_corners=True
            ).clamp(0, 1),
            "this is bilinear: the kernel asked for is bicubic.": by("bilinear", antialias=True),
            "this is the mean over squares: bicubic has other weights.": by("area"),
            "these are single pixels of the large picture: each small one is a weighted mean of many.": x[
                ..., ::factor, ::factor
            ],
        }
        reject(found, slips, same)
        worst = (found - wanted.clamp(0, 1)).abs().max().item()
        raise WrongAnswer(f"for a factor of {factor} some pixel is off by {worst:.3f}.")


@exercise("7.2")
def psnr(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """`answer(x, y, border)`: 10 log10(1 / mse) of each picture, clipped, without the border."""
    for shape, border in (((3, 3, 14, 18), 4), ((2, 1, 9, 8), 1), ((2, 3, 8, 8), 0)):
        y = _pictures(*shape)
        scale = torch.linspace(0.05, 0.3, shape[0])[:, None, None, None]  # unequal pictures
        x = (y + scale * normal(*shape, seed=7)).float()
        found = untouched(answer, x, y, border)
        expect(
            not isinstance(found, (float, int)) and getattr(found, "ndim", 1) == 1,
            f"one PSNR a picture is wanted, a tensor ({shape[0]},): take the mean over axes 1 to 3 only.",
        )
        _psnr_is(tensor(found, "the PSNRs", (shape[0],)), x.double(), y.double(), border)


def _psnr_is(found: Tensor, x: Tensor, y: Tensor, border: int) -> None:
    def cut(z: Tensor) -> Tensor:
        return z[..., border : z.shape[-2] - border, border : z.shape[-1] - border]

    def decibels(error: Tensor) -> Tensor:
        return -10 * error.square().mean(dim=(1, 2, 3)).log10()

    error = x.clamp(0, 1) - y
    inside, raw = cut(error), cut(x - y)
    mse = inside.square().mean(dim=(1, 2, 3))
    wanted = -10 * mse.log10()
    if same(found, wanted):
        return
    expect(found.isfinite().all(), "some PSNR is not finite: with a border of 0, x[..., 0:-0] has no pixels.")
    height, width = y.shape[-2:]
    two = 20 * torch.tensor(2.0, dtype=torch.float64).log10()  # a factor of 2 in the error, in dB
    within = torch.zeros_like(error)
    within[..., border : height - border, border : width - border] = 1
    slips = {
        "the border still counts.": decibels(error),
        "the border is left out at two sides only.": decibels(error[..., border:, border:]),
        "the border is left out above and below only, not left and right.": decibels(
            error[..., border : height - border, :]
        ),
        "the border is left out left and right only, not above and below.": decibels(
            error[..., border : width - border]
        ),
        "the border's error is 0 and still counts in the mean: cut those pixels off.": decibels(error * within),
        "the outputs are not clipped: a file cannot hold what is outside [0, 1].": decibels(raw),
        "the outputs are not clipped to [0, 1], and the border still counts.": decibels(x - y),
        "the outputs are clipped to [-1, 1]: pixels here are in [0, 1].": decibels(cut(x.clamp(-1, 1) - y)),
        "the difference is clipped: clip the outputs, before the originals are taken off.": decibels(raw.clamp(0, 1)),
        "the difference is clipped, and the outputs are to be.": decibels(raw.clamp(-1, 1)),
        "the peak is 1 here, not 255.": wanted + 20 * torch.tensor(255.0, dtype=torch.float64).log10(),
        "the peak is 1, and pixels are in [0, 1]: yours are multiplied by 255, and the peak is not.": wanted
        - 20 * torch.tensor(255.0, dtype=torch.float64).log10(),
        "the peak is 1: pixels are in [0, 1], not in [-1, 1].": wanted + two,
        "pixels are in [0, 1] here: yours are stretched to twice the range, and the peak is still 1.": wanted - two,
        "20 log10 is for the root of the mean squared error, 10 log10 for the mean squared error.": 2 * wanted,
        "10 log10 is for the mean squared error, and yours is its root, or 5 log10: half of the dB.": wanted / 2,
        "this is the mean of the channels' PSNRs: take the mean squared error over all three channels first.": (
            -10 * inside.square().mean(dim=(2, 3)).log10()
        ).mean(dim=1),
        "this is the mean of the pixels' logarithms: take the mean before the logarithm.": (
            -10 * (inside.square() + 1e-12).log10()
        ).mean(dim=(1, 2, 3)),
        "this is the squared error's sum: a mean is wanted.": -10 * inside.square().sum(dim=(1, 2, 3)).log10(),
        "this is the mean absolute error on a logarithmic scale: square first.": -10
        * inside.abs().mean(dim=(1, 2, 3)).log10(),
        "this is the natural logarithm: a decibel is a tenth of log10.": -10 * mse.log(),
        "this is the logarithm to base 2: a decibel is a tenth of log10.": -10 * mse.log2(),
        "the sign is turned round: more is better.": -wanted,
        "this is the mean squared error itself: its logarithm is missing.": mse,
    }
    reject(found, slips, same)
    first = f"the first PSNR is {wanted[0]:.2f} dB, and yours {found[0]:.2f} dB"
    gap, ratio = found - wanted, found / wanted
    if same(gap, gap.mean().expand_as(gap)):
        raise WrongAnswer(
            f"{first}, off by the same {gap.mean():+.2f} dB for every picture: look at the peak and at constants."
        )
    if same(ratio, ratio.mean().expand_as(ratio)):
        raise WrongAnswer(f"{first}, {ratio.mean():.2f} times for every picture: look at the factor of the logarithm.")
    raise WrongAnswer(f"{first}: look at which pixels count, and at what is clipped.")


@exercise("7.3")
def dense_forward(answer: Callable[[Tensor, Sequence[nn.Module], float], Tensor]) -> None:
    """`answer(x, convs, scale)`: x + scale conv5(all before), each of the first four with a leaky ReLU of 0.2."""
    for features, growth, scale in ((6, 4, 0.2), (4, 4, 0.5), (3, 5, 1.0)):
        rng = torch.Generator().manual_seed(features)
        widths = [features + i * growth for i in range(5)]
        convs = [nn.Conv2d(w, growth if i < 4 else features, 3, padding=1) for i, w in enumerate(widths)]
        for layer in convs:
            for part in layer.parameters():
                part.data = 0.4 * torch.randn(part.shape, generator=rng)
        x = normal(2, features, 5, 6, dtype=torch.float32)
        try:
            found = untouched(answer, x, convs, scale)
        except RuntimeError as error:
            if "channels" in str(error):
                raise WrongAnswer(
                    "a convolution gets another number of channels than it takes: each gets the input and all"
                    " outputs so far, joined along dim=1."
                ) from None
            raise
        found = tensor(found, "the block's output", x.shape)
        wanted = _dense(x, convs, scale)
        if same(found, wanted):
            continue
        slips = {
            "x is missing: the result is added to it.": wanted - x,
            "the result is added unscaled: multiply it by `scale`.": _dense(x, convs, 1.0),
            "the scale is `scale`, which the block is told, and not always 0.2.": _dense(x, convs, 0.2),
            "x is scaled, and the result of the convolutions is to be.": scale * x + _dense(x, convs, 1.0) - x,
            "the sum is scaled: only what is added to x is.": scale * _dense(x, convs, 1.0),
            "the last convolution has no activation.": _dense(x, convs, scale, last=True),
            "the activation's slope is 0.2, not PyTorch's 0.01.": _dense(x, convs, scale, slope=0.01),
            "the activation is a leaky ReLU: this one puts out zeros below 0.": _dense(x, convs, scale, slope=0.0),
            "there is no activation.": _dense(x, convs, scale, slope=1.0),
            "the features are joined in the wrong order: the input first, then the outputs as they came.": _dense(
                x, convs, scale, backwards=True
            ),
        }
        reject(found, {said: value.detach() for said, value in slips.items()}, _differs_from(wanted))
        worst = (found - wanted).abs().max().item()
        raise WrongAnswer(f"with a scale of {scale} some output is off by {worst:.3f}.")


def _differs_from(wanted: Tensor) -> Callable[[object, object], bool]:
    """`same`, but for slips that change nothing here."""
    return lambda found, slip: not same(slip, wanted) and same(found, slip)


def _dense(
    x: Tensor,
    convs: Sequence[nn.Module],
    scale: float,
    *,
    slope: float = 0.2,
    last: bool = False,
    backwards: bool = False,
) -> Tensor:
    with torch.no_grad():
        features = [x]
        for layer in convs:
            out = layer(torch.cat(features[::-1] if backwards else features, dim=1))
            features.append(F.leaky_relu(out, slope))
        return x + scale * (features[-1] if last else out)


@exercise("7.4")
def relativistic_g_loss(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(real, fake)`: the mean of BCE(fake - mean real, 1) and BCE(real - mean fake, 0)."""
    for shapes in (((5, 1), (5, 1)), ((4, 1, 3, 3), (4, 1, 3, 3)), ((6,), (3,))):
        real = 1 + 2 * normal(*shapes[0], dtype=torch.float32)
        fake = -0.5 + normal(*shapes[1], dtype=torch.float32, seed=9)
        try:
            found = number(untouched(answer, real, fake), "the loss")
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise WrongAnswer("compare each logit with the mean of the other kind, not with a partner.") from None
            raise
        up, down = -F.logsigmoid(fake - real.mean()).mean(), -F.logsigmoid(fake.mean() - real).mean()
        wanted = ((up + down) / 2).item()
        if same(found, wanted):
            continue
        d = (-F.logsigmoid(real - fake.mean()).mean() - F.logsigmoid(real.mean() - fake).mean()) / 2
        plain, plain_real = -F.logsigmoid(fake).mean(), F.softplus(real).mean()
        slips = {
            "this is the critic's loss: 0 and 1 are exchanged.": d,
            "this is the critic's loss with a minus: exchange 0 and 1 instead, or the gradient fades.": -d,
            "this is the critic's loss, and twice of it: 0 and 1 are exchanged, and the half is missing.": 2 * d,
            "the sign is turned round: the generator makes this loss small.": -(up + down) / 2,
            "this is the sum: the mean of the two terms is wanted.": up + down,
            "both terms have the same label: enlarged pictures get 1 and real ones 0.": (
                up - F.logsigmoid(real - fake.mean()).mean()
            )
            / 2,
            "each kind is compared with its own mean: take that of the other kind.": (
                -F.logsigmoid(fake - fake.mean()).mean() - F.logsigmoid(real.mean() - real).mean()
            )
            / 2,
            "each term is a mean over its logits, and yours is a sum.": (up * fake.numel() + down * real.numel()) / 2,
            "the two terms count the same, however many logits each has: yours is the mean over all logits.": (
                up * fake.numel() + down * real.numel()
            )
            / (fake.numel() + real.numel()),
            "the mean is one number over all logits of a kind: yours is taken along the batch only.": _per_place(
                real, fake
            ),
            "every logit is compared with every one of the other kind: compare it with their mean.": -F.logsigmoid(
                fake.flatten() - real.flatten()[:, None]
            ).mean(),
            "the means alone are compared: compare each logit with the mean of the other kind.": -F.logsigmoid(
                fake.mean() - real.mean()
            ),
            "the sigmoid is taken twice: BCE with logits takes it itself.": _sigmoid_twice(real, fake),
            "only the enlarged pictures count here: the real ones are in the generator's loss, too.": up,
            "only half of the first term is here.": up / 2,
            "this is the usual GAN's loss: nothing is compared with the other kind.": plain,
            "these are the usual GAN's two terms: nothing is compared with the other kind.": (plain + plain_real) / 2,
            "these are the usual GAN's two terms, summed: nothing is compared with the other kind.": plain + plain_real,
            "only the real pictures' term is here.": down,
            "only half of the real pictures' term is here.": down / 2,
            "these are differences of scores, as for a Wasserstein critic: BCE is missing.": real.mean() - fake.mean(),
            "this is a Wasserstein critic's score: nothing is compared, and BCE is missing.": -fake.mean(),
            "the means are missing: compare with the mean of the other kind, not with a partner.": _paired(real, fake),
        }
        reject(found, {said: float(value) for said, value in slips.items()}, same)
        raise WrongAnswer(
            f"for logits {shapes[0]} and {shapes[1]} the loss is {wanted:.4f}, and yours {found:.4f}: look at which"
            " logits are compared with which mean, and at the labels 1 and 0."
        )


def _paired(real: Tensor, fake: Tensor) -> Tensor:
    if real.shape != fake.shape:
        return torch.tensor(float("nan"))
    return -F.logsigmoid(fake - real).mean()


def _per_place(real: Tensor, fake: Tensor) -> Tensor:
    up, down = -F.logsigmoid(fake - real.mean(dim=0)), -F.logsigmoid(fake.mean(dim=0) - real)
    return (up.mean() + down.mean()) / 2


def _sigmoid_twice(real: Tensor, fake: Tensor) -> Tensor:
    up, down = torch.sigmoid(fake - real.mean()), torch.sigmoid(real - fake.mean())
    return (F.softplus(-up).mean() + F.softplus(down).mean()) / 2
