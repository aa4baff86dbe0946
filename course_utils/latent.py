"""The course's small latent, prompt-conditioned diffusion pipeline, loaded and used.

The parts are diffusers' and transformers' own classes, only small: pictures of 28 x 28 are padded to 32 x 32, an
AutoencoderKL makes latents 4 x 8 x 8 of them (Rombach et al. 2022), and a U-Net with cross-attention to a CLIP text
encoder removes noise from these. `python -m authoring.assets latent` trained it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from . import data, metrics

FOLDER = data.ASSETS / "latent_pipeline"
CONTROL = data.ASSETS / "latent_controlnet"  # hands outlines to its U-Net
MOSAIC = data.ASSETS / "latent_lora_mosaic"  # a style


def unpadded(x: Tensor) -> Tensor:
    """Pictures (N, 1, 32, 32) as the pipeline makes them to the course's (N, 1, 28, 28)."""
    return x[..., 2:-2, 2:-2]


def padded(x: Tensor) -> Tensor:
    """Pictures (N, 1, 28, 28) in [-1, 1] to (N, 1, 32, 32), with black all round."""
    return F.pad(x, (2, 2, 2, 2), value=-1.0)


# --- styles -------------------------------------------------------------------------------------------------


def outline(x: Tensor) -> Tensor:
    """Bright contours on black: the spread of the 3 x 3 neighbourhood of each pixel of (N, 1, H, W) in [-1, 1]."""
    return (F.max_pool2d(x, 3, 1, 1) + F.max_pool2d(-x, 3, 1, 1) - 1).clamp(-1, 1)


def mosaic(x: Tensor, side: int = 4) -> Tensor:
    """Squares of one grey each, the mean of `side` x `side` pixels of (N, 1, H, W); `side` divides H and W."""
    return F.interpolate(F.avg_pool2d(x, side), scale_factor=side)


STYLES = {"outline": outline, "mosaic": mosaic}


def token_ids(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """(N, L), padded and cut to the model's length as in the pipeline."""
    return tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def psnr(x: Tensor, of: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return -10 * ((x - of) / 2).square().mean().log10().item()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Pictures (N, 1, 28, 28) in [-1, 1] through the autoencoder and back; the result is on the CPU."""

    def back(part: Tensor) -> Tensor:
        return unpadded(vae(padded(part).to(vae.device)).sample).clamp(-1, 1)

    return metrics.in_batches(back, x)


def load(folder: Path = FOLDER) -> StableDiffusionPipeline:
    """The pipeline in float32, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.float()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- use ----------------------------------------------------------------------------------------------------


def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], generator: torch.Generator, steps: int = 20,
    guidance: float = 2.0,
) -> Tensor:  # fmt: skip
    """Pictures (N, 1, 28, 28) in [-1, 1] of N prompts."""
    parts = [list(prompts[i : i + 100]) for i in range(0, len(prompts), 100)]
    options = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": generator,
        "output_type": "pt",
    }
    return unpadded(torch.cat([pipeline(part, **options).images for part in parts])).mul(2).sub(1)
