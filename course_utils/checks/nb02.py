"""Checks for notebook 02, by invariance and by published mistake."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from . import WrongAnswer, close, exercise, expect, number, reject, tensor
from . import use as use


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@exercise("2.1")
def transposed_size(answer: Callable[[int, int, int, int], int]) -> None:
    """`answer(size, kernel, stride, padding)`: compared with what torch's own layer does, for uneven sizes."""
    cases = [(1, 7, 1, 0), (7, 4, 2, 1), (4, 3, 2, 1), (5, 5, 3, 2), (6, 2, 2, 0), (9, 6, 4, 1), (3, 1, 5, 0)]
    for size, kernel, stride, padding in cases:
        layer = nn.ConvTranspose2d(1, 1, kernel, stride, padding)
        truth = layer(torch.zeros(1, 1, size, size)).shape[-1]
        found = answer(size, kernel, stride, padding)
        side = number(found, "a side")
        expect(
            _whole(found), f"a side is a whole number of pixels, and you returned {side:g} as a float: use //, not /."
        )
        call = f"size {size}, kernel {kernel}, stride {stride}, padding {padding}"
        hint = "; that is a convolution's rule, not its transpose's"
        hint = hint * (side == (size + 2 * padding - kernel) // stride + 1)
        expect(side == truth, f"for {call} the layer gives {truth} and your function {side:g}{hint}.")


def _whole(found: object) -> bool:
    """Whether a number is an integer by type: Python's, NumPy's, or a tensor of integers."""
    try:
        operator.index(found[0] if isinstance(found, Sequence) else found)
    except TypeError:
        return False
    return True


@exercise("2.2")
def matching_pair(answer: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    """`answer()`: a (generator, discriminator) for 28 x 28 pictures and latents (N, 100, 1, 1), one logit a picture."""
    pair = answer()
    expect(isinstance(pair, Sequence) and len(pair) == 2, "return two networks: (generator, discriminator).")
    generator, discriminator = pair
    for network, name in zip(pair, ("generator", "discriminator")):
        expect(callable(network), f"the {name} is no network: {type(network).__name__}.")
        if isinstance(network, nn.Module):
            network.eval()
    with torch.no_grad():
        for n in (1, 3):
            fakes = tensor(generator(_random(n, 100, 1, 1)), "the generator's output").float()
            expect(
                tuple(fakes.shape) == (n, 1, 28, 28),
                f"from {n} latents the generator makes {tuple(fakes.shape)}; Fashion-MNIST is {(n, 1, 28, 28)}."
                " Follow the sizes from 1 x 1 with the rule of exercise 2.1.",
            )
            scores = tensor(discriminator(fakes), "the discriminator's output")
            expect(
                scores.numel() == n,
                f"{n} picture(s) get {scores.numel()} scores: the last layer still leaves more than one output a"
                " picture, and flattening hides it.",
            )
        _of_the_latent(generator)
        _of_the_whole_picture(discriminator)


def _of_the_latent(generator: Callable[[Tensor], Tensor]) -> None:
    """Pictures in [-1, 1] on both sides of zero, another one for another latent."""
    z = 30 * _random(40, 100, 1, 1, seed=1)  # far out, so that the range shows
    fakes = torch.cat([generator(part) for part in z.split(8)])
    expect((fakes.abs() <= 1).all(), "pictures lie in [-1, 1]: end the generator with tanh.")
    expect(
        fakes.min() < -0.05,
        "the generator never gets below 0, and pictures lie in [-1, 1]: end it with tanh, not with a sigmoid.",
    )
    expect(fakes.std(dim=0).max() > 1e-4, "the generator gives the same picture for every latent: it must depend on z.")


def _of_the_whole_picture(discriminator: Callable[[Tensor], Tensor]) -> None:
    """One score a picture, by itself, that depends on pixels everywhere."""
    x = _random(4, 1, 28, 28, seed=2).clamp(-1, 1)
    score = discriminator(x).flatten()
    expect(
        score.std() > 1e-7 * (1 + score.abs().max()),
        "the discriminator gives every picture the same score: it must look at the picture.",
    )
    one_by_one = torch.cat([discriminator(picture[None]).flatten() for picture in x])
    expect(
        close(score, one_by_one, 1e-4),
        "a picture's score should not depend on which others are in the batch (in eval mode).",
    )
    for row in (0, 14):
        for column in (0, 14):
            changed = x.clone()
            changed[..., row : row + 14, column : column + 14] *= -1
            where = f"{'upper' if row == 0 else 'lower'} {'left' if column == 0 else 'right'}"
            expect(
                not torch.equal(discriminator(changed).flatten(), score),
                f"the discriminator does not see the {where} quarter of the picture: its score stays.",
            )


@exercise("2.3")
def generator_loss(answer: Callable[[Tensor], Tensor]) -> None:
    """`answer(fake_logits)`: the non-saturating loss, finite for any logit, with a gradient where D is sure."""
    logits = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.3])
    loss = answer(logits.clone().requires_grad_())
    expect(isinstance(loss, Tensor), "return a tensor, not a Python number: autograd cannot follow .item().")
    expect(loss.numel() == 1, "a loss is one number: take the mean over the batch.")
    each, label_0 = softplus(-logits.double()), softplus(logits.double())  # -log D and -log(1 - D)
    found = number(loss, "the loss")
    reject(
        found,
        {
            "take the mean over the batch, not the sum.": each.sum(),
            "this is the saturating loss: where D is sure, its gradient is almost zero. Use -log D.": -label_0.mean(),
            "the sign is wrong: an optimiser minimises, so the loss is -log D.": -each.mean(),
            "this is D's loss on generated pictures: the generator wants them taken for real, label 1.": label_0.mean(),
            "this is the loss of the worst picture: take the mean over the batch, not the maximum.": each.max(),
            "this is the loss of the mean logit: take the logarithm of each, then the mean.": softplus(
                -logits.double().mean()
            ),
            "this is the loss of the first picture only: take the mean over the batch.": each[0],
            "this is -log of the mean probability: take the logarithm of each, then the mean.": -logits.double()
            .sigmoid()
            .mean()
            .log(),
        },
    )
    expect(
        close(found, each.mean(), 1e-4),
        f"for the logits {logits.tolist()} the loss is {each.mean():.4f}, yours {found:.4f}.",
    )
    expect(
        loss.requires_grad, "the loss has no gradient for the logits: do not detach them, nor compute under no_grad."
    )
    extreme = number(answer(torch.tensor([-200.0])), "the loss")
    expect(
        math.isfinite(extreme) and abs(extreme - 200) < 1e-3,
        f"for a logit of -200 the loss is 200, and yours is {extreme:.3g}: work with the logits"
        " (binary_cross_entropy_with_logits), since log(sigmoid) overflows.",
    )
    sure = torch.tensor([-8.0, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(answer(sure).sum(), sure, allow_unused=True)
    wanted = (sure.sigmoid() - 1).detach() / 2
    expect(
        slope is not None and close(slope, wanted, 1e-3),
        f"for the logits -8 and 2 the slopes are {wanted[0]:.3f} and {wanted[1]:.3f}, yours "
        f"{'missing' if slope is None else ' and '.join(f'{v:.3f}' for v in slope.tolist())}.",
    )


@exercise("2.4")
def discriminator_step(answer: Callable) -> None:
    """`answer(generator, discriminator, optimiser, x_real, z)`: one step of D alone, on the right labels; its loss."""
    x_real, z = 2 + _random(6, 5, seed=1), _random(6, 3, seed=2)
    wanted, swapped, stale = (_after_a_step(x_real, z, **kind) for kind in ({}, {"swapped": True}, {"stale": True}))
    generator, discriminator, optimiser = _pair()
    for weight in discriminator.parameters():
        weight.grad = torch.ones_like(weight)  # what an earlier step left
    before = [weight.detach().clone() for weight in (*generator.parameters(), *discriminator.parameters())]
    loss = answer(generator, discriminator, optimiser, x_real.clone(), z.clone())
    found = number(loss, "the loss")
    touched = [weight.grad for weight in generator.parameters() if weight.grad is not None and weight.grad.any()]
    expect(
        not touched,
        "the generator got gradients: in D's step its pictures are detached, or made under no_grad.",
    )
    same = [torch.equal(a, b) for a, b in zip(before, (*generator.parameters(), *discriminator.parameters()))]
    expect(all(same[:2]), "the generator's weights changed: this step is the discriminator's alone.")
    expect(
        not all(same[2:]),
        "the discriminator's weights are what they were: is optimiser.step() missing, or does zero_grad stand between"
        " backward and step?",
    )
    expect(
        generator.training and discriminator.training,
        "a network is left in eval mode: the rest of the training needs BatchNorm in train mode.",
    )
    weights = torch.cat([weight.detach().flatten() for weight in discriminator.parameters()])
    reject(
        weights,
        {
            "the labels are exchanged: the discriminator moved towards taking generated pictures for real.": swapped,
            "the gradients of an earlier step are still in it: zero_grad comes before backward.": stale,
        },
        lambda x, y: close(x, y, 1e-4),
    )
    expect(
        close(weights, wanted, 1e-4),
        "the discriminator's new weights are not those of one step on -E log D(x) - E log(1 - D(G(z))).",
    )
    true_loss = _loss_of_d(*_pair()[:2], x_real, z).item()
    expect(abs(found - true_loss) < 1e-4, f"the loss of this step is {true_loss:.4f}, and you return {found:.4f}.")


def _pair() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """A generator (N, 3) to (N, 5), a discriminator (N, 5) to (N,), and the discriminator's optimiser."""
    generator, discriminator = nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    with torch.no_grad():
        for seed, weight in enumerate((*generator.parameters(), *discriminator.parameters())):
            weight.copy_(_random(*weight.shape, seed=seed) / 2)
    return generator, discriminator, torch.optim.SGD(discriminator.parameters(), lr=0.5)


def _loss_of_d(generator: nn.Module, discriminator: nn.Module, x_real: Tensor, z: Tensor) -> Tensor:
    return softplus(-discriminator(x_real)).mean() + softplus(discriminator(generator(z).detach())).mean()


def _after_a_step(x_real: Tensor, z: Tensor, swapped: bool = False, stale: bool = False) -> Tensor:
    """The discriminator's weights (6,) after a step that is right, or has the labels or old gradients wrong."""
    generator, discriminator, optimiser = _pair()
    if swapped:
        loss = softplus(discriminator(x_real)).mean() + softplus(-discriminator(generator(z).detach())).mean()
    else:
        loss = _loss_of_d(generator, discriminator, x_real, z)
    loss.backward()
    if stale:
        for weight in discriminator.parameters():
            weight.grad += 1
    optimiser.step()
    return torch.cat([weight.detach().flatten() for weight in discriminator.parameters()])


@exercise("2.5")
def sampling(answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """`answer(generator, z)`: pictures in eval mode, without gradient; the generator is left as it was found."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 1, 2), nn.Tanh())
    generator(_random(32, 3, 1, 1, seed=5))  # running statistics other than a batch's
    z = _random(4, 3, 1, 1, seed=6)
    with torch.no_grad():
        in_eval, in_train = generator.eval()(z), copy.deepcopy(generator).train()(z)
    for train in (True, False):
        generator.train(train)
        statistics = generator[1].running_mean.clone()
        out = answer(generator, z.clone())
        found = tensor(out, "the pictures", in_eval.shape)
        reject(
            found,
            {
                "these are the pictures of train mode: BatchNorm used the statistics of this batch. Call"
                " generator.eval() before.": in_train
            },
            lambda x, y: close(x, y, 1e-4),
        )
        expect(close(found, in_eval, 1e-4), "these are not the generator's pictures of z in eval mode.")
        expect(
            torch.equal(statistics, generator[1].running_mean),
            "BatchNorm's running statistics changed: sampling is no training.",
        )
        expect(
            not getattr(out, "requires_grad", False),
            "the pictures carry a graph for gradients, which costs memory: sample under torch.no_grad().",
        )
        expect(
            generator.training is train and generator[1].training is train,
            f"the generator was in {'train' if train else 'eval'} mode before and is not after: put it back.",
        )


@exercise("2.6")
def slerp(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(a, b, t)` for vectors (dim,): the formula with the angle between them, ends, length, nearly parallel."""
    for dim, dtype in ((2, torch.float32), (5, torch.float64), (64, torch.float32)):
        a, b = _random(2, dim, seed=dim, dtype=dtype)
        b = b * a.norm() / b.norm()
        for t, end, name in ((0.0, a, "first"), (1.0, b, "second")):
            found = _point(answer(a.clone(), b.clone(), t), a)
            expect(close(found, end, 1e-4), f"at t = {t:.0f} the path should be at the {name} point.")
        middle = _point(answer(a.clone(), b.clone(), 0.5), a)
        undivided = math.acos(max(-1.0, min(1.0, (a @ b).item())))
        if min(undivided, abs(undivided - _angle(a, b))) > 1e-3:
            message = "the angle is acos of a.b divided by both lengths; yours is acos of a.b itself."
            reject(middle, {message: _path(a, b, undivided, 0.5)}, lambda x, y: close(x, y, 1e-4))
        straight = close(middle, (a + b) / 2, 1e-4)
        length = a.norm().item()
        expect(
            abs(middle.norm().item() - length) < 1e-3 * length,
            f"halfway between two vectors of length {length:.2f} the length should be the same; yours is"
            f" {middle.norm():.2f}." + straight * " A straight line cuts through the inside of the sphere.",
        )
        share = [_angle(a, _point(answer(a.clone(), b.clone(), t), a)) / _angle(a, b) for t in (0.1, 0.25, 0.5, 0.8)]
        expect(
            close(torch.tensor(share), torch.tensor([0.1, 0.25, 0.5, 0.8]), 2e-3),
            "the angle from the first point should grow evenly with t: weight by sines of the angle.",
        )
        _unequal(answer, a, 2.5 * b)
    same = torch.ones(4)
    stay = "between two equal vectors the path should stay there: guard the division by sin(0)."
    expect(close(_point(answer(same, same.clone(), 0.5), same, stay), same, 1e-3), stay)
    near = torch.tensor([1.0, 1e-7, 0.0, 0.0])
    stay = "between two nearly equal vectors the path should stay near: guard the division by the sine of a tiny angle."
    expect(close(_point(answer(torch.eye(4)[0], near, 0.3), near, stay), torch.eye(4)[0], 1e-3), stay)


def _unequal(answer: Callable, a: Tensor, b: Tensor) -> None:
    """Vectors of unequal lengths: the angle is that between them."""
    found = _point(answer(a.clone(), b.clone(), 0.3), a)
    cosine = (a @ b / a.norm() / a.norm()).clamp(-1, 1).item()
    wrong = math.acos(cosine)
    if abs(math.sin(wrong)) > 1e-6:
        message = "the cosine of the angle is a.b over *both* lengths; yours divides by |a| twice."
        reject(found, {message: _path(a, b, wrong, 0.3)}, lambda x, y: close(x, y, 1e-4))
    unit = _path(a, b, _angle(a, b), 0.3)
    reject(
        found,
        {
            "do not normalise a and b in the weighted sum: at the ends the path is at a and b themselves.": unit
            / unit.norm()
        },
        lambda x, y: close(x, y, 1e-4),
    )
    expect(
        close(found, unit, 1e-3),
        f"for vectors of lengths {a.norm():.2f} and {b.norm():.2f} the result differs from the formula: the angle is"
        " acos(a.b / (|a| |b|)), and a and b are weighted as they are.",
    )


def _path(a: Tensor, b: Tensor, angle: float, t: float) -> Tensor:
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def _point(found: object, like: Tensor, why: str = "divide a.b by both lengths before acos.") -> Tensor:
    found = tensor(found, "the point", like.shape)
    expect(bool(torch.isfinite(found).all()), f"the result is NaN: {why}")
    return found


def _angle(a: Tensor, b: Tensor) -> float:
    if not b.norm():
        raise WrongAnswer("the path goes through the origin, which has no direction.")
    return torch.acos(nn.functional.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1)).item()
