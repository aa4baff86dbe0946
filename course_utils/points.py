"""Small GANs for points in the plane, several at once: what notebook 03 compares recipes on.

A network of a few thousand weights leaves a processor idle between two calls, so `stack` of them are trained side by
side: every weight has a leading axis, and one batched product serves all. They share no weight, no sample, no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.data import GaussianMixture

LATENT_DIM, LATENT_RANGE = 2, 3.0
GROUP = 64  # samples that a statistic of the batch looks at together
Statistic = Callable[[Tensor, Tensor], Tensor]  # features (..., n, width), T (..., width, 5, 3) to (..., n, k)
Normalise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # weight (..., n_in, n_out), u (..., n_out) to both anew


def unit_size(mixture: GaussianMixture) -> GaussianMixture:
    """The mixture scaled so that a coordinate of its centres has mean square 1: what networks like as input."""
    scale = mixture.centres.square().mean().sqrt().item()
    return GaussianMixture(mixture.centres / scale, mixture.std / scale)


def point_latents(stack: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Latents (stack, n, 2), uniform in [-3, 3]."""
    return (2 * torch.rand(stack, n, LATENT_DIM, device=device) - 1) * LATENT_RANGE


def fourier_features(x: Tensor, octaves: int) -> Tensor:
    """(..., d) to (..., d (1 + 2 octaves)): each coordinate with its sines and cosines (Tancik et al. 2020).

    Frequencies double from pi / 2 on, as in their "positional encoding".
    """
    frequency = math.pi / 2 * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    angle = (x.unsqueeze(-1) * frequency).flatten(-2)
    return torch.cat([x, angle.sin(), angle.cos()], dim=-1)


def pack_samples(x: Tensor, pack: int) -> Tensor:
    """`pack` neighbours of the batch side by side: (..., N, d) to (..., N / pack, pack d) (Lin et al. 2018)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // pack, pack * x.shape[-1])


class StackedLinear(nn.Module):
    """`stack` independent linear layers at once: (stack, N, n_in) to (stack, N, n_out).

    Args:
        normalise: divides the weight by its largest singular value, from a running vector; None leaves it.
    """

    def __init__(self, stack: int, n_in: int, n_out: int, normalise: Normalise | None = None) -> None:
        super().__init__()
        bound = n_in**-0.5  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(stack, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(stack, 1, n_out).uniform_(-bound, bound))
        self.normalise = normalise
        start = nn.functional.normalize(torch.randn(stack, n_out), dim=1) if normalise else None
        self.register_buffer("u", start)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.normalise is not None:
            weight, self.u = self.normalise(weight, self.u)
        return torch.baddbmm(self.bias, x, weight)


def layers(stack: int, n_in: int, width: int, slope: float, normalise: Normalise | None = None) -> nn.Sequential:
    """Three hidden layers of `width` with leaky ReLUs of this slope: (stack, N, n_in) to (stack, N, width)."""
    parts: list[nn.Module] = []
    for n in (n_in, width, width):
        parts += [StackedLinear(stack, n, width, normalise), nn.LeakyReLU(slope)]
    return nn.Sequential(*parts)


class PointGenerator(nn.Module):
    """`stack` generators: latents (stack, N, 2) to points (stack, N, 2)."""

    def __init__(self, stack: int, width: int = 64) -> None:
        super().__init__()
        self.net = layers(stack, LATENT_DIM, width, slope=0.01)
        self.head = StackedLinear(stack, width, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.net(z))


class PointCritic(nn.Module):
    """`stack` critics: points (stack, N, 2) to scores (stack, N / pack).

    Args:
        octaves: of Fourier features at the input; 0 is a plain critic.
        pack: samples judged together (Lin et al. 2018).
        statistic: joins to the features of each sample what a function of GROUP of them and of a learnt tensor says.
        normalise: as in `StackedLinear`.
    """

    def __init__(
        self,
        stack: int,
        width: int = 64,
        octaves: int = 0,
        pack: int = 1,
        statistic: Statistic | None = None,
        normalise: Normalise | None = None,
    ) -> None:
        super().__init__()
        self.octaves, self.pack, self.statistic = octaves, pack, statistic
        self.net = layers(stack, 2 * (1 + 2 * octaves) * pack, width, 0.2, normalise)
        extra = 0
        if statistic is not None:
            self.T = nn.Parameter(torch.randn(stack, 1, width, 5, 3))
            extra = statistic(torch.zeros(stack, 1, 2, width), self.T.detach()).shape[-1]
        self.head = StackedLinear(stack, width + extra, 1, normalise)

    def forward(self, x: Tensor) -> Tensor:
        features = self.net(pack_samples(fourier_features(x, self.octaves), self.pack))
        if self.statistic is not None:
            groups = features.unflatten(-2, (-1, min(GROUP, features.shape[-2])))  # (stack, groups, 64, width)
            features = torch.cat([groups, self.statistic(groups, self.T)], dim=-1).flatten(-3, -2)
        return self.head(features).squeeze(-1)
