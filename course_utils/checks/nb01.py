"""Checks for notebook 01, by value at unkind points and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from . import close, exercise, expect, number, reject, tensor
from . import use as use

LOG_2 = math.log(2)


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _number(found: object, what: str) -> float:
    return number(found.detach() if isinstance(found, Tensor) else found, what)


@exercise("1.1")
def value(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(real_logits, fake_logits)`: V(D, G) on logits, by its value and by likely slips."""
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.5, 2.0])
    found = _number(answer(real, fake), "V")
    terms = logsigmoid(real), logsigmoid(-fake)
    right = (terms[0].mean() + terms[1].mean()).item()
    slips = {
        "the second term is the log of 1 - D(G(z)), and 1 - sigmoid(u) = sigmoid(-u); yours is log D(G(z)).": terms[
            0
        ].mean()
        + logsigmoid(fake).mean(),
        "real and generated logits have changed places.": (logsigmoid(fake).mean() + logsigmoid(-real).mean()),
        "the sign is wrong: V is what D *maximises*, logarithms of probabilities, never positive.": (-right),
        "take the mean of each term (an expectation), not the sum: batches may differ in size.": (
            terms[0].sum() + terms[1].sum()
        ),
        "take the mean of each batch by itself, then add them: yours is the mean over both together.": torch.cat(
            terms
        ).mean(),
        "V is the sum of its two terms, not their mean: yours is half of it.": right / 2,
        "the logarithm is taken first and the mean after it: yours is the value of the mean logit.": (
            logsigmoid(real.mean()) + logsigmoid(-fake.mean())
        ),
        "the logarithm is the natural one: yours has base 2.": right / LOG_2,
    }
    reject(found, slips)
    expect(
        close(found, right),
        f"for the logits {real.tolist()} and {fake.tolist()} V is {right:.4f}, yours {found:.4f}.",
    )
    for kind in (torch.float32, torch.float64):
        real = torch.tensor([-4.0, 0.3, 2.0, 0.0, 7.0], dtype=kind)
        found = _number(answer(real, -2 * real[:3]), "V")
        right = (logsigmoid(real).mean() + logsigmoid(2 * real[:3]).mean()).item()
        expect(
            close(found, right),
            f"for the logits {real.tolist()} and {(-2 * real[:3]).tolist()} V is {right:.4f}, yours {found:.4f}.",
        )
    undecided = _number(answer(torch.zeros(4), torch.zeros(4)), "V")
    expect(
        close(undecided, -2 * LOG_2),
        f"where D says 1/2 everywhere V is -log 4 = -1.3863, yours {undecided:.4f}.",
    )
    sure = _number(answer(torch.tensor([-200.0]), torch.tensor([200.0])), "V")
    expect(
        close(sure, -400.0),
        f"for logits of -200 (real) and 200 (generated) V is -400, yours {sure:.4g}: a probability"
        " is rounded to 0 or 1 there and its logarithm overflows, so work on the logits with"
        " F.logsigmoid.",
    )


@exercise("1.2")
def optimal_discriminator(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(log_p, log_q)`: p / (p + q) from log densities, also where both underflow."""
    log_p = torch.tensor([-1.0, -3.0, -0.5, 0.7, -2.0], dtype=torch.float64)
    log_q = torch.tensor([-2.0, 1.0, -0.5, 0.1, -2.4], dtype=torch.float64)
    right, what = log_p.exp() / (log_p.exp() + log_q.exp()), "D* at the points"
    for kind in (torch.float64, torch.float32):
        found = tensor(answer(log_p.to(kind), log_q.to(kind)), what, log_p.shape)
        slips = {
            "this is q / (p + q): D is to say how likely a point is *real*, and p is the data.": (1 - right),
            "this is the ratio p / q, which has no upper limit; D lies between 0 and 1.": ((log_p - log_q).exp()),
            "these are logarithms of densities: take exp, or better, think of the logit.": (log_p / (log_p + log_q)),
            "this is the logit of D*: the sigmoid is missing.": log_p - log_q,
            "this is the logarithm of D*.": right.log(),
        }
        reject(found, slips)
        i = int((found - right).abs().nan_to_num(math.inf).argmax())
        expect(
            close(found, right),
            f"at log p = {log_p[i]:g}, log q = {log_q[i]:g} the answer is {right[i]:.4f}, yours"
            f" {found[i]:.4f}: compare with p / (p + q) at a point where you know p and q.",
        )
    log_p = torch.tensor([-2000.0, -2000.0, -10.0, -900.0])
    log_q = torch.tensor([-2001.0, -1999.5, -900.0, -10.0])
    right = torch.sigmoid(log_p - log_q).double()
    for kind in (torch.float64, torch.float32):
        found = tensor(answer(log_p.to(kind), log_q.to(kind)), what, log_p.shape)
        # float32 holds logarithms of this size to about 1e-4
        for p, q, theirs, ours in zip(log_p, log_q, found.tolist(), right.tolist()):
            why = (
                ": exp underflows to 0 / 0 there. Divide numerator and denominator by p before you compute."
                if p < -800 and q < -800
                else ": exp of the difference overflows; torch.sigmoid of the logit does not."
            )
            expect(
                close(theirs, ours, 1e-3),
                f"at log p = {p:g}, log q = {q:g} the answer is {ours:.4f}, yours {theirs:.4f}"
                + (why if not math.isfinite(theirs) else "."),
            )


def _kl(a: Tensor, b: Tensor) -> float:
    return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum().item()


def _jsd(p: Tensor, q: Tensor) -> float:
    p, q = p.double() / p.sum(), q.double() / q.sum()
    return (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2


@exercise("1.3")
def jensen_shannon(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(p, q)`: the divergence of two histograms (counts), by empty bins and likely slips."""
    p = torch.tensor([0.05, 0.35, 0.6], dtype=torch.float64)
    q = torch.tensor([0.55, 0.3, 0.15], dtype=torch.float64)
    middle, right = (p + q) / 2, _jsd(p, q)
    found = _number(answer(p, q), "a divergence")
    only_one = "take the mean of *both* KL divergences from the middle: yours is that of one."
    slips = {
        "this is the symmetrised KL divergence, which has no upper bound: compare p and q with (p + q) / 2.": (
            _kl(p, q) + _kl(q, p)
        )
        / 2,
        "this is the sum KL(p || q) + KL(q || p), which has no upper bound: compare p and q with (p + q) / 2.": _kl(
            p, q
        )
        + _kl(q, p),
        "take the *mean* of the two KL divergences: yours is twice too large.": 2 * right,
        "use natural logarithms, so that the upper bound is log 2; with base 2 it is 1.": (right / LOG_2),
        "this is the square root of the divergence, the Jensen-Shannon *distance* (what scipy returns).": right**0.5,
        "this is KL(p || q), which is not symmetric.": _kl(p, q),
        "this is KL(q || p), which is not symmetric.": _kl(q, p),
        only_one: _kl(p, middle),
        only_one + " ": _kl(q, middle),
        "KL(middle || p) has p in the wrong place: it is p that stands before the bars.": (
            (_kl(middle, p) + _kl(middle, q)) / 2
        ),
        "the sign is wrong: a divergence is never negative.": -right,
    }
    reject(found, slips)
    expect(
        close(found, right),
        f"for {p.tolist()} and {q.tolist()} the divergence is {right:.6f}, yours {found:.6f}.",
    )
    empty = " (torch.xlogy knows this)."
    apart = _number(answer(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5])), "a divergence")
    expect(
        close(apart, LOG_2),
        f"for histograms without a common bin it is log 2 = {LOG_2:.4f}, yours {apart:.4g}: an empty"
        " bin counts 0 log 0 = 0" + empty,
    )
    for p, q in (
        ([0.5, 0.0, 0.5, 0.0, 0.0], [0.25, 0.0, 0.25, 0.5, 0.0]),
        ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
    ):
        p, q = torch.tensor(p), torch.tensor(q)
        found, right = _number(answer(p, q), "a divergence"), _jsd(p, q)
        expect(
            close(found, right),
            f"for {p.tolist()} and {q.tolist()} it is {right:.4f}, yours {found:.4g}: a bin that is"
            " empty in *both* histograms counts 0 log 0 = 0, too" + empty,
        )
    for p, q in (
        ([10, 40, 0, 50], [3000, 3000, 0, 4000]),
        ([7, 1, 0, 0], [0, 20, 1, 0]),
        ([0, 3, 0, 0], [0, 90, 0, 0]),
    ):
        for kind in (torch.float64, torch.float32, torch.int64):
            one, two = torch.tensor(p, dtype=kind), torch.tensor(q, dtype=kind)
            found, right = _number(answer(one, two), "a divergence"), _jsd(one, two)
            expect(
                close(found, right),
                f"for the counts {p} and {q} the divergence is {right:.4f}, and yours is"
                f" {found:.4g}. Counts must be divided by their total first, each by its own: a"
                " published divergence plot left that out.",
            )


@exercise("1.4")
def backwards_sentence(answer: Callable[[float], dict[str, object]]) -> None:
    """`answer(d)`: loss, slope in the logit, where it starves and who, at D(G(z)) = d."""
    keys = ("loss", "slope", "starves at", "who")
    for d in (0.02, 0.3, 0.5, 0.9, 0.999):
        found = answer(d)
        expect(
            isinstance(found, Mapping) and all(key in found for key in keys),
            f"return a dictionary with the keys {', '.join(keys)}.",
        )
        loss, right = _number(found["loss"], "the loss"), math.log(1 - d)  # log(1 - D(G(z)))
        if d != 0.5:  # where d = 1 - d the two losses agree
            where = f"at D(G(z)) = {d} your loss is"
            reject(
                loss,
                {
                    f"{where} log D. The generator minimises log(1 - D(G(z))), which is near 0"
                    " where D(G(z)) is near 0 (the generator fails) and falls without limit where"
                    " it is near 1 (the generator does a perfect job).": math.log(d),
                    f"{where} -log D, the non-saturating one; asked for is log(1 - D(G(z))).": (-math.log(d)),
                    f"{where} -log(1 - D), which is D's: the generator *minimises* log(1 - D).": (-right),
                },
            )
        expect(
            close(loss, right),
            f"at D(G(z)) = {d} log(1 - D(G(z))) is {right:.4f}, and your loss {loss:.4f}.",
        )
        slope = _number(found["slope"], "the slope")
        if d != 0.5:
            where = f"at D(G(z)) = {d} autograd finds a slope of {-d:.3f}, and yours is {slope:.3f}:"
            reject(
                slope,
                {
                    f"{where} that is the non-saturating loss's. Differentiate log(1 - sigmoid(u))"
                    " with respect to u.": -(1 - d),
                    f"{where} the sign is wrong, since this loss *falls* as the logit grows.": d,
                    f"{where} that is with respect to D, and the chain rule makes it one with respect to the logit.": -1
                    / (1 - d),
                    f"{where} that is the slope of log D.": 1 - d,
                    f"{where} that is the slope of D itself, not of the logarithm.": d * (1 - d),
                },
            )
        expect(
            close(slope, -d),
            f"at D(G(z)) = {d} the slope is {-d:.4f}, and yours {slope:.4f}: let autograd say.",
        )
        starves = _number(found["starves at"], "where it starves")
        expect(
            starves == 0,
            f"your gradient starves at D(G(z)) = {starves:g}; look where your slope vanishes: it is"
            " where D is sure that a picture is *generated*, not where it is fooled.",
        )
        who = str(found["who"]).strip().lower().removeprefix("the ")
        expect(
            who != "discriminator",
            "whose weights does this gradient reach? D has its own loss, and learns most where it is wrong.",
        )
        expect(
            who in ("generator", "g"),
            f'the player is "generator" or "discriminator", and yours is {found["who"]!r}.',
        )


@exercise("1.5")
def wasserstein_1(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(x, y)`: exact W1 of two samples of the same size, by shift, order and likely slips."""
    g = _draw()
    for n, kind in ((101, torch.float64), (8, torch.float32)):
        x = torch.randn(n, generator=g, dtype=torch.float64).to(kind)
        y = 2 * torch.randn(n, generator=g, dtype=torch.float64).to(kind) + 0.5
        moves = y.sort().values - x.sort().values
        right = moves.abs().mean().item()
        found = _number(answer(x.clone(), y.clone()), "a distance")
        means = "you compare the means only: two samples with the same mean and different width are not the same."
        squares = "W1 is the mean of the *absolute* moves; with squares it is W2."
        sort = (
            "points are matched in the order in which they came: the k-th smallest goes to the k-th"
            " smallest, so sort both."
        )
        slips = {
            means: (x.mean() - y.mean()).abs(),
            "the moves to the left cancel those to the right: take the absolute value of each"
            " before the mean.": moves.mean(),
            "the moves to the right cancel those to the left: take the absolute value of each"
            " before the mean.": -moves.mean(),
            squares: moves.square().mean().sqrt(),
            squares + " ": moves.square().mean(),
            sort: (x - y).abs().mean(),
            "sort *both* samples: yours leaves the second as it came.": ((x.sort().values - y).abs().mean()),
            "sort *both* samples: yours leaves the first as it came.": ((x - y.sort().values).abs().mean()),
            "the largest goes to the smallest in yours: sort both in the same order.": (
                (x.sort().values - y.sort(descending=True).values).abs().mean()
            ),
            "take the mean of the moves, not the sum: each point has the mass 1/N.": (moves.abs().sum()),
            "take the mean of the moves, not the largest.": moves.abs().max(),
            "take the mean of the moves, not the median.": moves.abs().median(),
        }
        reject(found, slips)
        expect(
            close(found, right),
            f"for two samples of {n} points the distance is {right:.4f}, yours {found:.4f}.",
        )
        shifted = x[torch.randperm(n, generator=g)] + 3
        for one, two in ((x, shifted), (shifted, x)):
            found = _number(answer(one.clone(), two.clone()), "a distance")
            expect(
                close(found, 3.0),
                f"the same points in another order, moved by 3, are 3 away, and you find {found:.3f}.",
            )
        found = _number(answer(x.clone(), x.clone()), "a distance")
        expect(close(found, 0.0), f"a sample is at distance 0 from itself, and you find {found:.3f}.")


def _complex_pair(found: object) -> Tensor:
    """Two complex numbers from a tuple, a list, a set, an array or a tensor."""
    wanted = "return both eigenvalues, two complex numbers"
    expect(not isinstance(found, (str, Mapping)), f"{wanted}.")
    if isinstance(found, Tensor):
        found = found.detach()
    try:
        values = list(found)
    except TypeError:
        values = []
    expect(len(values) == 2, f"{wanted}.")
    try:
        values = [complex(v.item() if hasattr(v, "item") else v) for v in values]
    except (TypeError, ValueError, RuntimeError):
        expect(False, f"{wanted}: one of yours is no single number.")
    return torch.tensor(values, dtype=torch.complex128)


@exercise("1.6")
def r1_eigenvalues(answer: Callable[[float, float], tuple]) -> None:
    """`answer(gamma, slope)`: eigenvalues of the R1-regularised Dirac-GAN's field."""
    pairs = ((0.3, 0.5), (2.0, 0.5), (3.0, 0.25), (0.0, 0.5), (1.0, 1.0), (0.5, 2.0), (1.0, 0.5))
    for gamma, slope in pairs:
        found = _complex_pair(answer(gamma, slope))
        case = f"for gamma = {gamma} and f'(0) = {slope}"

        def both(half: float, under: float) -> Tensor:
            root = torch.sqrt(torch.tensor(under, dtype=torch.complex128))
            return torch.stack([half + root, half - root])

        right = both(-gamma / 2, gamma**2 / 4 - slope**2)
        # near a double eigenvalue a solver in float32 is right to about 1e-3 only
        if _same_pair(found, right, 2e-3 if gamma == 2 * slope else 1e-5):
            continue
        slips = {
            f"{case} this is the printed formula. The product of the eigenvalues must be the"
            f" determinant, f'(0)^2 = {slope**2:g}, and here it is"
            f" {(found[0] * found[1]).real:g}.": both(-gamma / 2, gamma**2 / 4 - slope),
            f"{case} the signs are turned: the sum of the eigenvalues is the trace, -gamma, and"
            " yours is +gamma.": -right,
            f"{case} the root is twice too large: halve it, too.": (both(-gamma / 2, gamma**2 - 4 * slope**2)),
            f"{case} these are the real parts only: below zero the root is imaginary.": (
                right.real.to(torch.complex128)
            ),
            f"{case} you return one eigenvalue twice.": right[[0, 0]],
            f"{case} you return one eigenvalue twice. ": right[[1, 1]],
        }
        reject(found, slips, _same_pair)
        expect(
            False,
            f"{case} the matrix has the eigenvalues {_words(right)}, and you give {_words(found)}."
            " Their sum is the trace, -gamma, and their product the determinant.",
        )


def _same_pair(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two pairs of complex numbers are the same in some order."""
    return any(bool((a - pair).abs().max() < tolerance) for pair in (b, b.flip(0)))


def _words(pair: Tensor) -> str:
    return " and ".join(f"{v.real:.3f}{v.imag:+.3f}i" for v in pair.tolist())


class _Bowl(nn.Module):
    """D(x) = scale |x|^2 / 2, whose gradient is scale times x."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1).square().sum(1) / 2


class _Plane(nn.Module):
    """D(x) = w.x, whose gradient is w everywhere."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(w.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


@exercise("1.7")
def r1_penalty(answer: Callable[[nn.Module, Tensor, float], Tensor]) -> None:
    """`answer(discriminator, x_real, gamma)`: gamma/2 E|grad D|^2, where the gradient is known."""
    g = _draw()
    x, w = torch.randn(7, 4, generator=g), torch.tensor([2.0, -1.0, 2.0, 4.0])  # of length 5
    critic = _Plane(w)
    found = _number(answer(critic, x.clone(), 3.0), "a penalty")
    of_the_mean = "the gradient of the *mean* logit is N times too small for each sample: differentiate the sum."
    slips = (
        (37.5 / 7, of_the_mean),
        (37.5 / 49, of_the_mean),
        (7.5, "the norm is not squared."),
        (75.0, "the factor is gamma / 2."),
        (25.0, "the factor gamma / 2 is missing."),
        (12.5, "the factor is gamma / 2, not 1 / 2."),
        (24.0, "R1 pulls the gradient to 0, not its norm to 1; that is the penalty of WGAN-GP."),
        (262.5, "take the mean over the samples, not the sum."),
        (37.5 / 4, "sum the squares over all coordinates of a sample; the mean is over samples only."),
        (121.5, "the norm is Euclidean: sum squares, not absolute values."),
    )
    case = "for D(x) = w.x with |w| = 5 and gamma = 3 the penalty is 37.5, and yours is"
    reject(found, {f"{case} {found:.3f}: {mistake} "[:-1]: wrong for wrong, mistake in slips[1:]})
    reject(found, {f"{case} {found:.3f}: {of_the_mean}": 37.5 / 7})
    expect(close(found, 37.5), f"{case} {found:.4f}.")
    _r1_of_bowls(answer, g)
    penalty = answer(critic, x.clone(), 3.0)
    lost = "the penalty has no gradient for D's weights, so that training would ignore it: pass create_graph=True."
    expect(isinstance(penalty, Tensor) and penalty.requires_grad, lost)
    (slope,) = torch.autograd.grad(penalty, critic.weight, allow_unused=True)
    expect(slope is not None, lost)
    expect(
        close(slope, 3 * w),
        f"for D(x) = w.x the penalty's gradient is gamma w = {(3 * w).tolist()}, yours {slope.tolist()}.",
    )
    expect(
        critic.weight.grad is None,
        "the penalty must not leave anything in .grad: use torch.autograd.grad.",
    )


def _r1_of_bowls(answer: Callable, g: torch.Generator) -> None:
    """D(x) = 1.5 |x|^2 / 2 has another gradient at each sample."""
    for shape, kind in (((7, 4), torch.float32), ((3, 2, 3, 5), torch.float64), ((1, 6), torch.float32)):
        x = torch.randn(shape, generator=g, dtype=torch.float64).to(kind) + 0.3
        critic = _Bowl(1.5).to(kind)
        found = answer(critic, x.clone(), 0.8)
        value, gradient = _number(found, "a penalty"), 1.5 * x.double()
        norms = gradient.flatten(1).norm(dim=1)
        right = 0.4 * norms.square().mean().item()
        case = f"for samples of the shape {shape} and D(x) = 0.75 |x|^2"
        if not close(value, right):
            slips = {
                "the square of the mean gradient is not the mean of the squares.": (
                    0.4 * gradient.mean(0).square().sum()
                ),
                "the square of the mean norm is not the mean of the squares.": (0.4 * norms.mean().square()),
                "sum over all axes but the first (colours, rows and columns).": (0.4 * gradient.square().sum(1).mean()),
                "take the mean over the samples, not the first of them.": 0.4 * norms[0].square(),
                "take the mean over the samples, not the largest.": 0.4 * norms.square().max(),
            }
            wrong = f"{case} the penalty is {right:.4f}, and yours is {value:.4f}"
            reject(value, {f"{wrong}: {mistake}": slip for mistake, slip in slips.items()})
            expect(False, f"{wrong}.")
        if isinstance(found, Tensor) and found.requires_grad:
            (slope,) = torch.autograd.grad(found, critic.scale, allow_unused=True)
            expect(
                slope is not None and close(slope, right / 0.75),
                f"{case} the penalty's gradient in D's weight is {right / 0.75:.4f}, and yours is"
                f" {0 if slope is None else slope.item():.4f}: pass create_graph=True, and detach"
                " nothing.",
            )
