"""Our recipe of notebook 05 beside diffusers' and denoising-diffusion-pytorch's: `make bench [BENCH_ARGS="..."]`.

Every contestant trains on the same pictures for the same seconds on the same machine and is measured by the course's
metric with 2,048 samples. Peers keep their published defaults: network, target, schedule, optimiser, learning rate,
batch. Two things were adapted: pictures are padded to 32 x 32 where a network halves them three times, and all samples
are drawn with the same ten steps of DPM-Solver++(2M), since 1,000 ancestral steps of the larger networks would take
days here. First all are trained, one after the other, and timed; then all are measured, which need not be timed and
takes as long again. `--out` writes the table to a file, too.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from authoring.benchmarks.dcgan_step import operations
from course_utils import data, metrics, runtime, training
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb12_two_minutes as nb12

DATASET = "fashion_mnist"
SCHEDULE = nb04.Schedule.named("cosine", nb05.T)
STEPS = 10  # of the solver, for everyone


@dataclass
class Contestant:
    """`step()` trains once and returns the number of pictures; `sample(n)` gives (n, 1, 28, 28) in [-1, 1]."""

    net: nn.Module
    step: Callable[[], int]
    sample: Callable[[int], Tensor]
    finish: Callable[[float], None] = field(default=lambda share: None)  # told the share of the time that is over


def batches(train: data.Images, n: int) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(train), (n,))
    return train.x[chosen], train.y[chosen]


# --- ours, and other networks with our recipe ---------------------------------------------------------------


def our_recipe(train: data.Images, net: nn.Module, classes: bool = True, batch: int = 32, **options) -> Contestant:
    """Notebook 05's training; the fall of the learning rate follows the clock, not a number of steps."""
    players = nb12.make_optimisers(net, **options)
    ema, weights = training.EMA(net), nb05.timestep_weights(SCHEDULE)
    base = [[group["lr"] for group in player.param_groups] for player in players]
    clock = {"share": 0.0, "steps": 0}

    def step() -> int:
        height = min(1, (clock["steps"] + 1) / 50, 2 * (1 - clock["share"]))
        for player, rates in zip(players, base):
            for group, rate in zip(player.param_groups, rates):
                group["lr"] = rate * height
        x0, y = batches(train, batch)
        y = torch.where(torch.rand(batch) < (0.1 if classes else 1.0), nb12.NULL, y)
        t = nb05.sample_timesteps(weights, batch)
        loss = nb05.diffusion_loss(net, x0, y, t, torch.randn_like(x0), SCHEDULE)
        net.zero_grad()
        loss.backward()
        for player in players:
            player.step()
        ema.update_parameters(net)
        clock["steps"] += 1
        return batch

    def sample(n: int) -> Tensor:
        y = torch.arange(n) % 10 if classes else torch.full((n,), nb12.NULL)
        return nb05.sample_images(ema, SCHEDULE, y, STEPS, guidance=1.5 if classes else 1.0)

    return Contestant(net, step, sample, lambda share: clock.update(share=share))


def ours(train: data.Images, classes: bool = True) -> Contestant:
    mixture = nb12.MixtureDenoiser(train.x, train.y)
    net = nb12.HeadStart(nb05.UNet(classes=nb12.N_CLASSES, extra=1), mixture, SCHEDULE)
    return our_recipe(train, net.to(memory_format=torch.channels_last), classes)


class DiffusersUNet(nn.Module):
    """diffusers' tutorial network with classes, in our UNet's place."""

    def __init__(self, n_in: int = 2) -> None:
        super().__init__()
        self.net = tutorial_unet(in_channels=n_in, num_class_embeds=nb12.NULL + 1)
        self.shape, self.null = (1, 28, 28), nb12.NULL

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.net(x, t, class_labels=y).sample


def diffusers_with_our_recipe(train: data.Images) -> Contestant:
    net = nb12.HeadStart(DiffusersUNet(), nb12.MixtureDenoiser(train.x, train.y), SCHEDULE)
    ends = ("conv_in", "conv_out", "time_embedding", "time_emb_proj", "class_embedding")
    return our_recipe(train, net, ends=ends)


# --- peers with their own recipes ---------------------------------------------------------------------------


def tutorial_unet(**options: object) -> nn.Module:
    """The UNet2DModel of Hugging Face's diffusion course, unit 1, for 28 x 28 grey pictures."""
    from diffusers import UNet2DModel

    defaults = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2}
    return UNet2DModel(
        **{**defaults, **options},
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def draw(net: Callable, schedule: nb04.Schedule, kind: str, n: int, size: int, batch: int = 128) -> Tensor:
    """Samples (n, 1, size, size) of a network without classes, by notebook 04's solver."""
    parts = []
    for y in torch.full((n,), nb12.NULL).split(batch):
        x = torch.randn(len(y), 1, size, size)
        denoise = nb05.Denoiser(net, schedule, y, kind=kind)
        parts.append(nb04.sample(denoise, x, schedule.levels(STEPS), nb04.DPMPP_2M))
    return torch.cat(parts)


def diffusers_tutorial(train: data.Images, batch: int = 128) -> Contestant:
    """As in the tutorial: epsilon, linear schedule, AdamW 1e-3, no averaging, no classes."""
    from diffusers import DDPMScheduler

    net, noising = tutorial_unet(), DDPMScheduler(num_train_timesteps=1000)
    player = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def step() -> int:
        x0, _ = batches(train, batch)
        noise, t = torch.randn_like(x0), torch.randint(1000, (batch,))
        loss = F.mse_loss(net(noising.add_noise(x0, noise, t), t).sample, noise)
        player.zero_grad()
        loss.backward()
        player.step()
        return batch

    def sample(n: int) -> Tensor:
        net.eval()
        schedule = nb04.Schedule(noising.betas.double())
        return draw(lambda x, t, y: net(x, t).sample, schedule, "epsilon", n, 28)

    return Contestant(net, step, sample)


def lucidrains(train: data.Images, batch: int = 16) -> Contestant:
    """denoising-diffusion-pytorch's README: Unet(64, 1-2-4-8); Trainer's batch 16, Adam 1e-4, EMA 0.995."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=False)
    diffusion = GaussianDiffusion(net, image_size=32, timesteps=1000)
    player = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = training.EMA(diffusion, decay=0.995)

    def step() -> int:
        x0, _ = batches(train, batch)
        loss = diffusion(F.pad((x0 + 1) / 2, (2, 2, 2, 2)))
        player.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        player.step()
        ema.update_parameters(diffusion)
        return batch

    def sample(n: int) -> Tensor:
        model = ema.module
        schedule = nb04.Schedule(model.betas.double())
        kind = model.objective.removeprefix("pred_")
        return draw(lambda x, t, y: model.model(x, t), schedule, kind, n, 32)[:, :, 2:-2, 2:-2]

    return Contestant(net, step, sample)


CONTESTANTS: dict[str, tuple[Callable[[data.Images], Contestant], float]] = {  # and how many times the seconds
    "ours": (ours, 1),
    "ours, no classes": (lambda train: ours(train, classes=False), 1),
    "UNet2DModel, our recipe": (diffusers_with_our_recipe, 1),
    "UNet2DModel, tutorial": (diffusers_tutorial, 1),
    "denoising-diffusion-pytorch": (lucidrains, 1),
    "UNet2DModel, tutorial, x10": (diffusers_tutorial, 10),
    "denoising-diffusion-pytorch, x10": (lucidrains, 10),
}


# --- measuring ----------------------------------------------------------------------------------------------


def ceiling() -> float:
    """GFLOP/s of a plain 3 x 3 convolution of our coarse size, forwards and backwards."""
    layer, x = (
        nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last),
        torch.randn(256, 64, 7, 7),
    )
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    took = runtime.seconds(lambda: layer(x).sum().backward())
    return 3 * 2 * 64 * 64 * 9 * 49 * 256 / took / 1e9


def race(make: Callable[[data.Images], Contestant], train: data.Images, seconds: float) -> tuple[Contestant, dict]:
    """Train for these seconds; the contestant, and what was timed."""
    torch.manual_seed(0)
    contestant = make(train)
    batch: list[int] = []
    cost = operations(lambda: batch.append(contestant.step())) / batch[0] / 1e9  # GFLOP for one picture in training
    start, pictures = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        contestant.finish(spent / seconds)
        pictures += contestant.step()
    rate = pictures / spent
    start = time.perf_counter()
    contestant.sample(64)
    sampling = time.perf_counter() - start
    row = {
        "weights": training.parameters(contestant.net),
        "rate": rate,
        "gflops": rate * cost,
        "sampling": sampling,
    }
    return contestant, row


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--samples", type=int, default=metrics.MIN_SAMPLES)
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--out")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    train, peak = data.images(DATASET, "train"), ceiling()
    lines = [
        f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, float32",
        f"{len(train):,} pictures, {options.seconds:.0f} s of training, {options.samples:,} samples in {STEPS} "
        f"steps of DPM-Solver++(2M); a plain convolution: {peak:.0f} GFLOP/s",
        "",
        f"{'':<34}{'weights':>12}{'pictures/s':>12}{'share':>7}{'64 in':>9}{'FD':>8}"
        f"{'KID':>8}{'prec.':>7}{'recall':>8}",
    ]
    print("\n".join(lines), flush=True)
    contestants, timed = {}, {}
    for name in options.only:
        make, times = CONTESTANTS[name]
        contestants[name], row = race(make, train, times * options.seconds)
        timed[name] = (
            f"{name:<34}{row['weights']:>12,}{row['rate']:>12.1f}{row['gflops'] / peak:>7.0%}{row['sampling']:>8.1f}s"
        )
        print(timed[name], flush=True)
    print("\nall are trained, and are measured now", flush=True)
    fd = {}
    for name, contestant in contestants.items():
        torch.manual_seed(1)
        report = metrics.evaluate(contestant.sample(options.samples), DATASET)
        fd[name] = report.fd
        lines.append(f"{timed[name]}{report.fd:>8.1f}{report.kid:>8.3f}{report.precision:>7.2f}{report.recall:>8.2f}")
        print(lines[-1], flush=True)
    if "ours" in fd:
        lines += [
            "",
            *(f"FD of {name} / ours: {value / fd['ours']:.1f}" for name, value in fd.items() if name != "ours"),
        ]
        print("\n".join(lines[-len(fd) :]), flush=True)
    if options.out:
        with open(options.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
