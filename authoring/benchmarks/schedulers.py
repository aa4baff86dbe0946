"""FD against function evaluations for eight of diffusers' schedulers on one model, by the spacing of their steps.

    python -m authoring.benchmarks.schedulers [--bfloat16]

Uses the class-conditional model that the course ships, without guidance, in the same way as
ddpm_steps.py. Every row is written to the asset that notebooks 06 and 13 draw, and rows that are there
already are not measured again: delete the file to start anew. Minutes on a graphics card, two hours on one core,
with `--bfloat16` 50 minutes (see ddpm_steps.py).
"""

from __future__ import annotations

import argparse

import torch

from authoring.benchmarks.ddpm_steps import DATASET, DRAWS, fill, in_bfloat16, measure
from course_utils import data, runtime
from course_utils.lessons import nb06_diffusers_applications as nb06
from course_utils.lessons import nb13_fast_sampling as nb13

FILE = data.ASSETS / f"{DATASET}_schedulers.json"
COUNTS = (10, 5, 20)
CROSSED = ("EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep")


def run_of(name: str, spacing: str, steps: int) -> dict[str, object]:
    return {"scheduler": name, "spacing": spacing, "steps": steps}


RUNS = [
    *[run_of(name, nb13.SAME_END, steps) for steps in (20, 10, 5) for name in CROSSED[2:]],
    *[run_of(name, "trailing", steps) for steps in COUNTS for name in nb13.NOISY + nb13.SOLVERS],
    *[run_of("HeunDiscrete", "trailing, capped", steps) for steps in COUNTS],
    *[run_of(name, "trailing", 50) for name in nb13.NOISY],  # which need more steps
    *[  # about ten evaluations, five and twenty: Heun takes an odd number, two a step less one
        run_of(name, spacing, (nfe + 1) // 2 if name == "HeunDiscrete" else nfe)
        for nfe in COUNTS
        for spacing in ("Karras", "exponential", "leading", "linspace")
        for name in CROSSED
    ],
    *[run_of("HeunDiscrete", "trailing", 3)],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bfloat16", dest="dtype", action="store_const", const="bfloat16", default="float32")
    dtype = parser.parse_args().dtype
    torch.backends.cudnn.allow_tf32 = False  # the same numbers on every device, to rounding
    unet, calls = nb06.course_unet().to(runtime.start(0).device), []
    unet.register_forward_hook(lambda *_: calls.append(1))
    if dtype == "bfloat16":
        in_bfloat16(unet.net)

    def generate(run: dict[str, object], y: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        scheduler = nb13.make_scheduler(run["scheduler"], run["spacing"], run["steps"])
        parts = (nb06.sample_with(scheduler, unet, part, run["steps"], generator=draw) for part in y.split(512))
        return torch.cat(list(parts))

    def measured(run: dict[str, object]) -> dict[str, object]:
        calls.clear()
        row = measure(lambda y, draw: generate(run, y, draw), dtype)
        return {"nfe": len(calls) // (row["samples"] // 512 * DRAWS)} | row

    fill(FILE, RUNS, measured)


if __name__ == "__main__":
    main()
