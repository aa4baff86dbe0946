"""Answers to the exercises of notebook 02."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.checks import nb02
from course_utils.lessons import nb02_dcgan_training as lesson

from . import Case

# --- 2.2 ------------------------------------------------------------------------------------------


def up(before: int, after: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.ConvTranspose2d(before, after, kernel, stride, padding)


def down(before: int, after: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> nn.Module:
    return nn.Conv2d(before, after, kernel, stride, padding)


def generator_28(last: nn.Module | None = None) -> nn.Module:
    """1 -> 7 -> 14 -> 28"""
    torch.manual_seed(0)
    norm, last = nn.BatchNorm2d(8), nn.Tanh() if last is None else last
    return nn.Sequential(up(100, 8, 7, 1, 0), norm, nn.ReLU(), up(8, 4), nn.ReLU(), up(4, 1), last)


def discriminator_28(*last: nn.Module) -> nn.Module:
    """28 -> 14 -> 7 -> 1"""
    torch.manual_seed(1)
    first = [down(1, 4), nn.LeakyReLU(0.2), down(4, 8), nn.LeakyReLU(0.2)]
    return nn.Sequential(*first, *(last or [down(8, 1, 7, 1, 0)]))


def generator_32() -> nn.Module:
    """1 -> 4 -> 8 -> 16 -> 32, said to be 28 (ERRATA 1)."""
    layers = [up(100, 8, 4, 1, 0), nn.ReLU(), up(8, 8), nn.ReLU(), up(8, 4), nn.ReLU(), up(4, 1)]
    return nn.Sequential(*layers, nn.Tanh())


class DiscriminatorOfTheLesson(nn.Module):
    """28 -> 14 -> 7 -> 3 -> 1, or 32 -> 16 -> 8 -> 4 -> 2: four scores a picture, flattened (ERRATA 1)."""

    def __init__(self) -> None:
        super().__init__()
        layers = [down(1, 4), nn.ReLU(), down(4, 8), nn.ReLU(), down(8, 8), nn.ReLU()]
        self.net = nn.Sequential(*layers, down(8, 1, 3, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1)


class FourScores(nn.Module):
    """Written for 28 x 28, one convolution too short."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(down(1, 4), nn.ReLU(), down(4, 8), nn.ReLU(), down(8, 1, 6, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1)


class Changed(nn.Module):
    """A network behind a function of its input."""

    def __init__(self, net: nn.Module, change) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


def dense_pair() -> list[nn.Module]:
    """Linear layers, in a list."""
    generator = nn.Sequential(nn.Flatten(), nn.Linear(100, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
    return [generator, nn.Sequential(nn.Flatten(), nn.Linear(784, 1), nn.Flatten(0))]


def constant(z: Tensor) -> Tensor:
    return torch.zeros_like(z)


# --- 2.4 ------------------------------------------------------------------------------------------


def step_of_d(generator, discriminator, optimiser, x_real, z):
    optimiser.zero_grad()
    loss = lesson.discriminator_loss(discriminator(x_real), discriminator(generator(z).detach()))
    loss.backward()
    optimiser.step()
    return loss


def step_under_no_grad(generator, discriminator, optimiser, x_real, z):
    with torch.no_grad():
        x_fake = generator(z)
    real, fake = discriminator(x_real), discriminator(x_fake)
    loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    for weight in discriminator.parameters():
        weight.grad = None
    loss.backward()
    optimiser.step()
    return loss.item()


def step_with_two_backwards(generator, discriminator, optimiser, x_real, z):
    discriminator.zero_grad()
    on_real = F.binary_cross_entropy_with_logits(discriminator(x_real), torch.ones(len(x_real)))
    on_real.backward()
    fake = discriminator(generator(z).detach())
    on_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    on_fake.backward()
    optimiser.step()
    return (on_real + on_fake).detach()


def step(detach=True, zero=True, swapped=False, move=True, value=lambda loss: loss, loss_of=None):
    """A step of D with one thing wrong."""

    def answer(generator, discriminator, optimiser, x_real, z):
        if zero:
            optimiser.zero_grad()
        x_fake = generator(z).detach() if detach else generator(z)
        pair = discriminator(x_real), discriminator(x_fake)
        loss = (loss_of or lesson.discriminator_loss)(*(pair[::-1] if swapped else pair))
        loss.backward()
        if move:
            optimiser.step()
        return value(loss)

    return answer


def step_of_both(generator, discriminator, optimiser, x_real, z):
    loss = step_of_d(generator, discriminator, optimiser, x_real, z)
    with torch.no_grad():
        for weight in generator.parameters():
            weight -= 0.1
    return loss


def zero_grad_before_the_step(generator, discriminator, optimiser, x_real, z):
    loss = F.softplus(-discriminator(x_real)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
    loss.backward()
    optimiser.zero_grad()
    optimiser.step()
    return loss


def in_eval_mode(generator, discriminator, optimiser, x_real, z):
    generator.eval()
    return step_of_d(generator, discriminator, optimiser, x_real, z)


# --- 2.5 ------------------------------------------------------------------------------------------


def sampled(generator, z):
    mode = generator.training
    generator.eval()
    with torch.no_grad():
        x = generator(z)
    generator.train(mode)
    return x


@torch.no_grad()
def sampled_one_by_one(generator, z):
    mode = generator.training
    generator.eval()
    parts = [generator(z[i : i + 1]) for i in range(len(z))]
    generator.train(mode)
    return torch.cat(parts)


def sampled_by_a_copy(generator, z):
    return copy.deepcopy(generator).eval()(z).detach()


@torch.inference_mode()
def sampled_in_inference_mode(generator, z):
    mode = generator.training
    x = generator.eval()(z)
    generator.train(mode)
    return x


def left_in_eval(generator, z):
    with torch.no_grad():
        return generator.eval()(z)


def put_in_train(generator, z):
    x = left_in_eval(generator, z)
    generator.train()
    return x


def with_a_graph(generator, z):
    mode = generator.training
    x = generator.eval()(z)
    generator.train(mode)
    return x


def in_train_mode(generator, z):
    with torch.no_grad():
        return generator(z)


def in_eval_after_a_look_in_train(generator, z):
    in_train_mode(generator, z)
    return sampled(generator, z)


# --- 2.3 and 2.6 ----------------------------------------------------------------------------------


class Loss(nn.Module):
    def forward(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits).mean()


def by_a_loop(fake_logits):
    return sum(F.softplus(-logit) for logit in fake_logits) / len(fake_logits)


def slerp_by(angle_of, a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = angle_of(a, b)
    if angle < 1e-3:
        return torch.lerp(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    return torch.acos((a @ b / a.norm() / b.norm()).clamp(-1, 1))


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    return slerp_by(angle_between, a, b, t)


def slerp_in_numpy(a, b, t):
    a, b = a.numpy().astype(float), b.numpy().astype(float)
    angle = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    if angle < 1e-4:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def slerp_as_a_list(a, b, t):
    return slerp(a, b, t).tolist()


def slerp_over_a_squared(a: Tensor, b: Tensor, t: float) -> Tensor:
    return slerp_by(lambda a, b: torch.acos((a @ b / a.norm() ** 2).clamp(-1, 1)), a, b, t)


def slerp_of_unit_vectors(a: Tensor, b: Tensor, t: float) -> Tensor:
    unit = slerp(F.normalize(a, dim=0), F.normalize(b, dim=0), t)
    return unit * a.norm()


def unguarded(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = angle_between(a, b)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def guarded_for_equal_only(a: Tensor, b: Tensor, t: float) -> Tensor:
    return a if torch.equal(a, b) else unguarded(a, b, t)


def acos_of_the_product(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.acos(a @ b)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


CASES = [
    Case(
        nb02.transposed_size,
        right=[
            lesson.conv_transpose_size,
            lambda n, k, s, p: s * (n - 1) + k - 2 * p,
            lambda n, k, s, p: np.int64(s * (n - 1) + k - 2 * p),
            lambda n, k, s, p: torch.tensor(s * (n - 1) + k - 2 * p),
            lambda n, k, s, p: F.conv_transpose2d(
                torch.zeros(1, 1, n, n), torch.zeros(1, 1, k, k), stride=s, padding=p
            ).shape[2],
        ],
        wrong=[
            (lambda n, k, s, p: (n + 2 * p - k) // s + 1, "a convolution's rule, not its transpose's"),
            (lambda n, k, s, p: (n - 1) * s - p + k, "the layer gives .* your function"),
            (lambda n, k, s, p: n * s, "the layer gives 7 and your function 1"),
            (lambda n, k, s, p: n, "the layer gives 7 and your function 1"),
            (lambda n, k, s, p: (n - 1) * s + k, "the layer gives 14 and your function 16"),
            (lambda n, k, s, p: (n - 1) * s - 2 * p + k + 1, "the layer gives 7 and your function 8"),
            (lambda n, k, s, p: float(s * (n - 1) + k - 2 * p), "whole number of pixels"),
            (lambda n, k, s, p: (7, 7), "a side is one number"),
        ],
    ),
    Case(
        nb02.matching_pair,
        right=[
            lambda: (generator_28(), discriminator_28()),
            lambda: [generator_28(), DiscriminatorOfTheLesson()],  # right for 28 x 28
            dense_pair,
            lambda: (generator_28(nn.Hardtanh()), discriminator_28(nn.Flatten(), nn.Linear(8 * 49, 1))),
        ],
        wrong=[
            (lambda: (generator_32(), DiscriminatorOfTheLesson()), r"makes \(1, 1, 32, 32\); Fashion-MNIST is"),
            (lambda: (generator_28(), FourScores()), r"1 picture\(s\) get 4 scores: .*flattening hides it"),
            (
                lambda: (generator_28(), Changed(discriminator_28(), lambda x: x - x.mean(dim=0))),
                "same score|should not depend on which others",
            ),
            (
                lambda: (generator_28(), Changed(discriminator_28(), lambda x: x - 0.5 * x.mean(dim=0))),
                "should not depend on which others are in the batch",
            ),
            (generator_28, "return two networks"),
            (lambda: (generator_28(nn.Sigmoid()), discriminator_28()), "never gets below 0.*tanh"),
            (
                lambda: (generator_28(nn.Identity()), discriminator_28()),
                "end the generator with tanh",
            ),
            (lambda: (Changed(generator_28(), constant), discriminator_28()), "same picture for|below 0"),
            (
                lambda: (generator_28(), Changed(discriminator_28(), constant)),
                "same score: it must look",
            ),
            (
                lambda: (
                    generator_28(),
                    Changed(discriminator_28(), lambda x: F.pad(x[..., :14, :14], (0, 14, 0, 14))),
                ),
                "does not see the upper right quarter",
            ),
            (lambda: (None, None), "the generator is no network"),
        ],
    ),
    Case(
        nb02.generator_loss,
        right=[
            lesson.generator_loss,
            lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
            lambda x: F.softplus(-x).mean(),
            lambda x: F.softplus(-x.double()).sum().reshape(1) / len(x),
            lambda x: torch.logaddexp(torch.zeros(()), -x).mean(),
            by_a_loop,
            Loss(),
        ],
        wrong=[
            (lambda x: torch.log(1 - torch.sigmoid(x)).mean(), "saturating loss.*gradient is almost zero"),
            (lambda x: F.logsigmoid(-x).mean(), "saturating loss"),
            (lambda x: -torch.log(torch.sigmoid(x)).mean(), "yours is inf: .*logits"),
            (lambda x: -torch.log(torch.sigmoid(x) + 1e-8).mean(), "logit of -200 the loss is 200, and yours is 18.4"),
            (lambda x: F.binary_cross_entropy(torch.sigmoid(x), torch.ones_like(x)), "yours is 100: work with"),
            (lambda x: F.logsigmoid(x).mean(), "the sign is wrong"),
            (lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)), "D's loss .*label 1"),
            (lambda x: -F.logsigmoid(x), "one number: take the mean"),
            (lambda x: -F.logsigmoid(x).sum(), "take the mean over the batch, not the sum"),
            (lambda x: -F.logsigmoid(x).mean().item(), "autograd cannot follow"),
            (lambda x: F.softplus(-x).max(), "the worst picture"),
            (lambda x: F.softplus(-x.mean()), "the loss of the mean logit"),
            (lambda x: F.softplus(-x[0]), "first picture only"),
            (lambda x: -x.sigmoid().mean().log(), "mean probability"),
            (lambda x: F.softplus(-x.detach()).mean(), "no gradient for the logits"),
            (lambda x: F.softplus(-x).median(), "the loss is .*, yours"),
        ],
    ),
    Case(
        nb02.discriminator_step,
        right=[step_of_d, step_under_no_grad, step_with_two_backwards, step(value=lambda loss: loss.detach())],
        wrong=[
            (step(detach=False), "the generator got gradients"),
            (step(zero=False), "gradients of an earlier step"),
            (step(swapped=True), "the labels are exchanged"),
            (step(move=False), r"optimiser.step\(\) missing"),
            (zero_grad_before_the_step, "zero_grad stand between"),
            (in_eval_mode, "left in eval mode"),
            (step(detach=False, zero=False, swapped=True), "the generator got gradients"),
            (step_of_both, "the generator's weights changed"),
            (step(value=lambda loss: 2 * loss), "the loss of this step is"),
            (step(loss_of=lambda real, fake: (fake - real).mean()), "not those of one step"),
            (step(value=lambda loss: None), "returned None"),
            (lambda generator, discriminator, optimiser, x_real, z: torch.zeros(()), "weights are what they were"),
        ],
    ),
    Case(
        nb02.sampling,
        right=[sampled, sampled_one_by_one, sampled_by_a_copy, sampled_in_inference_mode],
        wrong=[
            (lambda generator, z: generator(z), "pictures of train mode"),
            (in_train_mode, "pictures of train mode"),
            (left_in_eval, "train mode before and is not after"),
            (put_in_train, "eval mode before and is not after"),
            (with_a_graph, "carry a graph"),
            (in_eval_after_a_look_in_train, "not the generator's pictures|running statistics changed"),
            (lambda generator, z: sampled(generator, z) / 2, "not the generator's pictures"),
            (lambda generator, z: sampled(generator, z)[:2], "has the shape"),
        ],
    ),
    Case(
        nb02.slerp,
        right=[
            lesson.slerp,
            slerp,
            slerp_in_numpy,
            slerp_as_a_list,
            lambda a, b, t: slerp(a.double(), b.double(), t),
        ],
        wrong=[
            (
                acos_of_the_product,
                "NaN: divide a.b|the second point|acos of a.b itself",
            ),
            (lambda a, b, t: (1 - t) * a + t * b, "length should be the same.*straight line cuts through"),
            (lambda a, b, t: F.normalize((1 - t) * a + t * b, dim=0) * a.norm(), "should grow evenly with t"),
            (lambda a, b, t: slerp(b, a, t), "at t = 0 the path should be at the first point"),
            (unguarded, "equal vectors.*guard the division"),
            (guarded_for_equal_only, "nearly equal vectors"),
            (slerp_over_a_squared, r"divides by \|a\| twice"),
            (slerp_of_unit_vectors, "differs from the formula|do not normalise"),
            (lambda a, b, t: a, "at t = 1 the path should be at the second point"),
            (lambda a, b, t: slerp(a, b, t * t), "should grow evenly with t|length"),
            (lambda a, b, t: slerp(a, b, t)[:1], "has the shape"),
            (lambda a, b, t: slerp(a, b, t) * (1 + 0.1 * math.sin(math.pi * t)), "length should be the same"),
        ],
    ),
]
