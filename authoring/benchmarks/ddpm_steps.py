"""FD against evaluations of the network, for every sampler and guidance scale, and how cost grows.

    python -m authoring.benchmarks.ddpm_steps [--chain] [--cost] [--bfloat16]

Uses the model that notebook 05 brings and writes every row to the asset that notebook 12 draws. Rows that are there
already are not measured again: delete the file to start anew. Minutes on a graphics card, an hour and a half of a core;
`--chain` adds the ancestral chain of 1,000 steps, as long again; `--cost` prints seconds against pictures, steps and
width instead. `--bfloat16` compiles the network and lets it reckon in bfloat16, in 0.4 of the time on a processor with
AMX; the row says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from course_utils import data, metrics, runtime, training
from course_utils.files import write
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05

DATASET, DRAWS = "fashion_mnist", 3
MEASURES = ("fd", "kid", "precision", "recall")
SCHEDULE = nb04.Schedule.named("cosine", nb05.T)
FILE = data.ASSETS / f"{DATASET}_ddpm_fd.json"
SAMPLERS = {
    "DDIM": nb04.DDIM,
    "Heun": nb04.HEUN,
    "DPM-Solver++(2M)": nb04.DPMPP_2M,
    "ancestral": nb04.ANCESTRAL,
}
RUNS = [  # sampler, steps, guidance
    *[("DPM-Solver++(2M)", steps, 1.5) for steps in (5, 7, 10, 14, 20, 50)],
    *[("DDIM", steps, 1.5) for steps in (5, 10, 20)],
    *[("Heun", steps, 1.5) for steps in (5, 10)],
    *[("ancestral", steps, 1.5) for steps in (10, 20)],
    *[("DPM-Solver++(2M)", steps, guidance) for steps in (10, 20, 50) for guidance in (1.0, 1.25, 1.375, 2.0)],
]
CHAIN = [("ancestral", 1000, 1.0)]


def in_bfloat16(net: torch.nn.Module) -> None:
    """Compile the network and let it reckon in bfloat16; what it puts out is float32, as is all the rest.

    64 pictures at once are a fifth faster than 512 on the processor that this was written for.
    """
    compiled = torch.compile(net.forward)

    def forward(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return torch.cat([compiled(*part).float() for part in zip(*(x.split(64) for x in inputs))])

    net.forward = forward


def evaluations(sampler: str, steps: int, guidance: float) -> int:
    """How often the network is asked for one picture: Heun's last step, to the clean level, asks once only."""
    return (2 * steps - 1 if sampler == "Heun" else steps) * (1 if guidance == 1 else 2)


def scores(pictures: Tensor, asked: Tensor | None = None) -> dict[str, object]:
    """FD and the rest of one draw, rounded, and the share of the classes `asked` (N,) that the classifier sees."""
    report, of_class = metrics.evaluate(pictures, DATASET), None
    if asked is not None:
        seen = metrics.class_probabilities(pictures, DATASET).argmax(dim=1)
        of_class = round((seen == asked).float().mean().item(), 3)
    return {
        **{name: round(float(getattr(report, name)), 4) for name in MEASURES},
        "of_class": of_class,
        "samples": len(pictures),
        "device": "CPU, one thread",
        "date": str(datetime.date.today()),
    }


def measure(generate: Callable[[Tensor, torch.Generator], Tensor], dtype: str = "float32") -> dict[str, object]:
    """Means of FD and the rest over DRAWS draws of 2,048 pictures that `generate` makes of labels and a generator,
    and the standard deviation of one draw's FD. The row says in which type the network reckoned."""
    y = torch.arange(metrics.MIN_SAMPLES) % 10
    reports = [metrics.evaluate(generate(y, torch.Generator().manual_seed(1 + draw)), DATASET) for draw in range(DRAWS)]

    def values(name: str) -> Tensor:
        return torch.tensor([float(getattr(report, name)) for report in reports])

    return {
        **{name: round(values(name).mean().item(), 4) for name in MEASURES},
        "fd_spread": round(values("fd").std().item(), 4),
        "samples": len(y),
        "draws": DRAWS,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "dtype": dtype,
        "date": str(datetime.date.today()),
    }


def fill(
    file: Path,
    runs: list[dict[str, object]],
    measured: Callable[[dict[str, object]], dict[str, object]],
    each: Callable[..., Iterable[dict[str, object]]] = map,
) -> None:
    """A row for each run: its settings and what `measured` says of them. Rows that the file has are kept.

    `each` applies `measured` to the runs in their order: `map`, or a pool's `imap`.
    """
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    missing = [run for run in runs if not any(run.items() <= row.items() for row in rows)]
    for run, found in zip(missing, each(measured, missing)):
        rows.append(run | found)
        print(rows[-1], flush=True)
        write(file, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())


def measure_all(runs: list[tuple[str, int, float]], dtype: str) -> None:
    net = nb05.pretrained().to(runtime.start(0).device)
    if dtype == "bfloat16":
        in_bfloat16(net)

    def measured(run: dict[str, object]) -> dict[str, object]:
        sampler, steps, guidance = run.values()
        settings = {"num_steps": steps, "guidance": guidance, "solver": SAMPLERS[sampler]}
        generate = partial(nb05.sample_images, net, SCHEDULE, **settings)
        return {"nfe": evaluations(*run.values())} | measure(lambda y, draw: generate(y, rng=draw), dtype)

    fill(FILE, [dict(zip(("sampler", "steps", "guidance"), run)) for run in runs], measured)


def training_step(net: torch.nn.Module, n: int = 32) -> None:
    """Forwards and backwards once for n pictures of noise."""
    x, t, label = (
        torch.randn(n, 1, 28, 28),
        torch.randint(nb05.T, (n,)),
        torch.randint(nb05.unet_of(net).null, (n,)),
    )
    nb05.diffusion_loss(net, x, label, t, torch.randn_like(x), SCHEDULE).backward()


def cost() -> None:
    net = nb05.pretrained()
    print("pictures at once, seconds for ten guided steps:")
    for n in (1, 4, 16, 64, 256):
        took = runtime.seconds(
            lambda n=n: nb05.sample_images(net, SCHEDULE, torch.arange(n) % 10, guidance=1.5), repeats=3
        )
        print(f"{n:>6}{took:>9.2f}", flush=True)
    print("\nsteps, seconds for 64 pictures:")
    for steps in (5, 10, 20, 40):
        took = runtime.seconds(
            lambda steps=steps: nb05.sample_images(net, SCHEDULE, torch.arange(64) % 10, steps, 1.5),
            repeats=3,
        )
        print(f"{steps:>6}{took:>9.2f}", flush=True)
    print("\nwidths, weights, seconds for a training step of 32:")
    for widths in ((16, 32), (32, 64), (64, 128), (128, 256)):
        unet = nb05.UNet(widths, classes=10).to(memory_format=torch.channels_last)
        took = runtime.seconds(partial(training_step, unet), repeats=3)
        print(f"{widths!s:>12}{training.parameters(unet):>12,}{took:>9.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--bfloat16", dest="dtype", action="store_const", const="bfloat16", default="float32")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # the same numbers on every device, to rounding
    if options.cost:
        runtime.start(0)
        cost()
    else:
        measure_all(RUNS + (CHAIN if options.chain else []), options.dtype)


if __name__ == "__main__":
    main()
