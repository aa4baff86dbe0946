"""Checks for notebook 01, by invariance and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from . import exercise, expect

LOG_2 = math.log(2)


def _close(a: float | Tensor, b: float | Tensor, tolerance: float = 1e-5) -> bool:
    pair = (torch.as_tensor(v).detach().double() for v in (a, b))
    return torch.allclose(*pair, atol=tolerance, rtol=tolerance)


def _one_number(found: object, what: str) -> float:
    expect(
        isinstance(found, (Tensor, float)) and torch.as_tensor(found).ndim == 0,
        f"{what} is one number, not {found!r}.",
    )
    return torch.as_tensor(found).item()


@exercise("1.1")
def value(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(real_logits, fake_logits)`: V(D, G) on logits, by its value at easy points and by likely slips."""
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.5, 2.0])
    found = _one_number(answer(real, fake), "V")
    right = (logsigmoid(real).mean() + logsigmoid(-fake).mean()).item()
    slips = {
        "the second term is the log of 1 - D(G(z)), and 1 - sigmoid(u) = sigmoid(-u); yours is log D(G(z)).": (
            logsigmoid(real).mean() + logsigmoid(fake).mean()
        ),
        "real and generated logits have changed places.": logsigmoid(fake).mean() + logsigmoid(-real).mean(),
        "the sign is wrong: V is what D *maximises*, logarithms of probabilities, never positive.": -right,
        "take the mean of each term (an expectation), not the sum: batches may differ in size.": (
            logsigmoid(real).sum() + logsigmoid(-fake).sum()
        ),
    }
    for mistake, wrong in slips.items():
        expect(not _close(found, wrong), mistake)
    expect(
        _close(found, right),
        f"for the logits {real.tolist()} and {fake.tolist()} V is {right:.4f}, yours {found:.4f}.",
    )
    undecided = float(answer(torch.zeros(4), torch.zeros(4)))
    expect(_close(undecided, -2 * LOG_2), f"where D says 1/2 everywhere V is -log 4 = -1.3863, yours {undecided:.4f}.")
    sure = float(answer(torch.tensor([-200.0]), torch.tensor([200.0])))
    expect(
        _close(sure, -400.0, 1e-3),
        f"for logits of -200 (real) and 200 (generated) V is -400, yours {sure}: log(sigmoid(u)) overflows, use"
        f" F.logsigmoid.",
    )


@exercise("1.2")
def optimal_discriminator(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(log_p, log_q)`: p / (p + q) from log densities, also where both densities underflow."""
    log_p, log_q = torch.tensor([[-1.0, -3.0, -0.5], [-2.0, 1.0, -0.5]], dtype=torch.float64)
    found, right = answer(log_p, log_q), log_p.exp() / (log_p.exp() + log_q.exp())
    expect(
        isinstance(found, Tensor) and found.shape == (3,),
        "return one number for each point, a tensor of the same shape.",
    )
    expect(
        not _close(found, 1 - right),
        "this is q / (p + q): D is to say how likely a point is *real*, and p is the data.",
    )
    expect(
        not _close(found, (log_p - log_q).exp()),
        "this is the ratio p / q, which has no upper limit; D lies between 0 and 1.",
    )
    expect(
        not _close(found, log_p / (log_p + log_q)),
        "these are logarithms of densities: take exp, or better, think of the logit.",
    )
    expect(_close(found, right), "compare with p / (p + q) at a point where you know p and q.")
    expect(_close(answer(log_p, log_p), torch.full((3,), 0.5)), "where p = q the best that D can do is to say 1/2.")
    far = answer(torch.tensor([-2000.0]), torch.tensor([-2001.0]))
    expect(
        _close(far, torch.sigmoid(torch.tensor([1.0]))),
        f"at log p = -2000, log q = -2001 the answer is {1 / (1 + math.exp(-1)):.4f}, yours {far.item():.4f}: exp"
        f" underflows to"
        " 0 / 0 there. Divide numerator and denominator by p before you compute.",
    )


@exercise("1.3")
def jensen_shannon(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(p, q)`: the divergence of two histograms (counts), by bounds, symmetry and likely slips."""
    p, q = torch.tensor([0.1, 0.4, 0.5], dtype=torch.float64), torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    middle = (p + q) / 2

    def kl(a: Tensor, b: Tensor) -> float:
        return (a * (a / b).log()).sum().item()

    right = (kl(p, middle) + kl(q, middle)) / 2
    found = _one_number(answer(p, q), "a divergence")
    slips = {
        "this is the symmetrised KL divergence, which has no upper bound: compare p and q with (p + q) / 2.": (
            (kl(p, q) + kl(q, p)) / 2
        ),
        "take the *mean* of the two KL divergences: yours is twice too large.": 2 * right,
        "use natural logarithms, so that the upper bound is log 2; with base 2 it is 1.": right / LOG_2,
        "this is the square root of the divergence, the Jensen-Shannon *distance* (what scipy returns).": right**0.5,
        "this is KL(p || q), which is not symmetric.": kl(p, q),
    }
    for mistake, wrong in slips.items():
        expect(not _close(found, wrong, 1e-7), mistake)
    expect(
        _close(found, right, 1e-9),
        f"for {p.tolist()} and {q.tolist()} the divergence is {right:.6f}, yours {found:.6f}.",
    )
    apart = float(answer(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5])))
    expect(
        _close(apart, LOG_2),
        f"for histograms without a common bin it is log 2 = {LOG_2:.4f}, yours {apart}: an empty bin counts 0 log 0 = 0"
        " (torch.xlogy knows this).",
    )
    counts = float(answer(10 * p, 1000 * q))
    expect(
        _close(counts, right, 1e-9),
        f"these are the same histograms with 10 and 1,000 samples, and your divergence became {counts:.4g}."
        f" Counts must be"
        " divided by their total first: a published divergence plot left that out.",
    )


@exercise("1.4")
def backwards_sentence(answer: Callable[[float], dict[str, object]]) -> None:
    """`answer(d)`: loss, slope with respect to the logit, where it starves and who, for the saturating loss at"
    " D(G(z)) = d."""
    for d in (0.02, 0.5, 0.9):
        found = answer(d)
        keys = {"loss", "slope", "starves at", "who"}
        expect(
            isinstance(found, dict) and set(found) == keys,
            f"return a dictionary with the keys {', '.join(sorted(keys))}.",
        )
        logit = torch.tensor(math.log(d / (1 - d)), dtype=torch.float64, requires_grad=True)
        loss = logsigmoid(-logit)  # log(1 - D(G(z)))
        (slope,) = torch.autograd.grad(loss, logit)
        expect(
            d == 0.5 or not _close(float(found["loss"]), math.log(d)),
            f"at D(G(z)) = {d} your loss is log D. The generator minimises log(1 - D(G(z))), which is near 0"
            f" where D(G(z)) is"
            " near 0 (the generator fails) and falls without limit where it is near 1 (the generator does a"
            " perfect job).",
        )
        expect(_close(float(found["loss"]), loss.item()), f"at D(G(z)) = {d} log(1 - D(G(z))) is {loss.item():.4f}.")
        expect(
            d == 0.5 or not _close(float(found["slope"]), -(1 - d)),
            f"at D(G(z)) = {d} autograd finds a slope of {slope.item():.3f}, and yours is"
            f" {float(found['slope']):.3f}: that is the"
            " non-saturating loss's. Differentiate log(1 - sigmoid(u)) with respect to u.",
        )
        expect(
            _close(float(found["slope"]), slope.item()),
            f"at D(G(z)) = {d} the slope is {slope.item():.4f}: let autograd say.",
        )
        expect(
            found["starves at"] == 0,
            "look where your slope vanishes: it is where D is sure that a picture is *generated*, not where it"
            " is fooled.",
        )
        expect(
            found["who"] == "generator",
            "whose weights does this gradient reach? D has its own loss, and learns most where it is wrong.",
        )


@exercise("1.5")
def wasserstein_1(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(x, y)`: exact W1 of two samples of the same size, by shift, order and likely slips."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(101, generator=generator, dtype=torch.float64)
    shifted = x[torch.randperm(101, generator=generator)] + 3
    found = _one_number(answer(x, shifted), "a distance")
    expect(
        _close(found, 3.0),
        f"the same points in another order, moved by 3, are 3 away, and you find {found:.3f}: the k-th smallest"
        f" goes to the"
        " k-th smallest, so sort both.",
    )
    stretched = 2 * x
    truth = (stretched.sort().values - x.sort().values).abs().mean().item()
    found = float(answer(x, stretched))
    expect(
        not _close(found, (stretched.mean() - x.mean()).abs().item()),
        "you compare the means only: two samples with the same mean and different width are not the same.",
    )
    expect(
        not _close(found, (stretched.sort().values - x.sort().values).square().mean().item())
        and not _close(found, (stretched.sort().values - x.sort().values).square().mean().sqrt().item()),
        "W1 is the mean of the *absolute* moves; with squares it is W2.",
    )
    expect(
        _close(found, truth),
        f"for a sample and the same sample stretched by 2 it is {truth:.4f}, yours {found:.4f}.",
    )
    expect(_close(float(answer(x, x)), 0.0), "a sample is at distance 0 from itself.")


@exercise("1.6")
def r1_eigenvalues(answer: Callable[[float, float], tuple]) -> None:
    """`answer(gamma, slope)`: eigenvalues of the R1-regularised Dirac-GAN's field, against those of its matrix."""
    for gamma, slope in ((0.0, 0.5), (0.3, 0.5), (2.0, 0.5), (1.0, 1.0), (3.0, 0.25)):
        found = torch.as_tensor([complex(v) for v in answer(gamma, slope)], dtype=torch.complex128)
        matrix = torch.tensor([[0.0, slope], [-slope, -gamma]], dtype=torch.complex128)
        right = torch.linalg.eigvals(matrix)
        root = torch.sqrt(torch.tensor(gamma**2 / 4 - slope, dtype=torch.complex128))
        printed = torch.stack([-gamma / 2 + root, -gamma / 2 - root])
        expect(found.shape == (2,), "return both eigenvalues.")
        expect(
            slope == 1.0 or not _same_pair(found, printed),
            f"for gamma = {gamma} and f'(0) = {slope} this is the printed formula. The product of the eigenvalues"
            f" must be the"
            f" determinant, f'(0)^2 = {slope**2:g}, and here it is {(found[0] * found[1]).real:g}.",
        )
        expect(
            _same_pair(found, right),
            f"for gamma = {gamma} and f'(0) = {slope} the matrix has the eigenvalues {_words(right)}, and you"
            f" give {_words(found)}."
            " Their sum is the trace, -gamma, and their product the determinant.",
        )


def _same_pair(a: Tensor, b: Tensor) -> bool:
    """Whether two pairs of complex numbers are the same in some order."""
    return any((a - pair).abs().max() < 1e-5 for pair in (b, b.flip(0)))


def _words(pair: Tensor) -> str:
    return " and ".join(f"{v.real:.3f}{v.imag:+.3f}i" for v in pair.tolist())


@exercise("1.7")
def r1_penalty(answer: Callable[[nn.Module, Tensor, float], Tensor]) -> None:
    """`answer(discriminator, x_real, gamma)`: gamma/2 E|grad D|^2, by critics whose gradient is known."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator)
    w = torch.tensor([2.0, -1.0, 2.0, 4.0])  # of length 5

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(w.clone())

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    critic = Linear()
    found = _one_number(answer(critic, x, 2.0), "a penalty")
    of_the_mean = "the gradient of the *mean* logit is N times too small for each sample: differentiate the sum."
    case = "for D(x) = w.x with |w| = 5 and gamma = 2 the penalty is 25, and yours is"
    for wrong, mistake in (
        (25 / 6, of_the_mean),
        (25 / 36, of_the_mean),
        (5.0, "the norm is not squared."),
        (50.0, "the factor is gamma / 2."),
        (16.0, "R1 pulls the gradient to 0, not its norm to 1; that is the penalty of WGAN-GP."),
        (150.0, "take the mean over the samples, not the sum."),
        (25 / 4, "sum the squares over all coordinates of a sample; the mean is over samples only."),
    ):
        expect(not _close(found, wrong), f"{case} {found:.3f}: {mistake}")
    expect(_close(found, 25.0), f"{case} {found:.4f}.")
    bowl = answer(lambda x: x.square().flatten(1).sum(1) / 2, x, 1.0)
    truth = x.square().sum(1).mean().item() / 2
    expect(
        _close(bowl, truth),
        f"for D(x) = |x|^2 / 2 the gradient at x is x itself, so that the penalty is E|x|^2 / 2 = {truth:.4f}; yours is"
        f" {torch.as_tensor(bowl).item():.4f}. The square of the mean gradient is not the mean of the squares.",
    )
    pictures = torch.ones(2, 1, 2, 2)
    expect(_close(answer(critic, pictures, 2.0), 25.0), "for pictures (N, C, H, W) sum over all axes but the first.")
    penalty = answer(critic, x, 2.0)
    expect(
        penalty.requires_grad,
        "the penalty has no gradient for D's weights, so that training would ignore it: pass create_graph=True.",
    )
    (slope,) = torch.autograd.grad(penalty, critic.weight)
    expect(
        _close(slope, 2 * w),
        f"for D(x) = w.x the penalty's gradient is gamma w = {(2 * w).tolist()}, yours {slope.tolist()}.",
    )
    expect(critic.weight.grad is None, "the penalty must not leave anything in .grad: use torch.autograd.grad.")
