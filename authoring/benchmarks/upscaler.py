"""Notebook 07's stored numbers: means of samples by FD, and a perceptual loss before and after the activation.

    python -m authoring.benchmarks.upscaler

Ten minutes of one core. Parts: "means" takes 8 samples of each of 2,048 clothes with the shipped diffusion upscaler and
measures their means; "activation" trains the shipped L1 network by the second stage for 60 steps, with features before
and after the activation in the perceptual loss, on the same crops in the same order. Every row is written to the asset
that notebook 07 shows, and rows that are there already are not measured again: delete the file to start anew.
"""

from __future__ import annotations

import datetime

import torch

from authoring.benchmarks.ddpm_steps import fill
from course_utils import data, metrics, photographs, runtime
from course_utils.lessons import nb07_super_resolution as nb07

FILE = data.ASSETS / "super_resolution.json"
NUM_STEPS, GAN_STEPS, N, KS = 10, 60, 2048, (1, 2, 4, 8)
Row = dict[str, object]


def measured(want: Row) -> Row:
    found = means(want["seed"]) if want["part"] == "means" else activation(want["seed"], bool(want["active"]))
    return found | {"date": datetime.date.today().isoformat()}


def means(seed: int) -> Row:
    """PSNR, FD and distance of patches of the mean of the first k samples, as lists over KS."""
    real, others = ((data.images("fashion_mnist", "test").x[part] + 1) / 2 for part in (slice(N), slice(N, 4000)))
    small, net, row = nb07.downscale(real, 2), nb07.diffusion_upscaler(), {"psnr": [], "fd": [], "patches": []}
    total, reference = torch.zeros_like(real), metrics.reference_features("fashion_mnist")
    for k in range(1, max(KS) + 1):
        total += nb07.sample_large(net, small, torch.Generator().manual_seed(100 * seed + k), NUM_STEPS)
        if k in KS:
            row["psnr"].append(round(nb07.psnr(total / k, real, 2).mean().item(), 3))
            features = metrics.features(2 * total / k - 1, "fashion_mnist")
            row["patches"].append(round(nb07.patch_distance(others, total / k), 3))
            row["fd"].append(round(metrics.frechet_distance(reference, features), 3))
    return row


def activation(seed: int, active: bool) -> Row:
    """PSNR, feature distance and statistics distance on the test crops, means of six."""
    run, eyes = runtime.start(seed, verbose=False), photographs.looking_net()
    model = nb07.trained("l1").requires_grad_(True)
    batch = nb07.crops_of([p.x for p in photographs.photographs("train")], batch_size=4, side=24)
    nb07.train_gan(model, nb07.make_critic(), batch, run, GAN_STEPS, eyes, active=active)
    y = torch.stack([nb07.centre_crop(p.x) for p in photographs.photographs("test")])
    with torch.no_grad():
        x = model(nb07.downscale(y)).clamp(0, 1)
    scores = (nb07.psnr(x, y), nb07.feature_distance(eyes, x, y), nb07.statistics_distance(eyes, x, y))
    names = ("psnr", "features", "statistics")
    return {name: round(score.mean().item(), 4) for name, score in zip(names, scores)}


if __name__ == "__main__":
    means_runs: list[Row] = [{"part": "means", "seed": seed} for seed in range(3)]
    active_runs: list[Row] = [
        {"part": "activation", "seed": seed, "active": active} for seed in range(3) for active in (0, 1)
    ]
    fill(FILE, means_runs[:1] + active_runs + means_runs[1:], measured)
