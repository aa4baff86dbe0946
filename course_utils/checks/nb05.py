"""Checks for notebook 05, by independent references and by published mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import WrongAnswer, exercise, expect, reject, tensor
from .nb04 import Level


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
    """`answer(t, dim)`: sines, then cosines, of whole timesteps at dim / 2 frequencies from 1 to 1/10000."""
    t, dim = torch.tensor([0, 1, 250, 999]), 16
    found = answer(t, dim)
    expect(isinstance(found, Tensor) and found.shape == (4, dim), "return a tensor of shape (N, dim).")
    half = dim // 2
    omega = torch.tensor([10_000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)

    def right(times: Tensor) -> Tensor:
        angle = times.double()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    found, wanted = found.double(), right(t)
    if torch.allclose(found, right(t / 1000), atol=1e-3):
        raise WrongAnswer(
            "this still divides t by 1000, so even the fastest clock moves by less than one radian over all timesteps:"
            " use whole numbers."
        )
    interleaved = torch.stack([wanted[:, :half], wanted[:, half:]], dim=2).flatten(1)
    expect(not torch.allclose(found, interleaved, atol=1e-3), "put all sines first and then all cosines, not in turn.")
    swapped = torch.cat([wanted[:, half:], wanted[:, :half]], dim=1)
    expect(not torch.allclose(found, swapped, atol=1e-3), "sines come first, then cosines.")
    expect(torch.allclose(found, wanted, atol=1e-3), "the frequencies are 10000 ** (-i / (dim / 2)), i from 0.")


@exercise("5.2, timesteps")
def timesteps(answer: Callable[[int, int], Tensor]) -> None:
    """`answer(n, T)`: each of 0 to T - 1 equally often."""
    n, T = 60_000, 40
    found, again = (torch.as_tensor(answer(n, T)) for _ in range(2))
    expect(found.shape == (n,), "return a tensor of n timesteps.")
    expect(not found.is_floating_point(), "timesteps are whole numbers (torch.randint).")
    expect(not torch.equal(found, again), "the timesteps are the same each time: draw them at random.")
    expect(found.min() >= 0, f"timestep {int(found.min())} does not exist: they begin at 0.")
    expect(found.max() < T, f"timestep {int(found.max())} does not exist: the last of {T} is {T - 1}.")
    expect(bool((found == 0).any()), "t = 0 is never drawn, so the network never learns the last step of sampling.")
    expect(
        bool((found == T - 1).any()),
        "t = T - 1 is never drawn, yet sampling starts there; torch.randint leaves out its upper bound by itself.",
    )
    share = found.bincount(minlength=T) * T / n
    expect(bool(((share - 1).abs() < 0.2).all()), "timesteps are not equally often drawn.")


class _Spy(nn.Module):
    """A linear stand-in for the network that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.seen = x.detach(), t, y
        return self.gain * x


@exercise("5.2, loss")
def diffusion_loss(answer: Callable[..., Tensor]) -> None:
    """`answer(net, x0, y, t, noise, schedule, kind)`: the mean squared error at the timesteps that were given."""
    schedule = Schedule(50)
    x0, noise = torch.rand(6, 1, 4, 4) * 2 - 1, torch.randn(6, 1, 4, 4)
    t, y = torch.tensor([0, 3, 10, 25, 40, 49]), torch.tensor([3, 0, 7, 9, 1, 4])
    alpha_bar = torch.cumprod(1 - schedule.betas, 0)[t].float().reshape(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t = alpha * x0 + sigma * noise
    for kind, target in (("epsilon", noise), ("x0", x0), ("v", alpha * noise - sigma * x0)):
        net = _Spy()
        found = answer(net, x0, y, t, noise, schedule, kind)
        expect(isinstance(found, Tensor) and found.ndim == 0, "return one number, as a tensor: the mean.")
        expect(hasattr(net, "seen"), "ask the network: net(x_t, t, y).")
        x_seen, t_seen, y_seen = net.seen
        expect(
            t_seen.shape == t.shape and torch.equal(t_seen, t),
            "the network was given other timesteps than the ones passed in: do not draw t again inside the loss.",
        )
        expect(
            isinstance(y_seen, Tensor) and torch.equal(y_seen, y),
            "the network was not given the classes y: hand them on as they are.",
        )
        expect(
            torch.allclose(x_seen, x_t, atol=1e-4),
            "the network's input is not alpha x0 + sigma noise at the given t (add_noise, schedule.level).",
        )
        expect(net.gain.grad is None, "leave backward to the caller: the loss only computes.")
        wanted = (0.3 * x_t - target).square().mean().item()
        expect(
            abs(found.item() - wanted) < 1e-4,
            f"for kind {kind!r} the loss is {wanted:.4f} and yours {found.item():.4f}: the target is"
            " output_from(kind, x0, noise, level), and the mean goes over all pixels.",
        )
        found.backward()
        expect(net.gain.grad is not None and net.gain.grad.abs() > 0, "no gradient reaches the network.")


@exercise("5.4")
def visits(answer: Callable[[int, int], list[tuple[int, int]]]) -> None:
    """`answer(T, steps)`: pairs (now, then) from T - 1 to -1, exactly `steps` of them."""
    for T, steps in ((1000, 50), (1000, 300), (1000, 1000), (10, 3)):
        found = [tuple(int(t) for t in pair) for pair in answer(T, steps)]
        call = f"for T = {T} and {steps} steps"
        expect(len(found) > 0, f"{call} the list is empty.")
        expect(
            found[0][0] == T - 1,
            f"{call} you start at timestep {found[0][0]}, where the network expects a"
            f" {'nearly clean' if found[0][0] < T // 2 else 'less noisy'} picture; pure noise belongs to {T - 1}.",
        )
        expect(len(found) == steps, f"{call} you take {len(found)} steps.")
        expect(found[-1][1] == -1, f"{call} you end at timestep {found[-1][1]} and not at -1, the clean level.")
        chained = all(a[1] == b[0] for a, b in zip(found, found[1:]))
        expect(chained, f"{call} a step does not begin where the last one ended: shifted by one?")
        expect(all(now > then for now, then in found), f"{call} a step does not go down.")
        jumps = [now - then for now, then in found]
        expect(
            max(jumps) - jumps[-1] <= 1,
            f"{call} the last step, from {found[-1][0]} to -1, is shorter than the others: spent on almost nothing.",
        )
        expect(max(jumps) - min(jumps) <= 1, f"{call} the steps are not evenly spread.")


@exercise("5.3, guidance")
def guided(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(with_class, without, w)`: without + w (with_class - without)."""
    a, b = torch.tensor([1.0, 2.0, -0.3]), torch.tensor([0.0, 5.0, 0.4])
    w = 1.75
    found = tensor(answer(a, b, w), "the prediction", a.shape)
    reject(
        found,
        {
            "you count from the prediction with the class, as the paper does: its w is ours minus 1.": (
                a + w * (a - b)
            ),
            "the sign is turned around: this pushes pictures away from their class.": b - w * (a - b),
            "the two predictions are swapped: w = 0 gives the one without the class.": a + w * (b - a),
            "this is a mean of both: beyond w = 1 the difference is exaggerated, so do not clamp w.": a,
        },
    )
    for w in (0.0, 1.0, 1.75, 3.0):
        found = tensor(answer(a, b, w), "the prediction", a.shape)
        said = f"for w = {w:g} it is without + w (with_class - without)."
        expect(torch.allclose(found, (b + w * (a - b)).double(), atol=1e-5), said)


@exercise("5.3, labels")
def drop_labels(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(y, p)`: each label becomes 10 with probability p, by itself."""
    y = torch.arange(10).repeat(20)
    before = y.clone()
    batches = [answer(y, 0.3) for _ in range(60)]
    expect(torch.equal(y, before), "the labels passed in were changed: return new ones.")
    expect(all(b.shape == y.shape for b in batches), "return as many labels as there were.")
    dropped = torch.stack([b == 10 for b in batches]).float()
    kept_right = all(torch.equal(b[b != 10], y[b != 10]) for b in batches)
    expect(kept_right, "labels that are not dropped stay as they are.")
    shares = dropped.mean(dim=1)
    whole = ((shares == 0) | (shares == 1)).all()
    expect(~whole, "one coin for the whole batch: some batches lose all their classes, others none.")
    expect(abs(dropped.mean().item() - 0.3) < 0.05, f"with p = 0.3 a share of {dropped.mean():.2f} was dropped.")
    places = dropped.mean(dim=0)  # each label by itself: 60 coins, so never all or none
    expect(
        (places > 0) & (places < 1),
        "some places of the batch always lose their class and others never: toss a coin for each label.",
    )
    none, every = answer(y, 0.0), answer(y, 1.0)
    expect(torch.equal(none, y), "with p = 0 no label is dropped.")
    expect((every == 10).all(), "with p = 1 every label is dropped.")


@exercise("5.5")
def jump_back(answer: Callable[[Tensor, Level, Level, Tensor], Tensor]) -> None:
    """`answer(x, then, now, noise)`: from a level to a noisier one, as the forward chain does it."""
    n = 40_000
    # the last pair are neighbours: there, all of the noise or only what is missing differ most
    for then, now in (((0.8, 0.6), (0.28, 0.96)), ((0.96, 0.28), (0.6, 0.8)), ((0.6, 0.8), (0.5, 0.75**0.5))):
        then, now = Level(*then), Level(*now)
        x0 = torch.full((n,), 0.7)
        x = then.alpha * x0 + then.sigma * torch.randn(n)
        found = answer(x, then, now, torch.randn(n))
        expect(isinstance(found, Tensor) and found.shape == x.shape, "return a tensor of the shape of x.")
        mean, std = found.mean().item() / 0.7, found.std().item()
        expect(
            abs(mean - then.alpha) > 0.03,
            "the signal is as strong as before: shrink x by alpha_now / alpha_then before noise is added.",
        )
        expect(
            abs(mean - now.alpha) < 0.03,
            f"the signal should have strength {now.alpha} at the noisier level, and has {mean:.2f}:"
            " shrink x by alpha_now / alpha_then.",
        )
        expect(
            abs(std - now.sigma) < 0.03,
            f"the noise should have standard deviation {now.sigma}, and has {std:.2f}: the variance to add is"
            " sigma_now^2 minus what is left of sigma_then^2 after shrinking, and its root multiplies the noise.",
        )
