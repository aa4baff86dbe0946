"""FD and seconds against steps for eight of diffusers' schedulers on one model.

    python -m authoring.benchmarks.schedulers

Uses the class-conditional model that the course ships, without guidance, so that the rows stand beside the chain of
1,000 steps in ddpm_steps.py. Every row is written to the asset that notebook 06 draws, and rows that are there already
are not measured again: delete the file to start anew. Minutes on a graphics card, an hour on one core.
"""

from __future__ import annotations

import torch

from authoring.benchmarks.ddpm_steps import DATASET, DRAWS, fill, measure
from course_utils import data, runtime
from course_utils.lessons import nb06_diffusers_applications as nb06

FILE = data.ASSETS / f"{DATASET}_schedulers.json"
RUNS = [
    *[{"scheduler": name, "steps": steps} for steps in (10, 5, 20) for name in nb06.make_schedulers()],
    *[{"scheduler": name, "steps": 50} for name in nb06.NOISY],  # which need more steps
]


def main() -> None:
    torch.backends.cudnn.allow_tf32 = False  # the same numbers on every device, to rounding
    unet, calls = nb06.course_unet().to(runtime.start(0).device), []
    unet.register_forward_hook(lambda *_: calls.append(1))

    def generate(run: dict[str, object], y: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        scheduler = nb06.make_schedulers()[run["scheduler"]]
        parts = (nb06.sample_with(scheduler, unet, part, run["steps"], generator=draw) for part in y.split(512))
        return torch.cat(list(parts))

    def measured(run: dict[str, object]) -> dict[str, object]:
        calls.clear()
        row = measure(lambda y, draw: generate(run, y, draw))
        return {"nfe": len(calls) // (row["samples"] // 512 * DRAWS)} | row

    fill(FILE, RUNS, measured)


if __name__ == "__main__":
    main()
