"""Checks for notebook 06, against the library itself and by published mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from . import WrongAnswer, exercise, expect


class _Guess(nn.Module):
    """A stand-in for UNet2DModel that remembers which timesteps it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.config, self.device = SimpleNamespace(in_channels=2, sample_size=6), torch.device("cpu")
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.asked.append(int(t))
        return SimpleNamespace(sample=self.gain * x)


@exercise("6.1")
def loop(answer: Callable[..., Tensor]) -> None:
    """`answer(unet, scheduler, n, steps, generator)`: what DDPMPipeline draws, (n, C, H, W) in [0, 1]."""
    from diffusers import DDIMScheduler, DDPMScheduler

    for kind in (DDPMScheduler, DDIMScheduler):
        unet, scheduler, wanted_from = _Guess(), kind(num_train_timesteps=100), kind(num_train_timesteps=100)
        found = answer(unet, scheduler, 3, 7, torch.Generator().manual_seed(4))
        wanted_from.set_timesteps(7)
        expect(isinstance(found, Tensor) and found.shape == (3, 2, 6, 6), "return a tensor (n, C, H, W).")
        expect(
            unet.asked == wanted_from.timesteps.tolist(),
            f"for 7 steps of 100 the network was asked at timesteps {unet.asked}, and {wanted_from.timesteps.tolist()}"
            " was right: call scheduler.set_timesteps(steps) and walk scheduler.timesteps.",
        )
        expect(not found.requires_grad, "the result still holds gradients: decorate the function with torch.no_grad().")
        draw = torch.Generator().manual_seed(4)
        x = torch.randn(3, 2, 6, 6, generator=draw)
        for t in wanted_from.timesteps:
            x = wanted_from.step(0.3 * x, t, x, generator=draw).prev_sample
        expect(
            found.min() >= 0 and found.max() <= 1,
            "pictures of a pipeline lie in [0, 1]: halve, add a half, and clamp.",
        )
        if not torch.allclose(found, (x / 2 + 0.5).clamp(0, 1), atol=1e-6):
            again = answer(_Guess(), scheduler, 3, 7, torch.Generator().manual_seed(4))
            raise WrongAnswer(
                "the same generator gave two different results: pass it to torch.randn and to scheduler.step."
                if not torch.equal(found, again)
                else "the pictures are not the pipeline's: start with torch.randn(..., generator=generator), give the"
                " generator to every step, and end with (x / 2 + 0.5).clamp(0, 1)."
            )


@exercise("6.5")
def gate(answer: Callable[[bool], str]) -> None:
    """`answer(approved)`: the maintained repository, or PermissionError unless approved is True."""
    for refused in (False, None, 0, "", "yes"):
        try:
            answer(refused)
        except PermissionError as error:
            expect(len(str(error)) > 10, "the error should say in a sentence what is missing.")
        except AssertionError as error:
            raise WrongAnswer("an assert vanishes under python -O: raise PermissionError instead.") from error
        else:
            raise WrongAnswer(f"approved={refused!r} was let through: only True itself counts as an approval.")
    name = answer(True)
    expect(name != "runwayml/stable-diffusion-v1-5", "this repository was deleted in August 2024.")
    expect(
        name == "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "return the name of the maintained copy: stable-diffusion-v1-5/stable-diffusion-v1-5.",
    )


@exercise("6.3")
def timesteps(answer: Callable[[Sequence[int], float], Sequence[int]]) -> None:
    """`answer(timesteps, strength)`: which of the timesteps, noisiest first, run when a picture is changed."""
    for steps, strength in ((10, 0.6), (20, 0.25), (10, 1.0), (10, 0.0), (7, 0.5)):
        every = list(range(1000 - 1000 // steps, -1, -(1000 // steps)))[:steps]
        found = [int(t) for t in answer(every, strength)]
        wanted = every[steps - int(steps * strength) :]
        if found == wanted:
            continue
        expect(
            found != every[: int(steps * strength)] or not found,
            "these are the noisiest timesteps: the picture would stay unfinished. Take the last ones.",
        )
        expect(len(found) == len(wanted), f"strength {strength} of {steps} steps runs {len(wanted)}, not {len(found)}.")
        raise WrongAnswer(f"for strength {strength} of {every} these should run: {wanted}; you gave {found}.")


@exercise("6.2")
def negative(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(wanted, unwanted, guidance)`: the guess away from a negative prompt, like both guesses."""
    draw = torch.Generator().manual_seed(0)
    wanted, unwanted = torch.randn(2, 3, 4, 5, 5, generator=draw)
    for guidance in (1.0, 0.0, 3.5):
        found = answer(wanted, unwanted, guidance)
        expect(isinstance(found, Tensor) and found.shape == wanted.shape, "return a tensor shaped like both guesses.")
        if torch.allclose(found, unwanted + guidance * (wanted - unwanted), atol=1e-5):
            continue
        expect(
            not torch.allclose(found, wanted + guidance * (unwanted - wanted), atol=1e-5),
            "the roles are exchanged: this walks towards what nobody wants.",
        )
        expect(
            not torch.allclose(found, wanted + guidance * (wanted - unwanted), atol=1e-5),
            "this is one guidance too much: at guidance 1 the result should be the guess with the prompt, unchanged.",
        )
        raise WrongAnswer(f"at guidance {guidance} the result should be unwanted + guidance * (wanted - unwanted).")


@exercise("6.4")
def merge(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """`answer(W, A, B, alpha)`: W (out, in) with the change of A (rank, in) and B (out, rank) in it."""
    draw = torch.Generator().manual_seed(0)
    for rows, columns, rank, alpha in ((6, 5, 2, 4.0), (5, 5, 5, 1.0)):
        W, A, B = (torch.randn(*shape, generator=draw) for shape in ((rows, columns), (rank, columns), (rows, rank)))
        before, x = W.clone(), torch.randn(3, columns, generator=draw)
        found = answer(W, A, B, alpha)
        expect(torch.equal(W, before), "W itself was changed: make a new matrix, so that the style can be taken off.")
        shaped = isinstance(found, Tensor) and found.shape == W.shape
        expect(shaped, f"return a matrix shaped like W, {(rows, columns)}.")
        apart = x @ W.T + alpha / rank * (x @ A.T) @ B.T
        if torch.allclose(x @ found.T, apart, atol=1e-4):
            continue
        expect(
            not torch.allclose(found, W + alpha * B @ A, atol=1e-4),
            "the change is too large: LoRA divides alpha by the rank, so that the rank can be changed alone.",
        )
        raise WrongAnswer(
            "F.linear(x, W') should equal F.linear(x, W) + alpha / rank * F.linear(F.linear(x, A), B) for every x."
        )
