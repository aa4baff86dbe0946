"""Checks for notebook 05, by independent references and by published mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import WrongAnswer, exercise, expect, reject, tensor
from . import use as use
from .nb04 import (
    LENGTHS,
    Level,
    evenly,
    level_at,
    normal,
    repeats,
    same,
    two,
    untouched,
    whole_numbers,
)


class Schedule:
    """A stand-in for the notebook's class of this name, with uneven betas."""

    def __init__(self, T: int) -> None:
        self.T = T
        self.betas = torch.linspace(1e-3, 0.25, T, dtype=torch.float64)
        self.alphas_bar = (1 - self.betas).cumprod(0)

    def level(self, t: Tensor | int) -> Level:
        alpha_bar = self.alphas_bar[t]
        return Level(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


@exercise("5.1")
def timestep_embedding(answer: Callable[[Tensor, int], Tensor]) -> None:
    """`answer(t, dim)`: sines, then cosines, of whole timesteps at dim / 2 frequencies."""
    # neighbours, one alone, an odd number of frequencies, and one frequency
    cases = (([0, 1, 250, 499, 500, 998, 999], 16), ([3, 2, 700], 6), ([999], 10), ([5, 6], 2))
    for times, dim in (*cases, ([0, 17, 998], 64)):
        _embedding_at(answer, torch.tensor(times), dim)


def _embedding_at(answer: Callable, t: Tensor, dim: int) -> None:
    found = tensor(untouched(answer, t, dim), "the embedding", (len(t), dim))
    half = dim // 2

    def clocks(times: Tensor, exponents: list[float]) -> Tensor:
        omega = torch.tensor([10_000.0**exponent for exponent in exponents], dtype=torch.float64)
        angle = times.double()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def alike(a: Tensor, b: Tensor) -> bool:
        return same(a, b, 1e-3)

    exponents = [-i / half for i in range(half)]
    wanted = clocks(t, exponents)
    if alike(found, wanted):
        return
    slips = {
        "this still divides t by 1000, so even the fastest clock moves by less than one radian over"
        " all timesteps: use whole numbers.": clocks(t / 1000, exponents),
        "put all sines first and then all cosines, not in turn.": torch.stack(
            [wanted[:, :half], wanted[:, half:]], dim=2
        ).flatten(1),
        "sines come first, then cosines.": wanted.roll(half, 1),
        "timesteps count from 0: do not add 1.": clocks(t + 1, exponents),
        "the frequencies fall with i: there is a minus in the exponent.": clocks(t, [i / half for i in range(half)]),
        "the exponent is -i / (dim / 2), and yours is -i / dim.": clocks(t, [-i / dim for i in range(half)]),
        "i counts from 0, so that the first frequency is 1.": clocks(t, [-(i + 1) / half for i in range(half)]),
        "these are sines alone, twice: the second half are cosines.": wanted[:, :half].repeat(1, 2),
    }
    if half > 1:
        said = "the exponent is -i / (dim / 2), and yours is -i / (dim / 2 - 1)."
        slips[said] = clocks(t, [-i / (half - 1) for i in range(half)])
    reject(found, slips, alike)
    gap = (found - wanted).abs().nan_to_num(math.inf)
    row, column = divmod(int(gap.argmax()), dim)
    raise WrongAnswer(
        f"component {column} of {dim} for t = {int(t[row])} is {wanted[row, column]:.4f}, and yours"
        f" {found[row, column]:.4f}: the frequencies are 10000 ** (-i / (dim / 2)), i from 0."
    )


@exercise("5.2")
def scale_and_shift(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(h, numbers)`: h (1 + scale) + shift, one scale and one shift for each picture and channel."""
    for dtype in (torch.float32, torch.float64):
        for shape in ((3, 4, 5, 2), (1, 4, 2, 2), (4, 4, 4, 4), (2, 1, 3, 3)):
            _scaled_at(answer, normal(*shape, dtype=dtype), normal(*shape[:1], 2 * shape[1], dtype=dtype, seed=3))


def _scaled_at(answer: Callable, h: Tensor, numbers: Tensor) -> None:
    found = tensor(untouched(answer, h, numbers), "the features", h.shape)
    channels = h.shape[1]
    scale, shift = (part[:, :, None, None] for part in (numbers[:, :channels], numbers[:, channels:]))
    if same(found, h * (1 + scale) + shift):
        return
    even, odd = numbers[:, ::2, None, None], numbers[:, 1::2, None, None]
    slips = {
        "the features are multiplied by the scale itself: multiply by 1 + scale.": h * scale + shift,
        "the shift is missing.": h * (1 + scale),
        "the scale is missing: multiply by 1 + scale before the shift is added.": h + shift,
        "the first C numbers are scales and the last C are shifts, and yours are swapped.": h * (1 + shift) + scale,
        "the shift is added before the multiplication: scale first.": (h + shift) * (1 + scale),
        "the numbers are not in turn scale and shift: first come C scales, then C shifts.": h * (1 + even) + odd,
        "the shift is subtracted: add it.": h * (1 + scale) - shift,
    }
    reject(found, slips, same)
    gap = (found.double() - (h * (1 + scale) + shift).double()).abs().flatten(2).amax(dim=2)
    row, column = divmod(int(gap.argmax()), channels)
    raise WrongAnswer(
        f"channel {column} of picture {row} is not h * (1 + scale) + shift: its scale is numbers[{row}, {column}] and"
        f" its shift numbers[{row}, {column + channels}]."
    )


@exercise("5.4")
def ddpm_step(answer: Callable[..., Tensor]) -> None:
    """`answer(x_t, noise_pred, beta, sigma, z, last)`: algorithm 2 of Ho et al. 2020, one timestep."""
    # far from any schedule, where no two slips agree; then late, in the middle and early on the linear one
    places = ((0.3, 0.7), (0.02, 0.99998), (0.0101, 0.96), (1e-4, 0.01))
    for dtype in (torch.float32, torch.float64):
        x, noise_pred, z = normal(3, 2, 1, 4, 3, dtype=dtype)
        for beta, sigma in places:
            for last in (False, True):
                _ddpm_step_at(answer, (x, noise_pred, beta, sigma, z, last))


def _ddpm_step_at(answer: Callable, given: tuple) -> None:
    x, noise_pred, beta, sigma, z, last = given
    found = tensor(untouched(answer, *given), "x one timestep back", x.shape)

    def mean(root: float = (1 - beta) ** 0.5, gain: float = beta / sigma) -> Tensor:
        return (x - gain * noise_pred) / root

    fresh = torch.zeros_like(z) if last else beta**0.5 * z
    if same(found, mean() + fresh):
        return
    repeats(found, answer(*given))
    slips = {
        "the mean is not divided by the root of 1 - beta.": x - beta / sigma * noise_pred + fresh,
        "the mean is divided by 1 - beta: take its root.": mean(1 - beta) + fresh,
        "the mean is multiplied by the root of 1 - beta: divide by it.": mean((1 - beta) ** -0.5) + fresh,
        "the predicted noise is taken off whole: times beta / sigma.": mean(gain=1.0) + fresh,
        "the predicted noise is taken off times sigma: times beta / sigma.": mean(gain=sigma) + fresh,
        "the predicted noise is taken off times beta: times beta / sigma.": mean(gain=beta) + fresh,
        "the predicted noise is taken off times beta / sigma^2: sigma is the root already.": mean(gain=beta / sigma**2)
        + fresh,
        "the predicted noise is added: subtract it.": mean(gain=-beta / sigma) + fresh,
    }
    if last:
        slips["the last step adds noise, and the picture keeps it: where last is true add none."] = (
            mean() + beta**0.5 * z
        )
    else:
        slips |= {
            "no fresh noise is added, though this is not the last step.": mean(),
            "the fresh noise is multiplied by beta, its variance: take the root.": mean() + beta * z,
            "the fresh noise is multiplied by sigma: its standard deviation is the root of beta.": mean() + sigma * z,
            "all of the fresh noise is added: times the root of beta.": mean() + z,
            "the fresh noise is divided, too: add it behind the division.": mean() + fresh / (1 - beta) ** 0.5,
        }
    reject(found, slips, same)
    raise WrongAnswer(
        f"for beta = {beta} and sigma = {sigma}{', in the last step,' if last else ''} the step is"
        " (x_t - beta / sigma noise_pred) / sqrt(1 - beta)" + ("." if last else " + sqrt(beta) z.")
    )


@exercise("5.3, timesteps")
def timesteps(answer: Callable[[int, int], Tensor]) -> None:
    """`answer(n, T)`: each of 0 to T - 1 equally often, at every place."""
    n, T = 60_000, 40
    found, again = (_whole(answer(n, T), n, "timesteps") for _ in range(2))
    expect(not torch.equal(found, again), "the timesteps are the same each time: draw them at random.")
    expect(
        (found != found[0]).any(),
        "all n timesteps are one and the same: draw one for each picture.",
    )
    expect(found.min() >= 0, f"timestep {found.min()} does not exist: they begin at 0.")
    expect(found.max() < T, f"timestep {found.max()} does not exist: the last of {T} is {T - 1}.")
    expect(
        (found == 0).any(),
        "t = 0 is never drawn, so the network never learns the last step of sampling.",
    )
    if not (found == T - 1).any():
        alone = len(found.unique()) == T - 1
        raise WrongAnswer(
            "t = T - 1 is never drawn, yet sampling starts there"
            + ("; torch.randint leaves out its upper bound by itself." if alone else ".")
        )
    share = found.bincount(minlength=T) * T / n
    rounded = bool(((share[[0, -1]] - 0.5).abs() < 0.2).all())
    expect(
        not (rounded and ((share[1:-1] - 1).abs() < 0.25).all()),
        "0 and T - 1 come half as often as the others, which is what rounding does: cut off.",
    )
    worst = int((share - 1).abs().argmax())
    expect(
        ((share - 1).abs() < 0.2).all(),
        f"timesteps are not equally often drawn: {worst} comes {share[worst]:.2f} times as often as it should.",
    )
    small = torch.stack([_whole(answer(3, T), 3, "timesteps") for _ in range(1500)]).double()
    means = small.mean(0)  # of standard deviation 0.3
    worst = int((means - (T - 1) / 2).abs().argmax())
    expect(
        abs(means[worst] - (T - 1) / 2) < 2.5,
        f"in batches of 3 place {worst + 1} has the mean {means[worst]:.1f}, and {(T - 1) / 2} is"
        " the middle: each place draws from all timesteps.",
    )
    for n, T in ((1, 1000), (5, 1), (7, 2)):
        few = _whole(answer(n, T), n, "timesteps")
        expect(
            (few >= 0).all() and (few < T).all(),
            f"for n = {n} and T = {T} you return {few.tolist()}, and they lie from 0 to {T - 1}.",
        )


def _whole(found: Any, n: int, what: str) -> Tensor:
    try:
        found = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        found = tensor(found, f"the {what}")
        found = found.long() if torch.equal(found, found.round()) else found
    expect(found.shape == (n,), f"return a tensor of n {what}: {(n,)}, not {tuple(found.shape)}.")
    expect(
        not found.is_floating_point() and not found.is_complex() and found.dtype != torch.bool,
        f"{what} are whole numbers" + (" (torch.randint)." if what == "timesteps" else "."),
    )
    return found.detach().cpu().long()


class _Spy(nn.Module):
    """A linear stand-in for the network that remembers what it was given."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=dtype))
        self.calls: list[tuple[Any, Any, Any]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls.append((x, t, y))
        return self.gain * x

    def seen(self, part: int) -> Tensor | None:
        """All x, t or y that were handed over; None if some are no tensors."""
        given = [call[part] for call in self.calls]
        if not all(isinstance(value, Tensor) and value.ndim for value in given):
            return None
        return torch.cat([value.detach() for value in given])


@exercise("5.3, loss")
def diffusion_loss(answer: Callable[..., Tensor]) -> None:
    """`answer(net, x0, y, t, noise, schedule, kind)`: the mean squared error at the given t."""
    some = torch.tensor([0, 3, 10, 25, 26, 48, 49]), torch.tensor([3, 0, 7, 9, 1, 4, 10])
    one = torch.tensor([49]), torch.tensor([0])
    for dtype in (torch.float32, torch.float64):
        for t, y in (some, one):
            for kind in ("epsilon", "x0", "v"):
                _loss_at(answer, t, y, kind, dtype)


def _loss_at(answer: Callable, t: Tensor, y: Tensor, kind: str, dtype: torch.dtype) -> None:
    schedule, net = Schedule(50), _Spy(dtype)
    noise = normal(len(t), 2, 4, 3, dtype=dtype)
    x0 = normal(len(t), 2, 4, 3, dtype=dtype, seed=5).clamp(-1, 1)
    alpha_bar = (1 - schedule.betas).log().cumsum(0).exp()[t].reshape(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t = alpha * x0 + sigma * noise
    targets = {"epsilon": noise, "x0": x0, "v": alpha * noise - sigma * x0}

    try:
        returned = untouched(answer, net, x0, y, t, noise, schedule, kind)
    except IndexError as error:
        raise WrongAnswer(
            f"a timestep beyond the schedule's {schedule.T} was used ({error}): use the t that is passed in, and do"
            " not draw t again inside the loss."
        ) from None
    expect(
        isinstance(returned, Tensor),
        "return the loss as a tensor, so that its gradient can be taken: no item(), no float().",
    )
    expect(returned.numel() == 1, "return one number, as a tensor: the mean.")
    expect(net.calls, "ask the network: net(x_t, t, y).")
    x_seen, t_seen, y_seen = (net.seen(part) for part in range(3))
    expect(
        t_seen is not None and torch.equal(t_seen.double(), t.double()),
        "the network was given other timesteps than the ones passed in: do not draw t again inside the loss.",
    )
    expect(
        y_seen is not None and torch.equal(y_seen, y),
        "the network was not given the classes y: hand them on as they are.",
    )
    if x_seen is None or not same(x_seen, x_t):
        slips = {
            "the network's input is x0 without noise: it is alpha x0 + sigma noise.": x0,
            "the network's input has the noise times its variance, not alpha x0 + sigma noise: take the root.": alpha
            * x0
            + sigma**2 * noise,
            "the network's input has the signal times alpha_bar, not alpha x0 + sigma noise: take the root.": alpha**2
            * x0
            + sigma * noise,
        }
        if x_seen is not None:
            reject(x_seen, slips, same)
        raise WrongAnswer(
            "the network's input is not alpha x0 + sigma noise at the given t (add_noise, schedule.level)."
        )
    expect(net.gain.grad is None, "leave backward to the caller: the loss only computes.")
    out, found = 0.3 * x_t, returned.detach().double().reshape(())
    error = (out - targets[kind]).square()
    if not same(found, error.mean()):
        named = {"epsilon": "the noise", "x0": "x0", "v": "v"}
        slips = {
            f"for kind {kind!r} your target is {named[other]}.": (out - target).square().mean()
            for other, target in targets.items()
            if other != kind
        }
        slips |= {
            "this is the sum over all pixels: take the mean.": error.sum(),
            "this is the sum over the pixels of a picture: take the mean over all.": (error.sum() / len(t)),
            "this is the root of the mean: leave the error squared.": error.mean().sqrt(),
            "this is the mean of the absolute error: square it.": error.sqrt().mean(),
            "this is half of the mean squared error.": error.mean() / 2,
            "the sign of v is turned around: v = alpha noise - sigma x0.": ((out + targets["v"]).square().mean()),
        }
        reject(found, slips, same)
        raise WrongAnswer(
            f"for kind {kind!r} the loss is {error.mean():.4f} and yours {found:.4f}: the target is"
            " output_from(kind, x0, noise, level), and the mean goes over all pixels."
        )
    reached = returned.requires_grad
    if reached:
        returned.sum().backward()
        # of mean((gain x - target)^2) in the gain
        slope = (2 * (out - targets[kind]) * x_t).mean()
        reached = net.gain.grad is not None and same(net.gain.grad.double(), slope, 1e-3)
    expect(
        reached,
        "no gradient, or not the loss's own, reaches the network: no torch.no_grad(), no detach().",
    )


@exercise("5.6")
def visits(answer: Callable[[int, int], list[tuple[int, int]]]) -> None:
    """`answer(T, steps)`: pairs (now, then) from T - 1 to -1, exactly `steps` of them."""
    for T, steps in (*LENGTHS, (7, 5)):
        call = f"for T = {T} and {steps} steps"
        found = [_pair(pair) for pair in _listed(answer(T, steps))]
        expect(len(found) > 0, f"{call} the list is empty.")
        cleaner = "nearly clean" if found[0][0] < T // 2 else "less noisy"
        expect(
            found[0][0] == T - 1,
            f"{call} you start at timestep {found[0][0]}, where the network expects a {cleaner}"
            f" picture; pure noise belongs to {T - 1}.",
        )
        expect(len(found) == steps, f"{call} you take {len(found)} steps.")
        expect(
            found[-1][1] == -1,
            f"{call} you end at timestep {found[-1][1]} and not at -1, the clean level.",
        )
        expect(
            all(a[1] == b[0] for a, b in zip(found, found[1:])),
            f"{call} a step does not begin where the last one ended: shifted by one?",
        )
        expect(all(now > then for now, then in found), f"{call} a step does not go down.")
        jumps = [now - then for now, then in found]
        expect(
            jumps[-1] + 1 >= min(jumps[:-1], default=1),
            f"{call} the last step, from {found[-1][0]} to -1, is shorter than the others: spent on almost nothing.",
        )
        expect(max(jumps) - min(jumps) <= 1, f"{call} the steps are not evenly spread.")
        evenly([now for now, _ in found], T, call)


def _listed(found: Any) -> list:
    try:
        return list(found)
    except TypeError:
        raise WrongAnswer("return a list of pairs (now, then).") from None


def _pair(found: Any) -> tuple[int, int]:
    now, then = two(found, "now and then, in each pair")
    now, then = whole_numbers([now, then], "timesteps")
    return now, then


@exercise("5.5, guidance")
def guided(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(with_class, without, w)`: without + w (with_class - without)."""
    for dtype in (torch.float32, torch.float64):
        a, b = normal(2, 3, 1, 5, 4, dtype=dtype)
        for w in (1.75, 0.0, 1.0, 0.4, 3.0, 7.5, 2, 0):
            found = tensor(untouched(answer, a, b, w), "the prediction", a.shape)
            if same(found, b + w * (a - b)):
                continue
            slips = {
                "you count from the prediction with the class, as the paper does: its w is ours minus 1.": a
                + w * (a - b),
                "the sign is turned around: this pushes pictures away from their class.": (b - w * (a - b)),
                "the two predictions are swapped: w = 0 gives the one without the class.": (a + w * (b - a)),
                "this is the difference alone: the prediction without the class is missing.": (w * (a - b)),
                "w multiplies the prediction with the class alone: it belongs to the difference.": (b + w * a),
                "the prediction with the class has no say here.": b,
            }
            if w == 1.75:  # at 0 and 1 several slips have one value
                reject(found, slips, same)
                between = tensor(answer(a, b, 0.5), "the prediction", a.shape)
                expect(
                    not (same(found, a) and same(between, (a + b) / 2)),
                    "this is a mean of both: beyond w = 1 the difference is exaggerated, so do not clamp w.",
                )
                expect(not same(found, a), "the prediction without the class has no say here.")
            raise WrongAnswer(f"for w = {w:g} it is without + w (with_class - without).")


@exercise("5.5, labels")
def drop_labels(answer: Callable[[Tensor, float, int], Tensor]) -> None:
    """`answer(y, p, null)`: each label becomes null with probability p, by itself."""
    y, p = torch.arange(10).repeat(21)[:207], 0.3
    before = y.clone()

    def drop(labels: Tensor, p: float, null: int = 10) -> Tensor:
        found = answer(labels, p, null)
        expect(
            len(labels) != len(before) or torch.equal(y, before),
            "the labels passed in were changed: return new ones.",
        )
        return _whole(found, len(labels), "labels")

    batches = torch.stack([drop(y, p) for _ in range(60)])
    dropped = batches == 10
    expect(
        (dropped | (batches == y)).all(),
        "labels that are not dropped stay as they are, and those that are become null.",
    )
    shares = dropped.double().mean(dim=1)
    whole = ((shares == 0) | (shares == 1)).all()
    expect(
        ~whole | (dropped == dropped[0]).all(),
        "one coin for the whole batch: some batches lose all their classes, others none.",
    )
    share = dropped.double().mean().item()
    kept = ": your p is the share that keeps its class" if abs(share - (1 - p)) < 0.05 else ""
    expect(abs(share - p) < 0.05, f"with p = {p} a share of {share:.2f} was dropped{kept}.")
    places = dropped.double().mean(dim=0)  # each label by itself: 60 coins, so never all or none
    expect(
        ((places > 0) & (places < 1)).all(),
        "some places of the batch always lose their class and others never: toss a coin for each label.",
    )
    spread = shares.std().item()  # 0.032 for one coin a label
    expect(
        spread > 0.012,
        "every batch loses exactly as many labels: toss a coin for each label, by itself.",
    )
    expect(spread < 0.07, "labels of a batch are lost together: toss a coin for each label.")
    alone = torch.cat([drop(torch.tensor([7]), p) for _ in range(300)])
    share = (alone == 10).double().mean().item()
    expect(abs(share - p) < 0.15, f"a label alone in its batch was dropped in {share:.2f} of all.")
    one_class = drop(torch.full((4001,), 3), 0.1)
    share = (one_class == 10).double().mean().item()
    expect(abs(share - 0.1) < 0.03, f"with p = 0.1 a share of {share:.2f} was dropped.")
    expect(torch.equal(drop(y, 0.0), y), "with p = 0 no label is dropped.")
    expect((drop(y, 1.0) == 10).all(), "with p = 1 every label is dropped.")
    few = drop(torch.arange(4).repeat(50), 0.5, null=4)
    expect(few.max() == 4, "with null = 4, as for four classes, dropped labels become 4: use the null that you get.")


@exercise("5.7")
def jump_back(answer: Callable[[Tensor, Level, Level, Tensor], Tensor]) -> None:
    """`answer(x, then, now, noise)`: from a level to a noisier one, as the forward chain does."""
    # far apart, neighbours, near clean and near pure noise
    pairs = ((0.64, 0.08), (0.92, 0.36), (0.36, 0.25), (0.51, 0.5), (0.995, 0.99), (0.02, 0.01))
    for dtype in (torch.float64, torch.float32):
        x, noise = normal(2, 5, 1, 4, 3, dtype=dtype)
        for bar_then, bar_now in pairs:
            _jump_at(answer, x, level_at(bar_then), level_at(bar_now), noise)
        clean = Level(1.0, 0.0)
        _jump_at(answer, x, clean, level_at(0.9), noise)


def _jump_at(answer: Callable, x: Tensor, then: Level, now: Level, noise: Tensor) -> None:
    shrink = now.alpha / then.alpha
    variance = 1 - shrink**2  # of a variance-preserving step
    grain = math.sqrt(variance) * noise
    found = tensor(untouched(answer, x, then, now, noise), "x at the noisier level", x.shape)

    def alike(a: Tensor, b: Tensor) -> bool:
        return same(a, b, 1e-3)

    zero = torch.zeros_like(x)
    if same(found, shrink * x + grain):
        alone = tensor(answer(zero, then, now, noise), "x at the noisier level", x.shape)
        if alike(alone, grain):
            return
    expect(
        torch.isfinite(found).all(),
        "the result is not finite, as from the root of a negative number: x comes from the level `then` and goes to"
        " the noisier level `now`, whose alpha is smaller.",
    )
    repeats(found, answer(x, then, now, noise))
    signal = tensor(answer(x, then, now, zero), "x at the noisier level", x.shape)
    added = tensor(answer(zero, then, now, noise), "x at the noisier level", x.shape)
    if not alike(signal, shrink * x):
        slips = {
            "the signal is as strong as before: shrink x by alpha_now / alpha_then before noise is added.": x,
            "x grows: the fraction is upside down, and x shrinks by alpha_now / alpha_then.": (x / shrink),
            "alpha_now alone shrinks x too far: it holds alpha_then x0, so divide by alpha_then.": (now.alpha * x),
            "x is multiplied by alpha_now / alpha_then itself, not by its square.": (shrink**2 * x),
        }
        reject(signal, slips, alike)
        raise WrongAnswer(
            f"x shrinks by alpha_now / alpha_then, {shrink:.4f} from alpha {then.alpha:.3f} to {now.alpha:.3f}."
        )
    missing = max(now.sigma**2 - then.sigma**2, 0.0)
    adds = "the standard deviation of what is added"
    slips = {
        f"{adds} is the root of a variance, and yours is the variance itself.": variance * noise,
        f"{adds} is not all of sigma_now: x brings noise of its own.": now.sigma * noise,
        f"{adds} forgets that the old noise shrinks with x: the variance is sigma_now^2 minus"
        " (alpha_now / alpha_then)^2 sigma_then^2.": math.sqrt(missing) * noise,
        f"{adds} is not sigma_now - sigma_then: it is variances that add up.": ((now.sigma - then.sigma) * noise),
        "no noise is added.": zero,
    }
    reject(added, slips, alike)
    share = (added * noise).sum() / noise.double().square().sum()
    raise WrongAnswer(
        f"{adds} should be {math.sqrt(variance):.4f}, and yours is {share:.4f}: the variance to add"
        " is sigma_now^2 minus what is left of sigma_then^2 after shrinking."
    )
