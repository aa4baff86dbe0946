"""Emoji by name, group and hand, and "this picture, in another hand": a small latent pipeline in colour, and measures.

The parts are those of `latent`: an AutoencoderKL makes latents 4 x 8 x 8 of pictures 3 x 32 x 32, and a U-Net with
cross-attention to a CLIP text encoder removes noise from these. The U-Net has 4 channels more, for the latents of a
picture that is given (Brooks, Holynski and Efros 2023): zeros where none is. `python -m authoring.assets emoji_latent`
trained it. What is asked for can be measured against the truth: the same thing as another hand drew it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from . import data, emoji, imagenet, metrics
from .latent import token_ids
from .photographs import looking_net

FOLDER = data.ASSETS / "emoji_latent"
HANDS = tuple(emoji.HANDS)  # as prompts say them, in the order of `Emoji.hand`
SIDE = 96  # pixels a side for the features of EfficientNet-Lite0
EVERY = 9  # of so many training things one lacks a hand in training


# --- prompts ------------------------------------------------------------------------------------------------


def prompt(name: str = "", group: str = "", hand: str = "") -> str:
    """Such as "dog face, animals, noto"; what is not given is left out."""
    return ", ".join(part for part in (name.replace("-", " "), group.split(" ")[0].lower(), hand) if part)


def vocabulary(names: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The words of all prompts, in order, each once; a comma is one."""
    text = [prompt(name) for name in names] + [prompt("", group) for group in groups]
    words = re.findall(r"[a-z]+|[0-9]", " ".join(text).lower())
    return list(dict.fromkeys([",", *HANDS, *string.digits, *words]))


def left_out(things: int) -> Tensor:
    """(things, 4), true for the cells of the table thing x hand that training has not seen: one in EVERY * 4."""
    cells = torch.zeros(things, len(HANDS), dtype=torch.bool)
    rows = torch.arange(EVERY // 2, things, EVERY)
    cells[rows, torch.arange(len(rows)) % len(HANDS)] = True
    return cells


# --- the pipeline -------------------------------------------------------------------------------------------


def encode(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Latents (N, 4, 8, 8) of pictures (N, 3, 32, 32) in [-1, 1]: the means."""
    return metrics.in_batches(lambda part: vae.encode(part.to(vae.device)).latent_dist.mode(), x)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (N, 3, 32, 32) in [-1, 1] of latents (N, 4, 8, 8)."""
    return metrics.in_batches(lambda part: vae.decode(part.to(vae.device)).sample.clamp(-1, 1), latents)


@torch.no_grad()
def through(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Pictures (N, 3, 32, 32) through the autoencoder and back."""
    return decode(vae, encode(vae, x))


def load(folder: Path = FOLDER) -> StableDiffusionInstructPix2PixPipeline:
    """The pipeline in float32, quiet, on the CPU."""
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.float()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw(
    pipeline: StableDiffusionInstructPix2PixPipeline, prompts: Sequence[str], rng: torch.Generator,
    source: Tensor | None = None, steps: int = 20, guidance: float = 2.0,
) -> Tensor:  # fmt: skip
    """Pictures (N, 3, 32, 32) in [-1, 1], on the CPU, of N prompts; with `source` (N, 3, 32, 32), of these pictures.

    The same as the library's pipeline with an image guidance of 1, with two evaluations a step in place of three.
    """
    vae, unet, scheduler, device = pipeline.vae, pipeline.unet, pipeline.scheduler, pipeline.device
    shape = (len(prompts), vae.config.latent_channels, unet.config.sample_size, unet.config.sample_size)
    given = (torch.zeros(shape) if source is None else encode(vae, source)).to(device)
    ids = token_ids(pipeline.tokenizer, [*prompts, ""]).to(device)
    states = pipeline.text_encoder(ids)[0]
    asked, silent = states[:-1], states[-1:].expand(len(prompts), -1, -1)
    scheduler.set_timesteps(steps)
    z = torch.randn(shape, generator=rng).to(device) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        both = torch.cat([z, given], 1)
        v = unet(both, t, asked).sample
        if guidance != 1:
            without = unet(both, t, silent).sample
            v = without + guidance * (v - without)
        z = scheduler.step(v, t, z).prev_sample
    return decode(vae, z / vae.config.scaling_factor)


def by_prompt(pipeline: StableDiffusionInstructPix2PixPipeline) -> StableDiffusionPipeline:
    """The usual pipeline, without a given picture: the U-Net without its weights for one. The parts are shared."""
    unet = pipeline.unet
    n = unet.config.out_channels
    small = UNet2DConditionModel.from_config({**unet.config, "in_channels": n})
    state = unet.state_dict()
    small.load_state_dict(state | {"conv_in.weight": state["conv_in.weight"][:, :n]})
    parts = (pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, small.eval(), pipeline.scheduler)
    usual = StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)
    usual.set_progress_bar_config(disable=True)
    return usual


# --- measures -----------------------------------------------------------------------------------------------


def pairs(things: int) -> tuple[Tensor, Tensor, Tensor]:
    """All questions "this thing, given in hand a, in hand b": thing, a and b, (things * 12,) each."""
    hands = len(HANDS)
    thing, a, b = torch.cartesian_prod(torch.arange(things), torch.arange(hands), torch.arange(hands)).T
    return thing[a != b], a[a != b], b[a != b]


def distance(x: Tensor, of: Tensor) -> Tensor:
    """Root mean square (N,) over the values of N pictures, or of N rows of features."""
    return (x - of).flatten(1).square().mean(1).sqrt()


def nearest(x: Tensor, among: Tensor) -> Tensor:
    """For each of x (N, ...) the index (N,) of the nearest of `among` (M, ...), by root mean square."""
    return torch.cdist(x.flatten(1), among.flatten(1)).argmin(1)


def nearest_partner(given: Tensor, a: Tensor, b: Tensor, known: Tensor, seen: Tensor) -> Tensor:
    """Transfer by looking up: the known thing that is nearest in hand a, in hand b.

    Args:
        given: (N, ...) in hands a (N,); hands b (N,) are wanted.
        known: (things, 4, ...), of which `seen` (things, 4) may be used.
    """
    result = torch.empty_like(given)
    for i, j in torch.stack([a, b], 1).unique(dim=0).tolist():
        rows, usable = (a == i) & (b == j), known[seen[:, i] & seen[:, j]]
        result[rows] = usable[nearest(given[rows], usable[:, i]), j]
    return result


def average(b: Tensor, known: Tensor, seen: Tensor) -> Tensor:
    """The mean picture of each wanted hand b (N,) over the things of `known` (things, 4, ...) that were seen."""
    return torch.stack([known[seen[:, hand], hand].mean(0) for hand in range(known.shape[1])])[b]


def found(x: Tensor, thing: Tensor, b: Tensor, true: Tensor) -> Tensor:
    """1.0 where the nearest of all `true` (things, 4, ...) in the wanted hand b (N,) is the right thing (N,)."""
    hits = torch.empty(len(x))
    for hand in b.unique().tolist():
        rows = b == hand
        hits[rows] = (nearest(x[rows], true[:, hand]) == thing[rows]).float()
    return hits


def kid_to_hands(features: Tensor, b: Tensor, real: Tensor, hand: Tensor) -> float:
    """KID of pictures in the hands b (N,) to real ones (M,) in that hand, both as features; the hands' mean.

    On the features of the last layer it sees above all how real a picture looks, on `strokes` more of the hand.
    """
    each = [metrics.kernel_distance(real[hand == i], features[b == i]) for i in b.unique().tolist()]
    return sum(each) / len(each)


@torch.no_grad()
def strokes(x: Tensor, side: int = 64) -> Tensor:
    """How pictures (N, 3, H, W) in [-1, 1] are drawn: mean and spread of EfficientNet-Lite0's first four stages
    (N, 320). The last layer says what is shown, and knows less of the hand.
    """

    net = looking_net()

    def of(part: Tensor) -> Tensor:
        stages = [stage.flatten(2) for stage in net(imagenet.resized((part + 1) / 2, side))[:4]]
        return torch.cat([torch.cat([stage.mean(2), stage.std(2)], 1) for stage in stages], 1)

    return metrics.in_batches(of, x)


def judged(drawn: Tensor) -> dict[str, Tensor]:
    """What two linear classifiers see in `strokes` (N, 320) of pictures: "group" (N,) and "hand" (N,)."""
    weights = data.weights("emoji_judges")
    logits = drawn @ weights["weight"].float().T + weights["bias"].float()
    return {"group": logits[:, len(HANDS) :].argmax(1), "hand": logits[:, : len(HANDS)].argmax(1)}
