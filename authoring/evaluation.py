"""How notebook 09's stored samples were made (`python -m authoring.assets samples`)."""

from __future__ import annotations

import time

import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler
from torch import Tensor

from authoring.packing import compressed
from course_utils import data, latent
from course_utils.files import write
from course_utils.prompts import captions

N, STEPS = 1000, 20
FILE = "fashion_mnist_samples.safetensors.xz"


@torch.no_grad()
def without_classes(n: int = N, steps: int = STEPS) -> Tensor:
    """Samples (n, 1, 28, 28) of the DDPMPipeline, by DPM-Solver++(2M)."""
    pipe = DDPMPipeline.from_pretrained(data.ASSETS / "ddpm_pipeline")
    unet, scheduler = pipe.unet.float().eval(), DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    generator, parts = torch.Generator().manual_seed(0), []
    for _ in range(0, n, 100):
        scheduler.set_timesteps(steps)
        x = torch.randn(100, 1, unet.config.sample_size, unet.config.sample_size, generator=generator)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        parts.append(x.clamp(-1, 1))
    return torch.cat(parts)[:n]


def by_prompts(n: int = N, steps: int = STEPS) -> Tensor:
    """Samples (n, 1, 28, 28) of the latent pipeline, asked for with the captions of as many training pictures."""
    train, generator = data.images("fashion_mnist", "train", verbose=False), torch.Generator().manual_seed(0)
    pick = torch.randperm(len(train), generator=generator)[:n]
    pipe = latent.load()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return latent.draw(pipe, captions(train.x[pick], train.y[pick], generator), generator, steps).clamp(-1, 1)


def make_samples() -> None:
    """Of the two models that take minutes: 1,000 each, 20 steps, seed 0, in 8 bits."""
    tensors, begin = {}, time.perf_counter()
    for name, make in {"ddpm_pipeline": without_classes, "latent_pipeline": by_prompts}.items():
        tensors[name] = make().add(1).mul(127.5).round().to(torch.uint8)
        print(f"{name}: {tuple(tensors[name].shape)}, {time.perf_counter() - begin:.0f} s", flush=True)
    write(data.ASSETS / FILE, compressed(tensors))
