"""Checks for notebook 02, by invariance and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from . import exercise, expect
from . import use as use


@exercise("2.1")
def transposed_size(answer: Callable[[int, int, int, int], int]) -> None:
    """`answer(size, kernel, stride, padding)`: compared with what torch's own layer does, for random shapes."""
    cases = [(1, 7, 1, 0), (7, 4, 2, 1), (4, 3, 2, 1), (5, 5, 3, 2), (6, 2, 2, 0), (9, 6, 4, 1)]
    for size, kernel, stride, padding in cases:
        layer = nn.ConvTranspose2d(1, 1, kernel, stride, padding)
        truth = layer(torch.zeros(1, 1, size, size)).shape[-1]
        found = answer(size, kernel, stride, padding)
        call = f"size {size}, kernel {kernel}, stride {stride}, padding {padding}"
        hint = (
            "; that is a convolution's rule, not its transpose's"
            if found == (size + 2 * padding - kernel) // stride + 1
            else ""
        )
        expect(isinstance(found, int), f"a side is a whole number of pixels, and you returned {found!r}: use // not /.")
        expect(found == truth, f"for {call} the layer gives {truth} and your function {found}{hint}.")


LOG_D, LOG_NOT_D = -math.log1p(math.exp(-1)), -math.log1p(math.exp(1))  # log D and log(1 - D) for a logit of 1
MISTAKEN_LOSSES = (
    (LOG_NOT_D, "this is the saturating loss: where D is sure, its gradient is almost zero. Maximise log D instead."),
    (LOG_D, "the sign is wrong: an optimiser minimises, so the loss is -log D."),
    (-LOG_NOT_D, "this is D's loss on generated pictures: the generator wants them taken for real, label 1."),
)


@exercise("2.3")
def generator_loss(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """`answer(fake_logits)`: the non-saturating loss, finite for any logit, with a gradient where D is sure."""
    found = answer(torch.ones(5))
    expect(isinstance(found, torch.Tensor), "return a tensor, not a Python number: autograd cannot follow .item().")
    expect(found.ndim == 0, "a loss is one number: take the mean over the batch.")
    expect(abs(found.item() + 5 * LOG_D) > 1e-4, "5 logits give 5 times the loss of one: take the mean, not the sum.")
    for value, mistake in MISTAKEN_LOSSES:
        expect(abs(found.item() - value) > 1e-4, mistake)
    at_zero = answer(torch.zeros(5)).item()
    expect(abs(at_zero - math.log(2)) < 1e-5, f"for a logit of 0, D = 1/2 and the loss is log 2, not {at_zero:.3f}.")
    extreme = answer(torch.tensor([-200.0]))
    expect(
        bool(torch.isfinite(extreme)) and abs(extreme.item() - 200) < 1e-3,
        f"for a logit of -200 the loss is 200, and yours is {extreme.item():.3g}: work with the logits"
        " (binary_cross_entropy_with_logits), since log(sigmoid) overflows.",
    )
    logits = torch.tensor([-8.0], requires_grad=True)
    (slope,) = torch.autograd.grad(answer(logits), logits)
    expect(
        slope.item() < -0.9,
        f"where D is sure of a fake (logit -8) the slope should be near -1, and yours is {slope.item():.4f}.",
    )


@exercise("2.4")
def slerp(answer: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    """`answer(a, b, t)` for vectors (dim,): ends, length, constant angular speed, and nearly parallel vectors."""
    generator = torch.Generator().manual_seed(0)
    for dim in (2, 5, 64):
        a, b = torch.randn(2, dim, generator=generator)
        b = b * a.norm() / b.norm()
        for t, end, name in ((0.0, a, "first"), (1.0, b, "second")):
            found = answer(a, b, t)
            expect(bool(torch.isfinite(found).all()), "the result is NaN: divide a.b by both lengths before acos.")
            expect(
                torch.allclose(found, end, atol=1e-4),
                f"at t = {t:.0f} the path should be at the {name} point.",
            )
        middle = answer(a, b, 0.5)
        straight = torch.allclose(middle, (a + b) / 2, atol=1e-4)
        expect(
            abs(middle.norm().item() - a.norm().item()) < 1e-3 * a.norm().item(),
            f"halfway between two vectors of length {a.norm():.2f} the length should be the same; yours is"
            f" {middle.norm():.2f}." + straight * " A straight line cuts through the inside of the sphere.",
        )
        angles = [_angle(a, answer(a, b, t)) for t in (0.25, 0.5, 0.75, 1.0)]
        expect(
            all(abs(angle - angles[-1] * t) < 2e-3 for angle, t in zip(angles, (0.25, 0.5, 0.75, 1.0))),
            "the angle from the first point should grow evenly with t: weight by sines of the angle.",
        )
    same = torch.ones(4)
    expect(
        torch.allclose(answer(same, same.clone(), 0.5), same, atol=1e-3),
        "between two equal vectors the path should stay there: guard the division by sin(0).",
    )


def _angle(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.acos(nn.functional.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1)).item()


@exercise("2.2")
def matching_pair(answer: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    """`answer()`: a (generator, discriminator) for 28 x 28 pictures and latents (N, 100, 1, 1), one logit a picture."""
    pair = answer()
    expect(isinstance(pair, tuple) and len(pair) == 2, "return two networks: (generator, discriminator).")
    generator, discriminator = pair
    generator.eval()
    discriminator.eval()
    for n in (1, 3):
        with torch.no_grad():
            fakes = generator(torch.randn(n, 100, 1, 1))
            expect(
                fakes.shape == (n, 1, 28, 28),
                f"from {n} latents the generator makes {tuple(fakes.shape)}; Fashion-MNIST is {(n, 1, 28, 28)}."
                " Follow the sizes from 1 x 1 with the rule of exercise 2.1.",
            )
            scores = discriminator(fakes)
        expect(
            scores.numel() == n,
            f"{n} picture(s) get {scores.numel()} scores: the last layer still leaves more than one output a picture,"
            " and flattening hides it.",
        )
    with torch.no_grad():
        x = torch.rand(4, 1, 28, 28) * 2 - 1
        one_by_one = torch.cat([discriminator(picture[None]).flatten() for picture in x])
        expect(
            torch.allclose(discriminator(x).flatten(), one_by_one, atol=1e-4),
            "a picture's score should not depend on which others are in the batch (in eval mode).",
        )
