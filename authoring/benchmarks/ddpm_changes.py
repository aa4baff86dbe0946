"""What each change of notebook 05's recipe does to FD: three seeds a row, every seed with a network of its own.

    python -m authoring.benchmarks.ddpm_changes [--seeds 0 1 2] [--recipes paper ...]

Writes the table that notebook 05 shows, and ten pictures of each row of seed 0. Rows that the file has are kept: delete
it to start anew. A training takes two minutes of one core, all of them an hour and a half; seconds are those of the
processor. The networks are kept in build/ddpm_changes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from authoring.benchmarks.ddpm_steps import DATASET, fill, scores
from course_utils import data, metrics, runtime, training
from course_utils.files import write
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05

STEPS, BATCH = 1200, 32
FILE = data.ASSETS / f"{DATASET}_ddpm_changes.json"
PICTURES = data.ASSETS / f"{DATASET}_ddpm_changes.safetensors"
NETWORKS = Path("build/ddpm_changes")
TWENTY, CHAIN = "2M, 20 steps", "ancestral, 50 steps"


class DividedTime(nb05.UNet):
    """With the slip of exercise 5.1: the embedding gets t / T."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x, t / nb05.T, torch.full_like(t, self.null) if y is None else y)


@dataclass(frozen=True)
class Recipe:
    """One row of the ladder; all but the first train with `nb05.train`, whose learning rate falls."""

    schedule: str = "cosine"
    kind: str = "v"
    preconditioned: bool = True
    weighted: bool = True
    classes: int = 10
    plain: bool = False
    unet: type[nb05.UNet] = nb05.UNet

    def network(self, pictures: Tensor) -> nn.Module:
        net = self.unet(classes=self.classes)
        if self.preconditioned:
            net = nb05.Preconditioned(net, self.levels, pictures.mean().item(), pictures.std().item())
        return net.to(memory_format=torch.channels_last)

    @property
    def levels(self) -> nb04.Schedule:
        return nb04.Schedule.named(self.schedule, nb05.T)


BEFORE = {"preconditioned": False, "weighted": False, "classes": 0}
RECIPES = {  # in the order in which they build on each other; x0 and v compare with cosine, what is linear with v
    "paper": Recipe("linear", "epsilon", plain=True, **BEFORE),
    "falling rate": Recipe("linear", "epsilon", **BEFORE),
    "cosine": Recipe("cosine", "epsilon", **BEFORE),
    "x0": Recipe("cosine", "x0", **BEFORE),
    "v": Recipe("cosine", "v", **BEFORE),
    "v, linear schedule": Recipe("linear", "v", **BEFORE),
    "preconditioned": Recipe(weighted=False, classes=0),
    "timesteps": Recipe(classes=0),
    "classes": Recipe(),
    "divided time": Recipe("linear", "epsilon", unet=DividedTime, **BEFORE),  # compares with "falling rate"
}
UNCLIPPED = ("falling rate", "cosine", "x0", "v")
NOT_AVERAGED = ("paper", "falling rate", "classes")
GUIDED = (1.5, 2.0)


def trained(name: str, seed: int) -> tuple[nn.Module, nn.Module, float]:
    """The averaged and the current network of a recipe and the seconds of its training."""
    recipe, pictures = RECIPES[name], data.images(DATASET, "train", verbose=False)
    runtime.seed_everything(100 + seed)
    net = recipe.network(pictures.x)
    file = NETWORKS / f"{name} {seed}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        ema = training.EMA(net)
        net.load_state_dict(kept["net"]), ema.load_state_dict(kept["ema"])
        return ema, net, kept["seconds"]
    options, start = {"num_steps": STEPS, "batch_size": BATCH}, time.process_time()
    if recipe.plain:
        ema = nb05.train_ddpm(net, pictures.x, recipe.levels, **options)
    else:
        weights = nb05.timestep_weights(recipe.levels) if recipe.weighted else None
        y = pictures.y if recipe.classes else torch.zeros_like(pictures.y)
        ema = nb05.train(net, pictures.x, y, recipe.levels, kind=recipe.kind, weights=weights, **options)
    seconds = time.process_time() - start
    NETWORKS.mkdir(parents=True, exist_ok=True)
    torch.save({"net": net.state_dict(), "ema": ema.state_dict(), "seconds": seconds}, file)
    return ema, net, seconds


def samplings(name: str) -> dict[str, dict[str, object]]:
    """How a recipe is sampled: the names of the rows, and the options."""
    twenty = {"num_steps": 20}
    found = {TWENTY: twenty}
    if name in ("paper", "classes"):
        found[CHAIN] = {"num_steps": 50, "solver": nb04.ANCESTRAL}
    if name in UNCLIPPED:
        found[f"{TWENTY}, not clipped"] = twenty | {"clip": False}
    if name in NOT_AVERAGED:
        found[f"{TWENTY}, not averaged"] = twenty
    if RECIPES[name].classes:
        found |= {f"{TWENTY}, w = {w:g}": twenty | {"guidance": w} for w in GUIDED}
    return found


def measured(run: dict[str, object], models: dict[tuple[str, int], tuple]) -> dict[str, object]:
    name, seed = run["recipe"], run["seed"]
    if (name, seed) not in models:
        models.clear()
        models[name, seed] = trained(name, seed)
    ema, net, seconds = models[name, seed]
    options = samplings(name)[run["sampling"]]
    y, rng = nb05.labels_in_turn(net, metrics.MIN_SAMPLES), torch.Generator().manual_seed(1 + seed)
    recipe, start = RECIPES[name], time.process_time()
    model = net if "not averaged" in run["sampling"] else ema
    made = nb05.sample_images(model, recipe.levels, y, kind=recipe.kind, rng=rng, **options)
    made = made.clamp(-1, 1)  # what was not clipped on the way
    took = time.process_time() - start
    if seed == 0:
        keep(f"{name}, {run['sampling']}", made[:10])
    seconds = {"training_seconds": round(seconds), "sampling_seconds": round(took)}
    return seconds | scores(made, y if recipe.classes else None)


def keep(name: str, pictures: Tensor) -> None:
    """Put pictures (N, 1, 28, 28) into the asset, as bytes."""
    kept = safetensors.torch.load(PICTURES.read_bytes()) if PICTURES.exists() else {}
    kept[name] = pictures.add(1).mul(127.5).round().to(torch.uint8).contiguous()
    write(PICTURES, safetensors.torch.save(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [
        {"recipe": name, "sampling": sampling, "seed": seed}
        for seed in options.seeds
        for name in options.recipes
        for sampling in samplings(name)
    ]
    fill(options.file, runs, partial(measured, models={}))


if __name__ == "__main__":
    main()
