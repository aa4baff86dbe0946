"""The GANs of notebook 05's race, with and without classes: FD after the same seconds as its diffusion models.

    python -m authoring.benchmarks.race [--seconds 119] [--seeds 0 1 2]

Each trains on one thread of the same machine for as long as a diffusion model of ddpm_changes.py took there (seconds of
the processor, so that other jobs do not count), with the settings of notebooks 02 and 03, and is measured by 2,048
pictures. With classes, the latent and the critic's input carry the class as ten more channels, one of them 1 (Mirza and
Osindero 2014). Rows that the file has are kept: delete it to start anew.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor, nn

from authoring.benchmarks.ddpm_steps import DATASET, fill, scores
from course_utils import data, metrics, runtime, training
from course_utils.lessons import nb02_dcgan_training as nb02
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03
from course_utils.lessons.nb11_your_own_pictures import without_batch_norm

N_CLASSES, LATENT, BATCH = 10, 64, 64
FILE = data.ASSETS / f"{DATASET}_race.json"
MODELS = ("DCGAN", "WGAN-GP")


class Critic(nn.Module):
    """Notebook 02's discriminator of pictures (N, 1 + classes, 28, 28), or as a WGAN's critic, without BatchNorm."""

    def __init__(self, classes: int, wgan: bool) -> None:
        super().__init__()
        self.net = nb02.Discriminator(channels=1 + classes).net
        if wgan:
            without_batch_norm(self.net)
        else:
            self.apply(nb02.init_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def latents(y: Tensor | None, n: int) -> Tensor:
    """Noise (n, 64, 1, 1), and the classes y behind it where there are some."""
    return with_class(torch.randn(n, LATENT, 1, 1), y)


def with_class(x: Tensor, y: Tensor | None) -> Tensor:
    """x with ten channels more for the classes y, or x where y is None."""
    return nb02.with_class(x, y, 0 if y is None else N_CLASSES)


def train(model: str, classes: int, seconds: float, pictures: data.Images) -> tuple[nn.Module, int]:
    """The averaged generator, in eval mode, and the steps that were taken in these seconds."""
    wgan = model == "WGAN-GP"
    generator, critic = nb02.Generator(LATENT + classes).apply(nb02.init_weights), Critic(classes, wgan)
    betas = (0.0, 0.99) if wgan else (0.5, 0.999)  # those of notebooks 03 and 02, and so are the learning rates
    optimisers = [
        torch.optim.Adam(net.parameters(), lr=lr, betas=betas, fused=True)
        for net, lr in ((generator, 2e-3), (critic, 1e-3))
    ]
    heights = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    ema, steps, start = training.EMA(generator), 0, time.process_time()

    def descend(which: int, net: nn.Module, loss: Tensor) -> None:
        optimisers[which].zero_grad()
        loss.backward(inputs=list(net.parameters()))
        optimisers[which].step()

    while (share := (time.process_time() - start) / seconds) < 1:
        if wgan:  # as in notebook 03 the rates fall along a cosine
            for optimiser, height in zip(optimisers, heights):
                optimiser.param_groups[0]["lr"] = height * (1 + math.cos(math.pi * share)) / 2
        index = torch.randint(len(pictures.x), (BATCH,))
        y = pictures.y[index] if classes else None
        real = with_class(pictures.x[index], y)
        with torch.autocast("cpu", torch.bfloat16, enabled=not wgan):  # two fifths more steps; no gain for others
            fake = generator(latents(y, BATCH))
            if wgan:
                loss = nb03.wgan_gp_d(critic, real, with_class(fake.detach(), y), share, weight=10.0)
            else:
                loss = nb02.discriminator_loss(critic(real), critic(with_class(fake.detach(), y)), 0.1)
            descend(1, critic, loss)
            scores = critic(with_class(fake, y))
            descend(0, generator, nb03.wgan_generator_loss(scores) if wgan else nb02.generator_loss(scores))
        ema.update_parameters(generator)
        steps += 1
    return ema.eval(), steps


def measured(run: dict[str, object], seconds: float, pictures: data.Images) -> dict[str, object]:
    runtime.seed_everything(200 + run["seed"])
    classes = N_CLASSES if run["classes"] else 0
    ema, steps = train(run["model"], classes, seconds, pictures)
    asked = torch.arange(metrics.MIN_SAMPLES) % N_CLASSES
    torch.manual_seed(1)
    with torch.no_grad():
        made = ema(latents(asked if classes else None, len(asked))).float()
    return {"seconds": round(seconds), "steps": steps} | scores(made, asked if classes else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=119)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = data.images(DATASET, "train")
    runs = [
        {"model": model, "classes": classes, "seed": seed}
        for seed in options.seeds
        for classes in (False, True)
        for model in MODELS
    ]
    fill(FILE, runs, lambda run: measured(run, options.seconds, pictures))


if __name__ == "__main__":
    main()
